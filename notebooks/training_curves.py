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
# # Training curves
#
# Losses over epochs of every run of the tier, from the runs' logs. Solid: validation, dashed: training.
# Thin lines are single seeds, the thick line is their mean.
#
# **How to read it.** Losses of different methods are different quantities and are not comparable; the figure
# shows whether a run has converged, and whether its validation loss turns up while its training loss still
# falls.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import curves
from replication.reporting.figures import style
from replication.reporting.report import Report

report = Report.open(tier, results, work)
logs = curves.read_logs(report)
display(Markdown(f"{logs['run_id'].nunique()} of {report.rows['run_id'].nunique()} runs have a log."))

# %%
rows = report.rows[report.rows["run_id"].isin(logs["run_id"])]
with style():
    figure = curves.curves_figure(logs)
    picture = report.save_figure(figure, "training_curves", "Training curves", curves.CAPTION, rows)
display(Image(filename=picture, width=700))
