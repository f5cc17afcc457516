// What the two convolution kernels share: rings of buffers between producer and consumer warps, the copy of a halo, the
// transform of gathered planes, and the products per irrep on either machine.
#pragma once

#include "device.h"
#include "fourier.h"
#include "layout.h"
#include "unroll.h"

namespace gconv::cuda {

// A block's warps: eight multiply, one copies tiles of the second operand, three copy halos.
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + 128;
constexpr int kHaloThreads = 96;
constexpr int kBarrierBytes = 1024;  // before the tiles, which wgmma wants at multiples of 512

// wgmma, bulk copies and clusters, from compute capability 9.0 on; 128 float32 sums per thread.
struct Hopper {
    static constexpr bool wgmma = true;
    static constexpr int cluster = 2;  // blocks that get the same tiles of the second operand, each copies a part
    static constexpr int sums = 128;
};

// mma.sync and copies by the threads, from compute capability 8.0 on; 64 sums.
struct Ampere {
    static constexpr bool wgmma = false;
    static constexpr int cluster = 1;
    static constexpr int sums = 64;
};

// Buffers in turn, each with a barrier that says full and one that says empty.
struct Ring {
    uint32_t barriers;
    int length;
    int place = 0;
    uint32_t parity = 0;

    GCONV_DEVICE uint32_t full() const { return barriers + 16 * place; }
    GCONV_DEVICE uint32_t empty() const { return barriers + 16 * place + 8; }
    GCONV_DEVICE void wait_full() const { barrier_wait(full(), parity); }
    GCONV_DEVICE void wait_empty() const { barrier_wait(empty(), parity ^ 1); }
    GCONV_DEVICE void advance() {
        if (++place < length) return;
        place = 0;
        parity ^= 1;
    }
};

template <typename T>
GCONV_HOST_DEVICE int slices_of(int channels) {
    constexpr int length = kRowBytes / sizeof(T);
    return (channels + length - 1) / length;
}

// An input map and the tiles of the output's pixels: what a block reads of it.
struct Halo {
    int batch, channels, planes, height, width;  // of the map; channels of one coset
    PixelTile tile;
    int tile_rows, tile_columns;  // how many cover an image
    int rows, columns, pixels;    // of a tile with its border; pixels of all images, even
    int padding;
    bool aligned;  // channels come in whole chunks of 16 bytes, and the map begins at one

    GCONV_HOST_DEVICE int plane_bytes() const { return pixels * kRowBytes; }
    // Where in a plane of shared memory a tile's pixel lies, for the window's first tap.
    GCONV_DEVICE int slot(int pixel) const {
        const int per_image = tile.height * tile.width;
        const int image = pixel / per_image, row = pixel % per_image / tile.width, column = pixel % tile.width;
        return (image * rows + row) * columns + column;
    }
};

// A tile's first image, row and column in the output.
struct Corner {
    int image, row, column;
};
GCONV_DEVICE Corner corner(const Halo& halo, int pixel_tile) {
    const int per_image = halo.tile_rows * halo.tile_columns;
    return {pixel_tile / per_image * halo.tile.images, pixel_tile % per_image / halo.tile_columns * halo.tile.height,
            pixel_tile % halo.tile_columns * halo.tile.width};
}

// Copies 64 bytes of channels of some planes, plane_step apart, at a tile with its border; zeros where nothing exists.
// The caller arrives: after the copies if the map is aligned, else at once.
template <typename T, int planes>
GCONV_DEVICE void copy_halo(uint32_t to, const T* x, const Halo& halo, const Corner& first, int first_plane,
                            int plane_step, int channel, int thread) {
    constexpr int chunk_length = kChunkBytes / sizeof(T), chunks = kRowBytes / kChunkBytes;
    const int chunk = thread % chunks;
    channel += chunk * chunk_length;
    const int64_t plane_length = int64_t{halo.height} * halo.width * halo.channels;
    for (int slot = thread / chunks; slot < halo.pixels; slot += kHaloThreads / chunks) {
        const int image = first.image + slot / (halo.rows * halo.columns);
        const int row = first.row + slot / halo.columns % halo.rows - halo.padding;
        const int column = first.column + slot % halo.columns - halo.padding;
        const bool inside = slot < halo.tile.images * halo.rows * halo.columns && image < halo.batch && row >= 0 &&
                            row < halo.height && column >= 0 && column < halo.width && channel < halo.channels;
        const T* from = x;
        if (inside)
            from += (int64_t{image} * halo.planes + first_plane) * plane_length +
                    (int64_t{row} * halo.width + column) * halo.channels + channel;
        const int64_t step = inside ? plane_step * plane_length : 0;
        uint32_t place = to + swizzled(slot, chunk);
        if (halo.aligned) {
#pragma unroll
            for (int h = 0; h < planes; ++h, from += step, place += halo.plane_bytes()) copy_async(place, from, inside);
            continue;
        }
#pragma unroll 1  // the producers have few registers
        for (int h = 0; h < planes; ++h, from += step, place += halo.plane_bytes()) {
            const int count = inside ? halo.channels - channel : 0;
#pragma unroll 1
            for (int i = 0; i < chunk_length; ++i)
                store_shared(place + i * static_cast<uint32_t>(sizeof(T)), bits(i < count ? from[i] : T{}));
        }
    }
}

GCONV_DEVICE void arrive_after_halo(const Halo& halo, const Ring& ring) {
    if (halo.aligned)
        barrier_arrive_after_copies(ring.full());
    else
        barrier_arrive(ring.full());
}

// Of warp 8, those that copy tiles: one thread issues a bulk copy, and no other may wait for a place: it could miss that
// the place was empty, and find it full again.
template <typename Machine>
constexpr int kCopyThreads = Machine::wgmma ? 1 : 32;

// One warp copies a tile of the second operand to the ring's place; the blocks of a cluster each copy a part to all.
template <typename Machine>
GCONV_DEVICE void copy_tile(const Ring& ring, uint32_t tiles, const unsigned char* from, int tile_bytes) {
    const int lane = threadIdx.x % 32;
    const uint32_t to = tiles + ring.place * tile_bytes;
    ring.wait_empty();
    if constexpr (Machine::wgmma) {
        const int part = tile_bytes / Machine::cluster, start = cluster_block() * part;
        barrier_arrive_expect(ring.full(), tile_bytes);
        copy_bulk(to + start, from + start, part, ring.full(), (1 << Machine::cluster) - 1);
    } else {
        for (int byte = lane * kChunkBytes; byte < tile_bytes; byte += 32 * kChunkBytes)
            copy_async(to + byte, from + byte, true);
        barrier_arrive_after_copies(ring.full());
    }
}

// A consumer warp is done with the ring's place, in every block that copies to it.
template <typename Machine>
GCONV_DEVICE void release_tile(const Ring& ring) {
    const int lane = threadIdx.x % 32;
    sync_warp();
    if constexpr (Machine::wgmma) {
        if (lane < Machine::cluster) barrier_arrive_at(ring.empty(), lane);
    } else {
        if (lane == 0) barrier_arrive(ring.empty());
    }
}

// Before any thread uses a ring; ends with all threads of the cluster together.
template <typename Machine>
GCONV_DEVICE void start_rings(const Ring& halos, const Ring& tiles) {
    constexpr int warps = kConsumers / 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < halos.length; ++i) {
            barrier_init(halos.barriers + 16 * i, kHaloThreads);
            barrier_init(halos.barriers + 16 * i + 8, warps);
        }
        for (int i = 0; i < tiles.length; ++i) {
            barrier_init(tiles.barriers + 16 * i, Machine::wgmma ? 1 : 32);
            barrier_init(tiles.barriers + 16 * i + 8, warps * Machine::cluster);
        }
        if constexpr (Machine::wgmma) barrier_init_fence();
    }
    sync_warp();
    if constexpr (Machine::wgmma)
        cluster_sync();
    else
        sync_threads();
}

// No block may end while the other of its cluster copies to it, or arrives at its barriers.
template <typename Machine>
GCONV_DEVICE void end_rings() {
    sync_warp();  // cluster_sync is for whole warps, and one lane of the copying warp works alone
    if constexpr (Machine::wgmma) cluster_sync();
}

// Planes to coefficients, in registers.
template <typename Group, typename T>
GCONV_DEVICE void transform(uint32_t (&planes)[Group::order][4]) {
    static_for<Group::butterfly_count>([&](auto k) {
        constexpr Butterfly pair = Group::butterflies[k];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t a = planes[pair.i][i], b = planes[pair.j][i];
            planes[pair.i][i] = add<T>(a, b);
            planes[pair.j][i] = subtract<T>(a, b);
        }
    });
}

// Which of a product's places are sums and which matrices of the second operand: A += U What in a convolution,
// gWhat += U^T gA in the filter's gradient.
struct InConvolution {
    static constexpr int sum(const Product& p) { return p.to; }
    static constexpr int matrix(const Product& p) { return p.row; }
    template <typename Group>
    static constexpr int sums = Group::order;
    template <typename Group>
    static constexpr int matrices = tables<Group>.rows;
};
struct InGradient {
    static constexpr int sum(const Product& p) { return p.row; }
    static constexpr int matrix(const Product& p) { return p.to; }
    template <typename Group>
    static constexpr int sums = tables<Group>.rows;
    template <typename Group>
    static constexpr int matrices = Group::order;
};

// Rounds a float32 to tf32 and returns what it loses, as tf32.
GCONV_DEVICE uint32_t split(uint32_t& x) {
    const float whole = bits_to_float(x);
    x = to_tf32(whole);
    return to_tf32(whole - bits_to_float(x));
}

// d += sign a b of mma.sync; float32 exactly, but for the products of both lower halves, or cut to tf32.
template <typename T, int sign>
GCONV_DEVICE void multiply_signed(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool exact) {
    constexpr uint32_t signs = sign > 0 ? 0 : sizeof(T) == 4 ? 0x80000000u : 0x80008000u;
    uint32_t high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) high[i] = a[i] ^ signs;
    if constexpr (sizeof(T) == 4) {
        uint32_t low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) low[i] = split(high[i]);
        const uint32_t low0 = split(b0), low1 = split(b1);
        if (exact) {
            multiply_matrices<T>(d, low, b0, b1);
            multiply_matrices<T>(d, high, low0, low1);
        }
    }
    multiply_matrices<T>(d, high, b0, b1);
}

// One step's products of a warp's 16 rows with the matrices of a tile. exact: float32 as three products of tf32.
template <typename Role, typename Group, typename T, typename Machine, int columns>
GCONV_DEVICE void multiply(float (&sums)[Role::template sums<Group>][columns / 2], uint32_t (&u)[Group::order][4],
                           uint32_t tile, int step, bool exact) {
    constexpr int products = tables<Group>.product_count;
    if constexpr (Machine::wgmma) {
        const uint32_t chunk = ((tile + step * kStepBytes) & 0x3ffff) / kChunkBytes;
        wgmma_fence();
        static_for<products>([&](auto k) {
            constexpr Product p = tables<Group>.products[k];
            wgmma<T, columns, p.sign>(sums[Role::sum(p)], u[p.from],
                                      wgmma_descriptor(chunk + Role::matrix(p) * columns * kRowBytes / kChunkBytes));
        });
        wgmma_commit();
    } else {
        // Lane l reads row l % 8 of matrix l / 8: columns 0 to 7 with both chunks of the step, then columns 8 to 15.
        const int lane = threadIdx.x % 32;
        const uint32_t place = tile + swizzled(lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2);
        static_for<Role::template matrices<Group>>([&](auto m) {
#pragma unroll
            for (int column = 0; column < columns; column += 16) {
                uint32_t b[4];
                load_matrices(b, place + (m * columns + column) * kRowBytes);
                static_for<products>([&](auto k) {
                    constexpr Product p = tables<Group>.products[k];
                    if constexpr (Role::matrix(p) == m) {
                        float* sum = sums[Role::sum(p)] + column / 2;
                        multiply_signed<T, p.sign>(sum, u[p.from], b[0], b[1], exact);
                        multiply_signed<T, p.sign>(sum + 4, u[p.from], b[2], b[3], exact);
                    }
                });
            }
        });
    }
}

// Of how many steps the gathered coefficients stay in registers until wgmma has read them: of both, so that the second's
// are gathered meanwhile. mma.sync has read them when it returns.
template <typename Machine>
constexpr int kHeldSteps = Machine::wgmma ? 2 : 1;

// The steps of a tile, 1 or 2, and the wait for their products.
template <typename Machine, typename Body>
GCONV_DEVICE void for_steps(int steps, Body&& body) {
    if constexpr (Machine::wgmma) {
        body(0);
        if (steps > 1) body(1);
        wgmma_wait<0>();
    } else {
#pragma unroll 1
        for (int step = 0; step < steps; ++step) body(step);
    }
}

}  // namespace gconv::cuda
