// The kernels of one instruction set: compiled once per set; GCONV_ISA names it, the compiler's flags choose it.
//
// Mapping      a tile of pixels per thread (engine.cpp). For each chunk of taps x channels the tile's planes are
//              gathered, transformed and written to an A panel, which the products read at once from L1 / L2. A panel
//              is [coefficient][tap][pixel][channel]: a row of pixels is one stream, whatever the number of channels.
//              Where nothing is transformed (lifting, C1) it is [pixel][tap][channel], filled K taps at a time, and the
//              products go straight to the output.
// Tile sizes   micro-kernel of 6 x 2 vectors with 16 vector registers (12 accumulators, 2 of B, 1 broadcast), 12 x 2
//              with 32. B comes in panels of 2 vectors of columns; a last panel of 1 vector, or half of one, 12 rows
//              high, keeps narrow layers from computing padding. Chunk and tile lengths: kernels.h, engine.cpp.
// Accumulator  float, or double for double: products over a chunk in registers, chunks added in memory. Half precision
//              is widened in the gather and rounded once, in the epilogue.
// Work         per pixel 2 K^2 C_in C_out m FLOPs in products, m = 2, 5, 4, 12 for C2 (D1), C4, D2, D4 where a bank has
//              4, 16, 16, 64. A tile reads its window of x once per tap, B once, and writes each output once.
// Determinism  the order of every sum depends on the sizes only, not on the threads or where a pixel falls in a tile.
//
// Only plain data and file-local functions here: an inline function of the standard library compiled with these flags
// could be the copy that the linker keeps for everyone.
#include <cstdint>
#include <cstring>

#include "butterfly.h"
#include "kernels.h"
#include "vector.h"

namespace gconv {
namespace {

#if defined(__AVX512F__) || GCONV_VECTOR_BYTES == 64
constexpr int kRows = 12;
constexpr int kNarrowBytes = 32;  // AVX-512 machines run half a vector at no loss or at half the loss
#elif defined(__aarch64__)
constexpr int kRows = 12;
constexpr int kNarrowBytes = kVectorBytes;
#else
constexpr int kRows = 6;
constexpr int kNarrowBytes = kVectorBytes;
#endif

// Calls body<bytes>(first) over [0, count) in vectors, as wide as fit. The last one may overlap the one before: bodies
// write the same values twice.
template <typename T, int bytes, typename Body>
GCONV_INLINE void sweep(int64_t count, const Body body) {
    constexpr int64_t lanes = bytes / sizeof(T);
    if constexpr (lanes > 1) {
        if (count < lanes) return sweep<T, (bytes > 16 ? bytes / 2 : static_cast<int>(sizeof(T))), Body>(count, body);
    }
    int64_t at = 0;
    for (; at + lanes <= count; at += lanes) body.template operator()<bytes>(at);
    if (lanes > 1 && at < count) body.template operator()<bytes>(count - lanes);
}

// Reads planes x[i] and writes coefficients y[c], over adjacent elements. Copies the pointers, which a store could
// otherwise change for all that the compiler knows.
template <typename S, Butterfly kind>
struct Analysis {
    using T = typename Compute<S>::type;
    const S* x[kPlanes<kind>];
    T* y[kCoefficients<kind>];

    Analysis(const S* const* from, T* const* to) {
        for (int i = 0; i < kPlanes<kind>; ++i) x[i] = from[i];
        for (int c = 0; c < kCoefficients<kind>; ++c) y[c] = to[c];
    }

    template <int bytes>
    GCONV_INLINE void operator()(int64_t at) const {
        using V = Vector<T, bytes>;
        typename V::type in[kPlanes<kind>], out[kCoefficients<kind>];
        for (int i = 0; i < kPlanes<kind>; ++i) in[i] = V::load(x[i] + at);
        forward<kind>(in, out);
        for (int c = 0; c < kCoefficients<kind>; ++c) V::store(y[c] + at, out[c]);
    }
};

// Reads coefficients y[c] and writes planes x[i], plus the bias.
template <typename S, Butterfly kind>
struct Synthesis {
    using T = typename Compute<S>::type;
    const T* y[kCoefficients<kind>];
    S* x[kPlanes<kind>];
    const T* bias;

    Synthesis(const T* const* from, S* const* to, const T* bias) : bias(bias) {
        for (int c = 0; c < kCoefficients<kind>; ++c) y[c] = from[c];
        for (int i = 0; i < kPlanes<kind>; ++i) x[i] = to[i];
    }

    template <int bytes>
    GCONV_INLINE void operator()(int64_t at) const {
        using V = Vector<T, bytes>;
        typename V::type shift{}, in[kCoefficients<kind>], out[kPlanes<kind>];
        if (bias) shift = V::load(bias + at);
        for (int c = 0; c < kCoefficients<kind>; ++c) in[c] = V::load(y[c] + at);
        transposed<kind>(in, out);
        for (int i = 0; i < kPlanes<kind>; ++i) V::store(x[i] + at, out[i] + shift);
    }
};

template <template <Butterfly> class Body, typename... Arguments>
inline void dispatch(Butterfly kind, const Arguments&... arguments) {
    switch (kind) {
        case Butterfly::identity:
            return Body<Butterfly::identity>::run(arguments...);
        case Butterfly::sum2:
            return Body<Butterfly::sum2>::run(arguments...);
        case Butterfly::sum4:
            return Body<Butterfly::sum4>::run(arguments...);
        case Butterfly::sum8:
            return Body<Butterfly::sum8>::run(arguments...);
        case Butterfly::c2:
            return Body<Butterfly::c2>::run(arguments...);
        case Butterfly::c4_in:
            return Body<Butterfly::c4_in>::run(arguments...);
        case Butterfly::c4_out:
            return Body<Butterfly::c4_out>::run(arguments...);
        case Butterfly::d2:
            return Body<Butterfly::d2>::run(arguments...);
        case Butterfly::d4:
            return Body<Butterfly::d4>::run(arguments...);
    }
}

// Whether the taps of one row of a window are adjacent, in memory and in the panel: one image, unrotated.
template <Butterfly kind, typename S>
bool whole_rows(const Gather<S>& job, const Chunk& chunk, const Steps& to) {
    const int size = job.filter_size;
    return kind == Butterfly::identity && size > 1 && to.tap == chunk.channels &&
           job.tap_offset[1] - job.tap_offset[0] == chunk.channels && chunk.first_tap % size == 0 &&
           chunk.taps % size == 0;
}

template <typename S>
struct Gathering {
    using T = typename Compute<S>::type;

    template <Butterfly kind>
    struct Of {
        static constexpr int planes = kPlanes<kind>, coefficients = kCoefficients<kind>;

        // All taps of a pixel at the border, whose window lies partly outside the image and reads zeros there.
        static void border(const Gather<S>& job, const Run& run, const Chunk& chunk, int64_t pixel, const Steps& to,
                           T* panel) {
            const int64_t column = run.column + pixel * job.stride;
            const S* data = job.data + (run.input_offset + pixel * job.pixel_step + chunk.first_channel);
            const S* in[planes];
            T* out[coefficients];
            for (int c = 0; c < coefficients; ++c) out[c] = panel + c * to.coefficient + pixel * to.pixel;
            for (int t = 0; t < chunk.taps; ++t) {
                for (int i = 0; i < planes; ++i) {
                    const int at = (chunk.first_tap + t) * planes + i;
                    const uint64_t y = run.row + job.tap_row[at], x = column + job.tap_column[at];
                    const bool inside =
                        (y < static_cast<uint64_t>(job.height)) & (x < static_cast<uint64_t>(job.width));
                    in[i] = inside ? data + job.tap_offset[at] : job.zeros;
                }
                sweep<T, kVectorBytes>(chunk.channels, Analysis<S, kind>(in, out));
                for (int c = 0; c < coefficients; ++c) out[c] += to.tap;
            }
        }

        // All taps of pixels [first, first + count) whose windows have all columns inside the image; a plane's row may
        // lie outside.
        static void interior(const Gather<S>& job, const Run& run, const Chunk& chunk, int64_t first, int64_t count,
                             const Steps& to, T* panel) {
            const bool rows_inside = run.row >= 0 && run.row + job.filter_size <= job.height;
            const bool adjacent = job.pixel_step == chunk.channels && to.pixel == chunk.channels;
            const S* data = job.data + (run.input_offset + first * job.pixel_step + chunk.first_channel);
            const int taps = whole_rows<kind>(job, chunk, to) ? job.filter_size : 1;  // at once
            const int64_t channels = taps * chunk.channels;
            for (int t = 0; t < chunk.taps; t += taps) {
                const int tap = (chunk.first_tap + t) * planes;
                const S* in[planes];
                T* out[coefficients];
                for (int i = 0; i < planes; ++i) in[i] = data + job.tap_offset[tap + i];
                for (int c = 0; c < coefficients; ++c)
                    out[c] = panel + c * to.coefficient + t * to.tap + first * to.pixel;
                int64_t step[planes];
                bool inside = true;
                for (int i = 0; i < planes; ++i) step[i] = job.pixel_step;
                for (int i = 0; i < planes && !rows_inside; ++i) {
                    const int64_t row = run.row + job.tap_row[tap + i];
                    if (row >= 0 && row < job.height) continue;
                    in[i] = job.zeros;
                    step[i] = 0;
                    inside = false;
                }
                const int64_t pieces = adjacent && inside ? 1 : count;
                const int64_t length = adjacent && inside ? count * channels : channels;
                for (int64_t piece = 0; piece < pieces; ++piece) {
                    sweep<T, kVectorBytes>(length, Analysis<S, kind>(in, out));
                    for (int i = 0; i < planes; ++i) in[i] += step[i];
                    for (int c = 0; c < coefficients; ++c) out[c] += to.pixel;
                }
            }
        }

        static void run(const Gather<S>& job, const Tile& tile, const Chunk& chunk, const Steps& to, T* panel) {
            for (int r = 0; r < tile.runs; ++r) {
                const Run& run = tile.run[r];
                const int64_t last = job.width - job.filter_size - run.column;  // columns to the last interior window
                int64_t begin = run.column < 0 ? (-run.column + job.stride - 1) / job.stride : 0;
                int64_t end = last < 0 ? 0 : last / job.stride + 1;
                if (end > run.count) end = run.count;
                if (begin > end) begin = end = 0;
                T* start = panel + run.first * to.pixel;
                for (int64_t pixel = 0; pixel < begin; ++pixel) border(job, run, chunk, pixel, to, start);
                if (begin < end) interior(job, run, chunk, begin, end - begin, to, start);
                for (int64_t pixel = end; pixel < run.count; ++pixel) border(job, run, chunk, pixel, to, start);
            }
            for (int pixel = tile.count; pixel < tile.capacity; ++pixel)
                for (int c = 0; c < coefficients; ++c)
                    for (int t = 0; t < chunk.taps; ++t)
                        std::memset(panel + c * to.coefficient + t * to.tap + pixel * to.pixel, 0,
                                    chunk.channels * sizeof(T));
        }
    };
};

template <typename S>
void gather(const Gather<S>& job, const Tile& tile, const Chunk& chunk, const Steps& to,
            typename Compute<S>::type* panel) {
    dispatch<Gathering<S>::template Of>(job.transform->kind, job, tile, chunk, to, panel);
}

// Calls body with pointers to every pixel of a tile: of its planes in the image and its coefficients in the buffer.
// Planes that are not mixed come one by one, so that both sides are read and written in order.
template <Butterfly kind, typename S, typename P, typename T, typename Body>
GCONV_INLINE void each_pixel(const Spectrum<S>& job, const Tile& tile, P* image, T* buffer, const Body& body) {
    constexpr int planes = kPlanes<kind>, coefficients = kCoefficients<kind>;
    for (int r = 0; r < tile.runs; ++r) {
        const Run& run = tile.run[r];
        for (int first = 0; first < job.transform->planes; first += planes) {
            P* x[planes];
            T* y[coefficients];
            for (int i = 0; i < planes; ++i)
                x[i] = image + (run.output_offset + job.plane_offset[(first + i) * job.blocks]);
            for (int c = 0; c < coefficients; ++c)
                y[c] = buffer + job.offset[first + c] + run.first * job.lead[first + c];
            for (int pixel = 0; pixel < run.count; ++pixel) {
                body(x, y);
                for (int i = 0; i < planes; ++i) x[i] += job.pixel_step;
                for (int c = 0; c < coefficients; ++c) y[c] += job.lead[first + c];
            }
        }
    }
}

template <typename S>
struct Synthesising {
    using T = typename Compute<S>::type;

    template <Butterfly kind>
    struct Of {
        static void run(const Spectrum<S>& job, const Tile& tile, const T* buffer, const T* bias, S* image) {
            each_pixel<kind>(job, tile, image, buffer, [&](S* const* x, const T* const* y) {
                sweep<T, kVectorBytes>(job.channels, Synthesis<S, kind>(y, x, bias));
            });
        }
    };
};

template <typename S>
void synthesise(const Spectrum<S>& job, const Tile& tile, const typename Compute<S>::type* buffer,
                const typename Compute<S>::type* bias, S* image) {
    dispatch<Synthesising<S>::template Of>(job.transform->kind, job, tile, buffer, bias, image);
}

template <typename S>
struct Analysing {
    using T = typename Compute<S>::type;

    template <Butterfly kind>
    struct Of {
        static void run(const Spectrum<S>& job, const Tile& tile, const S* image, T* buffer) {
            each_pixel<kind>(job, tile, image, buffer, [&](const S* const* x, T* const* y) {
                sweep<T, kVectorBytes>(job.channels, Analysis<S, kind>(x, y));
            });
            for (int pixel = tile.count; pixel < tile.capacity; ++pixel)
                for (int c = 0; c < job.transform->coefficients; ++c)
                    std::memset(buffer + job.offset[c] + pixel * job.lead[c], 0, job.channels * sizeof(T));
        }
    };
};

template <typename S>
void analyse(const Spectrum<S>& job, const Tile& tile, const S* image, typename Compute<S>::type* buffer) {
    dispatch<Analysing<S>::template Of>(job.transform->kind, job, tile, image, buffer);
}

// sum[i][j] += a[i * row_step + k * step] * vector j of B's row k, for k in [0, length); row k of B starts at
// b[j] + k * lead_b.
template <int bytes, int rows, int width, typename T, typename S>
GCONV_INLINE void add_products(typename Vector<T, bytes>::type (&sum)[rows][width], int64_t length, const T* a,
                               int64_t row_step, int64_t step, const S* const (&b)[width], int64_t lead_b) {
    using V = Vector<T, bytes>;
    const S* from[width];
    for (int j = 0; j < width; ++j) from[j] = b[j];
    for (int64_t k = length; k > 0; --k) {
        typename V::type right[width];
        for (int j = 0; j < width; ++j) right[j] = V::load(from[j]);
        for (int i = 0; i < rows; ++i) {
            const T left = a[i * row_step];
            for (int j = 0; j < width; ++j) sum[i][j] += left * right[j];
        }
        a += step;
        for (int j = 0; j < width; ++j) from[j] += lead_b;
    }
}

// Gives out(row, vector, sum over k of a[row * row_step + k * step] b[k * lead_b + column]) for rows x width vectors; k
// runs through `segments` pieces of `length`, segment_step apart in a.
template <typename T, int bytes, int rows, int width, typename Out>
GCONV_INLINE void micro_kernel(int64_t segments, int64_t segment_step, int64_t length, const T* a, int64_t row_step,
                               int64_t step, const T* b, int64_t lead_b, const Out& out) {
    typename Vector<T, bytes>::type sum[rows][width] = {};
    for (; segments > 0; --segments) {
        const T* from[width];
        for (int j = 0; j < width; ++j) from[j] = b + j * static_cast<int>(bytes / sizeof(T));
        add_products<bytes, rows, width>(sum, length, a, row_step, step, from, lead_b);
        a += segment_step;
        b += length * lead_b;
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < width; ++j) out.template operator()<bytes>(i, j, sum[i][j]);
}

// Sums to rows `lead` apart in a buffer.
template <typename T, bool accumulate>
struct ToBuffer {
    T* c;
    int64_t lead;

    template <int bytes>
    GCONV_INLINE void operator()(int row, int vector, typename Vector<T, bytes>::type sum) const {
        using V = Vector<T, bytes>;
        T* at = c + row * lead + vector * static_cast<int>(bytes / sizeof(T));
        V::store(at, accumulate ? V::load(at) + sum : sum);
    }
};

// Calls body<bytes, rows, width>(column, width in elements) for every panel of n columns.
template <typename T, typename Body>
GCONV_INLINE void each_panel(int64_t n, const Body& body) {
    constexpr int64_t lanes = kVectorBytes / sizeof(T), narrow = kNarrowBytes / sizeof(T);
    for (int64_t column = 0, width; column < n; column += width) {
        width = panel_width(n - column, lanes, narrow);
        if (width == 2 * lanes)
            body.template operator()<kVectorBytes, kRows, 2>(column, width);
        else if (width == lanes)
            body.template operator()<kVectorBytes, kRowUnit, 1>(column, width);
        else
            body.template operator()<kNarrowBytes, kRowUnit, 1>(column, width);
    }
}

template <typename T, bool accumulate>
struct Product {
    int64_t m, n, segments, length;
    const T *a, *b;
    T* c;

    template <int bytes, int rows, int width>
    GCONV_INLINE void operator()(int64_t column, int64_t columns) const {
        for (int64_t row = 0; row < m; row += rows)
            micro_kernel<T, bytes, rows, width>(segments, m * length, length, a + row * length, length, 1,
                                                b + column * segments * length, columns,
                                                ToBuffer<T, accumulate>{c + row * n + column, n});
    }
};

template <typename T>
void multiply(bool accumulate, int64_t m, int64_t n, int64_t segments, int64_t length, const T* a, const T* b, T* c) {
    accumulate ? each_panel<T>(n, Product<T, true>{m, n, segments, length, a, b, c})
               : each_panel<T>(n, Product<T, false>{m, n, segments, length, a, b, c});
}

// Sums plus the bias to the image, a vector as one piece or as two halves: a piece lies within one plane.
template <typename S, int pieces, int width>
struct ToImage {
    using T = typename Compute<S>::type;
    const int64_t* pixel;  // [row] elements from the first pixel
    int64_t rows;          // those beyond are not stored
    S* image[width * pieces];
    const T* bias[width * pieces];

    template <int bytes>
    GCONV_INLINE void operator()(int row, int vector, typename Vector<T, bytes>::type sum) const {
        using V = Vector<T, bytes / pieces>;
        if (row >= rows) return;
        for (int p = 0; p < pieces; ++p) {
            const int at = vector * pieces + p;
            V::store(image[at] + pixel[row], V::load(bias[at]) + part<V>(sum, p));
        }
    }

    template <typename V, typename Whole>
    static GCONV_INLINE typename V::type part(const Whole& sum, int p) {
        if constexpr (pieces == 1) return sum;
        typename V::type parts[pieces];
        std::memcpy(parts, &sum, sizeof sum);
        return parts[p];
    }
};

template <typename S>
struct ProductToImage {
    using T = typename Compute<S>::type;
    const Spectrum<S>& job;
    int64_t count, k;
    const T *a, *b, *bias;
    S* image;
    int64_t pixel[kMaxTile];

    template <int bytes, int rows, int width>
    GCONV_INLINE void operator()(int64_t column, int64_t columns) const {
        if (bytes == kNarrowBytes || job.channels % (bytes / sizeof(T)) == 0)
            run<bytes, rows, width, 1>(column, columns);
        else
            run<bytes, rows, width, kVectorBytes / kNarrowBytes>(column, columns);
    }

    template <int bytes, int rows, int width, int pieces>
    void run(int64_t column, int64_t columns) const {
        constexpr int64_t lanes = bytes / pieces / sizeof(T);
        ToImage<S, pieces, width> out;
        for (int i = 0; i < width * pieces; ++i) {
            const int64_t plane = (column + i * lanes) / job.channels, channel = (column + i * lanes) % job.channels;
            out.image[i] = image + (job.plane_offset[plane] + channel);
            out.bias[i] = bias + channel;
        }
        for (int64_t row = 0; row < count; row += rows) {
            out.pixel = pixel + row;
            out.rows = count - row;
            micro_kernel<T, bytes, rows, width>(1, 0, k, a + row * k, k, 1, b + column * k, columns, out);
        }
    }
};

template <typename S>
void multiply_to_image(const Spectrum<S>& job, const Tile& tile, int64_t k, const typename Compute<S>::type* a,
                       const typename Compute<S>::type* b, const typename Compute<S>::type* bias, S* image) {
    ProductToImage<S> product{job, tile.count, k, a, b, bias, image, {}};
    for (int r = 0; r < tile.runs; ++r)
        for (int i = 0; i < tile.run[r].count; ++i)
            product.pixel[tile.run[r].first + i] = tile.run[r].output_offset + i * job.pixel_step;
    each_panel<typename Compute<S>::type>(job.transform->planes * job.blocks * job.channels, product);
}

template <typename T>
struct TransposedProduct {
    int64_t m, k;
    const T* a;
    int64_t lead_a;
    const T* b;
    int64_t lead_b;
    T* c;
    int64_t lead_c;

    template <int bytes, int rows, int width>
    GCONV_INLINE void operator()(int64_t column, int64_t) const {
        for (int64_t row = 0; row < m; row += rows)
            micro_kernel<T, bytes, rows, width>(1, 0, k, a + row, 1, lead_a, b + column, lead_b,
                                                ToBuffer<T, true>{c + row * lead_c + column, lead_c});
    }
};

template <typename T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* a, int64_t lead_a, const T* b, int64_t lead_b, T* c,
                         int64_t lead_c) {
    each_panel<T>(n, TransposedProduct<T>{m, k, a, lead_a, b, lead_b, c, lead_c});
}

// B's rows are the pixels of an image; a vector lies within one plane.
template <typename S>
struct TransposedProductOfImage {
    using T = typename Compute<S>::type;
    const Spectrum<S>& job;
    const Tile& tile;
    int64_t m;
    const T* a;
    int64_t lead_a;
    const S* image;
    T* c;

    template <int bytes, int rows, int width>
    GCONV_INLINE void operator()(int64_t column, int64_t) const {
        constexpr int64_t lanes = bytes / sizeof(T);
        const int64_t n = job.transform->planes * job.blocks * job.channels;
        const S* start[width];
        for (int j = 0; j < width; ++j)
            start[j] =
                image + job.plane_offset[(column + j * lanes) / job.channels] + (column + j * lanes) % job.channels;
        for (int64_t row = 0; row < m; row += rows) {
            typename Vector<T, bytes>::type sum[rows][width] = {};
            for (int r = 0; r < tile.runs; ++r) {
                const Run& run = tile.run[r];
                const S* from[width];
                for (int j = 0; j < width; ++j) from[j] = start[j] + run.output_offset;
                add_products<bytes, rows, width>(sum, run.count, a + run.first * lead_a + row, 1, lead_a, from,
                                                 job.pixel_step);
            }
            const ToBuffer<T, true> out{c + row * n + column, n};
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < width; ++j) out.template operator()<bytes>(i, j, sum[i][j]);
        }
    }
};

template <typename S>
void multiply_transposed_by_image(const Spectrum<S>& job, const Tile& tile, int64_t m,
                                  const typename Compute<S>::type* a, int64_t lead_a, const S* image,
                                  typename Compute<S>::type* c) {
    each_panel<typename Compute<S>::type>(job.transform->planes * job.blocks * job.channels,
                                          TransposedProductOfImage<S>{job, tile, m, a, lead_a, image, c});
}

template <typename T>
void add_signed(int sign, const T* from, int64_t count, T* to) {
    if (sign > 0)
        for (int64_t i = 0; i < count; ++i) to[i] += from[i];
    if (sign < 0)
        for (int64_t i = 0; i < count; ++i) to[i] -= from[i];
}

template <typename T>
struct Combination {
    int terms;
    const T* const* rows;
    const int8_t* signs;
    T scale;
    T* to;

    template <int bytes>
    GCONV_INLINE void operator()(int64_t at) const {
        using V = Vector<T, bytes>;
        typename V::type sum{};
        for (int i = 0; i < terms; ++i) sum = signs[i] > 0 ? sum + V::load(rows[i] + at) : sum - V::load(rows[i] + at);
        V::store(to + at, sum * scale);
    }
};

template <typename T>
void combine(int terms, const T* const* rows, const int8_t* signs, T scale, int64_t count, T* to) {
    sweep<T, kVectorBytes>(count, Combination<T>{terms, rows, signs, scale, to});
}

// Twelve independent chains hide the latency of an addition.
template <typename T>
int64_t multiply_add_loop(int64_t steps) {
    constexpr int64_t lanes = kVectorBytes / sizeof(T);
    T c[12 * lanes] = {};
    T a[12] = {}, b[lanes] = {};
    asm volatile("" : : "r"(a), "r"(b) : "memory");  // they could be anything
    micro_kernel<T, kVectorBytes, 12, 1>(1, 0, steps, a, 1, 0, b, 0, ToBuffer<T, false>{c, lanes});
    return c[0] == T{0} ? steps * 2 * 12 * lanes : 0;
}

template <typename S>
constexpr Kernels<S> kKernels = {
    static_cast<int>(kVectorBytes / sizeof(typename Compute<S>::type)),
    static_cast<int>(kNarrowBytes / sizeof(typename Compute<S>::type)),
    &gather<S>,
    &multiply<typename Compute<S>::type>,
    &multiply_to_image<S>,
    &multiply_transposed<typename Compute<S>::type>,
    &multiply_transposed_by_image<S>,
    &synthesise<S>,
    &analyse<S>,
    &combine<typename Compute<S>::type>,
    &add_signed<typename Compute<S>::type>,
    &multiply_add_loop<typename Compute<S>::type>,
};

}  // namespace

#define GCONV_JOIN(a, b) a##b
#define GCONV_NAME(isa) GCONV_JOIN(instruction_set_, isa)
#define GCONV_TEXT2(isa) #isa
#define GCONV_TEXT(isa) GCONV_TEXT2(isa)

extern const InstructionSet GCONV_NAME(GCONV_ISA) = {GCONV_TEXT(GCONV_ISA), &kKernels<float>, &kKernels<double>,
                                                     &kKernels<bfloat16>, &kKernels<float16>};

}  // namespace gconv
