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
# # Zero-shot grounding
#
# Where is the finding? Each method gives a heat map for a finding that is present; it has never seen a box
# or a mask. This notebook makes the tables `zero_shot_grounding` and `zero_shot_relations` and the figure
# `grounding_maps`.
#
# **Metrics.** *Pointing game*: does the highest cell of the map, on the method's own grid, lie in the region?
# A map that points anywhere scores the share of the image that the regions cover, which stands beside it as
# "region share". *Pixel AUC*: is a pixel inside the region hotter than one outside? It needs no
# threshold and 0.5 is chance. *IoU, Dice, precision, recall* need a threshold on the map; the header says how
# it was chosen. Maps are scaled per image, never over a batch.
#
# **How to read it.** Compare a number with what chance would score on the same images: the region share, or
# 0.5 for an AUC. One training run can see a finding in the wrong place and its twin in the right one, so look
# at the spread over seeds before the ranking.
#
# **Where-metrics.** *Laterality*: does "left effusion" score higher than "right effusion" where the left side
# has it? *Site*: the same for the place in the lung. *Relation*: for any pair of anatomy and finding.
# They ask the scores, not the maps, so they are fair to methods without maps.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import grounding, grounding_maps
from replication.reporting.figures import style
from replication.reporting.report import Report, first_seeds
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## Heat maps

# %%
table = report.save_table(grounding.grounding_table(report))
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Where-metrics

# %%
where = report.save_table(grounding.relations_table(report))
display(Markdown(as_markdown(where)))

# %% [markdown]
# ## Examples
#
# The examples are the first test images with the finding by order of their ids, not chosen by hand. The true
# region is outlined; every map runs from its own lowest (transparent) to its own highest value.

# %%
with style():
    figure, caption, images = grounding_maps.maps_figure(report)
    rows = first_seeds(report.behind(table.rows))
    picture = report.save_figure(figure, "grounding_maps", "Heat maps", caption, rows, images=images)
display(Image(filename=picture, width=700))
