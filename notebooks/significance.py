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
# # Which differences are more than chance?
#
# Two methods with different numbers may be equally good: other test patients, or other seeds of training,
# could have turned them round. This notebook tests every method against one and makes the tables
# `significance`, `significance_where` and so on, and the figure `critical_difference`.
#
# **What is tested.** Both methods are measured on the same images, so the same resamples of patients are
# drawn for both and the difference is taken in each. With several seeds, the variance between seeds is added:
# the question is then whether *training* the one method rather than the other helps, not whether these very
# networks differ. With one seed only the latter can be answered, and the header says so.
#
# **How to read it.** First line of a cell: the method minus the one named in the title. Second line: 95 %
# interval. p Holm is adjusted for testing many methods at once; p DeLong is the classical test for two AUCs
# on the same images and is blind to seeds. A large p is no proof that two methods are equal: look at the
# interval.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import ranks, significance
from replication.reporting.figures import style
from replication.reporting.paired import Comparer
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
comparer = Comparer(report)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## Tests against one method

# %%
for family in significance.families(report):
    table = report.save_table(significance.significance_table(report, comparer, family))
    display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Ranks over all findings
#
# A method may be a little better almost everywhere without being significantly better anywhere. Ranks show
# that: in each finding the best method gets rank 1, and ranks are averaged.

# %%
with style():
    figure, caption = ranks.critical_difference_figure(report)
    labels = [entry.label for entry in report.entries()]
    rows = report.select(task=[task for task, _, _ in ranks.RANKED], label=labels)
    picture = report.save_figure(figure, "critical_difference", "Average ranks", caption, rows)
display(Image(filename=picture, width=700))
