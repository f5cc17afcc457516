"""The transposed group convolution layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from gconv.conv_transpose import check_output_padding, group_conv_transpose2d
from gconv.functional import _check_int
from gconv.groups import PlanarGroup
from gconv.nn.conv import _Convolution
from gconv.ops._tracing import refuse_symbols
from gconv.steerable import Ring


class GroupConvTranspose2d(_Convolution):
    """Transposed group convolution: feature map to a larger one (:func:`gconv.group_conv_transpose2d`).

    x: (N, C_in, |G|, H, W) -> (N, C_out, |G|, H', W'), H' = (H - 1) * stride - 2 * padding + K + output_padding.
    Equivariant: moving x by g moves the output by g; not with output_padding, of which it warns when it is built.

    Args:
        in_channels: C_in.
        out_channels: C_out, channels per orientation.
        kernel_size: K of the K x K filter.
        group: a CyclicGroup or DihedralGroup.
        stride, padding, output_padding: as in torch.nn.ConvTranspose2d.
        bias: whether to add a bias per channel, shared by all orientations.
        backend: see :func:`gconv.group_conv2d`.
        basis: see :class:`gconv.nn.LiftingConv2d`.

    Attributes:
        weight: (C_in, C_out, |G|, K, K), torch's order of channels in transposed convolutions, or with steerable
            filters the coefficients (C_in, C_out, |G|, B).

    Raises:
        TypeError, ValueError: an argument out of range, named in the message.
    """

    lifting = False
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        group: PlanarGroup,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = True,
        backend: str | None = None,
        basis: Sequence[Ring] | None = None,
    ) -> None:
        name = type(self).__name__
        _check_int(name, "padding", padding, 0)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            group=group,
            stride=stride,
            padding=padding,
            bias=bias,
            backend=backend,
            basis=basis,
        )
        check_output_padding(name, output_padding, stride)
        self.output_padding = output_padding
        if output_padding and any(map(group.moves_axis, (0, 1))):
            warnings.warn(
                f"{name}: output_padding = {output_padding} is not exactly equivariant under {group.lattice.name}: it "
                "adds rows at the bottom and columns at the right only",
                stacklevel=2,
            )

    def reset_parameters(self) -> None:
        """Pixels: torch.nn.ConvTranspose2d's initialisation, uniform in +-1 / sqrt(C_out |G| K^2); so the bias.

        Coefficients keep the variance, as those of :class:`gconv.nn.LiftingConv2d`: a pixel of the output meets one in
        stride^2 of the taps of C_in |G| planes, so the fan-in is C_in |G| B / stride^2.
        """
        pixels = self.steerable is None
        self._initialise(self.weight[0].numel() if pixels else self.weight[:, 0].numel() / self.stride**2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, |G|, H, W) -> (N, C_out, |G|, H', W')."""
        refuse_symbols("group_conv_transpose2d", x)
        return group_conv_transpose2d(
            x,
            self._op_filter(),
            self.bias,
            group=self.group,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", output_padding={self.output_padding}" if self.output_padding else "")
