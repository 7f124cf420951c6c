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
# # What methods cost
#
# Parameters, speed and time of pre-training, from what every run puts on record. This notebook makes the
# table `efficiency`.
#
# **How to read it.** Speeds hold for the device, threads and precision in the table's header. The fastest of
# a method's runs is taken for the cost: whatever else a machine does makes a run slower and never faster. A
# large gap between the fastest and the slowest seed says that the machine was shared.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Markdown, display

from replication.reporting.efficiency import efficiency_table, read_costs
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)

# %%
table = report.save_table(efficiency_table(report, read_costs(report)))
display(Markdown(as_markdown(table)))
