"""Where the structures of a frontal film are."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import LEFT, RIGHT
from replication.phantom.camera import BoolArray
from replication.phantom.projection import Projection

APICAL, UPPER, MID = 0.14, 0.38, 0.60
"""Relative heights that end the apical, upper and mid zones of a lung."""


def region_masks(view: Projection) -> dict[str, BoolArray]:
    """Masks [size, size] named as in the released code's anatomy vocabulary."""
    lung = view.lung > 0.5
    v, inside = view.v, (view.rim > 0) & (view.y > view.chest.apex)
    cavity = inside & (view.above > 0)
    heart = (view.hilum < 0) & (v > 0.42) & (view.above > -1.0)
    middle = view.hilum < 0
    out: dict[str, BoolArray] = {}
    for name, side in (("right", RIGHT), ("left", LEFT)):
        own = lung & view.side(side)
        out[f"{name}_lung_unspec"] = own
        out[f"{name}_apical_lung"] = own & (v < APICAL)
        out[f"{name}_upper_lung"] = own & (v < UPPER)
        out[f"{name}_mid_lung"] = own & (v >= UPPER) & (v < MID)
        out[f"{name}_lower_lung"] = own & (v >= MID)
        out[f"{name}_pleural"] = inside & view.side(side) & (view.rim < 1.6) & (v < 1.0)
        floor = inside & view.side(side)
        out[f"{name}_costophrenic"] = floor & (view.rim < 3.5) & (np.abs(view.above) < 2.5) & (v > 0.75)
        out[f"{name}_diaphragm"] = floor & (np.abs(view.above) < 0.9) & (view.hilum > -2.0)
        x, y = view.hilum_at(side)
        out[f"{name}_hilar"] = ((view.x - x) / 2.2) ** 2 + ((view.y - y - 0.4) / 3.0) ** 2 < 1
    out["upper_right_lobe"] = lung & ~view.left & (v < 0.47)
    out["middle_right_lobe"] = lung & ~view.left & (v >= 0.47) & (view.hilum < 0.55 * (view.rim + view.hilum))
    out["lower_right_lobe"] = lung & ~view.left & (v >= 0.40) & ~out["middle_right_lobe"]
    out["upper_left_lobe"] = lung & view.left & (v < 0.58)
    out["lower_left_lobe"] = cavity & view.left & (v >= 0.42) & (view.r > 1.5)
    out["hilar_unspec"] = out["left_hilar"] | out["right_hilar"]
    out["pleural_unspec"] = out["left_pleural"] | out["right_pleural"]
    out["costophrenic_unspec"] = out["left_costophrenic"] | out["right_costophrenic"]
    out["diaphragm_unspec"] = out["left_diaphragm"] | out["right_diaphragm"]
    out["lung_apices"] = out["left_apical_lung"] | out["right_apical_lung"]
    out["lung_bases"] = lung & (view.above < 4.0)
    out["heart_size"] = heart
    out["heart_border"] = (np.abs(view.hilum) < 0.9) & (v > 0.42) & (view.above > -1.0)
    out["right_atrium"] = heart & ~view.left & (v > 0.5)
    out["right_ventricle"] = heart & (v > 0.68) & (view.r < 4.5)
    out["retrocardiac"] = heart & view.left & (v > 0.55) & (view.above > 0)
    out["cardiophrenic_sulcus"] = (np.abs(view.hilum) < 1.4) & (np.abs(view.above) < 1.8)
    out["mediastinal"] = middle & (v > -0.05) & (view.above > -1.0)
    out["aorta"] = middle & view.left & (v > 0.15) & (v < 0.5) & (view.r > 0.8)
    out["svc"] = middle & ~view.left & (v > 0.1) & (v < 0.45) & (view.r > 1.2)
    out["cavoatrial_junction"] = middle & ~view.left & (v > 0.42) & (v < 0.55) & (view.r > 1.2)
    out["spine"] = view.r < 2.0
    out["trachea"] = (view.r < 1.1) & (v < 0.30)
    out["stomach"] = view.left & (view.rim > 0.5) & (view.above < -0.3) & (view.above > -5) & (view.r > 2.5)
    out["pulmonary"] = lung
    out["parenchymal"] = lung
    out["interstitium"] = lung
    out["lung_volumes"] = lung
    out["cardiopulmonary"] = lung | heart
    return out
