"""Whole sentences of chest radiograph reports, in the notation of ``annotation.py``.

``SIDE`` stands for a side, ``GRADE`` and ``ADVERB`` for how much, ``NP`` for a noun phrase, ``ART`` for where
its article goes, ``IS`` for is or are, ``LIST`` for what is denied.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.phantom.scene import FindingInstance

LUNG_FINDINGS = frozenset(
    {
        "atelectasis",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pneumothorax",
    }
)
"""Findings with which no lung is called clear."""

STATED: tuple[str, ...] = (
    "there IS ART NP .",
    "there IS ART NP .",
    "ART NP IS (seen|noted|present|identified|demonstrated) .",
    "ART NP IS (seen|noted|present|again noted) .",
    "NP .",
    "NP , (similar to|not significantly changed from) the prior study .",
)
SUSPECTED: tuple[str, ...] = (
    "possible NP .",
    "there IS (possible|questionable) NP .",
    "NP IS (suspected|not excluded|questioned) .",
    "(suspected|questionable) NP .",
    "findings suggest possible NP .",
)
NEGATIONS: tuple[str, ...] = (
    "no LIST .",
    "there is no LIST .",
    "no evidence of LIST .",
    "there is no evidence of LIST .",
    "no LIST is (seen|identified|present) .",
)

WHOLE_SENTENCES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "the heart/A#h=heart_size is MAYBE ADVERB enlarged/S#f@h=enlarge .",
        "the cardiac/A>h silhouette/A#h=heart_size is MAYBE ADVERB enlarged/S#f@h=enlarge .",
        "heart/A#h=heart_size size/A>h is MAYBE ADVERB enlarged/S#f@h=enlarge .",
        "there is MAYBE GRADE enlargement/S#f@h=enlarge of the cardiac/A>h silhouette/A#h=heart_size .",
    ),
}
"""Sentences that say a finding in a way of their own; each is used half of the time."""


@dataclass(frozen=True)
class Companion:
    """What may be said besides a finding.

    Attributes:
        sentence: may hold ``SIDE``; then it is used for one-sided findings only.
        share: how often it is said, where it fits.
        severity: smallest and largest severity that it fits.
        zones: zones that it fits; all if empty.
    """

    sentence: str
    share: float
    severity: tuple[float, float] = (0.0, 1.0)
    zones: tuple[str, ...] = ()

    def fits(self, instance: FindingInstance) -> bool:
        """Whether the sentence is true of an instance."""
        lowest, highest = self.severity
        return (
            lowest <= instance.severity <= highest
            and (not self.zones or instance.zone in self.zones)
            and (instance.side in ("left", "right") or "SIDE" not in self.sentence)
        )


_ANGLE = "the SIDE/A>c costophrenic/A>c angle/A#c=SIDE_costophrenic"
_DOME = "the SIDE/A>d hemidiaphragm/A#d=SIDE_diaphragm"
_VASCULAR = "pulmonary/A>v vascular/A#v=pulmonary"
_MARKINGS = "interstitial/A#i=interstitium markings/S#m@i=marking"

COMPANIONS: dict[str, tuple[Companion, ...]] = {
    "effusion": (
        Companion(f"{_ANGLE} is blunted/S@c=blunt .", 0.35, (0.0, 0.5)),
        Companion(f"there is blunting/S@c=blunt of {_ANGLE} .", 0.2, (0.0, 0.5)),
        Companion(f"{_DOME} is obscured/S@d=obscure .", 0.25, (0.4, 1.0)),
        Companion("there is fluid/S@f=fluid in the (minor|oblique) fissure/A#f=other .", 0.06, (0.4, 1.0)),
        Companion(
            "mediastinal/A#m=mediastinal shift/S@m=shift (|to the other side) is noted .", 0.3, (0.85, 1.0)
        ),
    ),
    "atelectasis": (
        Companion("lung/A>v volumes/A#v=lung_volumes are low/S@v=low .", 0.2),
        Companion(f"there is elevation/S@d=elevation of {_DOME} .", 0.3, (0.5, 1.0)),
        Companion("crowding/S@b=crowd of the bronchovascular/A#b=other structures is noted .", 0.12),
    ),
    "consolidation": (
        Companion(
            "the right/A>b heart/A>b border/A#b=heart_border is obscured/S@b=obscure .", 0.4, zones=("mid",)
        ),
        Companion(f"{_DOME} is obscured/S@d=obscure .", 0.3, zones=("lower", "base", "retrocardiac")),
    ),
    "edema": (
        Companion(f"there is GRADE {_VASCULAR} congestion/S#f@v=congestion .", 0.3),
        Companion(
            "the pulmonary/A>v vasculature/A#v=pulmonary is engorged/S@v=engorgement .", 0.12, (0.0, 0.6)
        ),
        Companion(f"there is cephalad/S>r redistribution/S#r@v=redistribution of {_VASCULAR} flow .", 0.1),
        Companion(f"prominent/S>m {_MARKINGS} .", 0.12),
        Companion("findings are (consistent|compatible) with CHF/S=chf .", 0.1, (0.4, 1.0)),
    ),
    "emphysema": (
        Companion("the lungs/A#l=lung_volumes are hyperinflated/S@l=hyperinflate .", 0.45, (0.2, 1.0)),
    ),
    "fibrosis": (Companion(f"coarse/S>m {_MARKINGS} .", 0.2),),
    "pneumothorax": (
        Companion(
            "there is partial/S>f collapse/S#f@l=collapse of the SIDE/A>l lung/A#l=SIDE_lung_unspec .",
            0.4,
            (0.75, 1.0),
        ),
    ),
    "hernia": (Companion("an air-fluid level is seen behind the heart .", 0.3, (0.3, 1.0)),),
}
"""What may be said besides each finding."""

OTHER_SIDE: dict[str, str] = {
    "effusion": "(no|there is no) SIDE/A>p pleural/A#p=SIDE_pleural effusion/N@p=effusion .",
    "pneumothorax": "(no|there is no) pneumothorax/N@p=pneumothorax on the SIDE/A#p=SIDE_lung_unspec .",
    "consolidation": "no consolidation/N@p=consolidation in the SIDE/A>p lung/A#p=SIDE_lung_unspec .",
    "pneumonia": "no (|evidence of) pneumonia/N@p=pneumonia in the SIDE/A>p lung/A#p=SIDE_lung_unspec .",
    "pleural_thickening": "no SIDE/A>p pleural/A#p=SIDE_pleural thickening/N@p=thicken .",
    "nodule": "no nodule/N@p=nodule (is seen|) in the SIDE/A>p lung/A#p=SIDE_lung_unspec .",
    "mass": "no mass/N@p=mass (is seen|) in the SIDE/A>p lung/A#p=SIDE_lung_unspec .",
}
"""How the other side of a one-sided finding is cleared."""

NORMALS: tuple[tuple[float, frozenset[str], tuple[str, ...]], ...] = (
    (
        0.55,
        frozenset({"cardiomegaly"}),
        (
            "heart/A#h=heart_size size/A>h is normal/O@h=normal .",
            "the heart/A#h=heart_size is normal/O@h=normal in size .",
            "cardiac/A>h silhouette/A#h=heart_size is (normal/O@h=normal|unremarkable/O@h=unremarkable) .",
            "the heart/A#h=heart_size is not enlarged/N@h=enlarge .",
        ),
    ),
    (
        0.5,
        frozenset({"mass", "hernia"}),
        (
            "mediastinal/A>m contour/A#m=mediastinal is (normal/O@m=normal|unremarkable/O@m=unremarkable) .",
            "the cardiomediastinal/A>m contours/A#m=mediastinal are (stable/O@m=stable|normal/O@m=normal) .",
            "the mediastinum/A#m=mediastinal is not widened/N@m=widen .",
            "the mediastinum/A#m=mediastinal is (unremarkable/O@m=unremarkable|normal/O@m=normal) .",
        ),
    ),
    (
        0.25,
        frozenset({"mass", "edema"}),
        (
            "hilar/A>h contours/A#h=hilar_unspec are (normal/O@h=normal|unremarkable/O@h=unremarkable) .",
            "the hila/A#h=hilar_unspec are unremarkable/O@h=unremarkable .",
        ),
    ),
    (
        0.25,
        frozenset({"effusion", "pleural_thickening"}),
        (
            "the costophrenic/A>c angles/A#c=costophrenic_unspec are (sharp/O@c=sharp|clear/O@c=clear) .",
            "pleural/A>p surfaces/A#p=pleural_unspec are (clear/O@p=clear|unremarkable/O@p=unremarkable) .",
        ),
    ),
    (
        0.2,
        frozenset({"edema"}),
        (
            "pulmonary/A>v vasculature/A#v=pulmonary is (normal/O@v=normal|unremarkable/O@v=unremarkable) .",
            "no pulmonary/A>v vascular/A#v=pulmonary congestion/N@v=congestion .",
        ),
    ),
    (
        0.2,
        frozenset({"atelectasis", "effusion", "emphysema", "fibrosis", "pneumothorax"}),
        ("the lungs/A#l=lung_volumes are well (expanded/O@l=expand|aerated/O@l=aerate) .",),
    ),
    (
        0.15,
        LUNG_FINDINGS,
        (
            "no focal/N>o opacity/N#o=opacity .",
            "no parenchymal/A#p=parenchymal opacity/N@p=opacity (is seen|) .",
        ),
    ),
    (
        0.3,
        frozenset(),
        (
            "osseous/A>b structures/A#b=other are (intact/O@b=intact|unremarkable/O@b=unremarkable) .",
            "no acute/N>f osseous/A#b=other abnormality/N#f@b=abnormality .",
            "no displaced/N>f rib/A#r=rib fracture/N#f@r=fracture (is seen|) .",
            "no free/N>f air/N#f@d=air (beneath|below) the diaphragm/A#d=diaphragm_unspec .",
            "the trachea/A#t=trachea is unremarkable/O@t=unremarkable .",
            "the clavicles/A#k=clavicle are intact/O@k=intact .",
            "no destructive/N>n osseous/A#b=other lesion/N#n@b=lesion (is identified|) .",
            "imaged upper abdomen/A#u=stomach is unremarkable/O@u=unremarkable .",
        ),
    ),
)
"""Normal structures: share, findings with which the sentence would be wrong, sentences."""

INCIDENTALS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (
        0.07,
        (
            "the (|thoracic) aorta/A#a=aorta is (|mildly/O>t) tortuous/O#t@a=tortuous .",
            "there are calcifications/O@a=calcification (of|along) the aorta/A#a=aorta .",
            "aortic/A#a=aorta knob calcification/O@a=calcification (|is noted) .",
        ),
    ),
    (
        0.06,
        (
            "degenerative/O@s=degenerative changes (are seen|) in the thoracic/A>s spine/A#s=spine .",
            "chronic/O>f rib/A#r=rib deformity/O#f@r=deformity (is noted|) .",
            "old healed/O>f (left|right) rib/A#r=rib fracture/O#f@r=fracture .",
        ),
    ),
    (0.008, ("mild/O>k kyphosis/O#k@s=tail_abnorm_obs of the thoracic/A>s spine/A#s=spine .",)),
    (0.008, ("scoliosis/O@s=tail_abnorm_obs of the (|thoracic/A>s) spine/A#s=spine (|is noted) .",)),
    (0.006, ("diffuse/O>o osteopenia/O#o@b=tail_abnorm_obs of the bones/A#b=other .",)),
)  # fmt: skip
"""Things besides, drawn without regard to the image: share, sentences."""

DEVICES: dict[str, tuple[str, ...]] = {
    "endotracheal": (
        "endotracheal/O>t tube/O#t=tube (terminates above the carina|is in standard position|is in place) .",
        "the tip/O@c=tip of the endotracheal/O>t tube/O#t=tube (lies|projects) above the carina/A#c=other .",
    ),
    "tube": (
        "a SIDE/A>c chest/A#c=other tube/O@c=tube is (in place|present) .",
        "SIDE/A>c chest/A#c=other tube/O@c=tube (in situ|remains in place) .",
    ),
    "line": (
        "a SIDE-sided/A#r=other central/O>l venous/O>l (line/O#l@r=line|catheter/O#l@r=catheter)"
        " (ends|terminates) in the (|lower) SVC .",
        "SIDE-sided/A#r=other PICC/O@r=picc (ends|terminates) in the (|lower) SVC .",
        "SIDE-sided/A#r=other central/O>l (line/O#l@r=line|catheter/O#l@r=catheter)"
        " with its tip/O@s=tip in the SVC/A#s=svc .",
    ),
    "pacemaker": (
        "a SIDE-sided/A#w=other pacemaker/O@w=pacemaker has leads/O@a,v=lead in the right/A>a"
        " atrium/A#a=right_atrium and right/A>v ventricle/A#v=right_ventricle .",
        "SIDE-sided/A#w=other pacing/O>d device/O#d@w=device with intact/O>e leads/O#e@w=lead .",
        "SIDE-sided/A#w=other (dual-chamber/O>m|) pacemaker/O#m@w=pacemaker (is|) in place .",
    ),
    "wire": (
        "sternal/A#s=other wire/O#w@s=wire sutures are intact/O>w .",
        "midline sternal/A#s=other wire/O@s=wire sutures are (noted|present) .",
    ),
    "clip": (
        "surgical/O>c clips/O#c@h=clip (project over|overlie) the SIDE/A>h hemithorax/A#h=SIDE_lung_unspec .",
        "clips/O@h=clip are seen over the SIDE/A>h lung/A#h=SIDE_lung_unspec .",
    ),
}
"""Sentences for devices."""

IMPRESSION_NORMAL: tuple[str, ...] = (
    "no acute/N>x cardiopulmonary/A#c=cardiopulmonary process/N#x@c=process .",
    "no acute/N>x cardiopulmonary/A#c=cardiopulmonary abnormality/N#x@c=abnormality .",
    "no radiographic evidence of acute/N>x cardiopulmonary/A#c=cardiopulmonary disease/N#x@c=disease .",
    "no acute/N>x intrathoracic/A#c=other process/N#x@c=process .",
)
"""Impressions when nothing acute is there."""
