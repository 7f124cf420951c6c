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
# # Disentanglement, and retrieval
#
# MeDSLIP has one stream for what is there and one for where it is. Does each stream know what it is for, and
# not what the other is for? This notebook makes the table `disentanglement` and the figure
# `stream_embeddings`, and the table `retrieval` of methods that compare whole images with whole reports.
#
# **Protocol.** Nothing of the method is trained. Logistic regressions on frozen features of each stream learn
# on the training split which findings a report states, and, in images with a single finding, in which
# anatomies and on which side it lies; validation chooses their penalty, and the test patients score them. On
# generated data the same is asked of single patches, with exact masks of findings and regions.
#
# **How to read it.** Chance is what the same probes score after their labels were shuffled. A difference
# between two targets of one stream says little, because one target may be easier; the last column therefore
# subtracts the same difference of the method's own trunk. Only where that is above 0 in both streams has the
# method moved what belongs together into one stream. Methods with one stream stand beside it as a comparison.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import disentanglement, retrieval
from replication.reporting.figures import style
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## What each stream knows

# %%
table = report.save_table(disentanglement.streams_table(report))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Without a part of the method
#
# The same for variants of MeDSLIP that were trained as long as it was: which part makes the streams differ?

# %%
table = report.save_table(disentanglement.streams_table(report, variants=True))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## How the streams look

# %%
with style():
    figure, caption, rows = disentanglement.embeddings_figure(report)
    picture = report.save_figure(figure, "stream_embeddings", "Embeddings of the streams", caption, rows)
display(Image(filename=picture, width=700))

# %% [markdown]
# ## Retrieval
#
# Methods that learn from reports can also search: an image for its report, a report for its image. Many
# reports of the phantom say the same in other words, and only the very same text counts as a hit, so even a
# perfect reader of images would miss often; compare methods with each other and with a random order.

# %%
table = report.save_table(retrieval.retrieval_table(report))
display(Markdown(as_markdown(table)))
