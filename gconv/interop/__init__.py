"""Weights and models from other libraries, and back."""

from gconv.interop.escnn import from_escnn
from gconv.interop.groupy import from_groupy, to_groupy

__all__ = ["from_escnn", "from_groupy", "to_groupy"]
