// A layer's filter in the Fourier domain, as the convolution kernels copy it, and its gradient taken back.
//
// Packed filter: tiles, number (out_tile slices + slice) taps + tap, of `rows` matrices of `columns` rows (output
// channels) of 64 bytes (input channels), chunks swizzled, zero beyond the channels of a coset:
//
//     What_row(d) = sum_s forms[row][s] W_d(s) / norms[row],   W_d(s) = W(s d, s), for the adjoint W(-d, s^-1)^T.
//
// out_tile = coset cdiv(C_out, columns) + block of output channels, slice = coset cdiv(C_in, W) + block of W
// input channels. Sums of the filter's gradient over pixels: float32 matrices [i][o], W x columns, number
// (((split out_tiles + out_tile) slices + slice) taps + tap) rows + row.
#pragma once

#include <cstdint>

#include "lattice.h"
#include "ops.h"

namespace gconv::cuda {

// What the kernels know of a filter; the adjoint differs in the sources and the strides. Channels are of one coset.
struct FilterPlan {
    int order, taps, columns;
    int cosets_out, cosets_in, c_out, c_in;
    int64_t out_stride, in_stride;         // of channels in the layer's filter, in numbers
    float forms[kMaxOrder][kMaxOrder];     // of row, of element; divided by the row's norm, a power of two
    uint8_t sources[kMaxTaps][kMaxOrder];  // where W_d(s) is in a pair of channels' |H| windows
};

// For a convolution on a lattice group from `cosets` C_in to `cosets` C_out channels (lifting: from C_in), or for its
// adjoint, from C_out to C_in. columns is a multiple of 8, and the window at most 5 x 5.
FilterPlan plan_filter(const Lattice& group, bool lifting, int cosets, int c_in, int c_out, int size, bool adjoint,
                       int columns);

// Bytes of the packed filter.
int64_t packed_bytes(Type type, const FilterPlan& plan);

// weight: the layer's filter, (cosets C_out, cosets C_in, |H|, K, K) or (cosets C_out, C_in, K, K).
void pack_filter(Type type, const FilterPlan& plan, const void* weight, void* packed, Stream stream);

// Bytes of the sums of one split.
int64_t sums_bytes(Type type, const FilterPlan& plan);

// Adds the splits in order and writes every number of grad_weight, zeros where there is no split. Not for an adjoint.
void unpack_gradient(Type type, const FilterPlan& plan, const float* sums, int splits, void* grad_weight,
                     Stream stream);

}  // namespace gconv::cuda
