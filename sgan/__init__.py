"""Structure-preserving GANs on top of gconv."""
