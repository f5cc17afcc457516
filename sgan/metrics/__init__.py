"""Metrics of generated images, each on a feature network of the package, of points, and of symmetry."""

from sgan.metrics.actions import disk_mask, image_actions, point_actions, rotate_images, shift_actions
from sgan.metrics.choice import choose_features, features_note
from sgan.metrics.equivariance import equivariance_db, invariance_db
from sgan.metrics.evaluator import Evaluator, Measurement
from sgan.metrics.features import Extractor, FeatureExtractor, FeatureNetwork, load_features
from sgan.metrics.frechet import frechet_distance
from sgan.metrics.inception_score import (
    ClassScore,
    InceptionScore,
    ModifiedInceptionScore,
    inception_score,
    modified_inception_score,
)
from sgan.metrics.kernel_distance import KernelDistance, kernel_distance, polynomial_mmd2
from sgan.metrics.memorised import Memorisation
from sgan.metrics.modes import ModeCoverage, component_radius, mode_coverage, rotation_symmetry
from sgan.metrics.nearest import Nearest, nearest_images
from sgan.metrics.pair_evaluator import PairEvaluator
from sgan.metrics.point_evaluator import PointEvaluator
from sgan.metrics.precision_recall import PrecisionRecall, precision_recall
from sgan.metrics.symmetry import TwoSampleResult, law_symmetry, symmetry_tests, two_sample_test

__all__ = [
    "ClassScore",
    "Evaluator",
    "Extractor",
    "FeatureExtractor",
    "FeatureNetwork",
    "InceptionScore",
    "KernelDistance",
    "Measurement",
    "Memorisation",
    "ModeCoverage",
    "ModifiedInceptionScore",
    "Nearest",
    "PairEvaluator",
    "PointEvaluator",
    "PrecisionRecall",
    "TwoSampleResult",
    "choose_features",
    "component_radius",
    "disk_mask",
    "equivariance_db",
    "features_note",
    "frechet_distance",
    "image_actions",
    "inception_score",
    "invariance_db",
    "kernel_distance",
    "law_symmetry",
    "load_features",
    "mode_coverage",
    "modified_inception_score",
    "nearest_images",
    "point_actions",
    "polynomial_mmd2",
    "precision_recall",
    "rotate_images",
    "rotation_symmetry",
    "shift_actions",
    "symmetry_tests",
    "two_sample_test",
]
