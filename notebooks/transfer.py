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
# # Transfer: probe, fine-tuning and segmentation with few labels
#
# What is the pre-trained image trunk worth once labels of the target data set may be used? This notebook
# makes the tables `linear_probe`, `finetune_classification` and `finetune_segmentation` and the figure
# `data_efficiency`.
#
# **Protocol.** The labels of a small, a larger and the whole share of the training patients are used. Shares
# are nested, drawn by patient, stratified by finding, and the same for all methods of a seed. Whatever is
# chosen (the penalty of the probe, the step of fine-tuning, thresholds) is chosen on validation images. The
# number of steps, the learning rates and the augmentation are the tier's and the same for all methods.
#
# **How to read it.** First line of a cell: mean over seeds, and ± the standard deviation over seeds. Second
# line: an interval; the header says what it covers. Rows in italics are bounds, not competitors. A short
# fine-tuning can fall behind the linear probe, which is fitted to the end.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import transfer
from replication.reporting.figures import style
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## Linear probe

# %%
table = report.save_table(transfer.classification_table(report, transfer.PROBE))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Fine-tuned classification

# %%
table = report.save_table(transfer.classification_table(report, transfer.CLASSIFICATION))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Fine-tuned segmentation
#
# The target is a mask or the union of boxes. Dice and IoU are means over images, not over pixels.

# %%
table = report.save_table(transfer.segmentation_table(report))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Data efficiency

# %%
rows = transfer.rows_of(
    report, [transfer.PROBE, transfer.CLASSIFICATION, *transfer.ENCODERS], ["auc", "dice"]
)
with style():
    figure, caption = transfer.efficiency_figure(report)
    picture = report.save_figure(
        figure, "data_efficiency", "Accuracy against the share of labels", caption, rows
    )
display(Image(filename=picture, width=800))

# %% [markdown]
# ## Data outside the tier
#
# Where weights of the tier were also transferred to other data, they are in tables of their own, because
# their numbers must not be set beside the ones above.

# %%
further = []
for task in (transfer.PROBE, transfer.CLASSIFICATION):
    if transfer.protocols(report, [task], further=True):
        table = transfer.classification_table(report, task, further=True)
        further.append(report.save_table(table))
if transfer.protocols(report, list(transfer.ENCODERS), further=True):
    further.append(report.save_table(transfer.segmentation_table(report, further=True)))
display(Markdown("\n\n".join(as_markdown(table) for table in further) or "None."))
