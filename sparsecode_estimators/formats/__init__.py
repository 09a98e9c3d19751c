"""Estimators on disk: our own format, and those of other programs."""

from .native import load, save
from .pretrained import export, load_pretrained

__all__ = ["export", "load", "load_pretrained", "save"]
