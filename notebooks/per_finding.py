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
# # Zero-shot classification, finding by finding
#
# A mean over 14 findings hides which ones a method can see. This notebook makes the table
# `zero_shot_per_finding` and the figure `per_finding` from the protocol of NIH ChestX-ray14.
#
# **How to read it.** The last column was trained on the labels of the pre-training images: it bounds what the
# images allow. A finding on which it fails is hard to see; a finding on which it succeeds and a zero-shot
# method stays near 0.5 is one that the method did not learn from the reports, or cannot address by its text.
# Rare findings have wide intervals: the number of positives stands beside each.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import classification
from replication.reporting.figures import style
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## The table

# %%
table = report.save_table(classification.per_finding_table(report))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## The same numbers as a picture
#
# Filled marks are zero-shot methods, open marks are trained on labels.

# %%
with style():
    figure = classification.per_finding_figure(table)
    rows = report.behind(table.rows)
    picture = report.save_figure(figure, "per_finding", "AUC per finding", table.caption, rows)
display(Image(filename=picture, width=700))
