// The filter's Fourier transform and its transpose: memory bound.
//
// pack     A block has 8 output channels and 32 bytes of input channels, for every tap and element: 16 stretches of
//          memory, each the windows of as many pairs of channels as a chunk of 16 bytes has numbers. It brings them to
//          shared memory by 16 bytes where they are aligned, then a thread computes the chunks of every row of What
//          for one tap, output channel and half of the input channels. Stretches begin a bank apart: the reads have
//          no conflicts forward, few for the adjoint.
// unpack   A block has 32 output and 2 input channels. A warp adds the splits of one tap, 128 bytes of a matrix at a
//          time, and turns the rows of What into the elements' taps in shared memory, from which they are stored as
//          they lie in the layer's filter.
// Bytes    pack: the filter read and the packed one written once; unpack: the sums read and the gradient written once.
// FLOPs    2 |H| per number. float32, rounded once.
// Determinism  every number is written by one thread, which adds in a fixed order.
#include "filter.h"

#include <string>
#include <type_traits>
#include <utility>

#include "dispatch.h"
#include "vector.h"

namespace gconv::cuda {
namespace {

constexpr int kThreads = 128;

// Input channels of a slice.
template <typename T>
constexpr int kWidth = kRowBytes / static_cast<int>(sizeof(T));

// ---- pack
constexpr int kOuts = 8;    // output channels of a block
constexpr int kChunks = 2;  // of input channels
constexpr int kStretches = kOuts * kChunks;
constexpr int kBatch = 4;  // chunks that a thread loads at once

// From one stretch to the next in shared memory, 4 bytes more than it has.
GCONV_HOST_DEVICE int stretch_bytes(int window) { return kChunkBytes * window + 4; }

// A block's channels: the first ones in their coset, and where the layer's filter has them.
struct Corner {
    int first_out, first_in;
    int64_t weight;
};

// As many windows of neighbouring channels as a chunk has numbers; along input channels, or for the adjoint along output
// channels, which are then the ones side by side.
template <typename T>
struct Stretch {
    static constexpr int windows = kChunkLength<T>;
    int out, in;  // the first pair's, in the block
    int exist;    // windows

    GCONV_DEVICE Stretch(const FilterPlan& plan, const Corner& corner, bool along_in, int number) {
        constexpr int per_in = kOuts / windows;
        out = along_in ? number / kChunks : number % per_in * windows;
        in = along_in ? number % kChunks * windows : number / per_in;
        const int outs = plan.c_out - corner.first_out - out, ins = plan.c_in - corner.first_in - in;
        exist = outs <= 0 || ins <= 0 ? 0 : along_in ? ins : outs;
    }
};

// Chunk `chunk` of a stretch that begins at `from` and has `length` numbers; zeros after its end.
template <typename T>
GCONV_DEVICE Chunk<T> load_chunk(const T* from, int chunk, int length) {
    const int first = chunk * kChunkLength<T>;
    if (first + kChunkLength<T> <= length && reinterpret_cast<uintptr_t>(from) % kChunkBytes == 0)
        return load<T, kChunkLength<T>>(from + first);
    Chunk<T> numbers = {};
#pragma unroll
    for (int i = 0; i < kChunkLength<T>; ++i)
        if (first + i < length) numbers.at[i] = from[first + i];
    return numbers;
}

// The block's windows to shared memory.
template <typename T>
GCONV_DEVICE void load_windows(const T* weight, const FilterPlan& plan, const Corner& corner, int window) {
    const bool along_in = plan.in_stride == window;
    const int chunks = kStretches * window;
    for (int first = threadIdx.x; first < chunks; first += kBatch * kThreads) {
        Chunk<T> numbers[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int item = first + i * kThreads;
            if (item >= chunks) break;
            const Stretch<T> stretch(plan, corner, along_in, item / window);
            const T* from = weight + corner.weight + stretch.out * plan.out_stride + stretch.in * plan.in_stride;
            numbers[i] = load_chunk(from, item % window, stretch.exist * window);
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int item = first + i * kThreads;
            if (item >= chunks) break;
            unsigned char* to = shared_memory() + item / window * stretch_bytes(window) + item % window * kChunkBytes;
            constexpr int quarter = kChunkLength<T> / 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                Vector<T, quarter> word;
#pragma unroll
                for (int k = 0; k < quarter; ++k) word.at[k] = numbers[i].at[j * quarter + k];
                store(reinterpret_cast<T*>(to + 4 * j), word);
            }
        }
    }
}

// Where shared memory has the window of an output channel and the first number of a chunk of input channels, and how
// far it is to the next input channel's.
template <typename T>
struct WindowPlace {
    const T* first;
    int step;

    GCONV_DEVICE WindowPlace(bool along_in, int window, int out, int chunk) {
        constexpr int windows = Stretch<T>::windows, per_in = kOuts / windows;
        const int numbers = stretch_bytes(window) / static_cast<int>(sizeof(T));
        const T* start = reinterpret_cast<const T*>(shared_memory());
        first = along_in ? start + (out * kChunks + chunk) * numbers
                         : start + (chunk * windows * per_in + out / windows) * numbers + out % windows * window;
        step = along_in ? window : per_in * numbers;
    }
};

template <int order, typename T>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL pack_kernel(const T* __restrict__ weight, T* __restrict__ packed, GCONV_PARAMETERS(FilterPlan) plan) {
    constexpr int width = kWidth<T>, halves = kRowBytes / (kChunks * kChunkBytes);
    const int window = order * plan.taps, out_blocks = plan.columns / kOuts;
    const int half = blockIdx.x % halves, out_block = blockIdx.x / halves % out_blocks;
    const int tile = blockIdx.x / (halves * out_blocks);
    const int coset_slices = (plan.c_in + width - 1) / width, slices = plan.cosets_in * coset_slices;
    const int coset_tiles = (plan.c_out + plan.columns - 1) / plan.columns;
    const int slice = tile % slices, out_tile = tile / slices;
    Corner corner;
    corner.first_out = out_tile % coset_tiles * plan.columns + out_block * kOuts;
    corner.first_in = slice % coset_slices * width + half * (width / halves);
    corner.weight = (int64_t{out_tile / coset_tiles} * plan.c_out + corner.first_out) * plan.out_stride +
                    (int64_t{slice / coset_slices} * plan.c_in + corner.first_in) * plan.in_stride;
    load_windows(weight, plan, corner, window);
    sync_threads();
    for (int item = threadIdx.x; item < plan.taps * kStretches; item += kThreads) {
        const int tap = item / kStretches, out = item % kStretches / kChunks, chunk = item % kChunks;
        const WindowPlace<T> place(plan.in_stride == window, window, out, chunk);
        Chunk<T> rows[order];
#pragma unroll
        for (int j = 0; j < kChunkLength<T>; ++j) {
            float planes[order];
#pragma unroll
            for (int s = 0; s < order; ++s) planes[s] = to_float(place.first[j * place.step + plan.sources[tap][s]]);
#pragma unroll
            for (int r = 0; r < order; ++r) {
                float sum = plan.forms[r][0] * planes[0];
#pragma unroll
                for (int s = 1; s < order; ++s) sum += plan.forms[r][s] * planes[s];
                rows[r].at[j] = from_float<T>(sum);
            }
        }
        const int row = out_block * kOuts + out;
        unsigned char* matrix = reinterpret_cast<unsigned char*>(packed) +
                                (int64_t{tile} * plan.taps + tap) * order * plan.columns * kRowBytes;
#pragma unroll
        for (int r = 0; r < order; ++r)
            store(reinterpret_cast<T*>(matrix + r * plan.columns * kRowBytes + swizzled(row, half * kChunks + chunk)),
                  rows[r]);
    }
}

// ---- unpack
constexpr int kSumOuts = 32;  // output channels of a block, one per lane
constexpr int kSumIns = 2;

// From one output channel to the next in shared memory, in numbers: an odd number of banks.
template <typename T>
GCONV_HOST_DEVICE int pitch(int window) {
    const int words = (kSumIns * window * static_cast<int>(sizeof(T)) + 3) / 4;
    return (words | 1) * 4 / static_cast<int>(sizeof(T));
}

template <int order, typename T>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL unpack_kernel(const float* __restrict__ sums, int splits, T* __restrict__ grad_weight,
                           GCONV_PARAMETERS(FilterPlan) plan) {
    T* const stage = reinterpret_cast<T*>(shared_memory());
    const int window = order * plan.taps, step = pitch<T>(window);
    const int out_blocks = (plan.c_out + kSumOuts - 1) / kSumOuts, in_blocks = (plan.c_in + kSumIns - 1) / kSumIns;
    const int block = blockIdx.x;
    const int coset_out = block / in_blocks / plan.cosets_in / out_blocks,
              coset_in = block / in_blocks % plan.cosets_in;
    const int first_out = block / in_blocks / plan.cosets_in % out_blocks * kSumOuts;
    const int first_in = block % in_blocks * kSumIns;
    const int outs = plan.c_out - first_out < kSumOuts ? plan.c_out - first_out : kSumOuts;
    const int ins = plan.c_in - first_in < kSumIns ? plan.c_in - first_in : kSumIns;

    const int coset_tiles = (plan.c_out + plan.columns - 1) / plan.columns;
    const int coset_slices = (plan.c_in + kWidth<T> - 1) / kWidth<T>, slices = plan.cosets_in * coset_slices;
    const int slice = coset_in * coset_slices + first_in / kWidth<T>;
    const int64_t matrix = int64_t{kWidth<T>} * plan.columns;
    const int64_t split_length = int64_t{plan.cosets_out} * coset_tiles * slices * plan.taps * order * matrix;
    for (int item = threadIdx.x; item < plan.taps * kSumIns * kSumOuts; item += kThreads) {
        const int out = item % kSumOuts, in = item / kSumOuts % kSumIns, tap = item / (kSumOuts * kSumIns);
        if (out >= outs || in >= ins) continue;
        const int out_tile = coset_out * coset_tiles + (first_out + out) / plan.columns;
        const float* from = sums + ((int64_t{out_tile} * slices + slice) * plan.taps + tap) * order * matrix +
                            (first_in + in) % kWidth<T> * plan.columns + (first_out + out) % plan.columns;
        float rows[order] = {};
        for (int split = 0; split < splits; ++split)
#pragma unroll
            for (int r = 0; r < order; ++r) rows[r] += from[split * split_length + r * matrix];
#pragma unroll
        for (int s = 0; s < order; ++s) {
            float sum = plan.forms[0][s] * rows[0];
#pragma unroll
            for (int r = 1; r < order; ++r) sum += plan.forms[r][s] * rows[r];
            stage[out * step + in * window + plan.sources[tap][s]] = from_float<T>(sum);
        }
    }
    sync_threads();
    const int length = ins * window;
    T* const to = grad_weight + (int64_t{coset_out} * plan.c_out + first_out) * plan.out_stride +
                  (int64_t{coset_in} * plan.c_in + first_in) * plan.in_stride;
    for (int item = threadIdx.x; item < outs * length; item += kThreads)
        to[item / length * plan.out_stride + item % length] = stage[item / length * step + item % length];
}

// Calls body(integral_constant) with 1, 2, 4 or 8.
template <typename Body>
void with_order(int order, const Body& body) {
    switch (order) {
        case 1:
            return body(std::integral_constant<int, 1>());
        case 2:
            return body(std::integral_constant<int, 2>());
        case 4:
            return body(std::integral_constant<int, 4>());
        case 8:
            return body(std::integral_constant<int, 8>());
    }
}

// Of the packed filter, or of the sums: one per tile of output channels, slice and tap.
int64_t tiles_of(Type type, const FilterPlan& plan) {
    return plan.cosets_out * cdiv(plan.c_out, plan.columns) * plan.cosets_in *
           cdiv(plan.c_in, kRowBytes / type_bytes(type)) * plan.taps;
}

}  // namespace

FilterPlan plan_filter(const Lattice& group, bool lifting, int cosets, int c_in, int c_out, int size, bool adjoint,
                       int columns) {
    if (size < 1 || size * size > kMaxTaps || columns < kOuts || columns % kOuts != 0)
        throw std::invalid_argument("plan_filter: the window must be at most 5 x 5 and columns a multiple of 8, got " +
                                    std::to_string(size) + " and " + std::to_string(columns));
    const Lattice elements = lifting ? lattice("C1") : group;
    FilterPlan plan = {};
    plan.order = elements.order;
    plan.taps = size * size;
    plan.columns = columns;
    plan.cosets_out = cosets;
    plan.cosets_in = lifting ? 1 : cosets;
    plan.c_out = c_out;
    plan.c_in = c_in;
    plan.in_stride = int64_t{plan.order} * plan.taps;
    plan.out_stride = plan.cosets_in * c_in * plan.in_stride;
    for (int tap = 0; tap < plan.taps; ++tap)
        for (int s = 0; s < plan.order; ++s)
            plan.sources[tap][s] =
                static_cast<uint8_t>(adjoint ? elements.inverses[s] * plan.taps + (plan.taps - 1 - tap)
                                             : s * plan.taps + elements.moved(tap, s, size));
    if (adjoint) {
        std::swap(plan.cosets_out, plan.cosets_in);
        std::swap(plan.c_out, plan.c_in);
        std::swap(plan.out_stride, plan.in_stride);
    }
    with_group(elements.name, [&](auto tag) {
        constexpr auto& table = tables<decltype(tag)>;
        for (int r = 0; r < table.rows; ++r)
            for (int s = 0; s < plan.order; ++s)
                plan.forms[r][s] = static_cast<float>(table.forms[r][s]) / static_cast<float>(table.norms[r]);
    });
    return plan;
}

int64_t packed_bytes(Type type, const FilterPlan& plan) {
    return tiles_of(type, plan) * plan.order * plan.columns * kRowBytes;
}

int64_t sums_bytes(Type type, const FilterPlan& plan) {
    const int64_t width = kRowBytes / type_bytes(type);
    return tiles_of(type, plan) * plan.order * plan.columns * width * static_cast<int64_t>(sizeof(float));
}

void pack_filter(Type type, const FilterPlan& plan, const void* weight, void* packed, Stream stream) {
    const int shared_bytes = kStretches * stretch_bytes(plan.order * plan.taps);
    const int64_t blocks = packed_bytes(type, plan) / (plan.taps * plan.order * kOuts * kChunks * kChunkBytes);
    with_type(type, [&](auto zero) {
        with_order(plan.order, [&](auto order) {
            using T = decltype(zero);
            launch("pack_filter", pack_kernel<order(), T>, {blocks, kThreads, shared_bytes}, stream,
                   static_cast<const T*>(weight), static_cast<T*>(packed), plan);
        });
    });
}

void unpack_gradient(Type type, const FilterPlan& plan, const float* sums, int splits, void* grad_weight,
                     Stream stream) {
    const int64_t blocks = plan.cosets_out * cdiv(plan.c_out, kSumOuts) * plan.cosets_in * cdiv(plan.c_in, kSumIns);
    with_type(type, [&](auto zero) {
        with_order(plan.order, [&](auto order) {
            using T = decltype(zero);
            const int shared_bytes = kSumOuts * pitch<T>(plan.order * plan.taps) * static_cast<int>(sizeof(T));
            launch("unpack_gradient", unpack_kernel<order(), T>, {blocks, kThreads, shared_bytes}, stream, sums, splits,
                   static_cast<T*>(grad_weight), plan);
        });
    });
}

}  // namespace gconv::cuda
