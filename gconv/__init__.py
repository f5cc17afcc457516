"""Group convolutions on planar images, differentiable to every order, in the group-Fourier domain."""

from importlib.metadata import version

from gconv import interop, nn
from gconv.conv_transpose import group_conv_transpose2d
from gconv.convert import PlanarConversion, to_planar
from gconv.explanation import Explanation, explain
from gconv.functional import expand_filter, group_conv2d, group_pool, lifting_conv2d
from gconv.groups import CyclicGroup, DihedralGroup, Irrep, PlanarGroup, group_from_name
from gconv.steerable import Ring, sp_gan_basis, steerable_basis, steerable_filters

__version__ = version("gconv")

__all__ = [
    "CyclicGroup",
    "DihedralGroup",
    "Explanation",
    "Irrep",
    "PlanarConversion",
    "PlanarGroup",
    "Ring",
    "expand_filter",
    "explain",
    "group_conv2d",
    "group_conv_transpose2d",
    "group_from_name",
    "group_pool",
    "interop",
    "lifting_conv2d",
    "nn",
    "sp_gan_basis",
    "steerable_basis",
    "steerable_filters",
    "to_planar",
]
