"""The defects of SP-GAN's published code that are the networks', kept so that its rows can be repeated.

`faithful=True` of the networks in this package puts these in the place of what is correct. They were read in the code
published with arXiv 2202.01129 and, which it builds on, with arXiv 2005.01683. Nothing else uses them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gconv import PlanarConversion
from gconv.nn import GroupBatchNorm2d, per_orientation

__all__ = ["BatchNormPerOrientation", "TruncatingDownsample", "project_spectrum"]


class TruncatingDownsample(nn.Module):
    """Defect 1: 2 x 2 windows on any size. On an odd one they drop the last row and column: not equivariant.

    Args:
        mode: "average" or "max".
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        pools: dict[str, Callable[..., Tensor]] = {"average": F.avg_pool2d, "max": F.max_pool2d}
        self.pool = pools[mode]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, |G|, H, W) to (N, C, |G|, H // 2, W // 2)."""
        return per_orientation(lambda plane: self.pool(plane, 2), x)

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """Itself: a flattened map is an image to it."""
        return self


class BatchNormPerOrientation(GroupBatchNorm2d):
    """Defect 2: training statistics of their own for every orientation; running statistics are their means.

    A batch whose samples are all moved alike only permutes the statistics. One whose samples are moved each by its own
    element, as symmetrised latent maps are, does not: training is not equivariant, evaluation is. Scale and shift are
    shared, arguments are torch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, |G|, H, W) to the same shape."""
        if not self.training:
            return super().forward(x)
        planes, order = x.flatten(1, 2), x.shape[2]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        means, variances, weight, bias = (
            None if each is None else each.repeat_interleave(order)
            for each in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        assert means is not None
        assert variances is not None
        out = F.batch_norm(planes, means, variances, weight, bias, True, self.momentum, self.eps)
        for shared, each in ((self.running_mean, means), (self.running_var, variances)):
            shared.copy_(each.unflatten(0, (-1, order)).mean(dim=1))
        return out.view_as(x)

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """As the norm that it is in evaluation."""
        plain = GroupBatchNorm2d(self.num_features, self.eps, self.momentum, self.affine)
        plain.load_state_dict(self.state_dict(), assign=True)
        return conversion.convert(plain.train(self.training))


class _ProjectedSpectrum(nn.Module):
    """weight -> weight / sigma, in place, sigma by power iteration on the stored filter as (C_out, all others)."""

    constant_in_eval = True
    u: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn_like(weight.flatten(1)[:, 0]), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight itself, in training after projecting it; gradients pass as if sigma were 1."""
        if self.training:
            with torch.no_grad():
                matrix = weight.flatten(1)
                v = F.normalize(matrix.t() @ self.u, dim=0)
                self.u.copy_(F.normalize(matrix @ v, dim=0))
                weight.div_(self.u @ matrix @ v)
        return weight.clone()


def project_spectrum(module: nn.Module) -> nn.Module:
    """Defect 3: one power iteration per training forward divides the stored weight by its largest singular value.

    That is of the unexpanded filter, of which a group layer's bank holds |G| copies, so rows on different groups get
    different Lipschitz constants; and no gradient passes through sigma.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(module, "weight", _ProjectedSpectrum(weight.detach()))
    return module
