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
# # What the abstracts claim, and what is measured here
#
# The two versions of MeDSLIP's abstract make claims. Each is written down as a set of contrasts, the method
# minus a competitor in a measure, together with the rule that turns them into a verdict. This notebook makes
# the table `claims` and the figure `text_vs_cooccurrence`.
#
# **The rule.** *Supported*: every contrast of the claim was measured and is above 0, p adjusted over all of
# them (Holm). *Not supported*: at least one that was measured is not. *Not testable here*: otherwise.
#
# **How to read it.** The verdicts are about this suite's implementation, data and budget. *Not supported*
# does not show the opposite of a claim; the interval of the closest competitor says how large a lead or a
# deficit these measurements are compatible with.

# %% tags=["parameters"]
tier = "smoke"
results = "results/smoke"
work = "work/smoke"

# %%
from IPython.display import Image, Markdown, display

from replication.reporting import claims
from replication.reporting.cooccurrence import cooccurrence_figure
from replication.reporting.figures import style
from replication.reporting.paired import Comparer
from replication.reporting.report import Report
from replication.reporting.writers import as_markdown

report = Report.open(tier, results, work)
asked = claims.load_claims()
evidence = claims.examine(report, Comparer(report), asked)
display(Markdown(report.data_sentence))

# %% [markdown]
# ## Verdicts

# %%
table = report.save_table(claims.claims_table(report, asked, evidence), report.rows)
display(Markdown(as_markdown(table)))

# %% [markdown]
# ## Do texts know what reports know?
#
# The methods that ask with texts assume that pathologies with similar texts are similar. Reports say which
# pathologies occur together; texts may or may not reflect that.

# %%
with style():
    figure, caption, rows = cooccurrence_figure(report)
    name = "text_vs_cooccurrence"
    picture = report.save_figure(figure, name, "Texts against co-occurrence", caption, rows)
display(Image(filename=picture, width=700))
