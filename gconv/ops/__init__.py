"""The torch ops; importing this package registers them."""

from gconv.ops import group_conv2d, group_pool, lifting_conv2d

__all__ = ["group_conv2d", "group_pool", "lifting_conv2d"]
