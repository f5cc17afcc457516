// The kernels of weight_grad.h for one group, GCONV_GROUP.
#include "weight_grad.h"

#include "instances.h"

namespace gconv::cuda {

namespace {

template <typename T>
void start(const Instance& instance, const WeightGradParameters& parameters, const Grid& grid, Stream stream) {
    using Group = GCONV_GROUP;
    constexpr const char* op = "group_conv2d_weight_grad";
    if constexpr (Group::order > 1 && sizeof(T) == 2)
        if (instance.hopper)
            return launch(op, weight_grad_kernel<Group, T, Hopper, wide<Group, Hopper>>, grid, stream, parameters);
    launch(op, weight_grad_kernel<Group, T, Ampere, wide<Group, Ampere>>, grid, stream, parameters);
}

}  // namespace

template <>
void start_weight_grad<GCONV_GROUP>(const Instance& instance, const WeightGradParameters& parameters, const Grid& grid,
                                    Stream stream) {
    with_type(instance.type, [&](auto number) { start<decltype(number)>(instance, parameters, grid, stream); });
}

}  // namespace gconv::cuda
