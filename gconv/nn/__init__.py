"""Layers on planar groups."""

from gconv.nn.batch_norm import GroupBatchNorm2d, GroupConditionalBatchNorm2d
from gconv.nn.conv import GroupConv2d, LiftingConv2d
from gconv.nn.conv_transpose import GroupConvTranspose2d
from gconv.nn.orientation import per_orientation
from gconv.nn.pool import GroupPool
from gconv.nn.resample import GroupDownsample2d, GroupUpsample2d
from gconv.nn.sequential import Sequential
from gconv.nn.spectral_norm import spectral_norm

__all__ = [
    "GroupBatchNorm2d",
    "GroupConditionalBatchNorm2d",
    "GroupConv2d",
    "GroupConvTranspose2d",
    "GroupDownsample2d",
    "GroupPool",
    "GroupUpsample2d",
    "LiftingConv2d",
    "Sequential",
    "per_orientation",
    "spectral_norm",
]
