"""Train the feature network of the digits metrics and write sgan/metrics/digits.safetensors.

    python -m sgan.metrics.train_features

It sees the training part of the digits only, drawn anew in every batch: turned by a uniform angle, mirrored half of the
time, with a random size, place and contrast. The held-out digits measure it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from sgan.data import DIGITS, load_dataset
from sgan.data.digits import draw, load_sources, orient
from sgan.data.load import training_indices
from sgan.metrics.features import FeatureNetwork

SEED = 0
STEPS = 3000
BATCH = 128
LEARNING_RATE = 2e-3
POSE_WEIGHT = 1.0
