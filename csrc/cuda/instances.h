// The instances of the convolution kernels, as functions of the host; group_conv2d.cu and weight_grad.cu are compiled once
// per group.
#pragma once

#include "dispatch.h"
#include "group_conv2d.h"
#include "runtime.h"
#include "weight_grad.h"

namespace gconv::cuda {

// Which instance: the machine and the type, and output channels per block.
struct Instance {
    bool hopper;
    Type type;
    int columns;
};

// Whether the group and the type have a Hopper kernel.
inline bool has_hopper(int order, Type type) { return order > 1 && type != Type::float32; }

// Channels per block: what the sums of a machine suffice for; C1 has few, for images of few channels.
constexpr int kNarrow = 16;
constexpr int wide_columns(int order, bool hopper) {
    return order == 1 ? 64 : 2 * (hopper ? Hopper::sums : Ampere::sums) / order;
}
template <typename Group, typename Machine>
constexpr int wide = wide_columns(Group::order, Machine::wgmma);
inline int columns_of(int order, bool hopper, int channels) {
    return order == 1 && channels <= kNarrow ? kNarrow : wide_columns(order, hopper);
}

template <typename Group>
void start_group_conv2d(const Instance& instance, const ConvolutionParameters& parameters, const Grid& grid,
                        Stream stream);
template <typename Group>
void start_weight_grad(const Instance& instance, const WeightGradParameters& parameters, const Grid& grid,
                       Stream stream);

}  // namespace gconv::cuda
