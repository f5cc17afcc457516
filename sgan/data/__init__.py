"""Labelled image sets: the embedded digits, and readers for a user's own files. Points of the plane beside them."""

from sgan.data.dataset import Dataset, DataWarning, ImageSet, PointSet
from sgan.data.digits import DIGITS
from sgan.data.load import load_dataset, read_raw
from sgan.data.toy2d import TOY2D

__all__ = ["DIGITS", "TOY2D", "DataWarning", "Dataset", "ImageSet", "PointSet", "load_dataset", "read_raw"]
