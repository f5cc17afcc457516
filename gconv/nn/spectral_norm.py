"""Spectral normalisation of the operator that a layer applies, not of its stored filter (Miyato et al. 2018).

Group layers: the dense bank as a (C_out |G|) x (C_in |G| K^2) matrix is block diagonal in the irreps, with blocks
What(rho) = sum_s W_d(s) rho(s) of size (C_out d) x (C_in K^2 d), so sigma = max over rho of sigma(What(rho)).
Lifting layers: the bank stacks L_s W, and (L_s W) v = W (s^-1 v); the same filter meets |G| moved vectors.
Neither builds the bank. A layer off the pixel grid is one on its lattice subgroup (gconv/cosets.py), with the same bank
but for the order of its rows and columns; sigma is that of the filter, and the coefficients are divided by it.
Groups of channels have a bank each; a transposed convolution is that of its adjoint filter, as if its stride were 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from gconv.backends import filters
from gconv.groups import PlanarGroup
from gconv.nn.constants import ConstantTables
from gconv.nn.conv import _Convolution

_WARM_UP_ITERATIONS = 15  # as torch.nn.utils.parametrizations.spectral_norm


class _OperatorNorm(ConstantTables):
    """weight -> weight / sigma, sigma by power iteration on each block; the vectors are buffers."""

    def __init__(self, layer: _Convolution, n_power_iterations: int) -> None:
        super().__init__()
        self.group = layer.group.lattice
        self.groups = layer.groups
        self.steerable = layer.steerable
        self.transposed = layer.transposed
        self.n_power_iterations = n_power_iterations
        weight = layer.weight.detach()
        self.make_tables(weight)
        with torch.no_grad():
            operators = self._operators(weight)
            for i, operator in enumerate(operators):
                v = F.normalize(torch.randn(operator.columns, dtype=weight.dtype, device=weight.device), dim=0)
                u = operator.apply(v)
                self.register_buffer(f"u{i}", F.normalize(u, dim=0))
                self.register_buffer(f"v{i}", v)
            self._iterate(operators, _WARM_UP_ITERATIONS)

    def tables(self, like: Tensor) -> Mapping[str, Tensor]:
        """The matrices of each irrep, (|G|, d, d)."""
        return {
            f"irrep{i}": torch.tensor(irrep.matrices, dtype=like.dtype, device=like.device)
            for i, irrep in enumerate(self.group.irreps)
        }

    def _operators(self, weight: Tensor) -> list[_Operator]:
        """The blocks, of each of the groups of channels in turn."""
        operators: list[_Operator] = []
        for part in weight.chunk(self.groups):
            spatial = part if self.steerable is None else self.steerable(part)
            if spatial.dim() == 4:
                operators.append(_LiftingBank(spatial, self.group))
                continue
            if self.transposed:  # the group convolution that it is at stride 1
                spatial = filters.adjoint(spatial, self.group)
            upright = filters.align(spatial, self.group)
            for i in range(len(self.group.irreps)):
                irrep = getattr(self, f"irrep{i}").to(upright.dtype)  # follow() may have left more digits
                block = torch.einsum("ocsxy,skl->okcxyl", upright, irrep)
                operators.append(_Matrix(block.flatten(2).flatten(0, 1)))
        return operators

    def _iterate(self, operators: list[_Operator], iterations: int) -> None:
        for i, operator in enumerate(operators):
            u, v = getattr(self, f"u{i}"), getattr(self, f"v{i}")
            for _ in range(iterations):
                v.copy_(F.normalize(operator.transpose(u), dim=0))
                u.copy_(F.normalize(operator.apply(v), dim=0))

    def sigma(self, weight: Tensor) -> Tensor:
        """The largest singular value of the applied operator, differentiable in weight."""
        operators = self._operators(weight)
        if self.training:
            with torch.no_grad():
                self._iterate(operators, self.n_power_iterations)
        values = [  # cloned: the next forward moves the buffers in place
            torch.dot(getattr(self, f"u{i}").clone(), operator.apply(getattr(self, f"v{i}").clone()))
            for i, operator in enumerate(operators)
        ]
        return torch.stack(values).amax()

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over sigma, which autocast must not round: it is the layer's Lipschitz bound."""
        self.follow(weight)
        device = weight.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return weight / self.sigma(weight)


class _Operator(Protocol):
    """A linear map that the power iteration applies from both sides."""

    columns: int

    def apply(self, v: Tensor) -> Tensor: ...

    def transpose(self, u: Tensor) -> Tensor: ...


class _Matrix:
    """A block What(rho)."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.columns = matrix.shape[1]

    def apply(self, v: Tensor) -> Tensor:
        return self.matrix @ v

    def transpose(self, u: Tensor) -> Tensor:
        return self.matrix.t() @ u


class _LiftingBank:
    """The bank of a lifting filter (C_out, C_in, K, K) as an operator on vectors of length C_in K^2."""

    def __init__(self, weight: Tensor, group: PlanarGroup) -> None:
        self.group = group
        self.window = weight.shape[1:]
        self.matrix = weight.flatten(1)
        self.columns = self.matrix.shape[1]

    def apply(self, v: Tensor) -> Tensor:
        window = v.view(self.window)
        moved = [self.group.act_grid(window, self.group.inverse(s)).flatten() for s in self.group.elements]
        return (self.matrix @ torch.stack(moved, dim=1)).flatten()

    def transpose(self, u: Tensor) -> Tensor:
        windows = (u.view(-1, self.group.order).t() @ self.matrix).unflatten(1, self.window)
        moved = [self.group.act_grid(windows[s], s) for s in self.group.elements]
        return torch.stack(moved).sum(0).flatten()


def spectral_norm(module: nn.Module, n_power_iterations: int = 1) -> nn.Module:
    """Divides the layer's weight by the largest singular value of the operator that the layer applies.

    The CNN row and the equivariant rows of a comparison then share one Lipschitz bound per layer, which normalising
    the stored filter does not give. Gradients flow through sigma. One power iteration per training forward.

    Args:
        module: LiftingConv2d, GroupConv2d, GroupConvTranspose2d, or a torch layer (passed to torch's own
            spectral_norm).
        n_power_iterations: iterations per training forward.

    Returns:
        The same module, with ``weight`` parametrised.

    Raises:
        ValueError: n_power_iterations is not positive.
    """
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations must be positive, got {n_power_iterations}")
    if not isinstance(module, _Convolution):
        return parametrizations.spectral_norm(module, n_power_iterations=n_power_iterations)
    parametrize.register_parametrization(module, "weight", _OperatorNorm(module, n_power_iterations))
    return module
