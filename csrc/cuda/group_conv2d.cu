// The kernels of group_conv2d.h for one group, GCONV_GROUP.
#include "group_conv2d.h"

#include "instances.h"

namespace gconv::cuda {

namespace {

template <typename T, typename Machine, int columns>
void start(const ConvolutionParameters& parameters, const Grid& grid, Stream stream) {
    launch("group_conv2d", group_conv2d_kernel<GCONV_GROUP, T, Machine, columns>, grid, stream, parameters);
}

template <typename T>
void start(const Instance& instance, const ConvolutionParameters& parameters, const Grid& grid, Stream stream) {
    using Group = GCONV_GROUP;
    if constexpr (Group::order == 1) {
        if (instance.columns == kNarrow) return start<T, Ampere, kNarrow>(parameters, grid, stream);
    } else if constexpr (sizeof(T) == 2) {
        if (instance.hopper) return start<T, Hopper, wide<Group, Hopper>>(parameters, grid, stream);
    }
    start<T, Ampere, wide<Group, Ampere>>(parameters, grid, stream);
}

}  // namespace

template <>
void start_group_conv2d<GCONV_GROUP>(const Instance& instance, const ConvolutionParameters& parameters,
                                     const Grid& grid, Stream stream) {
    with_type(instance.type, [&](auto number) { start<decltype(number)>(instance, parameters, grid, stream); });
}

}  // namespace gconv::cuda
