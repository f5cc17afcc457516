// What engine.cpp hands to the kernels of an instruction set: plain data and function pointers only.
#pragma once

#include <cstdint>

namespace gconv {

constexpr int kMaxOrder = 8;  // |G| of the largest lattice group, D4
constexpr int kMaxTile = 96;  // pixels per tile; a multiple of every micro-kernel's rows (6, 12)
// Taps x channels per chunk, at most: a panel of B (kMaxChunk x 16 floats with AVX2) takes 12 KiB of a 32 KiB L1.
constexpr int kMaxChunk = 192;

// The transform over the group, without its order of planes and coefficients, which the plan's tables absorb.
// c2 .. d4 are the irreps of a group as sums and differences; general is a matrix with entries 0, +-1.
enum class Butterfly { identity, c2, c4, d2, d4, general };

struct Transform {
    Butterfly kind;
    int planes;
    int coefficients;
    int8_t matrix[kMaxOrder * kMaxOrder];  // [coefficient][plane], also for the named kinds
};

struct Chunk {
    int first_tap, taps;
    int64_t first_channel, channels;
    int64_t k;  // taps * channels: the length of an A row per plane
};

// The pixels of one tile, in the order (n, y, x) of the output, with where each one reads and writes.
struct Tile {
    int count;     // real pixels
    int capacity;  // rows per plane in the buffers; a multiple of the micro-kernel's rows
    int64_t input_offset[kMaxTile];
    int64_t output_offset[kMaxTile];
    int32_t row[kMaxTile];  // top left corner of the pixel's window in the input, may be negative
    int32_t column[kMaxTile];
};

template <typename T>
struct Gather {
    const T* data;
    int64_t height, width;
    int filter_size;
    const int32_t* tap_row;  // [tap][plane]: rows below the window's corner
    const int32_t* tap_column;
    const int64_t* tap_offset;  // [tap][plane]: elements from the window's corner in plane 0
    const T* zeros;             // as many as there are channels
    const Transform* transform;
    const int64_t* coefficient_offset;  // [coefficient] / (pixels of the tile * k): start in the panel
    const int* coefficient_dim;         // [coefficient]: dim of its irrep = row length in units of k
    const int* coefficient_start;       // [coefficient]: start within the row in units of k
};

// Coefficients of the output side in a tile's buffer, one row per (column j, pixel), `lead` elements long per block.
template <typename T>
struct Spectrum {
    const Transform* transform;
    int64_t channels;
    const int64_t* coefficient_offset;  // [coefficient] start in the buffer
    const int64_t* coefficient_lead;    // [coefficient] elements from one pixel to the next
    const int64_t* plane_offset;        // [plane] in the image
};

// The kernels of one instruction set and one scalar type.
template <typename T>
struct Kernels {
    int rows;   // micro-kernel: rows x (2 * lanes) accumulators
    int lanes;  // elements of a vector
    // Writes the transformed planes of a tile and chunk into the A panel.
    void (*gather)(const Gather<T>&, const Tile&, const Chunk&, T* panel);
    // c (m, n) = or += a (m, k) b (k, n packed in panels of 2 * lanes columns, the last one may have lanes).
    void (*multiply)(bool accumulate, int64_t m, int64_t n, int64_t k, const T* a, const T* b, T* c);
    // c (m, n) += a (k, m)^T b (k, n); m is rounded up to the micro-kernel's rows, a may be read that far.
    void (*multiply_transposed)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lead_a, const T* b, int64_t lead_b,
                                T* c, int64_t lead_c);
    // Output planes of a tile from its coefficients, plus the bias.
    void (*synthesise)(const Spectrum<T>&, const Tile&, const T* buffer, const T* bias, T* image);
    // Coefficients of a tile from the planes of the gradient; rows past the last pixel become zero.
    void (*analyse)(const Spectrum<T>&, const Tile&, const T* image, T* buffer);
};

struct InstructionSet {
    const char* name;
    const Kernels<float>* kernels_float;
    const Kernels<double>* kernels_double;
};

extern const InstructionSet instruction_set_baseline, instruction_set_avx2, instruction_set_avx512;

}  // namespace gconv
