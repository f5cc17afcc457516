// The native ops on raw pointers: plain structs in, std::invalid_argument out. No Python, no torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace gconv {

// Throws std::invalid_argument("op: what") unless the condition holds.
void require(bool condition, const char* op, const std::string& what);

// A feature map (N, C, G, H, W), any strides but one: channels are adjacent. An image has one plane (G = 1).
// Maps of the convolutions may have their channels in `blocks` of C / blocks adjacent ones, stride_block apart: the map on
// a larger group, whose planes are these planes' blocks (gconv/cosets.py).
template <typename T>
struct Image {
    T* data;
    int64_t batch, channels, planes, height, width;
    int64_t stride_batch, stride_plane, stride_row, stride_column;  // in elements
    int64_t blocks = 1, stride_block = 0;

    int64_t block_channels() const { return channels / blocks; }
};

// (C_out, C_in, G, K, K), contiguous; the filter of a lifting convolution has G = 1.
template <typename T>
struct Filter {
    T* data;
    int64_t out_channels, in_channels, planes, size;
};

struct Irrep {
    int dim;
    int columns;                   // independent columns of a Fourier coefficient: dim, or dim / 2 if complex
    std::vector<int8_t> matrices;  // [element][dim][dim], orthogonal, entries 0, +-1
};

struct Plan;

// A group of planar lattice symmetries, checked on construction: |G| <= 8, product a Latin square, irreps inequivalent
// and complete.
class Group {
  public:
    Group(int order, std::vector<int32_t> product, std::vector<int32_t> action, std::vector<Irrep> irreps);
    ~Group();
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;

    int order;
    std::vector<int32_t> product;  // [a][b] = a * b
    std::vector<int32_t> action;   // [element][2][2] on (row, column) offsets
    std::vector<Irrep> irreps;

    std::unique_ptr<const Plan> group_plan, group_adjoint_plan, lifting_plan, lifting_adjoint_plan;
};

// In all convolutions S is float, double, bfloat16 or float16; half precision is summed in float and rounded once.

// out(x, g) = sum_s sum_d f(stride x - padding + idx(g s d), g s) W(s d, s) + bias.
// x (N, C_in, |G|, H, W), weight (C_out, C_in, |G|, K, K), out (N, C_out, |G|, H', W'), bias null or as long as a block
// of out's channels.
template <typename S>
void group_conv2d(const Group& group, const Image<const S>& x, const Filter<const S>& weight, const S* bias,
                  const Image<S>& out, int64_t stride, int64_t padding, int threads);

// The transpose in x of the above at stride 1 and its padding K - 1 - padding: x (N, C_out, |G|, H, W) is the gradient
// of its output, weight its filter (C_out, C_in, |G|, K, K), out (N, C_in, |G|, H', W').
template <typename S>
void group_conv2d_adjoint(const Group& group, const Image<const S>& x, const Filter<const S>& weight,
                          const Image<S>& out, int64_t padding, int threads);

// The gradient of <grad_out, group_conv2d(x, weight)> with respect to weight, written over grad_weight.
template <typename S>
void group_conv2d_weight_grad(const Group& group, const Image<const S>& x, const Image<const S>& grad_out,
                              const Filter<S>& grad_weight, int64_t stride, int64_t padding, int threads);

// out(x, s) = sum_d f(stride x - padding + d) W(s^-1 d) + bias. x (N, C_in, 1, H, W), weight (C_out, C_in, 1, K, K).
template <typename S>
void lifting_conv2d(const Group& group, const Image<const S>& x, const Filter<const S>& weight, const S* bias,
                    const Image<S>& out, int64_t stride, int64_t padding, int threads);

// As group_conv2d_adjoint: x (N, C_out, |G|, H, W), weight (C_out, C_in, 1, K, K), out (N, C_in, 1, H', W').
template <typename S>
void lifting_conv2d_adjoint(const Group& group, const Image<const S>& x, const Filter<const S>& weight,
                            const Image<S>& out, int64_t padding, int threads);

template <typename S>
void lifting_conv2d_weight_grad(const Group& group, const Image<const S>& x, const Image<const S>& grad_out,
                                const Filter<S>& grad_weight, int64_t stride, int64_t padding, int threads);

struct InstructionSet;

// A filter transformed for the kernels of one instruction set, to be used many times.
struct PackedFilter {
    const Plan* plan;
    const InstructionSet* set;
    int64_t out_channels, in_channels, in_blocks, size;
    bool wide;  // double; else float
    std::shared_ptr<const void> values;
    int64_t bytes;
};

// in_blocks: of the channels of the inputs that it will be used with.
template <typename S>
PackedFilter pack_group_conv2d(const Group& group, const Filter<const S>& weight, int64_t in_blocks, int threads);
template <typename S>
PackedFilter pack_lifting_conv2d(const Group& group, const Filter<const S>& weight, int64_t in_blocks, int threads);

// group_conv2d or lifting_conv2d with a packed filter of the same group; S is double if and only if `wide`.
template <typename S>
void conv2d_packed(const PackedFilter& filter, const Image<const S>& x, const S* bias, const Image<S>& out,
                   int64_t stride, int64_t padding, int threads);

enum class PoolMode { max, mean };

// out(x, i) = max or mean of f(x, g) over the coset i. cosets [coset][member], elements of the group axis of x.
// index (max; data may be null): shaped like out, the position in the coset, the first one on ties. NaN wins.
template <typename T>
void group_pool(const Image<const T>& x, const Image<T>& out, const Image<uint8_t>& index,
                const std::vector<int32_t>& cosets, int size, PoolMode mode, int threads);

// max: grad_out goes to the plane of index, zero to the coset's others; mean: grad_out / size to each.
template <typename T>
void group_pool_backward(const Image<const T>& grad_out, const Image<const uint8_t>& index, const Image<T>& grad_x,
                         const std::vector<int32_t>& cosets, int size, PoolMode mode, int threads);

// out(x, i) = f(x, cosets[i][index(x, i)]).
template <typename T>
void group_pool_select(const Image<const T>& x, const Image<const uint8_t>& index, const Image<T>& out,
                       const std::vector<int32_t>& cosets, int size, int threads);

std::vector<std::string> instruction_sets();        // built in and supported by this machine, the best last
std::string instruction_set();                      // the one in use
void use_instruction_set(const std::string& name);  // for tests; not while ops run

// FLOP/s that `threads` threads reach with multiplications and additions in registers, float32.
double fma_peak(int threads);

// Where the time of the convolutions goes, summed over threads, between profile(true) and profile(false).
enum class Stage { pack_filter, gather, multiply, epilogue, gradient, unpack_filter };
constexpr int kStages = 6;
void profile(bool on);
std::vector<std::pair<std::string, double>> profile_seconds();

}  // namespace gconv
