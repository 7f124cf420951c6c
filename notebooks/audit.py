# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Audit of the released code
#
# Where does the released code contradict itself or common practice, and how much does each place matter?
# This notebook makes a table for each audited method, `audit` for MeDSLIP and `audit_<method>` for baselines:
# every place with its exact file, what happens there, and, where the suite can reproduce it, the metric with
# the released behaviour (*faithful*) and without it (*corrected*).
#
# **What is compared.** One switch at a time; everything else is as in the method's own runs. Some switches
# need a training run of their own, some only other scoring of the same predictions; the column *Measured
# as* says which. Places that cannot be measured say why: the released script stops there, no number depends
# on it, and so on. Of the baselines a tier measures what costs nothing, rules of scoring; for the rest it
# needs the variants that are named below.
#
# **How to read it.** The last column is faithful minus corrected, paired by seed and by test patient; judge
# a place by it and not by whether the intervals of the two sides overlap. An interval that contains 0 does
# not show that a place is harmless, only that these data do not tell.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Markdown, display

from replication.reporting.audit import audited_methods, load_audit
from replication.reporting.audit_table import audit_table
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
audits = [load_audit(method) for method in audited_methods()]
display(Markdown(report.data_sentence))

# %% [markdown]
# ## The tables

# %%
for audit in audits:
    table = report.save_table(audit_table(report, audit))
    display(Markdown(as_markdown(table)))

# %% [markdown]
# ## What the measurements ask for
#
# Variants of the methods, by what their numbers cost: a training run, or inference with weights that are
# there.

# %%
for needs, words in (("training", "training runs"), ("weights", "inference with the same weights")):
    needed = [label for audit in audits for label in audit.variants(needs)]
    display(Markdown(f"- {words}: {', '.join(needed)}"))
