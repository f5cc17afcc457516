// What engine.cpp hands to the kernels of an instruction set: plain data and function pointers only.
#pragma once

#include <cstdint>

// Left to itself a compiler stops inlining at some size, and vectors then travel through memory.
#define GCONV_INLINE inline __attribute__((always_inline))

namespace gconv {

constexpr int kMaxOrder = 8;    // |G| of the largest lattice group, D4
constexpr int kMaxTile = 96;    // pixels per tile
constexpr int kRowUnit = 12;    // a multiple of every micro-kernel's rows (6, 12); tiles and panels hold whole units
constexpr int kMaxChunk = 768;  // taps x channels per chunk: sums in memory are read and written once per chunk
constexpr int kMaxGradientChunk = 192;  // the same for the weight gradient, whose sums are over pixels: longer tiles

// Half precision is storage only: everything is computed in float.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

template <typename S>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

// The transforms over the group, without their order of planes, which the plan's tables absorb.
// identity leaves every plane as it is. c4_in and c4_out are the two ends of C4's bilinear form (butterfly.h).
enum class Butterfly { identity, sum2, sum4, sum8, c2, c4_in, c4_out, d2, d4 };

struct Transform {
    Butterfly kind;
    int planes;
    int coefficients;
};

// Taps of every block of the input's channels, one block after the other; channels of each block.
struct Chunk {
    int first_tap, taps;
    int64_t first_channel, channels;
    int64_t k;  // taps * channels: the rows of B per coefficient
};

// Adjacent pixels of one row of the output.
struct Run {
    int first, count;       // in the tile
    int64_t row, column;    // top left corner of the first pixel's window in the input, may be negative
    int64_t input_offset;   // of that corner
    int64_t output_offset;  // of the first pixel
};

// The pixels of one tile, in the order (n, y, x) of the output.
struct Tile {
    int count;     // real pixels
    int capacity;  // rows per coefficient in the buffers; a multiple of kRowUnit
    int runs;
    Run run[kMaxTile];
};

template <typename S>
struct Gather {
    const S* data;
    int64_t height, width;
    int filter_size;
    int64_t stride;          // of the convolution
    int64_t pixel_step;      // elements from one output pixel's window to the next one's
    const int32_t* tap_row;  // [tap][plane]: rows below the window's corner
    const int32_t* tap_column;
    const int64_t* tap_offset;  // [tap][plane]: elements from the window's corner in plane 0, block 0
    const S* zeros;             // as many as a row of the window has
    const Transform* transform;
};

// Where a gather writes (coefficient, tap, pixel, channel): adjacent channels, these steps.
struct Steps {
    int64_t coefficient, tap, pixel;
};

// Coefficients of the output side in a tile's buffer: one row per pixel, `lead` elements apart.
template <typename S>
struct Spectrum {
    const Transform* transform;
    int64_t channels;  // of a block
    int64_t blocks;
    const int64_t* offset;        // [coefficient] start in the buffer
    const int64_t* lead;          // [coefficient] elements from one pixel to the next
    const int64_t* plane_offset;  // [plane][block] in the image
    int64_t pixel_step;           // of the image: elements from one pixel to the next
};

// B comes in panels of columns: two vectors wide, or what is left in one vector, or in half a vector of AVX-512.
// static: each instruction set's own copy.
static inline int64_t panel_width(int64_t columns, int64_t lanes, int64_t narrow) {
    return columns >= 2 * lanes ? 2 * lanes : columns >= lanes ? lanes : narrow;
}

// The kernels of one instruction set for one type in memory.
template <typename S>
struct Kernels {
    using T = typename Compute<S>::type;
    int lanes;   // elements of a vector
    int narrow;  // elements of the narrowest panel of B; lengths of rows of B and C are multiples
    // Writes the transformed planes of a tile and chunk into the A panel.
    void (*gather)(const Gather<S>&, const Tile&, const Chunk&, const Steps&, T* panel);
    // c (m, n) = or += a b with k = segments * length rows of b, packed in panels. Row i of a is `segments` pieces of
    // `length` at a + i * length, m * length apart.
    void (*multiply)(bool accumulate, int64_t m, int64_t n, int64_t segments, int64_t length, const T* a, const T* b,
                     T* c);
    // Every plane of the image = a (tile.capacity, k) b + bias, where the output is not transformed; b is (k, planes *
    // blocks * channels), packed in panels, and the channels are a multiple of `narrow`.
    void (*multiply_to_image)(const Spectrum<S>&, const Tile&, int64_t k, const T* a, const T* b, const T* bias,
                              S* image);
    // c (m, n) += a (k, m)^T b (k, n); m is a multiple of kRowUnit, a is read that far.
    void (*multiply_transposed)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lead_a, const T* b, int64_t lead_b,
                                T* c, int64_t lead_c);
    // The same with the planes of the image for b (pixels of the tile, planes * blocks * channels), where the output is
    // not transformed; the channels are a multiple of `lanes`.
    void (*multiply_transposed_by_image)(const Spectrum<S>&, const Tile&, int64_t m, const T* a, int64_t lead_a,
                                         const S* image, T* c);
    // Output planes of a tile from its coefficients, plus the bias; of the first block, as is analyse's input.
    void (*synthesise)(const Spectrum<S>&, const Tile&, const T* buffer, const T* bias, S* image);
    // Coefficients of a tile from the planes of the gradient; rows past the last pixel become zero.
    void (*analyse)(const Spectrum<S>&, const Tile&, const S* image, T* buffer);
    // to[i] = scale * sum of signs[term] * rows[term][i], signs 1 or -1.
    void (*combine)(int terms, const T* const* rows, const int8_t* signs, T scale, int64_t count, T* to);
    // to[i] += sign * from[i], sign 0, 1 or -1.
    void (*add_signed)(int sign, const T* from, int64_t count, T* to);
    // Multiplies and adds in registers for `steps` steps; returns the FLOPs done. For the peak that benches quote.
    int64_t (*multiply_add_loop)(int64_t steps);
};

struct InstructionSet {
    const char* name;
    const Kernels<float>* kernels_float;
    const Kernels<double>* kernels_double;
    const Kernels<bfloat16>* kernels_bfloat16;
    const Kernels<float16>* kernels_float16;
};

// Not all are compiled. The last one, the source of avx512 with the instructions of avx2, is for the native tests only.
extern const InstructionSet instruction_set_baseline, instruction_set_neon, instruction_set_avx2,
    instruction_set_avx512, instruction_set_avx512_as_avx2;

}  // namespace gconv
