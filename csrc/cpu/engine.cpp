// The loops over tiles and chunks around the kernels of engine_kernel.cpp, where the tiling is explained.
#include "engine.h"

#include <pthread.h>

#include "vector.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

namespace gconv {
namespace {

// The panel of A per thread: less than a first-level TLB reaches (64 pages of 4 KiB).
constexpr int64_t kPanelBytes = 192 * 1024;
// Multiplications worth waking a thread for.
constexpr int64_t kWorkPerThread = 1 << 19;
// Filters are packed for so many columns at once: input channels times output channels.
constexpr int64_t kFilterColumns = 64;
// The weight gradient's partial sums: enough pixels per sum, about so many items of work, and bytes for all of them
// beyond the first two.
constexpr int64_t kSlicePixels = 512;
constexpr int64_t kMaxItems = 16;
constexpr int64_t kSliceBytes = 8 * 1024 * 1024;
constexpr int64_t kMaxBlocks = 16;                // of channels, so that the taps of all blocks fit 32 bits
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

#ifdef _OPENMP
// Set in a forked child from the moment the module is loaded: the parent's OpenMP may have run before gconv's first op.
std::atomic<bool> forked{false};
const bool fork_is_seen = pthread_atfork(nullptr, nullptr, [] { forked.store(true); }) == 0;
#endif

std::vector<const InstructionSet*> supported_sets() {
    std::vector<const InstructionSet*> sets;
#ifdef GCONV_HAS_BASELINE
    sets.push_back(&instruction_set_baseline);
#endif
#ifdef GCONV_HAS_NEON  // every aarch64 has it
    sets.push_back(&instruction_set_neon);
#endif
#ifdef GCONV_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
#ifdef GCONV_HAS_AVX512_AS_AVX2
        sets.push_back(&instruction_set_avx512_as_avx2);
#endif
        sets.push_back(&instruction_set_avx2);
    }
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

template <typename S>
const Kernels<S>& kernels(const InstructionSet& set);
template <>
const Kernels<float>& kernels(const InstructionSet& set) {
    return *set.kernels_float;
}
template <>
const Kernels<double>& kernels(const InstructionSet& set) {
    return *set.kernels_double;
}
template <>
const Kernels<bfloat16>& kernels(const InstructionSet& set) {
    return *set.kernels_bfloat16;
}
template <>
const Kernels<float16>& kernels(const InstructionSet& set) {
    return *set.kernels_float16;
}

std::atomic<bool> profile_on{false};
std::atomic<int64_t> stage_nanoseconds[kStages];

// Half precision in memory, for the filters: vector.h's conversions one at a time, without an instruction set.
template <typename S>
using Scalar = Vector<typename Compute<S>::type, sizeof(typename Compute<S>::type)>;

template <typename S>
typename Compute<S>::type load(const S& value) {
    return Scalar<S>::load(&value);
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

bool Timed::profiling() { return profile_on.load(std::memory_order_relaxed); }
void Timed::add(Stage stage, int64_t nanoseconds) { stage_nanoseconds[static_cast<int>(stage)] += nanoseconds; }

void profile(bool on) {
    if (on)
        for (auto& nanoseconds : stage_nanoseconds) nanoseconds = 0;
    profile_on.store(on);
}

std::vector<std::pair<std::string, double>> profile_seconds() {
    const char* const names[kStages] = {"pack filter", "gather", "multiply", "epilogue", "gradient", "unpack filter"};
    std::vector<std::pair<std::string, double>> seconds;
    for (int i = 0; i < kStages; ++i) seconds.emplace_back(names[i], 1e-9 * static_cast<double>(stage_nanoseconds[i]));
    return seconds;
}

double fma_peak(int threads) {
    const auto loop = kernels<float>(*current_set().load()).multiply_add_loop;
    const auto now = [] { return std::chrono::steady_clock::now(); };
    threads = allowed_threads(threads, threads);
    double best = 0;  // of several bursts: something else may run in between
    for (int burst = 0; burst < 10; ++burst) {
        const auto start = now();
        std::atomic<int64_t> flops{0};
        parallel_for(threads, threads, [&](int64_t, int) {
            while (now() - start < std::chrono::milliseconds(5)) flops += loop(20000);
        });
        best = std::max(best, static_cast<double>(flops) / std::chrono::duration<double>(now() - start).count());
    }
    return best;
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
        const size_t count = static_cast<size_t>(size * size) * elements.size();
        row.reserve(count);
        column.reserve(count);
        index.reserve(count);
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

std::vector<Chunk> make_chunks(int64_t taps, int64_t channels, int64_t longest) {
    std::vector<Chunk> chunks;
    const int64_t channel_blocks = divide_up(channels, longest);
    const int64_t channel_step = channel_blocks == 1 ? channels : round_up(divide_up(channels, channel_blocks), 16);
    const int64_t tap_blocks = divide_up(taps, std::max<int64_t>(1, longest / channel_step));
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

// How a filter is cut into chunks and products, for one set of kernels. The blocks of the input's channels are more taps
// of fewer channels: tap b * K * K + d of the chunks is tap d of block b.
template <typename S>
struct FilterLayout {
    using T = typename Compute<S>::type;
    const Plan& plan;
    const Kernels<S>& kernel;
    int64_t in_channels, in_blocks, out_channels, size, taps;
    std::vector<Chunk> chunks;
    std::vector<int64_t> k_before;  // [chunk] sum of k of the chunks before
    std::vector<int64_t> lead;      // [block] out_dim * C_out, rounded up to whole panels of B
    int64_t max_k = 0;
    int64_t most_out_dim = 1;
    int64_t product_columns = 0;  // sum of in_dim * lead: elements of B per row of one coefficient

    FilterLayout(const Plan& plan, const InstructionSet& set, int64_t in_channels, int64_t in_blocks,
                 int64_t out_channels, int64_t size, int64_t longest_chunk)
        : plan(plan),
          kernel(kernels<S>(set)),
          in_channels(in_channels),
          in_blocks(in_blocks),
          out_channels(out_channels),
          size(size),
          taps(size * size),
          chunks(make_chunks(in_blocks * taps, block_channels(), longest_chunk)) {
        int64_t k = 0;
        for (const Chunk& chunk : chunks) {
            k_before.push_back(k);
            k += chunk.k;
            max_k = std::max(max_k, chunk.k);
        }
        for (const Block& block : plan.blocks) {
            lead.push_back(round_up(block.out_dim * out_channels, kernel.narrow));
            product_columns += block.in_dim * lead.back();
            most_out_dim = std::max<int64_t>(most_out_dim, block.out_dim);
        }
    }

    int64_t block_channels() const { return in_channels / in_blocks; }
    int64_t packed_size() const { return taps * in_channels * product_columns; }
};

// The other sizes and tables of one call, shared by the forward product and the weight gradient.
template <typename S>
struct Layout : FilterLayout<S> {
    using T = typename Compute<S>::type;
    using FilterLayout<S>::plan, FilterLayout<S>::lead, FilterLayout<S>::out_channels, FilterLayout<S>::max_k;
    std::vector<int32_t> tap_row, tap_column;  // [block][tap][plane]
    std::vector<int64_t> tap_offset;
    std::vector<S> zeros;
    int64_t pixel_step;
    int64_t spectrum_rows = 0;             // sum of columns * lead: elements of a tile's spectrum per pixel
    int capacity;                          // pixels per tile
    std::vector<int64_t> spectrum_start;   // [block]
    std::vector<int64_t> spectrum_offset;  // Spectrum::offset, lead
    std::vector<int64_t> spectrum_lead;
    std::vector<int64_t> plane_offset;

    template <typename Y>
    Layout(const Plan& plan, const InstructionSet& set, const Image<const S>& x, const Image<Y>& out, int64_t size,
           int64_t stride, int64_t most_pixels, int64_t longest_chunk)
        : FilterLayout<S>(plan, set, x.channels, x.blocks, out.channels, size, longest_chunk),
          zeros(size * x.channels, S{}),
          pixel_step(stride * x.stride_column),
          spectrum_offset(plan.out.coefficients),
          spectrum_lead(plan.out.coefficients) {
        const Taps window(*plan.group, plan.elements, size);
        const size_t entries = window.row.size();
        tap_row.reserve(x.blocks * entries);
        tap_column.reserve(x.blocks * entries);
        tap_offset.reserve(x.blocks * entries);
        for (int64_t block = 0; block < x.blocks; ++block)
            for (size_t at = 0; at < entries; ++at) {
                tap_row.push_back(window.row[at]);
                tap_column.push_back(window.column[at]);
                tap_offset.push_back(window.row[at] * x.stride_row + window.column[at] * x.stride_column +
                                     plan.source[at % plan.in.planes] * x.stride_plane + block * x.stride_block);
            }
        const int64_t row_bytes = plan.in.coefficients * max_k * static_cast<int64_t>(sizeof(T));
        const int64_t wanted = std::min({int64_t{kMaxTile}, kPanelBytes / row_bytes, most_pixels});
        capacity = static_cast<int>(std::max<int64_t>(kRowUnit, wanted / kRowUnit * kRowUnit));
        for (size_t b = 0; b < plan.blocks.size(); ++b) {
            spectrum_start.push_back(spectrum_rows * capacity);
            spectrum_rows += plan.blocks[b].columns * lead[b];
        }
        for (size_t b = 0; b < plan.blocks.size(); ++b) {
            const Block& block = plan.blocks[b];
            for (int j = 0; j < block.columns; ++j)
                for (int i = 0; i < block.out_dim; ++i) {
                    const int coefficient = block.out_first + j * block.out_dim + i;
                    spectrum_offset[coefficient] = spectrum_start[b] + j * capacity * lead[b] + i * out_channels;
                    spectrum_lead[coefficient] = lead[b];
                }
        }
        for (const int plane : plan.target)
            for (int64_t block = 0; block < out.blocks; ++block)
                plane_offset.push_back(plane * out.stride_plane + block * out.stride_block);
    }

    bool untransformed() const { return plan.in.kind == Butterfly::identity && plan.out.kind == Butterfly::identity; }

    // Rows of A: an untransformed image's whole windows, which are adjacent K taps at a time; else channels.
    Steps forward_steps(const Chunk& chunk) const {
        if (plan.in.kind == Butterfly::identity) return {capacity * chunk.k, chunk.channels, chunk.k};
        return {capacity * chunk.k, capacity * chunk.channels, chunk.channels};
    }

    int64_t panel_size() const { return round_up(plan.in.coefficients * capacity * max_k + kRowUnit, 16); }
    int64_t work_size() const { return panel_size() + round_up(spectrum_rows * capacity, 16); }

    Gather<S> gather(const Image<const S>& x, int64_t stride) const {
        return {x.data,
                x.height,
                x.width,
                static_cast<int>(this->size),
                stride,
                pixel_step,
                tap_row.data(),
                tap_column.data(),
                tap_offset.data(),
                zeros.data(),
                &plan.in};
    }

    template <typename Y>
    Spectrum<S> spectrum(const Image<Y>& out) const {
        return {&plan.out,           out.block_channels(), out.blocks, spectrum_offset.data(), spectrum_lead.data(),
                plane_offset.data(), out.stride_column};
    }
};

template <typename X, typename Y>
void fill_tile(Tile& tile, int64_t first, int capacity, const Image<X>& x, const Image<Y>& out, int64_t stride,
               int64_t padding) {
    const int64_t area = out.height * out.width;
    tile.capacity = capacity;
    tile.count = static_cast<int>(std::min<int64_t>(capacity, out.batch * area - first));
    tile.runs = 0;
    for (int done = 0; done < tile.count;) {
        const int64_t n = (first + done) / area, row = (first + done) % area / out.width;
        const int64_t column = (first + done) % out.width;
        const int64_t y = stride * row - padding, z = stride * column - padding;
        const int count = static_cast<int>(std::min<int64_t>(tile.count - done, out.width - column));
        tile.run[tile.runs++] = {done,
                                 count,
                                 y,
                                 z,
                                 n * x.stride_batch + y * x.stride_row + z * x.stride_column,
                                 n * out.stride_batch + row * out.stride_row + column * out.stride_column};
        done += count;
    }
}

// Copies a row of a block's B to its panels of columns and pads with zeros.
template <typename S, typename T>
void pack_row(const Kernels<S>& kernel, const T* values, int64_t count, int64_t row, int64_t rows, int64_t lead,
              T* packed) {
    for (int64_t column = 0, width; column < lead; column += width) {
        width = panel_width(lead - column, kernel.lanes, kernel.narrow);
        const int64_t real = std::clamp<int64_t>(count - column, 0, width);
        T* to = packed + column * rows + row * width;
        if (real == width) {
            std::copy_n(values + column, width, to);
            continue;
        }
        for (int64_t j = 0; j < real; ++j) to[j] = values[column + j];
        for (int64_t j = real; j < width; ++j) to[j] = T{0};
    }
}

// Input channels whose filters are handled together, so that few output channels still fill a vector.
struct Channels {
    int64_t first, count;
};

// Calls body(chunk index, tap of the window, row of the tap and first channel within the chunk, those of the channels that
// are in the chunk) for every tap of every block.
template <typename S, typename Body>
void for_each_tap(const FilterLayout<S>& layout, const Channels& channels, const Body& body) {
    for (size_t at = 0; at < layout.chunks.size(); ++at) {
        const Chunk& chunk = layout.chunks[at];
        for (int tap = 0; tap < chunk.taps; ++tap) {
            const int64_t block = (chunk.first_tap + tap) / layout.taps;
            const int64_t start = block * layout.block_channels() + chunk.first_channel;
            const int64_t first = std::max(channels.first, start);
            const int64_t end = std::min(channels.first + channels.count, start + chunk.channels);
            if (first < end)
                body(at, static_cast<int>((chunk.first_tap + tap) % layout.taps), tap * chunk.channels + first - start,
                     Channels{first, end - first});
        }
    }
}

// W_d(s) of some input channels.
template <typename S>
struct FilterRows {
    using T = typename Compute<S>::type;
    const FilterLayout<S>& layout;
    const Taps& taps;  // of the plan's filter_elements
    Channels channels;
    T* values;  // [plane, tap][channel][C_out]

    int64_t rows() const { return layout.plan.filter_planes * layout.taps; }
    int64_t row_size() const { return channels.count * layout.out_channels; }

    T* row(size_t s, int tap, int64_t channel) const {
        const int64_t at = taps.index[tap * layout.plan.filter_source.size() + s];
        const int64_t turned = layout.plan.adjoint ? layout.taps - 1 - at : at;
        return values + (layout.plan.filter_source[s] * layout.taps + turned) * row_size() +
               (channel - channels.first) * layout.out_channels;
    }

    // Where the filter of an output channel and an input channel starts in memory.
    int64_t offset(int64_t o, int64_t channel) const {
        return (layout.plan.adjoint ? channel * layout.out_channels + o : o * layout.in_channels + channel) * rows();
    }
};

// Elements for the rows of `together` channels, and for out_dim rows of sums and one more.
template <typename S>
int64_t filter_work_size(const FilterLayout<S>& layout, int64_t together) {
    const int64_t rows = layout.plan.filter_planes * layout.taps + 2 * layout.most_out_dim;
    return round_up(rows * together * layout.out_channels, 16);
}

// B of every chunk and block: What[i][k](tap, c, c_out) = scale * sum_s rho(s)[i][k] W_tap(s)[c_out, c].
template <typename S>
void pack_filter(const FilterLayout<S>& layout, const Filter<const S>& weight, typename Compute<S>::type* packed,
                 int threads) {
    using T = typename Compute<S>::type;
    const Plan& plan = layout.plan;
    const int64_t c_out = layout.out_channels;
    const int64_t together = std::clamp<int64_t>(kFilterColumns / c_out, 1, layout.in_channels);
    const int64_t work_size = filter_work_size(layout, together);
    const size_t planes = plan.filter_source.size();
    const Taps taps(*plan.group, plan.filter_elements, layout.size);
    const Buffer<T> work = make_buffer<T>(work_size * threads);
    parallel_for(threads, divide_up(layout.in_channels, together), [&](int64_t item, int thread) {
        const Timed timed(Stage::pack_filter);
        const Channels channels{item * together, std::min(together, layout.in_channels - item * together)};
        const FilterRows<S> filter{layout, taps, channels, work.get() + thread * work_size};
        const int64_t row_size = filter.row_size();
        T* sums = filter.values + filter.rows() * row_size;  // [i][channel][c_out]
        T* row = sums + layout.most_out_dim * row_size;      // [i][c_out]
        for (int64_t c = 0; c < channels.count; ++c)
            for (int64_t o = 0; o < c_out; ++o) {
                const S* from = weight.data + filter.offset(o, channels.first + c);
                T* to = filter.values + c * c_out + o;
                for (int64_t i = 0; i < filter.rows(); ++i) to[i * row_size] = load(from[i]);
            }
        for_each_tap(layout, channels, [&](size_t at, int tap, int64_t within, const Channels& some) {
            const int64_t chunk_k = layout.chunks[at].k;
            T* to = packed + layout.k_before[at] * layout.product_columns;
            const int8_t* matrix = plan.filter_matrix.data();
            for (size_t b = 0; b < plan.blocks.size(); ++b) {
                const auto [in_dim, out_dim, columns, in_first, out_first] = plan.blocks[b];
                const T scale = static_cast<T>(plan.filter_scale[b]);
                for (int k = 0; k < in_dim; ++k) {
                    for (int i = 0; i < out_dim; ++i) {
                        const T* rows[kMaxOrder];
                        int8_t signs[kMaxOrder];
                        int terms = 0;
                        for (size_t s = 0; s < planes; ++s)
                            if (const int8_t sign = matrix[(i * in_dim + k) * planes + s]) {
                                rows[terms] = filter.row(s, tap, some.first);
                                signs[terms++] = sign;
                            }
                        layout.kernel.combine(terms, rows, signs, scale, some.count * c_out, sums + i * row_size);
                    }
                    for (int64_t c = 0; c < some.count; ++c) {
                        const T* joined = out_dim == 1 ? sums + c * c_out : row;
                        for (int i = 0; i < out_dim && joined == row; ++i)
                            std::copy_n(sums + i * row_size + c * c_out, c_out, row + i * c_out);
                        pack_row(layout.kernel, joined, out_dim * c_out, k * chunk_k + within + c, in_dim * chunk_k,
                                 layout.lead[b], to);
                    }
                }
                matrix += out_dim * in_dim * planes;
                to += in_dim * chunk_k * layout.lead[b];
            }
        });
    });
}

// The sums of the weight gradient: rows (k, tap, c), each k's rounded up to whole row units, x columns (i, c_out) per
// chunk and block.
template <typename S>
struct GradientLayout {
    std::vector<int64_t> chunk_start;
    int64_t size = 0;

    explicit GradientLayout(const FilterLayout<S>& layout) {
        for (const Chunk& chunk : layout.chunks) {
            chunk_start.push_back(size);
            for (size_t b = 0; b < layout.plan.blocks.size(); ++b)
                size += layout.plan.blocks[b].in_dim * round_up(chunk.k, kRowUnit) * layout.lead[b];
        }
        chunk_start.push_back(size);
    }
};

// The transpose of pack_filter, of the sums of all slices, added in their order.
template <typename S>
void unpack_filter(const FilterLayout<S>& layout, const GradientLayout<S>& gradient,
                   const typename Compute<S>::type* sums, int64_t slices, const Filter<S>& weight, int threads) {
    using T = typename Compute<S>::type;
    const Plan& plan = layout.plan;
    const int64_t c_out = layout.out_channels, work_size = filter_work_size(layout, 1);
    const size_t planes = plan.filter_source.size();
    const Taps taps(*plan.group, plan.filter_elements, layout.size);
    const Buffer<T> work = make_buffer<T>(work_size * threads);
    parallel_for(threads, layout.in_channels, [&](int64_t channel, int thread) {
        const Timed timed(Stage::unpack_filter);
        const FilterRows<S> filter{layout, taps, {channel, 1}, work.get() + thread * work_size};
        T* row = filter.values + filter.rows() * c_out;  // [i][c_out]
        std::fill_n(filter.values, filter.rows() * c_out, T{0});
        for_each_tap(layout, filter.channels, [&](size_t at, int tap, int64_t within, const Channels&) {
            const int64_t chunk_rows = round_up(layout.chunks[at].k, kRowUnit);
            const T* from = sums + gradient.chunk_start[at];
            const int8_t* matrix = plan.filter_matrix.data();
            for (size_t b = 0; b < plan.blocks.size(); ++b) {
                const auto [in_dim, out_dim, columns, in_first, out_first] = plan.blocks[b];
                const T scale = static_cast<T>(plan.filter_scale[b]);
                for (int k = 0; k < in_dim; ++k) {
                    std::fill_n(row, out_dim * c_out, T{0});
                    for (int64_t slice = 0; slice < slices; ++slice)
                        layout.kernel.add_signed(
                            1, from + slice * gradient.size + (k * chunk_rows + within) * layout.lead[b],
                            out_dim * c_out, row);
                    for (int64_t o = 0; o < out_dim * c_out; ++o) row[o] *= scale;
                    for (int i = 0; i < out_dim; ++i)
                        for (size_t s = 0; s < planes; ++s)
                            layout.kernel.add_signed(matrix[(i * in_dim + k) * planes + s], row + i * c_out, c_out,
                                                     filter.row(s, tap, channel));
                }
                matrix += out_dim * in_dim * planes;
                from += in_dim * chunk_rows * layout.lead[b];
            }
        });
        for (int64_t o = 0; o < c_out; ++o) {
            S* to = weight.data + filter.offset(o, channel);
            for (int64_t i = 0; i < filter.rows(); ++i) Scalar<S>::store(to + i, filter.values[i * c_out + o]);
        }
    });
}

std::string text(int64_t value) { return std::to_string(value); }

void check_filter(const Plan& plan, int64_t planes, int64_t out_channels, int64_t in_channels, int64_t size) {
    require(planes == plan.filter_planes, plan.op,
            "weight must have " + text(plan.filter_planes) + " planes, got " + text(planes));
    require(size >= 1 && size <= 1024, plan.op, "K must be in 1..1024, got " + text(size));
    require(out_channels >= 1 && in_channels >= 1, plan.op,
            "weight must have channels, got " + text(out_channels) + " and " + text(in_channels));
}

void check_blocks(const Plan& plan, int64_t channels, int64_t blocks, const char* name) {
    require(blocks >= 1 && blocks <= kMaxBlocks && channels % blocks == 0, plan.op,
            std::string(name) + " must have channels in 1.." + text(kMaxBlocks) + " equal blocks, got " +
                text(channels) + " in " + text(blocks));
}

template <typename X, typename Y>
void check(const Plan& plan, const Image<X>& x, int64_t out_channels, int64_t in_channels, int64_t size,
           const Image<Y>& out, int64_t stride, int64_t padding) {
    const char* op = plan.op;
    const int planes_in = *std::max_element(plan.source.begin(), plan.source.end()) + 1;
    require(x.planes == planes_in, op, "x must have " + text(planes_in) + " planes, got " + text(x.planes));
    require(out.planes == plan.out.planes, op,
            "out must have " + text(plan.out.planes) + " planes, got " + text(out.planes));
    require(in_channels == x.channels, op,
            "weight must have " + text(x.channels) + " input channels, got " + text(in_channels));
    require(out_channels == out.channels, op,
            "weight must have " + text(out.channels) + " output channels, got " + text(out_channels));
    check_blocks(plan, x.channels, x.blocks, "x");
    check_blocks(plan, out.channels, out.blocks, "out");
    require(stride >= 1 && stride < kMaxLength, op, "stride must be positive, got " + text(stride));
    require(padding >= 0 && padding < kMaxLength / 4, op, "padding must not be negative, got " + text(padding));
    require(x.height >= 1 && x.width >= 1 && x.height < kMaxLength / 2 && x.width < kMaxLength / 2, op,
            "H and W must be in 1..2^29, got " + text(x.height) + " and " + text(x.width));
    require(x.height + 2 * padding >= size && x.width + 2 * padding >= size, op,
            "the padded image must be at least K = " + text(size) + " long on both sides");
    const int64_t height = (x.height + 2 * padding - size) / stride + 1;
    const int64_t width = (x.width + 2 * padding - size) / stride + 1;
    require(out.batch == x.batch && x.batch >= 0, op,
            "out must have batch " + text(x.batch) + ", got " + text(out.batch));
    require(
        out.height == height && out.width == width, op,
        "out must be " + text(height) + " x " + text(width) + ", got " + text(out.height) + " x " + text(out.width));
}

template <typename S>
void convolve_packed(const PackedFilter& filter, const Image<const S>& x, const S* bias, const Image<S>& out,
                     int64_t stride, int64_t padding, int threads) {
    using T = typename Compute<S>::type;
    const Plan& plan = *filter.plan;
    const int64_t pixels = out.batch * out.height * out.width;
    if (pixels == 0) return;
    const Layout<S> layout(plan, *filter.set, x, out, filter.size, stride,
                           round_up(divide_up(pixels, std::max(threads, 1)), kRowUnit), kMaxChunk);
    const Kernels<S>& kernel = layout.kernel;
    const int capacity = layout.capacity;
    const int64_t tiles = divide_up(pixels, capacity), work_size = layout.work_size();
    threads = allowed_threads(threads, std::min(tiles, pixels * layout.packed_size() / kWorkPerThread));
    const Buffer<T> work = make_buffer<T>(work_size * threads);
    const Gather<S> gather = layout.gather(x, stride);
    const Spectrum<S> spectrum = layout.spectrum(out);
    std::vector<T> shift(spectrum.channels, T{0});
    for (int64_t o = 0; bias && o < spectrum.channels; ++o) shift[o] = load(bias[o]);
    // Nothing to transform or to add: the products are the output.
    const bool straight = layout.untransformed() && layout.chunks.size() == 1 && spectrum.channels % kernel.narrow == 0;
    const T* packed = static_cast<const T*>(filter.values.get());
    parallel_for(threads, tiles, [&](int64_t item, int thread) {
        T* panel = work.get() + thread * work_size;
        T* sums = panel + layout.panel_size();
        Tile tile;
        fill_tile(tile, item * capacity, capacity, x, out, stride, padding);
        for (size_t at = 0; at < layout.chunks.size(); ++at) {
            const Chunk& chunk = layout.chunks[at];
            const Steps steps = layout.forward_steps(chunk);
            {
                const Timed timed(Stage::gather);
                kernel.gather(gather, tile, chunk, steps, panel);
            }
            const Timed timed(Stage::multiply);
            if (straight)
                return kernel.multiply_to_image(spectrum, tile, chunk.k, panel, packed, shift.data(), out.data);
            const T* b = packed + layout.k_before[at] * layout.product_columns;
            T* c = sums;
            for (size_t block = 0; block < plan.blocks.size(); ++block) {
                const auto [in_dim, out_dim, columns, in_first, out_first] = plan.blocks[block];
                const int64_t lead = layout.lead[block];
                for (int j = 0; j < columns; ++j) {
                    kernel.multiply(at > 0, capacity, lead, in_dim * chunk.k / steps.pixel, steps.pixel,
                                    panel + (in_first + j * in_dim) * steps.coefficient, b, c);
                    c += lead * capacity;
                }
                b += in_dim * chunk.k * lead;
            }
        }
        const Timed timed(Stage::epilogue);
        for (int64_t block = 0; block < out.blocks; ++block)
            kernel.synthesise(spectrum, tile, sums + block * spectrum.channels, bias ? shift.data() : nullptr,
                              out.data + block * out.stride_block);
    });
}

}  // namespace

template <typename S>
PackedFilter pack(const Plan& plan, const Filter<const S>& weight, int64_t in_blocks, int threads) {
    using T = typename Compute<S>::type;
    const int64_t out_channels = plan.adjoint ? weight.in_channels : weight.out_channels;
    const int64_t in_channels = plan.adjoint ? weight.out_channels : weight.in_channels;
    check_filter(plan, weight.planes, out_channels, in_channels, weight.size);
    check_blocks(plan, in_channels, in_blocks, "weight's input");
    const InstructionSet* set = current_set().load();
    const FilterLayout<S> layout(plan, *set, in_channels, in_blocks, out_channels, weight.size, kMaxChunk);
    Buffer<T> packed = make_buffer<T>(layout.packed_size());
    pack_filter(layout, weight, packed.get(), allowed_threads(threads, divide_up(layout.packed_size(), 1 << 15)));
    return {&plan,
            set,
            out_channels,
            in_channels,
            in_blocks,
            weight.size,
            sizeof(T) == sizeof(double),
            std::shared_ptr<const void>(packed.release(), [](const void* p) { std::free(const_cast<void*>(p)); }),
            layout.packed_size() * static_cast<int64_t>(sizeof(T))};
}

template <typename S>
void convolve(const Plan& plan, const Image<const S>& x, const Filter<const S>& weight, const S* bias,
              const Image<S>& out, int64_t stride, int64_t padding, int threads) {
    check_filter(plan, weight.planes, weight.out_channels, weight.in_channels, weight.size);
    check(plan, x, plan.adjoint ? weight.in_channels : weight.out_channels,
          plan.adjoint ? weight.out_channels : weight.in_channels, weight.size, out, stride, padding);
    if (out.batch * out.height * out.width == 0) return;
    convolve_packed(pack(plan, weight, x.blocks, threads), x, bias, out, stride, padding, threads);
}

template <typename S>
void conv2d_packed(const PackedFilter& filter, const Image<const S>& x, const S* bias, const Image<S>& out,
                   int64_t stride, int64_t padding, int threads) {
    require(filter.wide == (sizeof(S) == sizeof(double)), filter.plan->op,
            "the packed filter must have the precision of x");
    require(filter.in_blocks == x.blocks, filter.plan->op,
            "the packed filter must have x's blocks, got " + text(filter.in_blocks) + " and " + text(x.blocks));
    check(*filter.plan, x, filter.out_channels, filter.in_channels, filter.size, out, stride, padding);
    convolve_packed(filter, x, bias, out, stride, padding, threads);
}

template <typename S>
void convolve_weight_grad(const Plan& plan, const Image<const S>& x, const Image<const S>& grad_out,
                          const Filter<S>& grad_weight, int64_t stride, int64_t padding, int threads) {
    using T = typename Compute<S>::type;
    check_filter(plan, grad_weight.planes, grad_weight.out_channels, grad_weight.in_channels, grad_weight.size);
    check(plan, x, grad_weight.out_channels, grad_weight.in_channels, grad_weight.size, grad_out, stride, padding);
    const int64_t pixels = grad_out.batch * grad_out.height * grad_out.width;
    if (pixels == 0) {
        const int64_t size = grad_weight.size * grad_weight.size * plan.filter_planes;
        std::memset(grad_weight.data, 0, grad_weight.out_channels * grad_weight.in_channels * size * sizeof(S));
        return;
    }
    const Layout<S> layout(plan, *current_set().load(), x, grad_out, grad_weight.size, stride,
                           round_up(pixels, kRowUnit), kMaxGradientChunk);
    const Kernels<S>& kernel = layout.kernel;
    const GradientLayout<S> gradient(layout);
    // Slices of pixels, each with its own sums, and parts of the chunks: they depend on the sizes alone, and so the
    // result does not depend on the threads. Every part transforms the gradient anew.
    const int capacity = layout.capacity;
    const int64_t tiles = divide_up(pixels, capacity), chunks = static_cast<int64_t>(layout.chunks.size());
    const int64_t fitting = std::max<int64_t>(2, kSliceBytes / (gradient.size * static_cast<int64_t>(sizeof(T))));
    const int64_t slices = std::clamp<int64_t>(pixels / kSlicePixels, 1, std::min({kMaxItems, fitting, tiles}));
    const int64_t parts = std::min(chunks, divide_up(kMaxItems, slices));
    const Buffer<T> sums = make_buffer<T>(gradient.size * slices);
    const int work_threads =
        allowed_threads(threads, std::min(slices * parts, pixels * layout.packed_size() / kWorkPerThread));
    const int64_t work_size = layout.work_size();
    const Buffer<T> work = make_buffer<T>(work_size * work_threads);
    std::memset(work.get(), 0, work_size * work_threads * sizeof(T));  // the columns past C_out are read

    const Gather<S> gather = layout.gather(x, stride);
    const Spectrum<S> spectrum = layout.spectrum(grad_out);
    const bool straight = layout.untransformed() && spectrum.channels % kernel.lanes == 0;
    parallel_for(work_threads, slices * parts, [&](int64_t item, int thread) {
        const int64_t slice = item / parts, part = item % parts;
        const int64_t first_chunk = chunks * part / parts, end_chunk = chunks * (part + 1) / parts;
        T* panel = work.get() + thread * work_size;
        T* analysed = panel + layout.panel_size();
        T* start = sums.get() + slice * gradient.size;
        std::fill(start + gradient.chunk_start[first_chunk], start + gradient.chunk_start[end_chunk], T{0});
        Tile tile;
        for (int64_t t = tiles * slice / slices; t < tiles * (slice + 1) / slices; ++t) {
            fill_tile(tile, t * capacity, capacity, x, grad_out, stride, padding);
            if (!straight) {
                const Timed timed(Stage::gradient);
                for (int64_t block = 0; block < grad_out.blocks; ++block)
                    kernel.analyse(spectrum, tile, grad_out.data + block * grad_out.stride_block,
                                   analysed + block * spectrum.channels);
            }
            for (int64_t at = first_chunk; at < end_chunk; ++at) {
                const Chunk& chunk = layout.chunks[at];
                const Steps steps = {capacity * chunk.k, chunk.channels, chunk.k};
                {
                    const Timed timed(Stage::gather);
                    kernel.gather(gather, tile, chunk, steps, panel);
                }
                const Timed timed(Stage::multiply);
                const int64_t rows = round_up(chunk.k, kRowUnit);
                T* to = start + gradient.chunk_start[at];
                if (straight) {
                    kernel.multiply_transposed_by_image(spectrum, tile, rows, panel, chunk.k, grad_out.data, to);
                    continue;
                }
                for (size_t b = 0; b < plan.blocks.size(); ++b) {
                    const auto [in_dim, out_dim, columns, in_first, out_first] = plan.blocks[b];
                    const int64_t lead = layout.lead[b];
                    for (int k = 0; k < in_dim; ++k) {
                        for (int j = 0; j < columns; ++j)
                            kernel.multiply_transposed(
                                rows, lead, capacity, panel + (in_first + j * in_dim + k) * steps.coefficient, chunk.k,
                                analysed + layout.spectrum_start[b] + j * capacity * lead, lead, to, lead);
                        to += rows * lead;
                    }
                }
            }
        }
    });

    const int filter_threads = allowed_threads(threads, divide_up(gradient.size * slices, 1 << 15));
    unpack_filter(layout, gradient, sums.get(), slices, grad_weight, filter_threads);
}

#define GCONV_INSTANTIATE(S)                                                                                        \
    template PackedFilter pack(const Plan&, const Filter<const S>&, int64_t, int);                                  \
    template void convolve(const Plan&, const Image<const S>&, const Filter<const S>&, const S*, const Image<S>&,   \
                           int64_t, int64_t, int);                                                                  \
    template void conv2d_packed(const PackedFilter&, const Image<const S>&, const S*, const Image<S>&, int64_t,     \
                                int64_t, int);                                                                      \
    template void convolve_weight_grad(const Plan&, const Image<const S>&, const Image<const S>&, const Filter<S>&, \
                                       int64_t, int64_t, int);
GCONV_INSTANTIATE(float)
GCONV_INSTANTIATE(double)
GCONV_INSTANTIATE(bfloat16)
GCONV_INSTANTIATE(float16)

}  // namespace gconv
