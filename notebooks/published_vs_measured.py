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
# # Published numbers beside ours
#
# What have others published for these methods, and may it be set beside what is measured here? This
# notebook makes the tables `published_vs_measured` and `published_not_comparable` from the ledger of
# published numbers.
#
# **Rule.** Two numbers may stand side by side only if they have the same protocol: data set, test list,
# label mapping, preprocessing and metric rule, all of it in one id. A published number has such an id only
# if its source says enough to tell; every other names its reasons.
#
# **How to read it.** In the first table a published number and ours are in one line. The last two columns
# show what else was published for the same method, data set and metric under other protocols: their
# distance is what choosing the protocol is worth. In the second table numbers may be compared at most
# within a line, never between lines. Numbers measured on generated radiographs are never comparable with
# published ones.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Markdown, display

from replication.reporting.published import read_ledger
from replication.reporting.published_tables import not_comparable_table, published_vs_measured_table
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
ledger = read_ledger()

# %% [markdown]
# ## With a protocol of the suite

# %%
table = report.save_table(published_vs_measured_table(report, ledger))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## The rest, with the reason
#
# Numbers of methods or data sets outside the suite are in the ledger only.

# %%
rest = report.save_table(not_comparable_table(report, ledger))
display(Markdown(as_markdown(rest)))
