// Lifting convolution: every orientation of the filter in one product, its pixels gathered once per element. The
// adjoint sums over the group before the product, |G| times fewer FLOPs. Tiling and determinism: see engine_kernel.cpp.
#include "engine.h"

namespace gconv {

template <typename T>
void lifting_conv2d(const Group& group, const Image<const T>& x, const Filter<const T>& weight, const T* bias,
                    const Image<T>& out, int64_t stride, int64_t padding, int threads) {
    convolve(*group.lifting_plan, "lifting_conv2d", x, weight, bias, out, stride, padding, threads);
}

template <typename T>
void lifting_conv2d_weight_grad(const Group& group, const Image<const T>& x, const Image<const T>& grad_out,
                                const Filter<T>& grad_weight, int64_t stride, int64_t padding, int threads) {
    convolve_weight_grad(*group.lifting_plan, "lifting_conv2d_weight_grad", x, grad_out, grad_weight, stride, padding,
                         threads);
}

template <typename T>
void lifting_conv2d_adjoint(const Group& group, const Image<const T>& x, const Filter<const T>& weight,
                            const Image<T>& out, int64_t padding, int threads) {
    convolve<T>(*group.lifting_adjoint_plan, "lifting_conv2d_adjoint", x, weight, nullptr, out, 1, padding, threads);
}

#define GCONV_INSTANTIATE(T)                                                                                           \
    template void lifting_conv2d(const Group&, const Image<const T>&, const Filter<const T>&, const T*,                \
                                 const Image<T>&, int64_t, int64_t, int);                                              \
    template void lifting_conv2d_weight_grad(const Group&, const Image<const T>&, const Image<const T>&,               \
                                             const Filter<T>&, int64_t, int64_t, int);                                 \
    template void lifting_conv2d_adjoint(const Group&, const Image<const T>&, const Filter<const T>&, const Image<T>&, \
                                         int64_t, int);
GCONV_INSTANTIATE(float)
GCONV_INSTANTIATE(double)

}  // namespace gconv
