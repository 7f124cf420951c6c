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
# # Zero-shot classification
#
# Is a finding in the image? Each method answers with a score that it computes from its prompts or queries;
# nothing is fitted to the labels of the test sets. This notebook makes the table `zero_shot_classification`
# and the figure `roc`.
#
# **Protocol.** A protocol is a data set with a named split, label mapping and metric rules; its id stands in
# the table's header. Scores of the test split are compared with its labels. AUC needs no threshold; F1 and
# accuracy use the threshold that the header names.
#
# **How to read it.** First line of a cell: mean over seeds, and ± the standard deviation over seeds. Second
# line: an interval; the header says what it covers. Two methods whose intervals overlap may still differ
# significantly, because they are measured on the same patients. Rows in italics are bounds, not competitors.

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
table = report.save_table(classification.zero_shot_table(report))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Data outside the tier
#
# Where weights of the tier were also evaluated on other data, they are in a table of their own, because its
# numbers must not be set beside the ones above.

# %%
further = report.further_protocols(classification.TASK)
if further:
    other = classification.zero_shot_table(report, further=True)
    other = report.save_table(other)
    display(Markdown(as_markdown(other)))
else:
    display(Markdown("None."))

# %% [markdown]
# ## ROC curves
#
# A curve shows every threshold at once: how many of the images with a finding are called (sensitivity) at
# the price of how many without it (1 − specificity). The grey diagonal is chance.

# %%
with style():
    figure, caption = classification.roc_figure(report)
    rows = report.behind(table.rows)
    picture = report.save_figure(figure, "roc", "ROC curves of zero-shot classification", caption, rows)
display(Image(filename=picture, width=700))
