"""gconv::group_conv2d: map (N, C_in, |G|, H, W) and filter (C_out, C_in, |G|, K, K) to (N, C_out, |G|, H', W')."""

from gconv.ops._convolution import register_convolution

Recorded = register_convolution("group_conv2d")
