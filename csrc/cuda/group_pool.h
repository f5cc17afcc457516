// Maximum and mean over cosets of orientations, the transpose of each, and the read at a fixed index.
#pragma once

#include <cstdint>
#include <vector>

#include "ops.h"

namespace gconv::cuda {

enum class PoolMode { max, mean };

// Which elements are pooled together: equally many in each coset, every element once, 32 in all at most.
using Cosets = std::vector<std::vector<int>>;

// x: (batch, elements, plane_length), contiguous -> out: (batch, cosets, plane_length); index, as long, gets the winner's
// number within its coset: the first of several, the first NaN if there is one. index may be null, and is for a mean.
// Throws std::invalid_argument for other cosets or sizes.
void group_pool(Type type, const void* x, void* out, uint8_t* index, int64_t batch, int64_t plane_length,
                const Cosets& cosets, PoolMode mode, Stream stream);

// The transpose at a fixed index, which only max reads.
void group_pool_backward(Type type, const void* grad_out, const uint8_t* index, void* grad_x, int64_t batch,
                         int64_t plane_length, const Cosets& cosets, PoolMode mode, Stream stream);

// Reads the members that an earlier maximum chose.
void group_pool_select(Type type, const void* x, const uint8_t* index, void* out, int64_t batch, int64_t plane_length,
                       const Cosets& cosets, Stream stream);

}  // namespace gconv::cuda
