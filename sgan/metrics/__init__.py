"""Metrics of generated images: Frechet distance, precision and recall, and the symmetry of the generated law."""

from sgan.metrics.evaluator import Evaluator
from sgan.metrics.features import FeatureExtractor, FeatureNetwork, load_features
from sgan.metrics.frechet import frechet_distance
from sgan.metrics.precision_recall import PrecisionRecall, precision_recall
from sgan.metrics.symmetry import TwoSampleResult, symmetry_tests, two_sample_test

__all__ = [
    "Evaluator",
    "FeatureExtractor",
    "FeatureNetwork",
    "PrecisionRecall",
    "TwoSampleResult",
    "frechet_distance",
    "load_features",
    "precision_recall",
    "symmetry_tests",
    "two_sample_test",
]
