// The loops over tiles and chunks around the kernels of engine_kernel.cpp, where the tiling is explained.
#include "engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

namespace gconv {
namespace {

constexpr int64_t kPanelBytes = 256 * 1024;  // of A per thread: half of a common L2, which also holds B's panel
constexpr int64_t kSlicePixels = 512;        // of the weight gradient's partial sums: enough work per sum
constexpr int64_t kMaxSlices = 16;           // and no more copies of the filter's spectrum than these
constexpr int64_t kSliceBytes = 64 * 1024 * 1024;
constexpr int64_t kMaxLength = int64_t{1} << 30;  // of an image side, so that pixel coordinates fit 32 bits

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

template <typename T>
struct Free {
    void operator()(T* p) const { std::free(p); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free<T>>;

// `count` elements at a cache line's start, not initialised.
template <typename T>
Buffer<T> make_buffer(int64_t count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T)))
        throw std::bad_alloc();
    return Buffer<T>(static_cast<T*>(memory));
}

// Set in a forked child from the moment the module is loaded: the parent's OpenMP may have run before gconv's first op.
std::atomic<bool> forked{false};
#ifdef _OPENMP
const bool fork_is_seen = pthread_atfork(nullptr, nullptr, [] { forked.store(true); }) == 0;
#endif

std::vector<const InstructionSet*> supported_sets() {
    std::vector<const InstructionSet*> sets = {&instruction_set_baseline};
#ifdef GCONV_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&instruction_set_avx2);
#endif
#ifdef GCONV_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma"))
        sets.push_back(&instruction_set_avx512);
#endif
    return sets;
}

std::atomic<const InstructionSet*>& current_set() {
    static std::atomic<const InstructionSet*> set{supported_sets().back()};
    return set;
}

template <typename T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels<float>() {
    return *current_set().load()->kernels_float;
}
template <>
const Kernels<double>& kernels<double>() {
    return *current_set().load()->kernels_double;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet* set : supported_sets()) names.push_back(set->name);
    return names;
}

std::string instruction_set() { return current_set().load()->name; }

void use_instruction_set(const std::string& name) {
    for (const InstructionSet* set : supported_sets())
        if (name == set->name) {
            current_set().store(set);
            return;
        }
    require(false, "use_instruction_set", "name must be one of instruction_sets(), got \"" + name + "\"");
}

int allowed_threads(int asked, int64_t items) {
#ifdef _OPENMP
    if (!fork_is_seen || forked.load()) return 1;
    return static_cast<int>(std::clamp<int64_t>(items, 1, std::max(asked, 1)));
#else
    (void)asked, (void)items;
    return 1;
#endif
}

namespace {

// The K x K window's offsets after each element: idx(element d) for every tap d, and the tap's index there.
struct Taps {
    std::vector<int32_t> row, column;  // [tap][listed element]
    std::vector<int64_t> index;

    Taps(const Group& group, const std::vector<int>& elements, int64_t size) {
        for (int64_t r = 0; r < size; ++r)
            for (int64_t c = 0; c < size; ++c)
                for (const int element : elements) {
                    const int32_t* m = &group.action[element * 4];
                    const int64_t y = 2 * r - (size - 1), x = 2 * c - (size - 1);  // twice the centred offset
                    row.push_back(static_cast<int32_t>((m[0] * y + m[1] * x + size - 1) / 2));
                    column.push_back(static_cast<int32_t>((m[2] * y + m[3] * x + size - 1) / 2));
                    index.push_back(row.back() * size + column.back());
                }
    }
};

std::vector<Chunk> make_chunks(int64_t taps, int64_t channels) {
    std::vector<Chunk> chunks;
    const int64_t channel_blocks = divide_up(channels, kMaxChunk);
    const int64_t channel_step = channel_blocks == 1 ? channels : round_up(divide_up(channels, channel_blocks), 16);
    const int64_t tap_blocks = divide_up(taps, std::max<int64_t>(1, kMaxChunk / channel_step));
    const int64_t tap_step = divide_up(taps, tap_blocks);
    for (int64_t channel = 0; channel < channels; channel += channel_step)
        for (int64_t tap = 0; tap < taps; tap += tap_step) {
            const int64_t some_taps = std::min(tap_step, taps - tap);
            const int64_t some_channels = std::min(channel_step, channels - channel);
            chunks.push_back({static_cast<int>(tap), static_cast<int>(some_taps), channel, some_channels,
                              some_taps * some_channels});
        }
    return chunks;
}

// Sizes and tables of one call, shared by the forward product and the weight gradient.
template <typename T>
struct Layout {
    const Plan& plan;
    const Kernels<T>& kernel;
    int64_t in_channels, out_channels, pixels;
    Taps taps;
    Taps filter_taps;
    std::vector<int64_t> tap_offset;
    std::vector<Chunk> chunks;
    std::vector<int64_t> k_before;       // [chunk] sum of k of the chunks before
    std::vector<int64_t> lead;           // [block] dim * C_out, rounded up to whole vectors
    std::vector<int64_t> gather_offset;  // Gather::coefficient_offset, _dim, _start
    std::vector<int> gather_dim, gather_start;
    std::vector<int64_t> spectrum_lead;  // Spectrum::coefficient_lead
    std::vector<T> zeros;
    int64_t max_k = 0;
    int64_t spectrum_rows = 0;    // sum of columns * lead: elements of a tile's spectrum per pixel
    int64_t product_columns = 0;  // sum of dim * lead: elements of B per row of one plane

    static std::vector<int> filter_elements(const Plan& plan) {
        std::vector<int> elements(plan.filter_planes);
        std::iota(elements.begin(), elements.end(), 0);
        return elements;
    }

    Layout(const Plan& plan, const Image<const T>& x, int64_t out_channels, int64_t size, int64_t pixels)
        : plan(plan),
          kernel(kernels<T>()),
          in_channels(x.channels),
          out_channels(out_channels),
          pixels(pixels),
          taps(*plan.group, plan.elements, size),
          filter_taps(*plan.group, filter_elements(plan), size),
          chunks(make_chunks(size * size, x.channels)),
          zeros(x.channels, T{0}) {
        const int planes = plan.in.planes;
        for (size_t at = 0; at < taps.row.size(); ++at)
            tap_offset.push_back(taps.row[at] * x.stride_row + taps.column[at] * x.stride_column +
                                 plan.source[at % planes] * x.stride_plane);
        int64_t k = 0;
        for (const Chunk& chunk : chunks) {
            k_before.push_back(k);
            k += chunk.k;
            max_k = std::max(max_k, chunk.k);
        }
        for (const Block& block : plan.blocks) {
            lead.push_back(round_up(block.dim * out_channels, kernel.lanes));
            spectrum_rows += block.columns * lead.back();
            product_columns += block.dim * lead.back();
        }
        for (const int coefficient : plan.in_coefficient) {
            const Block& block = plan.blocks[block_of(coefficient)];
            const int within = coefficient - block.first;
            gather_offset.push_back(block.first + within / block.dim * block.dim);
            gather_dim.push_back(block.dim);
            gather_start.push_back(within % block.dim);
        }
        for (const int coefficient : plan.out_coefficient) spectrum_lead.push_back(lead[block_of(coefficient)]);
    }

    int block_of(int coefficient) const {
        int block = static_cast<int>(plan.blocks.size()) - 1;
        while (plan.blocks[block].first > coefficient) --block;
        return block;
    }

    // Start of each block's (or one past) spectrum in a tile of `capacity` pixels.
    int64_t spectrum_start(int block, int64_t capacity) const {
        int64_t start = 0;
        for (int b = 0; b < block; ++b) start += plan.blocks[b].columns * lead[b] * capacity;
        return start;
    }

    std::vector<int64_t> spectrum_offset(int64_t capacity) const {
        std::vector<int64_t> offsets;
        for (const int coefficient : plan.out_coefficient) {
            const int b = block_of(coefficient);
            const int within = coefficient - plan.blocks[b].first, dim = plan.blocks[b].dim;
            offsets.push_back(spectrum_start(b, capacity) + within / dim * capacity * lead[b] +
                              within % dim * out_channels);
        }
        return offsets;
    }

    // Pixels per tile: the A panel stays within its budget, and `most` pixels are not exceeded by more than a row
    // block.
    int tile_capacity(int64_t most) const {
        const int64_t row_bytes = plan.in.coefficients * max_k * static_cast<int64_t>(sizeof(T));
        const int64_t wanted = std::min({static_cast<int64_t>(kMaxTile), kPanelBytes / row_bytes, most});
        return static_cast<int>(std::max<int64_t>(kernel.rows, wanted / kernel.rows * kernel.rows));
    }

    int64_t panel_size(int64_t capacity) const { return plan.in.coefficients * capacity * max_k + kernel.rows; }

    Gather<T> gather(const Image<const T>& x, int64_t size) const {
        return {x.data,
                x.height,
                x.width,
                static_cast<int>(size),
                taps.row.data(),
                taps.column.data(),
                tap_offset.data(),
                zeros.data(),
                &plan.in,
                gather_offset.data(),
                gather_dim.data(),
                gather_start.data()};
    }
};

template <typename T>
std::vector<int64_t> plane_offsets(const Plan& plan, const Image<T>& image) {
    std::vector<int64_t> offsets;
    for (const int plane : plan.target) offsets.push_back(plane * image.stride_plane);
    return offsets;
}

template <typename X, typename Y>
void fill_tile(Tile& tile, int64_t first, int capacity, const Image<X>& x, const Image<Y>& out, int64_t stride,
               int64_t padding) {
    const int64_t area = out.height * out.width;
    tile.capacity = capacity;
    tile.count = static_cast<int>(std::min<int64_t>(capacity, out.batch * area - first));
    int64_t n = first / area, row = first % area / out.width, column = first % area % out.width;
    for (int pixel = 0; pixel < tile.count; ++pixel) {
        const int64_t y = stride * row - padding, z = stride * column - padding;
        tile.row[pixel] = static_cast<int32_t>(y);
        tile.column[pixel] = static_cast<int32_t>(z);
        tile.input_offset[pixel] = n * x.stride_batch + y * x.stride_row + z * x.stride_column;
        tile.output_offset[pixel] = n * out.stride_batch + row * out.stride_row + column * out.stride_column;
        if (++column == out.width) {
            column = 0;
            if (++row == out.height) {
                row = 0;
                ++n;
            }
        }
    }
}

// Copies a row of a block's B to its panels of 2 * lanes columns, the last one possibly of `lanes`, and pads with
// zeros.
template <typename T>
void pack_row(const T* values, int64_t count, int64_t row, int64_t rows, int64_t lead, int64_t lanes, T* packed) {
    for (int64_t column = 0; column < lead; column += 2 * lanes) {
        const int64_t width = std::min(2 * lanes, lead - column), real = std::min(width, count - column);
        T* to = packed + column * rows + row * width;
        std::copy_n(values + column, real, to);
        std::fill(to + real, to + width, T{0});
    }
}

// Calls body(chunk index, tap, row of the tap and channel within the chunk) for every tap.
template <typename T, typename Body>
void for_each_tap(const Layout<T>& layout, int64_t channel, const Body& body) {
    for (size_t at = 0; at < layout.chunks.size(); ++at) {
        const Chunk& chunk = layout.chunks[at];
        if (channel < chunk.first_channel || channel >= chunk.first_channel + chunk.channels) continue;
        for (int tap = 0; tap < chunk.taps; ++tap)
            body(at, chunk.first_tap + tap, tap * chunk.channels + channel - chunk.first_channel);
    }
}

// to += sign * from, sign 0, 1 or -1.
template <typename T>
void add_signed(int sign, const T* from, int64_t count, T* to) {
    if (sign > 0)
        for (int64_t i = 0; i < count; ++i) to[i] += from[i];
    if (sign < 0)
        for (int64_t i = 0; i < count; ++i) to[i] -= from[i];
}

// B of every chunk and block: What[i][k](tap, c, c_out) = scale * sum_s rho(s)[i][k] W[c_out, c, s, tap of s d].
template <typename T>
void pack_filter(const Layout<T>& layout, const Filter<const T>& weight, T* packed, int threads) {
    const Plan& plan = layout.plan;
    const int64_t taps = weight.size * weight.size, planes = plan.filter_planes, c_out = layout.out_channels;
    const int64_t work_size = round_up((planes * taps + kMaxOrder) * c_out, 16);
    const Buffer<T> work = make_buffer<T>(work_size * threads);
    parallel_for(threads, layout.in_channels, [&](int64_t channel, int thread) {
        T* filter = work.get() + thread * work_size;  // [s, tap][c_out]
        T* row = filter + planes * taps * c_out;      // [i][c_out]
        for (int64_t o = 0; o < c_out; ++o) {
            const T* from = weight.data + (o * layout.in_channels + channel) * planes * taps;
            for (int64_t i = 0; i < planes * taps; ++i) filter[i * c_out + o] = from[i];
        }
        for_each_tap(layout, channel, [&](size_t at, int tap, int64_t within) {
            const int64_t chunk_k = layout.chunks[at].k;
            const int64_t* index = &layout.filter_taps.index[tap * planes];
            T* to = packed + layout.k_before[at] * layout.product_columns;
            const int8_t* matrix = plan.filter_matrix.data();
            for (size_t b = 0; b < plan.blocks.size(); ++b) {
                const int dim = plan.blocks[b].dim;
                const T scale = static_cast<T>(plan.filter_scale[b]);
                for (int k = 0; k < dim; ++k) {
                    std::fill_n(row, dim * c_out, T{0});
                    for (int i = 0; i < dim; ++i)
                        for (int64_t s = 0; s < planes; ++s)
                            add_signed(matrix[(i * dim + k) * planes + s], filter + (s * taps + index[s]) * c_out,
                                       c_out, row + i * c_out);
                    for (int64_t o = 0; o < dim * c_out; ++o) row[o] *= scale;
                    pack_row(row, dim * c_out, k * chunk_k + within, dim * chunk_k, layout.lead[b], layout.kernel.lanes,
                             to);
                }
                matrix += dim * dim * planes;
                to += dim * chunk_k * layout.lead[b];
            }
        });
    });
}

// The transpose of pack_filter, from sums of rows (k, tap, c) x columns (i, c_out) per chunk and block. Slices are
// added in their order.
template <typename T>
void unpack_filter(const Layout<T>& layout, const T* sums, const std::vector<int64_t>& chunk_start, int64_t slices,
                   int64_t slice_size, const Filter<T>& weight, int threads) {
    const Plan& plan = layout.plan;
    const int64_t taps = weight.size * weight.size, planes = plan.filter_planes, c_out = layout.out_channels;
    const int64_t work_size = round_up((planes * taps + kMaxOrder) * c_out, 16);
    const Buffer<T> work = make_buffer<T>(work_size * threads);
    parallel_for(threads, layout.in_channels, [&](int64_t channel, int thread) {
        T* filter = work.get() + thread * work_size;  // [s, tap][c_out]
        T* row = filter + planes * taps * c_out;      // [i][c_out]
        std::fill_n(filter, planes * taps * c_out, T{0});
        for_each_tap(layout, channel, [&](size_t at, int tap, int64_t within) {
            const int64_t chunk_k = layout.chunks[at].k;
            const int64_t* index = &layout.filter_taps.index[tap * planes];
            const T* from = sums + chunk_start[at];
            const int8_t* matrix = plan.filter_matrix.data();
            for (size_t b = 0; b < plan.blocks.size(); ++b) {
                const int dim = plan.blocks[b].dim;
                const T scale = static_cast<T>(plan.filter_scale[b]);
                for (int k = 0; k < dim; ++k) {
                    std::fill_n(row, dim * c_out, T{0});
                    for (int64_t slice = 0; slice < slices; ++slice)
                        add_signed(1, from + slice * slice_size + (k * chunk_k + within) * layout.lead[b], dim * c_out,
                                   row);
                    for (int64_t o = 0; o < dim * c_out; ++o) row[o] *= scale;
                    for (int i = 0; i < dim; ++i)
                        for (int64_t s = 0; s < planes; ++s)
                            add_signed(matrix[(i * dim + k) * planes + s], row + i * c_out, c_out,
                                       filter + (s * taps + index[s]) * c_out);
                }
                matrix += dim * dim * planes;
                from += round_up(dim * chunk_k, layout.kernel.rows) * layout.lead[b];
            }
        });
        for (int64_t o = 0; o < c_out; ++o) {
            T* to = weight.data + (o * layout.in_channels + channel) * planes * taps;
            for (int64_t i = 0; i < planes * taps; ++i) to[i] = filter[i * c_out + o];
        }
    });
}

template <typename X, typename W, typename Y>
void check(const Plan& plan, const char* op, const Image<X>& x, const Filter<W>& weight, const Image<Y>& out,
           int64_t stride, int64_t padding) {
    const auto text = [](int64_t value) { return std::to_string(value); };
    const int planes_in = *std::max_element(plan.source.begin(), plan.source.end()) + 1;
    require(x.planes == planes_in, op, "x must have " + text(planes_in) + " planes, got " + text(x.planes));
    require(out.planes == plan.out.planes, op,
            "out must have " + text(plan.out.planes) + " planes, got " + text(out.planes));
    require(weight.planes == plan.filter_planes, op,
            "weight must have " + text(plan.filter_planes) + " planes, got " + text(weight.planes));
    require(weight.in_channels == x.channels && x.channels >= 1, op,
            "weight must have " + text(x.channels) + " >= 1 input channels, got " + text(weight.in_channels));
    require(weight.out_channels == out.channels && out.channels >= 1, op,
            "weight must have " + text(out.channels) + " >= 1 output channels, got " + text(weight.out_channels));
    require(weight.size >= 1 && weight.size <= 1024, op, "K must be in 1..1024, got " + text(weight.size));
    require(stride >= 1 && stride < kMaxLength, op, "stride must be positive, got " + text(stride));
    require(padding >= 0 && padding < kMaxLength / 4, op, "padding must not be negative, got " + text(padding));
    require(x.height >= 1 && x.width >= 1 && x.height < kMaxLength / 2 && x.width < kMaxLength / 2, op,
            "H and W must be in 1..2^29, got " + text(x.height) + " and " + text(x.width));
    require(x.height + 2 * padding >= weight.size && x.width + 2 * padding >= weight.size, op,
            "the padded image must be at least K = " + text(weight.size) + " long on both sides");
    const int64_t height = (x.height + 2 * padding - weight.size) / stride + 1;
    const int64_t width = (x.width + 2 * padding - weight.size) / stride + 1;
    require(out.batch == x.batch && x.batch >= 0, op,
            "out must have batch " + text(x.batch) + ", got " + text(out.batch));
    require(
        out.height == height && out.width == width, op,
        "out must be " + text(height) + " x " + text(width) + ", got " + text(out.height) + " x " + text(out.width));
}

}  // namespace

template <typename T>
void convolve(const Plan& plan, const char* op, const Image<const T>& x, const Filter<const T>& weight, const T* bias,
              const Image<T>& out, int64_t stride, int64_t padding, int threads) {
    check(plan, op, x, weight, out, stride, padding);
    const int64_t pixels = out.batch * out.height * out.width;
    if (pixels == 0) return;
    const Layout<T> layout(plan, x, out.channels, weight.size, pixels);
    const Kernels<T>& kernel = layout.kernel;

    const int64_t packed_size = weight.size * weight.size * x.channels * layout.product_columns;
    const Buffer<T> packed = make_buffer<T>(packed_size);
    pack_filter(layout, weight, packed.get(), allowed_threads(threads, divide_up(packed_size, 1 << 15)));

    const int capacity = layout.tile_capacity(round_up(divide_up(pixels, std::max(threads, 1)), kernel.rows));
    const int64_t tiles = divide_up(pixels, capacity);
    threads = allowed_threads(threads, tiles);
    const int64_t panel_size = round_up(layout.panel_size(capacity), 16);
    const int64_t work_size = round_up(panel_size + layout.spectrum_rows * capacity, 16);
    const Buffer<T> work = make_buffer<T>(work_size * threads);

    const Gather<T> gather = layout.gather(x, weight.size);
    const std::vector<int64_t> offsets = layout.spectrum_offset(capacity), planes = plane_offsets(plan, out);
    const Spectrum<T> spectrum{&plan.out, out.channels, offsets.data(), layout.spectrum_lead.data(), planes.data()};
    parallel_for(threads, tiles, [&](int64_t item, int thread) {
        T* panel = work.get() + thread * work_size;
        T* sums = panel + panel_size;
        Tile tile;
        fill_tile(tile, item * capacity, capacity, x, out, stride, padding);
        for (size_t at = 0; at < layout.chunks.size(); ++at) {
            const Chunk& chunk = layout.chunks[at];
            kernel.gather(gather, tile, chunk, panel);
            const T* b = packed.get() + layout.k_before[at] * layout.product_columns;
            T* c = sums;
            for (size_t block = 0; block < plan.blocks.size(); ++block) {
                const auto [dim, columns, first] = plan.blocks[block];
                const int64_t k = dim * chunk.k, lead = layout.lead[block], rows = int64_t{columns} * capacity;
                kernel.multiply(at > 0, rows, lead, k, panel + first * capacity * chunk.k, b, c);
                b += k * lead;
                c += rows * lead;
            }
        }
        kernel.synthesise(spectrum, tile, sums, bias, out.data);
    });
}

template <typename T>
void convolve_weight_grad(const Plan& plan, const char* op, const Image<const T>& x, const Image<const T>& grad_out,
                          const Filter<T>& grad_weight, int64_t stride, int64_t padding, int threads) {
    check(plan, op, x, grad_weight, grad_out, stride, padding);
    const int64_t size = grad_weight.size, taps = size * size, planes = plan.filter_planes;
    const int64_t pixels = grad_out.batch * grad_out.height * grad_out.width;
    if (pixels == 0) {
        std::memset(grad_weight.data, 0,
                    grad_weight.out_channels * grad_weight.in_channels * planes * taps * sizeof(T));
        return;
    }
    const Layout<T> layout(plan, x, grad_out.channels, size, pixels);
    const Kernels<T>& kernel = layout.kernel;

    // The spectrum of the gradient, one block of rows (k, tap, c) x columns (i, c_out) per chunk and irrep.
    std::vector<int64_t> chunk_start;
    int64_t spectrum_size = 0;
    for (const Chunk& chunk : layout.chunks) {
        chunk_start.push_back(spectrum_size);
        for (size_t b = 0; b < plan.blocks.size(); ++b)
            spectrum_size += round_up(plan.blocks[b].dim * chunk.k, kernel.rows) * layout.lead[b];
    }
    // Slices of pixels, each with its own sums, depend on the sizes alone: the result does not depend on the threads.
    const int capacity = layout.tile_capacity(round_up(pixels, kernel.rows));
    const int64_t tiles = divide_up(pixels, capacity);
    const int64_t fitting = std::max<int64_t>(1, kSliceBytes / (spectrum_size * static_cast<int64_t>(sizeof(T))));
    const int64_t slices = std::clamp<int64_t>(pixels / kSlicePixels, 1, std::min({kMaxSlices, fitting, tiles}));
    const Buffer<T> sums = make_buffer<T>(spectrum_size * slices);

    const int64_t chunks = static_cast<int64_t>(layout.chunks.size());
    const int work_threads = allowed_threads(threads, slices * chunks);
    const int64_t panel_size = round_up(layout.panel_size(capacity), 16);
    const int64_t work_size = round_up(panel_size + layout.spectrum_rows * capacity, 16);
    const Buffer<T> work = make_buffer<T>(work_size * work_threads);
    std::memset(work.get(), 0, work_size * work_threads * sizeof(T));

    const Gather<T> gather = layout.gather(x, size);
    const std::vector<int64_t> offsets = layout.spectrum_offset(capacity), out_planes = plane_offsets(plan, grad_out);
    const Spectrum<T> spectrum{&plan.out, grad_out.channels, offsets.data(), layout.spectrum_lead.data(),
                               out_planes.data()};
    parallel_for(work_threads, slices * chunks, [&](int64_t item, int thread) {
        const int64_t slice = item / chunks, at = item % chunks;
        const Chunk& chunk = layout.chunks[at];
        T* panel = work.get() + thread * work_size;
        T* gradient = panel + panel_size;
        T* start = sums.get() + slice * spectrum_size + chunk_start[at];
        const int64_t end = at + 1 < chunks ? chunk_start[at + 1] : spectrum_size;
        std::memset(start, 0, (end - chunk_start[at]) * sizeof(T));
        Tile tile;
        for (int64_t t = tiles * slice / slices; t < tiles * (slice + 1) / slices; ++t) {
            fill_tile(tile, t * capacity, capacity, x, grad_out, stride, padding);
            kernel.gather(gather, tile, chunk, panel);
            kernel.analyse(spectrum, tile, grad_out.data, gradient);
            T* to = start;
            const T* right = gradient;
            for (size_t b = 0; b < plan.blocks.size(); ++b) {
                const auto [dim, columns, first] = plan.blocks[b];
                const int64_t m = round_up(dim * chunk.k, kernel.rows), lead = layout.lead[b];
                const int64_t rows = int64_t{columns} * capacity;
                kernel.multiply_transposed(m, lead, rows, panel + first * capacity * chunk.k, dim * chunk.k, right,
                                           lead, to, lead);
                to += m * lead;
                right += rows * lead;
            }
        }
    });

    const int filter_threads = allowed_threads(threads, divide_up(spectrum_size * slices, 1 << 15));
    unpack_filter(layout, sums.get(), chunk_start, slices, spectrum_size, grad_weight, filter_threads);
}

template void convolve(const Plan&, const char*, const Image<const float>&, const Filter<const float>&, const float*,
                       const Image<float>&, int64_t, int64_t, int);
template void convolve(const Plan&, const char*, const Image<const double>&, const Filter<const double>&, const double*,
                       const Image<double>&, int64_t, int64_t, int);
template void convolve_weight_grad(const Plan&, const char*, const Image<const float>&, const Image<const float>&,
                                   const Filter<float>&, int64_t, int64_t, int);
template void convolve_weight_grad(const Plan&, const char*, const Image<const double>&, const Image<const double>&,
                                   const Filter<double>&, int64_t, int64_t, int);

}  // namespace gconv
