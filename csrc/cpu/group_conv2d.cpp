// Group convolution: planes are gathered at rotated taps, transformed over the group, and multiplied irrep by irrep.
// The work, tiling and determinism are the engine's: see engine_kernel.cpp.
#include "engine.h"

namespace gconv {

template <typename S>
void group_conv2d(const Group& group, const Image<const S>& x, const Filter<const S>& weight, const S* bias,
                  const Image<S>& out, int64_t stride, int64_t padding, int threads) {
    convolve(*group.group_plan, x, weight, bias, out, stride, padding, threads);
}

template <typename S>
void group_conv2d_adjoint(const Group& group, const Image<const S>& x, const Filter<const S>& weight,
                          const Image<S>& out, int64_t padding, int threads) {
    convolve<S>(*group.group_adjoint_plan, x, weight, nullptr, out, 1, padding, threads);
}

template <typename S>
void group_conv2d_weight_grad(const Group& group, const Image<const S>& x, const Image<const S>& grad_out,
                              const Filter<S>& grad_weight, int64_t stride, int64_t padding, int threads) {
    convolve_weight_grad(*group.group_plan, x, grad_out, grad_weight, stride, padding, threads);
}

template <typename S>
PackedFilter pack_group_conv2d(const Group& group, const Filter<const S>& weight, int64_t in_blocks, int threads) {
    return pack(*group.group_plan, weight, in_blocks, threads);
}

#define GCONV_INSTANTIATE(S)                                                                                           \
    template void group_conv2d(const Group&, const Image<const S>&, const Filter<const S>&, const S*, const Image<S>&, \
                               int64_t, int64_t, int);                                                                 \
    template void group_conv2d_adjoint(const Group&, const Image<const S>&, const Filter<const S>&, const Image<S>&,   \
                                       int64_t, int);                                                                  \
    template void group_conv2d_weight_grad(const Group&, const Image<const S>&, const Image<const S>&,                 \
                                           const Filter<S>&, int64_t, int64_t, int);                                   \
    template PackedFilter pack_group_conv2d(const Group&, const Filter<const S>&, int64_t, int);
GCONV_INSTANTIATE(float)
GCONV_INSTANTIATE(double)
GCONV_INSTANTIATE(bfloat16)
GCONV_INSTANTIATE(float16)

}  // namespace gconv
