// What the forward kernel does to its sums, in float32, before it rounds and stores them.
#pragma once

namespace gconv::cuda {

enum class Pooling { none, max, mean };

struct Epilogue {
    float negative_slope = 1;         // of LeakyReLU, after the bias: 0 is ReLU, 1 is nothing
    Pooling pooling = Pooling::none;  // then over the whole group: the map has one plane
};

}  // namespace gconv::cuda
