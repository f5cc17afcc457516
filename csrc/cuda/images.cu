// Coefficient images: a transform over the group and a transposition, memory bound.
//
// Grid         a block has two parts of a tile of pixels, 128 bytes of each channel, and 64 bytes of channels. A thread
//              has 4 channels of 4 bytes of pixels, one float or two halves side by side: it loads them from every plane
//              of the coset, transforms them in registers, and stores them transposed.
// Shared       rows of 128 bytes of pixels, one per coefficient and channel. Groups of words are swapped, another way for
//              each 4 channels: neither the stores of words nor the loads of 16 bytes have conflicts.
// Bytes        the map read once (4 channels at once where they come in fours, else number by number; a warp reads 64
//              bytes of a pixel), the images written once by 16 bytes, zeros included.
// FLOPs        the butterflies, at most 20 per 8 numbers, in float32, rounded once.
// Determinism  every number is written by one thread, which adds in a fixed order.
#include "images.h"

#include "dispatch.h"
#include "unroll.h"
#include "vector.h"

namespace gconv::cuda {
namespace {

constexpr int kParts = 2;
constexpr int kRowChunks = kRowBytes / kChunkBytes;
constexpr int kWordBytes = 4;
constexpr int kWords = kParts * kRowBytes / kWordBytes;  // of pixels in a block
constexpr int kChannels = 4;                             // of a thread

template <typename T>
constexpr int kBlockChannels = kRowBytes / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kGroups = kBlockChannels<T> / kChannels;
template <typename T>
constexpr int kThreads = kGroups<T> * kWords;

struct ImagesPlan {
    Map map;
    PixelTile tile;
    int tile_rows, tile_columns;  // that cover an image
    int pixel_tiles, out_tiles, coset_tiles, cosets, columns;
};

// A block's share: which image, and which parts and channels of it.
struct Share {
    int element, pixel_tile, out_tile, first_part, first_channel;  // channel of the tile

    template <typename T>
    GCONV_DEVICE static Share of(const ImagesPlan& plan, T) {
        constexpr int pairs = kTilePixels / (kRowBytes / static_cast<int>(sizeof(T))) / kParts;
        const int blocks = (plan.columns + kBlockChannels<T> - 1) / kBlockChannels<T>;
        int rest = blockIdx.x;
        Share share;
        share.first_channel = rest % blocks * kBlockChannels<T>;
        rest /= blocks;
        share.first_part = rest % pairs * kParts;
        rest /= pairs;
        share.out_tile = rest % plan.out_tiles;
        rest /= plan.out_tiles;
        share.pixel_tile = rest % plan.pixel_tiles;
        share.element = rest / plan.pixel_tiles;
        return share;
    }
};

// The first of a thread's pixels, which are neighbours in a row.
struct Pixel {
    int image, row, column;

    GCONV_DEVICE Pixel(const ImagesPlan& plan, int pixel_tile, int number) {
        const PixelTile& tile = plan.tile;
        const int per_image = tile.height * tile.width, tiles = plan.tile_rows * plan.tile_columns;
        image = pixel_tile / tiles * tile.images + number / per_image;
        row = pixel_tile % tiles / plan.tile_columns * tile.height + number % per_image / tile.width;
        column = pixel_tile % plan.tile_columns * tile.width + number % tile.width;
    }
};

// A thread's channels of one pixel. Halves stay two to a register until they are used.
template <typename T>
using Words = Vector<uint32_t, static_cast<int>(sizeof(T)) * kChannels / kWordBytes>;

// Zeros for channels that do not exist; if `aligned`, all do or none.
template <bool aligned, typename T>
GCONV_DEVICE Words<T> load_channels(const T* from, int exist) {
    Words<T> words = {};
    if constexpr (aligned) {
        if (exist > 0) words = *reinterpret_cast<const Words<T>*>(from);
    } else {
        constexpr int per_word = kWordBytes / static_cast<int>(sizeof(T));
#pragma unroll
        for (int i = 0; i < kChannels; ++i)
            if (i < exist) words.at[i / per_word] |= static_cast<uint32_t>(bits(from[i])) << (i % per_word * 16);
    }
    return words;
}

template <typename T>
GCONV_DEVICE float number_of(const Words<T>& words, int i) {
    if constexpr (sizeof(T) == 4)
        return bits_to_float(words.at[i]);
    else
        return to_float(T{static_cast<uint16_t>(words.at[i / 2] >> (i % 2 * 16))});
}

// Where shared memory has a word of pixels of a channel of the block.
template <typename T>
GCONV_DEVICE uint32_t word_place(int channel, int word) {
    constexpr int swapped = 32 / kGroups<T>;
    return (channel * kWords + (word ^ (channel / kChannels * swapped))) * kWordBytes;
}

template <typename Group, typename T, bool aligned>
GCONV_BOUNDS(kThreads<T>, aligned ? 768 / kThreads<T> : 1)
GCONV_KERNEL images_kernel(const T* __restrict__ map, T* __restrict__ images, const ImagesPlan plan) {
    constexpr int order = Group::order, side = kWordBytes / static_cast<int>(sizeof(T));
    constexpr int channels = kBlockChannels<T>;
    const Share share = Share::of(plan, T{});
    const int thread = threadIdx.x;
    {
        const int group = thread % kGroups<T>, word = thread / kGroups<T>;
        const int coset = share.out_tile / plan.coset_tiles, in_tile = share.first_channel + group * kChannels;
        const int channel = share.out_tile % plan.coset_tiles * plan.columns + in_tile;
        const int exist = in_tile < plan.columns ? plan.map.channels - channel : 0;
        const Pixel pixel(plan, share.pixel_tile,
                          share.first_part * (kRowBytes / static_cast<int>(sizeof(T))) + word * side);
        const int64_t plane_length = int64_t{plan.map.height} * plan.map.width * plan.map.channels;
        const int64_t first =
            (int64_t{pixel.image} * plan.map.planes + share.element * plan.cosets + coset) * plane_length +
            (int64_t{pixel.row} * plan.map.width + pixel.column) * plan.map.channels + channel;
        Words<T> numbers[order][side];
#pragma unroll
        for (int h = 0; h < order; ++h)
#pragma unroll
            for (int i = 0; i < side; ++i) {
                const bool inside =
                    pixel.image < plan.map.batch && pixel.row < plan.map.height && pixel.column + i < plan.map.width;
                numbers[h][i] = load_channels<aligned>(
                    map + first + h * plan.cosets * plane_length + i * plan.map.channels, inside ? exist : 0);
            }
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
            float coefficients[order][side];
#pragma unroll
            for (int h = 0; h < order; ++h)
#pragma unroll
                for (int i = 0; i < side; ++i) coefficients[h][i] = number_of<T>(numbers[h][i], c);
            static_for<Group::butterfly_count>([&](auto k) {
                constexpr Butterfly pair = Group::butterflies[decltype(k)::value];
#pragma unroll
                for (int i = 0; i < side; ++i) {
                    const float a = coefficients[pair.i][i], b = coefficients[pair.j][i];
                    coefficients[pair.i][i] = a + b;
                    coefficients[pair.j][i] = a - b;
                }
            });
#pragma unroll
            for (int a = 0; a < order; ++a) {
                Vector<T, side> pixels;
#pragma unroll
                for (int i = 0; i < side; ++i) pixels.at[i] = from_float<T>(coefficients[a][i]);
                store(reinterpret_cast<T*>(shared_memory() + a * channels * kWords * kWordBytes +
                                           word_place<T>(group * kChannels + c, word)),
                      pixels);
            }
        }
    }
    sync_threads();
    constexpr int chunks = kParts * kRowChunks, parts = kTilePixels * static_cast<int>(sizeof(T)) / kRowBytes;
    const int64_t matrix = int64_t{plan.columns} * kRowBytes;
    const int64_t image =
        ((int64_t{share.element} * plan.pixel_tiles + share.pixel_tile) * plan.out_tiles + share.out_tile) * parts +
        share.first_part;
    for (int item = thread; item < order * channels * chunks; item += kThreads<T>) {
        const int chunk = item % chunks, channel = item / chunks % channels, a = item / (chunks * channels);
        const int row = share.first_channel + channel;
        if (row >= plan.columns) continue;
        const auto pixels = load<T, kChunkLength<T>>(
            reinterpret_cast<const T*>(shared_memory() + a * channels * kWords * kWordBytes +
                                       word_place<T>(channel, chunk * (kChunkBytes / kWordBytes))));
        unsigned char* to = reinterpret_cast<unsigned char*>(images) +
                            ((image + chunk / kRowChunks) * order + a) * matrix + swizzled(row, chunk % kRowChunks);
        store(reinterpret_cast<T*>(to), pixels);
    }
}

ImagesPlan plan_images(const Lattice& group, const Map& map, int cosets, int columns, const PixelTile& tile) {
    if (tile.images * tile.height * tile.width != kTilePixels || tile.width % 8 != 0 || columns % 8 != 0 ||
        columns < 8 || map.planes != group.order * cosets)
        throw std::invalid_argument("coefficient_images: the map must have cosets |H| planes, and a tile 128 pixels");
    ImagesPlan plan = {};
    plan.map = map;
    plan.tile = tile;
    plan.tile_rows = static_cast<int>(cdiv(map.height, tile.height));
    plan.tile_columns = static_cast<int>(cdiv(map.width, tile.width));
    const int64_t pixel_tiles = cdiv(map.batch, tile.images) * plan.tile_rows * plan.tile_columns;
    if (pixel_tiles > INT32_MAX) throw std::invalid_argument("coefficient_images: the maps are too large");
    plan.pixel_tiles = static_cast<int>(pixel_tiles);
    plan.coset_tiles = static_cast<int>(cdiv(map.channels, columns));
    plan.out_tiles = cosets * plan.coset_tiles;
    plan.cosets = cosets;
    plan.columns = columns;
    return plan;
}

}  // namespace

int64_t images_bytes(Type type, const Lattice& group, const Map& map, int cosets, int columns, const PixelTile& tile) {
    const ImagesPlan plan = plan_images(group, map, cosets, columns, tile);
    // Lifting: one coefficient in each of |H| images, else |H| in one.
    return int64_t{group.order} * plan.pixel_tiles * plan.out_tiles * columns * kTilePixels * type_bytes(type);
}

void coefficient_images(Type type, const Lattice& group, bool lifting, const Map& map, int cosets, int columns,
                        const PixelTile& tile, const void* grad_out, void* images, Stream stream) {
    const ImagesPlan plan = plan_images(group, map, cosets, columns, tile);
    with_type(type, [&](auto zero) {
        with_group(lifting ? "C1" : group.name, [&](auto tag) {
            using T = decltype(zero);
            using Group = decltype(tag);
            const bool aligned =
                map.channels % kChannels == 0 && reinterpret_cast<uintptr_t>(grad_out) % sizeof(Words<T>) == 0;
            const auto kernel = aligned ? images_kernel<Group, T, true> : images_kernel<Group, T, false>;
            const int64_t tiles = int64_t{group.order / Group::order} * plan.pixel_tiles * plan.out_tiles;
            const int64_t pairs = kTilePixels * static_cast<int>(sizeof(T)) / kRowBytes / kParts;
            const int64_t blocks = tiles * pairs * cdiv(columns, kBlockChannels<T>);
            const int shared_bytes = Group::order * kBlockChannels<T> * kWords * kWordBytes;
            launch("coefficient_images", kernel, {blocks, kThreads<T>, shared_bytes}, stream,
                   static_cast<const T*>(grad_out), static_cast<T*>(images), plan);
        });
    });
}

}  // namespace gconv::cuda
