"""The words of chest radiograph reports, in the notation of ``annotation.py``.

Three things make a noun phrase: how much (``SEVERITIES``), what (``NOUNS``) and where (``sites``). ``/S``
stands for the letter of the status; a noun's head is called ``f``, its place ``p`` (or ``p`` and ``q``).
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.phantom.scene import Side, Zone


@dataclass(frozen=True)
class Site:
    """Where something lies: ``before`` the noun ("left basilar") or ``after`` it ("at the left base")."""

    before: str = ""
    after: str = ""
    targets: str = "@p"


@dataclass(frozen=True)
class Noun:
    """What is seen.

    Attributes:
        markup: the words; ``/S`` stands for the status, ``AT`` for the place.
        kind: what kind of it; stands before the place.
        many: the words for it on both sides, where a plural is needed.
        plural: whether the markup itself is a plural.
        article: whether it takes an article.
        hedged: whether it says by itself how sure it is.
    """

    markup: str
    many: str = ""
    kind: str = ""
    plural: bool = False
    article: bool = False
    hedged: bool = False


NOUNS: dict[str, tuple[Noun, ...]] = {
    "atelectasis": (
        Noun("atelectasis/S#fAT=atelectasis"),
        Noun("atelectasis/S#fAT=atelectasis", kind="(linear|subsegmental|plate-like|discoid)/S>f"),
        Noun("atelectasis/S#fAT=atelectasis with volume/S>v loss/S#vAT=loss"),
        Noun("atelectatic/S#fAT=atelectasis changes/S>f", plural=True),
    ),
    "cardiomegaly": (Noun("cardiomegaly/S#f=cardiomegaly"),),
    "effusion": (Noun("effusion/S#fAT=effusion", "effusions/S#fAT=effusion", article=True),),
    "infiltration": (
        Noun("infiltrate/S#fAT=infiltrate", article=True),
        Noun("infiltrates/S#fAT=infiltrate", plural=True),
        Noun("infiltrates/S#fAT=infiltrate", kind="(ill-defined|reticulonodular|streaky)/S>f", plural=True),
    ),
    "mass": (
        Noun("mass/S#fAT=mass", "masses/S#fAT=mass", article=True),
        Noun("mass/S#fAT=mass", kind="(lobulated|spiculated|rounded)/S>f", article=True),
    ),
    "nodule": (
        Noun("nodule/S#fAT=nodule", "nodules/S#fAT=nodule", article=True),
        Noun("nodule/S#fAT=nodule", kind="(rounded|solitary|well-circumscribed)/S>f", article=True),
        Noun("nodular/S#nAT=nodule opacity/S#fAT=opacity", article=True),
    ),
    "pneumonia": (
        Noun("pneumonia/S#fAT=pneumonia"),
        Noun("pneumonia/S#fAT=pneumonia"),
        Noun("opacity/O#fAT~n=opacity HEDGE pneumonia/S#nAT=pneumonia", article=True, hedged=True),
        Noun(
            "airspace/O>f opacities/O#fAT~n=opacity HEDGE pneumonia/S#nAT=pneumonia", plural=True, hedged=True
        ),
        Noun("opacification/O#fAT~n=opacity HEDGE (pneumonia|infection)/S#nAT=pneumonia", hedged=True),
    ),
    "pneumothorax": (
        Noun("pneumothorax/S#fAT=pneumothorax", "pneumothoraces/S#fAT=pneumothorax", article=True),
    ),
    "consolidation": (
        Noun("consolidation/S#fAT=consolidation"),
        Noun("consolidation/S#fAT=consolidation", kind="(airspace|confluent|focal)/S>f"),
        Noun("consolidative/S#cAT=consolidation opacity/S#fAT=opacity", article=True),
    ),
    "edema": (Noun("edema/S#fAT=edema"),),
    "emphysema": (
        Noun("emphysema/S#fAT=emphysema"),
        Noun("emphysema/S#fAT=emphysema", kind="(centrilobular|bullous)/S>f"),
    ),
    "fibrosis": (
        Noun("fibrosis/S#fAT=tail_abnorm_obs"),
        Noun("fibrosis/S#fAT=tail_abnorm_obs", kind="(reticular|coarse)/S>f"),
        Noun("fibrotic/S#nAT=tail_abnorm_obs scar/S#fAT=scar", article=True),
    ),
    "pleural_thickening": (Noun("thickening/S#fAT=thicken"),),
    "hernia": (Noun("hernia/S#fAT=hernia", article=True),),
}
"""Ways to name each finding."""

_AMOUNTS = ("(small|tiny|small)", "(moderate|moderate-sized|)", "large")
_GRADES = ("(mild|minimal|mild)", "(moderate||)", "(severe|marked)")
_EXTENTS = ("(patchy|subtle|mild)", "(|moderate|patchy)", "(dense|extensive)")
SEVERITIES: dict[str, tuple[str, str, str]] = {
    "atelectasis": ("(mild|minimal)", "(|moderate)", "(marked|extensive)"),
    "cardiomegaly": _GRADES,
    "effusion": _AMOUNTS,
    "infiltration": _EXTENTS,
    "mass": ("(|small)", "", "large"),
    "nodule": ("(small|tiny)", "", "(|large|dominant)"),
    "pneumonia": _EXTENTS,
    "pneumothorax": _AMOUNTS,
    "consolidation": _EXTENTS,
    "edema": _GRADES,
    "emphysema": _GRADES,
    "fibrosis": ("(mild|minimal)", "(|moderate)", "(extensive|severe)"),
    "pleural_thickening": ("(mild|minimal)", "(|moderate)", "(marked|extensive)"),
    "hernia": ("small", "(|moderate)", "large"),
}
"""Words for a subtle, a middling and a gross finding."""

SPLIT = frozenset(NOUNS) - {"cardiomegaly", "edema", "emphysema", "hernia"}
"""Findings that may be described side by side when they are on both."""

HEDGES = {
    "O": "(compatible with|consistent with|representing|in keeping with|due to)",
    "U": "(which may represent|concerning for possible|suspicious for|possibly due to)",
}

NEGATIVES: dict[str, str] = {
    "atelectasis": "(|focal/N>a) atelectasis/N#a=atelectasis",
    "cardiomegaly": "cardiomegaly/N=cardiomegaly",
    "effusion": "pleural/A#pe=pleural_unspec effusion/N@pe=effusion",
    "infiltration": "(|focal/N>i|acute/N>i) infiltrate/N#i=infiltrate",
    "mass": "(|suspicious/N>m|focal/N>m) mass/N#m=mass",
    "nodule": "(|suspicious/N>n|discrete/N>n) nodule/N#n=nodule",
    "pneumonia": "pneumonia/N=pneumonia",
    "pneumothorax": "pneumothorax/N=pneumothorax",
    "consolidation": "(|focal/N>c|focal/N>c) consolidation/N#c=consolidation",
    "edema": "pulmonary/A#ed=pulmonary edema/N@ed=edema",
    "emphysema": "(|significant/N>y) emphysema/N#y=emphysema",
    "fibrosis": "(pulmonary/A#fi=pulmonary fibrosis/N@fi=tail_abnorm_obs|fibrosis/N=tail_abnorm_obs)",
    "pleural_thickening": "pleural/A#pt=pleural_unspec thickening/N@pt=thicken",
    "hernia": "(hiatal|hiatus)/A#hi=other hernia/N@hi=hernia",
}
"""Ways to name what is not there; every name is unique over the list, so they can share a sentence."""


def _lung(side: str, zone: Zone) -> list[Site]:
    """Sites of one lung."""
    s = f"{side}/A>p"
    table: dict[str, list[Site]] = {
        "apical": [
            Site(before=f"{s} apical/A#p={side}_apical_lung"),
            Site(after=f"at the {s} apex/A#p={side}_apical_lung"),
            Site(after=f"at the {s} lung/A>p apex/A#p={side}_apical_lung"),
        ],
        "upper": [
            Site(before=f"{s} upper/A>p lobe/A#p=upper_{side}_lobe"),
            Site(after=f"in the {s} upper/A>p lobe/A#p=upper_{side}_lobe"),
            Site(after=f"in the {s} upper/A>p lung/A#p={side}_upper_lung"),
        ],
        "mid": [
            Site(before=f"{s} mid/A>p lung/A#p={side}_mid_lung"),
            Site(after=f"in the {s} mid/A>p lung/A#p={side}_mid_lung"),
            Site(after=f"in the {s} mid/A>p lung/A#p={side}_mid_lung zone/A>p"),
        ],
        "lower": [
            Site(before=f"{s} lower/A>p lobe/A#p=lower_{side}_lobe"),
            Site(after=f"in the {s} lower/A>p lobe/A#p=lower_{side}_lobe"),
            Site(before=f"{s} lower/A>p lung/A#p={side}_lower_lung"),
            Site(after=f"in the {s} lower/A>p lung/A#p={side}_lower_lung"),
        ],
        "base": [
            Site(before=f"{s} basilar/A#p={side}_lower_lung"),
            Site(after=f"at the {s} base/A#p={side}_lower_lung"),
            Site(after=f"at the {s} lung/A>p base/A#p={side}_lower_lung"),
            Site(before=f"{s} lower/A>p lobe/A#p=lower_{side}_lobe"),
        ],
        "hilar": [
            Site(before=f"{s} perihilar/A#p={side}_hilar"),
            Site(after=f"in the {s} perihilar/A#p={side}_hilar region/A>p"),
            Site(after=f"adjacent to the {s} hilum/A#p={side}_hilar"),
        ],
        "diffuse": [
            Site(after=f"(in|throughout) the {s} lung/A#p={side}_lung_unspec"),
            Site(after=f"in the {s} hemithorax/A#p={side}_lung_unspec"),
        ],
    }
    here = table.get(zone, table["diffuse"])
    if zone == "mid" and side == "right":
        return [*here, Site(before="right/A>p middle/A>p lobe/A#p=middle_right_lobe")]
    return here


_RETROCARDIAC = [
    Site(before="retrocardiac/A#p=retrocardiac"),
    Site(before="left/A>p retrocardiac/A#p=retrocardiac"),
    Site(after="in the retrocardiac/A#p=retrocardiac region/A>p"),
    Site(after="in the left/A>p lower/A>p lobe/A#p=lower_left_lobe"),
]

_BOTH_LUNGS: dict[str, list[Site]] = {
    "apical": [
        Site(before="biapical/A#p=lung_apices"),
        Site(after="at both/A>p lung/A>p apices/A#p=lung_apices"),
    ],
    "upper": [
        Site(after="in the upper/A>p lungs/A#p=lung_apices"),
    ],
    "lower": [
        Site(before="bibasilar/A#p=lung_bases"),
        Site(after="in the lower/A>p lobes/A#p=lung_bases"),
        Site(after="in the lower/A>p lungs/A#p=lung_bases"),
    ],
    "base": [
        Site(before="bibasilar/A#p=lung_bases"),
        Site(after="at the lung/A>p bases/A#p=lung_bases"),
        Site(after="at both/A>p lung/A>p bases/A#p=lung_bases"),
    ],
    "hilar": [
        Site(before="bilateral/A>p perihilar/A#p=hilar_unspec"),
        Site(before="perihilar/A#p=hilar_unspec"),
    ],
    "diffuse": [
        Site(after="(in|throughout) both/A>p lungs/A#p=lung_volumes"),
        Site(after="in the lungs/A#p=lung_volumes bilaterally/A>p"),
    ],
}


def _pleural(side: Side, zone: Zone) -> list[Site]:
    apical = "apical/A>p " if zone in ("apical", "upper") else ""
    if side in ("left", "right"):
        return [Site(before=f"{side}/A>p {apical}pleural/A#p={side}_pleural")]
    both = "biapical/A>p" if apical else "bilateral/A>p"
    return [Site(before=f"{both} pleural/A#p=pleural_unspec")]


def _pneumothorax(side: Side, zone: Zone) -> list[Site]:
    if zone == "apical" or side not in ("left", "right"):
        return _lung_sites(side, zone)
    whole = f"{side}_lung_unspec"
    return [
        Site(before=f"{side}/A#p={whole}"),
        Site(before=f"{side}/A#p={whole}"),
        Site(after=f"on the {side}/A#p={whole}"),
        Site(after=f"in the {side}/A>p hemithorax/A#p={whole}"),
    ]


def _edema(side: Side, zone: Zone) -> list[Site]:
    if side in ("left", "right"):
        return _lung(side, zone)
    places = [
        Site(before="pulmonary/A#p=pulmonary"),
        Site(before="pulmonary/A#p=pulmonary"),
        Site(before="interstitial/A#p=interstitium"),
    ]
    return [*places, Site(before="perihilar/A#p=hilar_unspec")] if zone == "hilar" else places


def _lung_sites(side: Side, zone: Zone) -> list[Site]:
    if zone == "retrocardiac":
        return _RETROCARDIAC
    if side in ("left", "right"):
        return _lung(side, zone)
    return _BOTH_LUNGS.get(zone, _BOTH_LUNGS["diffuse"])


def sites(finding: str, side: Side, zone: Zone) -> list[Site]:
    """Ways to say in one phrase where a finding lies."""
    match finding:
        case "cardiomegaly":
            return [Site(targets="")]
        case "effusion" | "pleural_thickening":
            return _pleural(side, zone)
        case "pneumothorax":
            return _pneumothorax(side, zone)
        case "edema":
            return _edema(side, zone)
        case "hernia":
            behind = Site(
                before="hiatal/A#p=other",
                after="in the retrocardiac/A#q=retrocardiac region/A>q",
                targets="@p,q",
            )
            return [Site(before="(hiatal|hiatus)/A#p=other"), behind]
        case "consolidation" if zone == "mid" and side == "right":
            lobe = "right/A>p middle/A>p lobe/A#p=middle_right_lobe"
            return [Site(before=lobe), Site(after=f"in the {lobe}")]
        case "fibrosis" | "emphysema" if zone == "diffuse" and side == "bilateral":
            return [Site(before="pulmonary/A#p=pulmonary"), *_lung_sites(side, zone)]
        case _:
            return _lung_sites(side, zone)
