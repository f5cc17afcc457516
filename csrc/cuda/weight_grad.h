// The gradient of a group convolution in its filter, in the group-Fourier domain: per tap, row of What and pair of
// channels one sum over pixels of a coefficient of x times one of grad_out. On C1 the gradient of a lifting convolution,
// one element after the other.
//
// A block sums over some tiles of 128 pixels for one slice of input channels (64 bytes), 2 sums / |G| output channels of
// one coset and 4 taps (float32: 8), so that a halo serves four taps:
//
//     halo of x, |G| planes --ldmatrix.trans--> registers --butterflies--> U^T: a warp has 16 channels of one tap
//     gA: |G| x columns x 64 bytes (32 pixels), written by images.cu as a tile of the filter is, --> gWhat[row] +=
//                                                                                              +-U[from]^T gA[to]
//     warp 8        gA 0 | gA 1 | gA 2 | gA 3 | gA 0 ...      a ring; on Hopper bulk copies to both blocks of a cluster
//     warps 9-11    halo 0                    | halo 1 ...    a ring
//     warps 0-7            0 | 1 | 2 | 3      | ...           at the end: store the sums
//
//     bytes to shared memory per pixel tile   |G| (8 + K - 1) (16 + K - 1) 64 + |G| columns 256 (half of it per block of
//                                             a cluster): C4, K = 3: 46 KB + 66 KB; D4: 92 KB + 66 KB
//     FLOPs per pixel tile (16-bit)           2 products 128 pixels columns 128: C4 13 million, D4 13 million
//     sums                                    128 float32 registers per thread (64 before Hopper)
//
// Where half of a block's taps or fewer are left, both warpgroups take the same ones and every other tile of gA. The
// pixels are split over blocks by a rule of the sizes and the device, and unpack_gradient adds the parts in their order:
// the same bits every time.
#pragma once

#include "pipeline.h"

namespace gconv::cuda {

// Elements: of a lifting convolution, whose output has |H| and whose x has one plane.
struct WeightGradParameters {
    const void *x, *images;
    float* sums;
    Halo halo;
    int elements, in_cosets;
    int pixel_tiles, in_tiles, out_tiles;
    int splits, units_per_split;  // a unit is one element's pixel tile
    int halos, stages;            // buffers in shared memory
    int taps;
    int16_t slots[kMaxTaps][kMaxOrder];  // as in ConvolutionParameters
    bool exact;
};

// Channels of a slice, and how a block's taps fall on its warps: a warp has 16 channels of one.
template <typename T>
struct Taps {
    static constexpr int channels = kRowBytes / sizeof(T);
    static constexpr int warps = channels / 16;
    static constexpr int per_warpgroup = 4 / warps;
    static constexpr int per_block = 2 * per_warpgroup;
};

template <typename T>
GCONV_HOST_DEVICE int tap_blocks(int taps) {
    return (taps + Taps<T>::per_block - 1) / Taps<T>::per_block;
}

constexpr int kSlotTable = 512;  // where the slots of the tile's pixels are, past the barriers

// What a block sums: the blocks of a cluster differ in taps or slice only, and the last may repeat another's.
template <typename T, typename Machine>
struct Job {
    int out_tile, in_tile, first_tap, begin, end;
    int result;  // number of its sums, in splits, tiles of output channels and of input channels
    bool repeated;

    GCONV_DEVICE explicit Job(const WeightGradParameters& p) {
        const int blocks = tap_blocks<T>(p.taps), jobs = blocks * p.in_tiles;
        const int per_out_tile = (jobs + Machine::cluster - 1) / Machine::cluster * Machine::cluster;
        int job = blockIdx.x % per_out_tile;
        repeated = job >= jobs;
        if (repeated) job = jobs - 1;
        first_tap = job % blocks * Taps<T>::per_block;
        in_tile = job / blocks;
        out_tile = blockIdx.x / per_out_tile % p.out_tiles;
        const int split = blockIdx.x / per_out_tile / p.out_tiles;
        result = (split * p.out_tiles + out_tile) * p.in_tiles + in_tile;
        begin = split * p.units_per_split;
        const int units = p.elements * p.pixel_tiles;
        end = begin + p.units_per_split < units ? begin + p.units_per_split : units;
    }
};

template <typename T, typename Machine>
GCONV_DEVICE void copy_images(const WeightGradParameters& p, const Job<T, Machine>& job, Ring ring, uint32_t tiles,
                              int tile_bytes) {
    constexpr int parts = kTilePixels / Taps<T>::channels;
    const auto* images = static_cast<const unsigned char*>(p.images);
    for (int unit = job.begin; unit < job.end; ++unit)
        for (int part = 0; part < parts; ++part, ring.advance())
            copy_tile<Machine>(ring, tiles,
                               images + ((int64_t{unit} * p.out_tiles + job.out_tile) * parts + part) * tile_bytes,
                               tile_bytes);
}

template <typename Group, typename T, typename Machine>
GCONV_DEVICE void copy_halos(const WeightGradParameters& p, const Job<T, Machine>& job, Ring ring, uint32_t halos,
                             int thread) {
    const int chunks = slices_of<T>(p.halo.channels);
    for (int unit = job.begin; unit < job.end; ++unit, ring.advance()) {
        ring.wait_empty();
        copy_halo<T, Group::order>(halos + ring.place * Group::order * p.halo.plane_bytes(), static_cast<const T*>(p.x),
                                   p.halo, corner(p.halo, unit % p.pixel_tiles), job.in_tile / chunks, p.in_cosets,
                                   job.in_tile % chunks * Taps<T>::channels, thread);
        arrive_after_halo(p.halo, ring);
    }
}

// The coefficients of 16 channels (from first_channel of the slice) by 32 bytes of pixels, those from first_pixel on.
template <typename Group, typename T>
GCONV_DEVICE void gather_transposed(uint32_t (&u)[Group::order][4], const int16_t (&slots)[kMaxOrder], int element,
                                    uint32_t slot_table, int first_pixel, uint32_t halo, int plane_bytes,
                                    int first_channel) {
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 2) {
        // Lane l reads pixel l % 8 of matrix l / 8: channels 0-7 and 8-15 of pixels 0-7, then of pixels 8-15.
        const int slot = load_shared(slot_table + 4 * (first_pixel + lane / 16 * 8 + lane % 8));
        const int chunk = first_channel / 8 + lane / 8 % 2;
#pragma unroll
        for (int h = 0; h < Group::order; ++h)
            load_matrices_transposed(u[h], halo + h * plane_bytes + swizzled(slot + slots[h + element], chunk));
    } else {
        // Register i has channel l / 4 + 8 (i % 2) of pixel l % 4 + 4 (i / 2).
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int slot = load_shared(slot_table + 4 * (first_pixel + lane % 4 + half * 4));
            const int chunk = (first_channel + lane / 4) / 4;
#pragma unroll
            for (int h = 0; h < Group::order; ++h) {
                const uint32_t place = halo + h * plane_bytes + lane / 4 % 4 * 4;
                u[h][2 * half] = load_shared(place + swizzled(slot + slots[h + element], chunk));
                u[h][2 * half + 1] = load_shared(place + swizzled(slot + slots[h + element], chunk + 2));
            }
        }
    }
    transform<Group, T>(u);
}

template <typename Group, typename T, typename Machine, int columns>
GCONV_DEVICE void accumulate(const WeightGradParameters& p, const Job<T, Machine>& job, Ring images, Ring halos,
                             uint32_t barriers, uint32_t tiles, uint32_t halo_tiles) {
    constexpr int rows = InGradient::sums<Group>, parts = kTilePixels / Taps<T>::channels;
    const int lane = threadIdx.x % 32, warp = of_first_lane(threadIdx.x / 32), warpgroup = warp / 4;
    const bool shared_taps = p.taps - job.first_tap <= Taps<T>::per_warpgroup;
    const int tap = job.first_tap + (shared_taps ? 0 : warpgroup * Taps<T>::per_warpgroup) + warp % 4 / Taps<T>::warps;
    const int first_channel = warp % Taps<T>::warps * 16;
    const auto& slots = p.slots[tap < p.taps ? tap : 0];
    float sums[rows][columns / 2];
#pragma unroll
    for (int r = 0; r < rows; ++r)
#pragma unroll
        for (int i = 0; i < columns / 2; ++i) sums[r][i] = 0;
    for (int unit = job.begin; unit < job.end; ++unit, halos.advance()) {
        const int element = Group::order == 1 ? unit / p.pixel_tiles : 0;
        const uint32_t halo = halo_tiles + halos.place * Group::order * p.halo.plane_bytes();
        halos.wait_full();
        for (int part = 0; part < parts; ++part, images.advance()) {
            const uint32_t tile = tiles + images.place * Group::order * columns * kRowBytes;
            images.wait_full();
            if (!shared_taps || part % 2 == warpgroup) {
                uint32_t held[kHeldSteps<Machine>][Group::order][4];
                for_steps<Machine>(2, [&](int step) {
                    auto& u = held[step % kHeldSteps<Machine>];
                    gather_transposed<Group, T>(u, slots, element, barriers + kSlotTable,
                                                (2 * part + step) * Taps<T>::channels / 2, halo, p.halo.plane_bytes(),
                                                first_channel);
                    multiply<InGradient, Group, T, Machine, columns>(sums, u, tile, step, p.exact);
                });
            }
            release_tile<Machine>(images);
        }
        if (lane == 0) barrier_arrive(halos.empty());
    }
    if (shared_taps) {  // the second warpgroup's sums to the first, through memory that no copy is under way to
        sync_threads(1, kConsumers);
        float* exchange = reinterpret_cast<float*>(shared_memory() + kBarrierBytes) + threadIdx.x % 128;
#pragma unroll
        for (int i = 0; i < rows * columns / 2; ++i) {
            float& sum = sums[i / (columns / 2)][i % (columns / 2)];
            if (warpgroup == 1) exchange[128 * i] = sum;
        }
        sync_threads(1, kConsumers);
        if (warpgroup == 1) return;
#pragma unroll
        for (int i = 0; i < rows * columns / 2; ++i) sums[i / (columns / 2)][i % (columns / 2)] += exchange[128 * i];
    }
    if (tap >= p.taps || job.repeated) return;
    float* to = p.sums + int64_t{job.result * p.taps + tap} * rows * Taps<T>::channels * columns +
                (first_channel + lane / 4) * columns + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < rows; ++r)
#pragma unroll
        for (int i = 0; i < columns / 2; i += 2)
            store_pair(to + (r * Taps<T>::channels + i % 4 / 2 * 8) * columns + i / 4 * 8, sums[r][i], sums[r][i + 1]);
}

template <typename Group, typename T, typename Machine, int columns>
GCONV_BOUNDS(kThreads, 1)
GCONV_KERNEL weight_grad_kernel(GCONV_PARAMETERS(WeightGradParameters) p) {
    if constexpr (runs_on_this_device<Machine::wgmma>) {
        constexpr int tile_bytes = Group::order * columns * kRowBytes;
        const Job<T, Machine> job(p);
        const uint32_t barriers = shared_address(shared_memory()), tiles = barriers + kBarrierBytes;
        const uint32_t halo_tiles = tiles + p.stages * tile_bytes;
        const Ring halos{barriers, p.halos}, images{barriers + 16 * p.halos, p.stages};
        if (threadIdx.x < kTilePixels)
            store_shared(barriers + kSlotTable + 4 * threadIdx.x, static_cast<uint32_t>(p.halo.slot(threadIdx.x)));
        start_rings<Machine>(halos, images);
        if (threadIdx.x < kConsumers) {
            if constexpr (Machine::wgmma) raise_registers<224>();
            accumulate<Group, T, Machine, columns>(p, job, images, halos, barriers, tiles, halo_tiles);
        } else {
            if constexpr (Machine::wgmma) lower_registers<56>();
            if (threadIdx.x < kConsumers + kCopyThreads<Machine>)
                copy_images(p, job, images, tiles, tile_bytes);
            else if (threadIdx.x >= kConsumers + 32)
                copy_halos<Group>(p, job, halos, halo_tiles, threadIdx.x - kConsumers - 32);
        }
        end_rings<Machine>();
    }
}

}  // namespace gconv::cuda
