// The kernels of one instruction set: compiled once per set; GCONV_ISA names it, the compiler's flags choose it.
//
// Mapping      a tile of pixels per thread (engine.cpp). For each chunk of taps x channels the tile's planes are
//              gathered, transformed and written to an A panel, which the products read at once from L1 / L2.
// Tile sizes   micro-kernel of 6 x 2 vectors with 16 vector registers (12 accumulators, 2 of B, 1 broadcast), 12 x 2
//              with 32. B comes in panels of 2 vectors of columns; a last panel of 1 vector keeps narrow layers from
//              computing padding. Chunk and tile lengths: kernels.h, kPanelBytes in engine.cpp.
// Accumulator  the scalar type, float or double: products over a chunk in registers, chunks added in memory.
// Work         per pixel 2 K^2 C_in C_out sum(dim^2 columns) FLOPs in products: C4 6 and D4 12 where a bank has 16 and
//              64. A tile reads its window of x once per tap, B once, and writes each output once.
// Determinism  the order of every sum depends on the sizes only, not on the threads or where a pixel falls in a tile.
//
// Only plain data and file-local functions here: an inline function of the standard library compiled with these flags
// could be the copy that the linker keeps for everyone.
#include <cstdint>
#include <cstring>

#include "butterfly.h"
#include "kernels.h"

namespace gconv {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRows = 12;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr int kRows = 6;
#else
constexpr int kVectorBytes = 16;
constexpr int kRows = 6;
#endif

// A vector of `bytes`, and the same at any address.
template <typename T, int bytes>
struct Vector {
    typedef T type __attribute__((vector_size(bytes)));
    typedef T loose __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
    static type load(const T* p) { return *reinterpret_cast<const loose*>(p); }
    static void store(T* p, type v) { *reinterpret_cast<loose*>(p) = v; }
};

template <typename T>
struct Vector<T, static_cast<int>(sizeof(T))> {
    typedef T type;
    static type load(const T* p) { return *p; }
    static void store(T* p, type v) { *p = v; }
};

// Calls body<bytes>(first) over [0, count), with full vectors, then ever smaller ones.
template <typename T, int bytes, typename Body>
inline void sweep(int64_t first, int64_t count, const Body& body) {
    constexpr int lanes = bytes / sizeof(T);
    for (; first + lanes <= count; first += lanes) body.template operator()<bytes>(first);
    if constexpr (lanes > 1) {
        if (first < count) sweep<T, (bytes > 16 ? bytes / 2 : static_cast<int>(sizeof(T))), Body>(first, count, body);
    }
}

// Reads planes x[i] (i < planes) and writes coefficients y[c], over `count` adjacent channels.
template <typename T, Butterfly kind>
struct Analysis {
    const Transform& transform;
    const T* const* x;
    T* const* y;

    template <int bytes>
    inline void operator()(int64_t at) const {
        using V = Vector<T, bytes>;
        if constexpr (kind == Butterfly::identity) {
            for (int i = 0; i < transform.planes; ++i) V::store(y[i] + at, V::load(x[i] + at));
        } else if constexpr (kind == Butterfly::general) {
            for (int c = 0; c < transform.coefficients; ++c) {
                typename V::type sum{};
                for (int i = 0; i < transform.planes; ++i)
                    sum += static_cast<T>(transform.matrix[c * transform.planes + i]) * V::load(x[i] + at);
                V::store(y[c] + at, sum);
            }
        } else {
            typename V::type in[kPlanes<kind>], out[kPlanes<kind>];
            for (int i = 0; i < kPlanes<kind>; ++i) in[i] = V::load(x[i] + at);
            forward<kind>(in, out);
            for (int i = 0; i < kPlanes<kind>; ++i) V::store(y[i] + at, out[i]);
        }
    }
};

// Reads coefficients y[c] and writes planes x[i], plus the bias.
template <typename T, Butterfly kind>
struct Synthesis {
    const Transform& transform;
    const T* const* y;
    T* const* x;
    const T* bias;

    template <int bytes>
    inline void operator()(int64_t at) const {
        using V = Vector<T, bytes>;
        typename V::type shift{};
        if (bias) shift = V::load(bias + at);
        if constexpr (kind == Butterfly::identity) {
            for (int i = 0; i < transform.planes; ++i) V::store(x[i] + at, V::load(y[i] + at) + shift);
        } else if constexpr (kind == Butterfly::general) {
            for (int i = 0; i < transform.planes; ++i) {
                typename V::type sum = shift;
                for (int c = 0; c < transform.coefficients; ++c)
                    sum += static_cast<T>(transform.matrix[c * transform.planes + i]) * V::load(y[c] + at);
                V::store(x[i] + at, sum);
            }
        } else {
            typename V::type in[kPlanes<kind>], out[kPlanes<kind>];
            for (int i = 0; i < kPlanes<kind>; ++i) in[i] = V::load(y[i] + at);
            transposed<kind>(in, out);
            for (int i = 0; i < kPlanes<kind>; ++i) V::store(x[i] + at, out[i] + shift);
        }
    }
};

template <template <Butterfly> class Body, typename... Arguments>
inline void dispatch(Butterfly kind, const Arguments&... arguments) {
    switch (kind) {
        case Butterfly::identity:
            return Body<Butterfly::identity>::run(arguments...);
        case Butterfly::c2:
            return Body<Butterfly::c2>::run(arguments...);
        case Butterfly::c4:
            return Body<Butterfly::c4>::run(arguments...);
        case Butterfly::d2:
            return Body<Butterfly::d2>::run(arguments...);
        case Butterfly::d4:
            return Body<Butterfly::d4>::run(arguments...);
        case Butterfly::general:
            return Body<Butterfly::general>::run(arguments...);
    }
}

template <typename T>
struct Gathering {
    template <Butterfly kind>
    struct Of {
        static void run(const Gather<T>& job, const Tile& tile, const Chunk& chunk, T* panel) {
            const int planes = job.transform->planes, coefficients = job.transform->coefficients;
            const int64_t k = chunk.k;
            T* start[kMaxOrder];
            int64_t step[kMaxOrder];
            for (int c = 0; c < coefficients; ++c) {
                step[c] = job.coefficient_dim[c] * k;
                start[c] = panel + (job.coefficient_offset[c] * tile.capacity + job.coefficient_start[c]) * k;
            }
            const T* in[kMaxOrder];
            T* out[kMaxOrder];
            for (int pixel = 0; pixel < tile.count; ++pixel) {
                const int64_t row = tile.row[pixel], column = tile.column[pixel];
                const bool interior = row >= 0 && column >= 0 && row + job.filter_size <= job.height &&
                                      column + job.filter_size <= job.width;
                for (int c = 0; c < coefficients; ++c) out[c] = start[c] + pixel * step[c];
                for (int tap = chunk.first_tap; tap < chunk.first_tap + chunk.taps; ++tap) {
                    for (int i = 0; i < planes; ++i) {
                        const int at = tap * planes + i;
                        const int64_t y = row + job.tap_row[at], x = column + job.tap_column[at];
                        const bool inside = interior || (y >= 0 && x >= 0 && y < job.height && x < job.width);
                        in[i] = inside
                                    ? job.data + (tile.input_offset[pixel] + job.tap_offset[at] + chunk.first_channel)
                                    : job.zeros;
                    }
                    sweep<T, kVectorBytes>(0, chunk.channels, Analysis<T, kind>{*job.transform, in, out});
                    for (int c = 0; c < coefficients; ++c) out[c] += chunk.channels;
                }
            }
            const int64_t missing = tile.capacity - tile.count;
            if (missing == 0) return;
            for (int c = 0; c < coefficients; ++c)
                for (int pixel = tile.count; pixel < tile.capacity; ++pixel)
                    std::memset(start[c] + pixel * step[c], 0, k * sizeof(T));
        }
    };
};

template <typename T>
void gather(const Gather<T>& job, const Tile& tile, const Chunk& chunk, T* panel) {
    dispatch<Gathering<T>::template Of>(job.transform->kind, job, tile, chunk, panel);
}

template <typename T>
struct Synthesising {
    template <Butterfly kind>
    struct Of {
        static void run(const Spectrum<T>& job, const Tile& tile, const T* buffer, const T* bias, T* image) {
            const T* in[kMaxOrder];
            T* out[kMaxOrder];
            for (int pixel = 0; pixel < tile.count; ++pixel) {
                for (int c = 0; c < job.transform->coefficients; ++c)
                    in[c] = buffer + job.coefficient_offset[c] + pixel * job.coefficient_lead[c];
                for (int i = 0; i < job.transform->planes; ++i)
                    out[i] = image + (tile.output_offset[pixel] + job.plane_offset[i]);
                sweep<T, kVectorBytes>(0, job.channels, Synthesis<T, kind>{*job.transform, in, out, bias});
            }
        }
    };
};

template <typename T>
void synthesise(const Spectrum<T>& job, const Tile& tile, const T* buffer, const T* bias, T* image) {
    dispatch<Synthesising<T>::template Of>(job.transform->kind, job, tile, buffer, bias, image);
}

template <typename T>
struct Analysing {
    template <Butterfly kind>
    struct Of {
        static void run(const Spectrum<T>& job, const Tile& tile, const T* image, T* buffer) {
            const int coefficients = job.transform->coefficients;
            const T* in[kMaxOrder];
            T* out[kMaxOrder];
            for (int pixel = 0; pixel < tile.capacity; ++pixel) {
                for (int c = 0; c < coefficients; ++c)
                    out[c] = buffer + job.coefficient_offset[c] + pixel * job.coefficient_lead[c];
                if (pixel >= tile.count) {
                    for (int c = 0; c < coefficients; ++c) std::memset(out[c], 0, job.channels * sizeof(T));
                    continue;
                }
                for (int i = 0; i < job.transform->planes; ++i)
                    in[i] = image + (tile.output_offset[pixel] + job.plane_offset[i]);
                sweep<T, kVectorBytes>(0, job.channels, Analysis<T, kind>{*job.transform, in, out});
            }
        }
    };
};

template <typename T>
void analyse(const Spectrum<T>& job, const Tile& tile, const T* image, T* buffer) {
    dispatch<Analysing<T>::template Of>(job.transform->kind, job, tile, image, buffer);
}

// c (kRows x width vectors) = or += sum_k a[row * row_step + k * step] b[k * lead_b + column].
template <typename T, int width, bool accumulate>
inline void micro_kernel(int64_t k, const T* a, int64_t row_step, int64_t step, const T* b, int64_t lead_b, T* c,
                         int64_t lead_c) {
    using V = Vector<T, kVectorBytes>;
    constexpr int lanes = kVectorBytes / sizeof(T);
    typename V::type sum[kRows][width] = {};
    for (; k > 0; --k) {
        typename V::type right[width];
        for (int j = 0; j < width; ++j) right[j] = V::load(b + j * lanes);
        for (int i = 0; i < kRows; ++i) {
            const T left = a[i * row_step];
            for (int j = 0; j < width; ++j) sum[i][j] += left * right[j];
        }
        a += step;
        b += lead_b;
    }
    for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < width; ++j) {
            T* at = c + i * lead_c + j * lanes;
            V::store(at, accumulate ? V::load(at) + sum[i][j] : sum[i][j]);
        }
}

template <typename T, bool accumulate>
void multiply_packed(int64_t m, int64_t n, int64_t k, const T* a, const T* b, T* c) {
    constexpr int64_t lanes = kVectorBytes / sizeof(T);
    for (int64_t column = 0; column < n; column += 2 * lanes) {
        const bool wide = column + lanes < n;
        for (int64_t row = 0; row < m; row += kRows) {
            T* to = c + row * n + column;
            if (wide)
                micro_kernel<T, 2, accumulate>(k, a + row * k, k, 1, b + column * k, 2 * lanes, to, n);
            else
                micro_kernel<T, 1, accumulate>(k, a + row * k, k, 1, b + column * k, lanes, to, n);
        }
    }
}

template <typename T>
void multiply(bool accumulate, int64_t m, int64_t n, int64_t k, const T* a, const T* b, T* c) {
    accumulate ? multiply_packed<T, true>(m, n, k, a, b, c) : multiply_packed<T, false>(m, n, k, a, b, c);
}

template <typename T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* a, int64_t lead_a, const T* b, int64_t lead_b, T* c,
                         int64_t lead_c) {
    constexpr int64_t lanes = kVectorBytes / sizeof(T);
    for (int64_t column = 0; column < n; column += 2 * lanes) {
        const bool wide = column + lanes < n;
        for (int64_t row = 0; row < m; row += kRows) {
            T* to = c + row * lead_c + column;
            if (wide)
                micro_kernel<T, 2, true>(k, a + row, 1, lead_a, b + column, lead_b, to, lead_c);
            else
                micro_kernel<T, 1, true>(k, a + row, 1, lead_a, b + column, lead_b, to, lead_c);
        }
    }
}

template <typename T>
constexpr Kernels<T> kKernels = {
    kRows,
    static_cast<int>(kVectorBytes / sizeof(T)),
    &gather<T>,
    &multiply<T>,
    &multiply_transposed<T>,
    &synthesise<T>,
    &analyse<T>,
};

}  // namespace

#define GCONV_JOIN(a, b) a##b
#define GCONV_NAME(isa) GCONV_JOIN(instruction_set_, isa)
#define GCONV_TEXT2(isa) #isa
#define GCONV_TEXT(isa) GCONV_TEXT2(isa)

extern const InstructionSet GCONV_NAME(GCONV_ISA) = {GCONV_TEXT(GCONV_ISA), &kKernels<float>, &kKernels<double>};

}  // namespace gconv
