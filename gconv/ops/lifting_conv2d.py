"""gconv::lifting_conv2d: image (N, C_in, H, W) and filter (C_out, C_in, K, K) to a map (N, C_out, |G|, H', W')."""

from gconv.ops._convolution import register_convolution

Recorded = register_convolution("lifting_conv2d")
