// Vectors of an instruction set, and half precision in memory. In an unnamed namespace: each set has its own copy.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace gconv {
namespace {

#if defined(GCONV_VECTOR_BYTES)  // longer than the registers, for tests: the compiler splits them
constexpr int kVectorBytes = GCONV_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Spelled out: GCC does not convert vectors whose length depends on a template's argument.
template <int bytes>
struct Words;
template <>
struct Words<16> {
    typedef uint32_t type __attribute__((vector_size(16)));
    typedef uint16_t halves __attribute__((vector_size(8)));
    typedef float floats __attribute__((vector_size(16)));
};
template <>
struct Words<32> {
    typedef uint32_t type __attribute__((vector_size(32)));
    typedef uint16_t halves __attribute__((vector_size(16)));
    typedef float floats __attribute__((vector_size(32)));
};
template <>
struct Words<64> {
    typedef uint32_t type __attribute__((vector_size(64)));
    typedef uint16_t halves __attribute__((vector_size(32)));
    typedef float floats __attribute__((vector_size(64)));
};

// Floats from and to half precision, by integer operations that every instruction set has. `bytes` of
// floats at a time.
template <int bytes>
struct Half {
    using Word = typename Words<bytes>::type;
    using Halves = typename Words<bytes>::halves;
    using Floats = typename Words<bytes>::floats;

    template <typename S>
    static GCONV_INLINE Floats load(const S* p) {
        Halves halves;
        std::memcpy(&halves, p, sizeof halves);
        return widen(S{}, __builtin_convertvector(halves, Word));
    }
    template <typename S>
    static GCONV_INLINE void store(S* p, Floats value) {
        const Word word = narrow(S{}, value);
        const Halves halves = __builtin_convertvector(word, Halves);
        std::memcpy(p, &halves, sizeof halves);
    }

  private:
    static GCONV_INLINE Word bits(Floats f) { return reinterpret_cast<Word>(f); }
    static GCONV_INLINE Floats floats(Word w) { return reinterpret_cast<Floats>(w); }
    // All ones where the difference's sign bit is set.
    static GCONV_INLINE Word where_negative(Word difference) { return -(difference >> 31); }
    static GCONV_INLINE Word choose(Word mask, Word yes, Word no) { return (yes & mask) | (no & ~mask); }

    static GCONV_INLINE Floats widen(bfloat16, Word half) { return floats(half << 16); }

    // To the nearest, ties to even; a NaN stays one.
    static GCONV_INLINE Word narrow(bfloat16, Floats value) {
        const Word w = bits(value), magnitude = w & 0x7fffffffu;
        const Word nan = where_negative(0x7f800000u - magnitude);
        return choose(nan, (w >> 16) | 0x40u, (w + 0x7fffu + ((w >> 16) & 1u)) >> 16);
    }

    // The exponent is 112 too small after the shift; a multiplication mends it, subnormal halves included.
    static GCONV_INLINE Floats widen(float16, Word half) {
        const Word sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
        const Word special = where_negative(0x7bffu - magnitude);  // infinity or NaN
        const Word scaled = bits(floats(magnitude << 13) * 0x1p112f);
        return floats(scaled | (special & 0x7f800000u) | sign);
    }

    // To the nearest, ties to even. Below 2^-14 the addition of 1/2 leaves the rounded subnormal in the low bits.
    static GCONV_INLINE Word narrow(float16, Floats value) {
        const Word w = bits(value), sign = (w >> 16) & 0x8000u, magnitude = w & 0x7fffffffu;
        const Word nan = where_negative(0x7f800000u - magnitude), large = where_negative(0x477fefffu - magnitude);
        const Word small = where_negative(magnitude - 0x38800000u);
        const Word normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        const Word subnormal = bits(floats(magnitude) + 0.5f) - 0x3f000000u;
        const Word finite = choose(small, subnormal, normal);
        return sign | choose(nan, Word{} + 0x7e00u, choose(large, Word{} + 0x7c00u, finite));
    }
};

// A vector of `bytes`, and the same at any address.
template <typename T, int bytes>
struct Vector {
    typedef T type __attribute__((vector_size(bytes)));
    typedef T loose __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
    static GCONV_INLINE type load(const T* p) { return *reinterpret_cast<const loose*>(p); }
    static GCONV_INLINE void store(T* p, type v) { *reinterpret_cast<loose*>(p) = v; }

    template <typename S>
    static GCONV_INLINE type load(const S* p) {
        return Half<bytes>::load(p);
    }
    template <typename S>
    static GCONV_INLINE void store(S* p, type v) {
        Half<bytes>::store(p, v);
    }
};

template <typename T>
struct Vector<T, static_cast<int>(sizeof(T))> {
    typedef T type;
    static GCONV_INLINE type load(const T* p) { return *p; }
    static GCONV_INLINE void store(T* p, type v) { *p = v; }
    template <typename S>
    static GCONV_INLINE type load(const S* p) {
        const S four[4] = {*p, *p, *p, *p};
        return Half<16>::load(four)[0];
    }
    template <typename S>
    static GCONV_INLINE void store(S* p, type v) {
        S four[4];
        Half<16>::store(four, typename Half<16>::Floats{v});
        *p = four[0];
    }
};

}  // namespace
}  // namespace gconv
