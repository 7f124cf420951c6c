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
# # Atlas of the phantom
#
# Every finding that the phantom can show, once, with its true region outlined and the report that a generated
# study of it would have. The pictures are rendered larger than the images that models see.
#
# **How the examples are chosen.** By rule: of 1,500 generated patients the film with the fewest other
# findings and devices whose severity is closest to moderate. Sides are the patient's: the patient's left is
# on the right of the image.
#
# **What it is for.** A reader can judge whether a sign looks like the sign. The phantom is a controlled
# experiment with exact ground truth; it is no substitute for patients.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.phantom.version import phantom_version
from replication.reporting import atlas
from replication.reporting.figures import style
from replication.reporting.report import Report

report = Report.open(tier, results, work, rows_needed=False)
seed = report.tier.phantom.seed if report.tier.phantom else 0
pictures = atlas.plates(seed)
display(Markdown(f"Phantom version {phantom_version}, seed {seed}, {len(pictures)} pictures."))

# %%
with style():
    figure = atlas.atlas_figure(pictures)
    picture = report.save_figure(
        figure,
        "phantom_atlas",
        "Atlas of the phantom",
        atlas.CAPTION,
        report.rows.iloc[:0],
        generator=f"phantom {phantom_version}, seed {seed}",
    )
display(Image(filename=picture, width=760))
