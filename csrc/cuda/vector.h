// Several numbers that one thread moves with one instruction.
#pragma once

#include <cstdint>

#include "layout.h"

namespace gconv::cuda {

template <typename T, int length>
struct alignas(sizeof(T) * length) Vector {
    T at[length];
};

// Numbers of a chunk of 16 bytes.
template <typename T>
constexpr int kChunkLength = kChunkBytes / static_cast<int>(sizeof(T));
template <typename T>
using Chunk = Vector<T, kChunkLength<T>>;

template <typename T, int length>
GCONV_DEVICE Vector<T, length> load(const T* from) {
    return *reinterpret_cast<const Vector<T, length>*>(from);
}
template <typename T, int length>
GCONV_DEVICE void store(T* to, const Vector<T, length>& vector) {
    *reinterpret_cast<Vector<T, length>*>(to) = vector;
}

}  // namespace gconv::cuda
