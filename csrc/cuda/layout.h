// How maps and filters are cut into tiles, by the kernels and by the host alike.
//
// Every shared tile has rows of 64 bytes, of channels (or of pixels in the gradient's second operand): two steps of a
// matrix instruction, which takes 32 bytes of each row whatever the type. The 16-byte chunk c of row r lies at chunk
// c ^ (r / 2 % 4): any 8 rows that follow one another have their chunks c in 8 different groups of banks, and wgmma knows
// the order as 64-byte swizzling.
#pragma once

#include <cstdint>

#include "device.h"

namespace gconv::cuda {

constexpr int kRowBytes = 64;     // of a shared tile
constexpr int kStepBytes = 32;    // of a row: what one matrix instruction multiplies
constexpr int kChunkBytes = 16;   // moved at once
constexpr int kTilePixels = 128;  // that a block computes at a time, 16 per warp
constexpr int kMaxTaps = 25;
constexpr int kMaxOrder = 8;

// Where chunk c of row r lies in a tile.
GCONV_HOST_DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) {
    return row * kRowBytes + ((chunk ^ (row / 2 % 4)) * kChunkBytes);
}

// wgmma's name for a matrix of such rows, one after the other from an address that 512 divides (PTX ISA, "Shared Memory
// Matrix Layout": K-major, 64-byte swizzling), 512 bytes between groups of 8; 32 bytes further on, the second step.
// The address is in chunks of 16 bytes of the block's own window, so that constants can be added to a tile's.
GCONV_DEVICE uint64_t wgmma_descriptor(uint32_t chunk) {
    constexpr uint32_t swizzle = uint32_t{2} << 30, stride = 512 >> 4, leading = uint32_t{1} << 16;
    return uint64_t{swizzle | stride} << 32 | (leading + chunk);
}

// Tap d of the plane of element h is read (row, column) pixels after the window's first.
struct Offsets {
    int8_t row[kMaxTaps][kMaxOrder];
    int8_t column[kMaxTaps][kMaxOrder];
};

// The pixels of a block: so many of each, images x height x width = kTilePixels, width a multiple of 8.
struct PixelTile {
    int images, height, width;
};

// Element h's plane of coset c is plane h cosets + c of a map (N, C, planes, H, W), channels last in memory.
struct Map {
    int batch, channels, planes, height, width;
};

}  // namespace gconv::cuda
