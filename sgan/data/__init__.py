"""Labelled image sets: the embedded digits, and readers for a user's own files."""

from sgan.data.dataset import Dataset, ImageSet
from sgan.data.digits import DIGITS
from sgan.data.load import load_dataset

__all__ = ["DIGITS", "Dataset", "ImageSet", "load_dataset"]
