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
# # Ablations
#
# Which parts of MeDSLIP matter? Each variant changes one thing and is trained with the same seeds as the
# full model. This notebook makes the tables `ablation_components`, `ablation_loss_weights` and
# `ablation_text`, and the figure `ablation_effects`.
#
# **What is tested.** The variant minus the full model, paired by seed and by test patient. p Holm is adjusted
# over the variants of a column.
#
# **How to read it.** Below 0 the change costs something. An interval that contains 0 does not show that a
# part is useless, only that these runs do not tell. A variant that the tier did not run says so in its line;
# one that the tier's settings make equal to the full model is named below the table.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import ablations
from replication.reporting.figures import style
from replication.reporting.paired import Comparer
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
comparer = Comparer(report)
asked = ablations.load_ablations()
found = [ablations.effects(report, comparer, asked, family) for family in asked.families]
display(Markdown(report.data_sentence))

# %% [markdown]
# ## Tables

# %%
tables = [report.save_table(ablations.ablation_table(report, comparer, effects)) for effects in found]
for table in tables:
    display(Markdown(as_markdown(table)))

# %% [markdown]
# ## All differences at a glance

# %%
with style():
    figure, caption = ablations.effects_figure(report, found)
    rows = report.behind([row for table in tables for row in table.rows])
    picture = report.save_figure(figure, "ablation_effects", "Effects of ablations", caption, rows)
display(Image(filename=picture, width=700))
