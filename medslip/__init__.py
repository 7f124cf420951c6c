"""MeDSLIP (arXiv 2403.10635)."""
