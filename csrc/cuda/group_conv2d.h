// Group convolution in the group-Fourier domain; with the adjoint filter its input gradient, on C1 the lifting
// convolution, one element at a time.
//
// A block computes A for 128 pixels, `columns` = 2 sums / |G| output channels of one coset and all |G| coefficients,
// 2 sums / |G| = 64 for C4 on Hopper. Per slice of 64 bytes of input channels one halo, read once per tap at places that
// the elements rotate:
//
//     halo, |G| planes --ldmatrix--> registers --butterflies--> U --------.
//     What: rows x columns x 64 bytes, a tile per tap and slice, ----------+--> A[to] += +-U[from] What[row]
//         swizzled in memory as it is in shared memory                     sums: 16 pixels x columns x |G| per warp
//
//     warp 8        What 0 | What 1 | What 2 | ...            a ring; on Hopper bulk copies to both blocks of a cluster
//     warps 9-11    halo 0         | halo 1         | ...     a ring of two (1 x 1: four), or fewer that fit
//     warps 0-7            tap 0 | tap 1 | ... | tap 8 | tap 0 ... | butterflies of A, bias, epilogue, store
//
//     bytes to shared memory per slice   |G| (8 + K - 1) (16 + K - 1) 64 + K^2 rows columns 64 (half of it per block of a
//                                        cluster): C4, K = 3: 46 KB + 147 KB; D4: 92 KB + 147 KB
//     FLOPs per slice (16-bit)           2 K^2 products 128 columns 32:  C4 28 million, D4 28 million
//     sums                               128 float32 registers per thread (64 before Hopper)
//     bound by                           shared memory: per tap the tile is read by both warpgroups and the halo's planes
//                                        once, C4 101 KB in 768 clocks of products, D4 138 KB
//
// Blocks are persistent: they walk output tiles, then pixels, and copy the next halo while A is transformed. The sum's
// order is fixed: the same bits every time.
#pragma once

#include "epilogue.h"
#include "pipeline.h"

namespace gconv::cuda {

// Elements: of a lifting convolution, where the input has one plane (out_elements) or the output has (in_elements); the
// kernel is that of C1 then, on the taps that the element moves.
struct ConvolutionParameters {
    const void *x, *filter, *bias;
    void* out;
    Halo halo;
    int out_height, out_width, out_planes;
    int c_out;  // of one coset; that of the input is in the halo
    int in_elements, out_elements, in_cosets, out_cosets;
    int out_tiles, items;  // blocks of output channels; those times elements and tiles of pixels, for a cluster each
    int halos, stages;     // buffers in shared memory
    int taps;
    int16_t slots[kMaxTaps][kMaxOrder];  // how far tap d of element h is from the window's first, in pixels of the halo
    bool exact;
    Epilogue epilogue;  // pools where the output's plane is the only one, of all elements
};

template <typename Group, int columns>
constexpr int filter_tile_bytes = tables<Group>.rows * columns * kRowBytes;

// Where a block is: the walk over tiles that all its warps share.
template <typename T, typename Machine>
struct Walk {
    const ConvolutionParameters& p;
    int item, rank, clusters;

    GCONV_DEVICE explicit Walk(const ConvolutionParameters& parameters) : p(parameters) {
        rank = blockIdx.x % Machine::cluster;
        clusters = gridDim.x / Machine::cluster;
        item = blockIdx.x / Machine::cluster;
    }
    GCONV_DEVICE bool done() const { return item >= p.items; }
    GCONV_DEVICE void advance() { item += clusters; }
    GCONV_DEVICE int out_tile() const { return item % p.out_tiles; }  // coset by coset
    GCONV_DEVICE int out_element() const { return item / p.out_tiles % p.out_elements; }
    GCONV_DEVICE Corner first() const {
        return corner(p.halo, item / p.out_tiles / p.out_elements * Machine::cluster + rank);
    }
    GCONV_DEVICE int filter_slices() const { return p.in_cosets * slices_of<T>(p.halo.channels); }
    GCONV_DEVICE int slices() const { return p.in_elements * filter_slices(); }
    // Steps of a slice that have channels.
    GCONV_DEVICE int steps(int slice) const {
        constexpr int length = kRowBytes / sizeof(T);
        const int chunks = slices_of<T>(p.halo.channels);
        return p.halo.channels - slice % chunks * length > length / 2 ? 2 : 1;
    }
};

template <typename T, typename Machine>
GCONV_DEVICE void copy_filters(const ConvolutionParameters& p, Ring ring, uint32_t tiles, int tile_bytes) {
    const auto* filter = static_cast<const unsigned char*>(p.filter);
    for (Walk<T, Machine> walk(p); !walk.done(); walk.advance()) {
        const int per_out_tile = walk.filter_slices() * p.taps;
        const auto* first = filter + int64_t{walk.out_tile()} * per_out_tile * tile_bytes;
        for (int element = 0; element < p.in_elements; ++element)
            for (int i = 0; i < per_out_tile; ++i, ring.advance())
                copy_tile<Machine>(ring, tiles, first + int64_t{i} * tile_bytes, tile_bytes);
    }
}

template <typename Group, typename T, typename Machine>
GCONV_DEVICE void copy_halos(const ConvolutionParameters& p, Ring ring, uint32_t halos, int thread) {
    constexpr int length = kRowBytes / sizeof(T);
    const int chunks = slices_of<T>(p.halo.channels);
    for (Walk<T, Machine> walk(p); !walk.done(); walk.advance())
        for (int slice = 0; slice < walk.slices(); ++slice, ring.advance()) {
            const int coset = slice / chunks % p.in_cosets, element = slice / chunks / p.in_cosets;
            ring.wait_empty();
            copy_halo<T, Group::order>(halos + ring.place * Group::order * p.halo.plane_bytes(),
                                       static_cast<const T*>(p.x), p.halo, walk.first(), element * p.in_cosets + coset,
                                       p.in_cosets, slice % chunks * length, thread);
            arrive_after_halo(p.halo, ring);
        }
}

// The planes of a tile's pixels at a tap, 16 pixels by 32 bytes of channels per warp; then their coefficients.
template <typename Group, typename T>
GCONV_DEVICE void gather(uint32_t (&u)[Group::order][4], const uint32_t (&places)[Group::order], int step) {
#pragma unroll
    for (int h = 0; h < Group::order; ++h) load_matrices(u[h], places[h] ^ (step * kStepBytes));
    transform<Group, T>(u);
}

// LeakyReLU; NaN stays NaN, and ReLU of -infinity is 0.
GCONV_DEVICE float activate(float x, float negative_slope) {
    return x <= 0 ? negative_slope == 0 ? 0 : negative_slope * x : x;
}

// The maximum of all planes, or their mean, of two channels; ties take the first plane, and NaN wins over everything.
template <int order>
GCONV_DEVICE void pool(float (&planes)[order][2], Pooling pooling) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float pooled = planes[0][i];
        if (pooling == Pooling::max) {
#pragma unroll
            for (int h = 1; h < order; ++h) pooled = planes[h][i] <= pooled || pooled != pooled ? pooled : planes[h][i];
        } else {
#pragma unroll
            for (int h = 1; h < order; ++h) pooled += planes[h][i];
            pooled /= order;
        }
        planes[0][i] = pooled;
    }
}

// Two channels of a pixel in every plane: the transposed transform of their sums, bias, activation; pooled in plane 0.
template <typename Group>
GCONV_DEVICE void finish(const ConvolutionParameters& p, float (&planes)[Group::order][2], const float (&shift)[2]) {
    constexpr int order = Group::order;
    // Each butterfly is symmetric, so the transpose is the same ones in reverse order.
    static_for<Group::butterfly_count>([&](auto k) {
        constexpr Butterfly pair = Group::butterflies[Group::butterfly_count - 1 - k];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float a = planes[pair.i][i], b = planes[pair.j][i];
            planes[pair.i][i] = a + b;
            planes[pair.j][i] = a - b;
        }
    });
#pragma unroll
    for (int h = 0; h < order; ++h)
#pragma unroll
        for (int i = 0; i < 2; ++i) planes[h][i] += shift[i];
    if (p.epilogue.negative_slope != 1) {
#pragma unroll
        for (int h = 0; h < order; ++h)
#pragma unroll
            for (int i = 0; i < 2; ++i) planes[h][i] = activate(planes[h][i], p.epilogue.negative_slope);
    }
    if (p.epilogue.pooling != Pooling::none) pool(planes, p.epilogue.pooling);
}

// Registers of four lanes side by side exchanged: lane l has number l % 4 of each of the four then.
GCONV_DEVICE void transpose_quad(uint32_t (&x)[4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & bit) continue;
            const bool upper = lane & bit;
            const uint32_t sent = upper ? x[i] : x[i + bit];
            const uint32_t got = bits(shuffle_xor(bits_to_float(sent), bit));
            (upper ? x[i] : x[i + bit]) = got;
        }
}

// Two numbers as they are in memory: halves side by side in one register, or two floats.
template <typename T>
struct Pair {
    uint32_t bits[sizeof(T) / 2];

    GCONV_DEVICE static Pair rounded(const float (&x)[2]) {
        if constexpr (sizeof(T) == 4)
            return {{gconv::cuda::bits(x[0]), gconv::cuda::bits(x[1])}};
        else
            return {{from_float<T>(x[0]).bits | static_cast<uint32_t>(from_float<T>(x[1]).bits) << 16}};
    }
    GCONV_DEVICE T at(int i) const {
        if constexpr (sizeof(T) == 4)
            return bits_to_float(bits[i]);
        else
            return {static_cast<uint16_t>(bits[0] >> 16 * i)};
    }
};

// A warp's 16 pixels. A lane has two channels of every 8, of two pixels: where 16 bytes of channels are whole, four lanes
// exchange theirs and store 16 bytes each; else each stores its two numbers.
template <typename Group, typename T, int columns>
GCONV_DEVICE void store(const ConvolutionParameters& p, float (&sums)[Group::order][columns / 2], const Corner& first,
                        int out_tile, int element) {
    constexpr int order = Group::order;
    constexpr int together = sizeof(T) == 2 && columns % 32 == 0 ? 4 : 1;  // groups of 8 channels
    const int blocks = (p.c_out + columns - 1) / columns, coset = out_tile / blocks;
    const int lane = threadIdx.x % 32;
    const int first_channel = out_tile % blocks * columns;
    const int64_t plane_length = int64_t{p.out_height} * p.out_width * p.c_out;
    const int64_t step = p.out_cosets * plane_length;
    const int planes = p.epilogue.pooling == Pooling::none ? order : 1;
    const T* bias = static_cast<const T*>(p.bias);
    const bool pairs = p.c_out % 2 == 0, chunks = together > 1 && p.c_out % 8 == 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int pixel = threadIdx.x / 32 * 16 + half * 8 + lane / 4;
        const PixelTile& tile = p.halo.tile;
        const int image = first.image + pixel / (tile.height * tile.width);
        const int row = first.row + pixel / tile.width % tile.height, column = first.column + pixel % tile.width;
        const bool exists = image < p.halo.batch && row < p.out_height && column < p.out_width;
        T* to = static_cast<T*>(p.out) +
                (int64_t{image} * p.out_planes + element * p.out_cosets + coset) * plane_length +
                (int64_t{row} * p.out_width + column) * p.c_out + first_channel;
#pragma unroll
        for (int j = 0; j < columns / 8; j += together) {
            Pair<T> results[order][together];
#pragma unroll
            for (int k = 0; k < together; ++k) {
                float values[order][2], shift[2] = {};
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int channel = first_channel + 8 * (j + k) + lane % 4 * 2 + i;
                    if (bias && channel < p.c_out) shift[i] = to_float(bias[channel]);
#pragma unroll
                    for (int h = 0; h < order; ++h) values[h][i] = sums[h][4 * (j + k) + 2 * half + i];
                }
                finish<Group>(p, values, shift);
#pragma unroll
                for (int h = 0; h < order; ++h) results[h][k] = Pair<T>::rounded(values[h]);
            }
            if constexpr (together > 1) {
                if (chunks) {
                    const int channel = 8 * (j + lane % 4);
                    T* place = to + channel;
#pragma unroll
                    for (int h = 0; h < order; ++h, place += step) {
                        uint32_t chunk[4];
#pragma unroll
                        for (int k = 0; k < 4; ++k) chunk[k] = results[h][k].bits[0];
                        transpose_quad(chunk);
                        if (exists && h < planes && first_channel + channel < p.c_out) store_chunk(place, chunk);
                    }
                    continue;
                }
            }
            if (!exists) continue;
#pragma unroll
            for (int k = 0; k < together; ++k) {
                const int channel = 8 * (j + k) + lane % 4 * 2, rest = p.c_out - first_channel - channel;
                T* place = to + channel;
#pragma unroll
                for (int h = 0; h < order; ++h, place += step) {
                    if (h >= planes || rest <= 0) break;
                    const T a = results[h][k].at(0), b = results[h][k].at(1);
                    if (pairs) {
                        store_pair(place, a, b);
                    } else {
                        place[0] = a;
                        if (rest > 1) place[1] = b;
                    }
                }
            }
        }
    }
}

template <typename Group, typename T, typename Machine, int columns>
GCONV_DEVICE void convolve(const ConvolutionParameters& p, Ring filters, Ring halos, uint32_t tiles,
                           uint32_t halo_tiles) {
    constexpr int order = Group::order;
    const int lane = threadIdx.x % 32;
    // Lane l reads pixel l % 16 of the warp's: matrices 0 and 1 have the first 16 bytes of a step, 2 and 3 the others.
    const int slot = p.halo.slot(threadIdx.x / 32 * 16 + lane % 16);
    for (Walk<T, Machine> walk(p); !walk.done(); walk.advance()) {
        const int element = walk.out_element();
        float sums[order][columns / 2];
#pragma unroll
        for (int h = 0; h < order; ++h)
#pragma unroll
            for (int i = 0; i < columns / 2; ++i) sums[h][i] = 0;
        for (int slice = 0; slice < walk.slices(); ++slice, halos.advance()) {
            const uint32_t halo = halo_tiles + halos.place * order * p.halo.plane_bytes();
            const int moved = Group::order == 1 ? element + slice / walk.filter_slices() : 0, steps = walk.steps(slice);
            halos.wait_full();
            for (int tap = 0; tap < p.taps; ++tap, filters.advance()) {
                const uint32_t tile = tiles + filters.place * filter_tile_bytes<Group, columns>;
                // Of this lane's pixel and chunk of the first step; the second step's differ in a bit.
                uint32_t places[order];
#pragma unroll
                for (int h = 0; h < order; ++h)
                    places[h] = halo + h * p.halo.plane_bytes() + swizzled(slot + p.slots[tap][h + moved], lane / 16);
                filters.wait_full();
                uint32_t held[kHeldSteps<Machine>][order][4];
                for_steps<Machine>(steps, [&](int step) {
                    auto& u = held[step % kHeldSteps<Machine>];
                    gather<Group, T>(u, places, step);
                    multiply<InConvolution, Group, T, Machine, columns>(sums, u, tile, step, p.exact);
                });
                release_tile<Machine>(filters);
            }
            if (lane == 0) barrier_arrive(halos.empty());
        }
        store<Group, T, columns>(p, sums, walk.first(), walk.out_tile(), element);
    }
}

template <typename Group, typename T, typename Machine, int columns>
GCONV_BOUNDS(kThreads, 1)
GCONV_KERNEL group_conv2d_kernel(GCONV_PARAMETERS(ConvolutionParameters) p) {
    if constexpr (runs_on_this_device<Machine::wgmma>) {
        const uint32_t barriers = shared_address(shared_memory()), tiles = barriers + kBarrierBytes;
        constexpr int tile_bytes = filter_tile_bytes<Group, columns>;
        const Ring halos{barriers, p.halos}, filters{barriers + 16 * p.halos, p.stages};
        const uint32_t halo_tiles = tiles + p.stages * tile_bytes;
        start_rings<Machine>(halos, filters);
        if (threadIdx.x < kConsumers) {
            if constexpr (Machine::wgmma) raise_registers<232>();
            convolve<Group, T, Machine, columns>(p, filters, halos, tiles, halo_tiles);
        } else {
            if constexpr (Machine::wgmma) lower_registers<40>();
            if (threadIdx.x < kConsumers + kCopyThreads<Machine>)
                copy_filters<T, Machine>(p, filters, tiles, tile_bytes);
            else if (threadIdx.x >= kConsumers + 32)
                copy_halos<Group, T, Machine>(p, halos, halo_tiles, threadIdx.x - kConsumers - 32);
        }
        end_rings<Machine>();
    }
}

}  // namespace gconv::cuda
