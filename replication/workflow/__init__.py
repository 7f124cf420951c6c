"""From a tier to finished tables: what there is to do (plan), one function per step, and the Snakefile."""
