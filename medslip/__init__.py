"""MeDSLIP (arXiv 2403.10635)."""

from medslip.model import MeDSLIP
from medslip.settings import MeDSLIPSettings

__all__ = ["MeDSLIP", "MeDSLIPSettings"]
