// A map's Fourier coefficients, pixels innermost: the second operand of the filter gradient.
//
// Image number ((element pixel_tiles + pixel_tile) out_tiles + out_tile) parts + part: `order` matrices of `columns`
// rows (channels of one coset) of 64 bytes, W = 64 / sizeof(T) of the tile's 128 pixels from part W on, chunks
// swizzled; zero where the map has no pixel or no channel. Coefficient a is sum_h S[a][h] g_h; in a lifting convolution
// there is one per image, g_element. Tiles of pixels: columns fastest, then rows, then images.
#pragma once

#include <cstdint>

#include "lattice.h"
#include "ops.h"

namespace gconv::cuda {

// Of a map of cosets |H| planes; columns is a multiple of 8. Throws std::invalid_argument for other sizes.
int64_t images_bytes(Type type, const Lattice& group, const Map& map, int cosets, int columns, const PixelTile& tile);

void coefficient_images(Type type, const Lattice& group, bool lifting, const Map& map, int cosets, int columns,
                        const PixelTile& tile, const void* grad_out, void* images, Stream stream);

}  // namespace gconv::cuda
