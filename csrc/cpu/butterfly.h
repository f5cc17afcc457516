// The transforms over the group as additions. In an unnamed namespace: each instruction set has its own copy.
//
// A group convolution at one tap is bilinear: coefficients `in` of the planes, times coefficients of the filter, back
// through the transpose of `out`. Where every irrep is real both ends are the same Fourier transform. C4's complex
// irrep is a product of complex numbers, done with three multiplications instead of four (Gauss):
//     re = c (a + b) - b (c + d),   im = c (a + b) + a (d - c)   for (a + i b)(c + i d).
#pragma once

#include "kernels.h"

namespace gconv {
namespace {

// identity takes one plane at a time.
template <Butterfly kind>
constexpr int kPlanes = kind == Butterfly::identity                        ? 1
                        : kind == Butterfly::sum2 || kind == Butterfly::c2 ? 2
                        : kind == Butterfly::sum8 || kind == Butterfly::d4 ? 8
                                                                           : 4;

template <Butterfly kind>
constexpr int kCoefficients = kind == Butterfly::sum2 || kind == Butterfly::sum4 || kind == Butterfly::sum8 ? 1
                              : kind == Butterfly::c4_in || kind == Butterfly::c4_out ? 5
                                                                                      : kPlanes<kind>;

// y = coefficients of x, by the central element first: sums carry the irreps in which it is 1, differences those in
// which it is -1.
template <Butterfly kind, typename V>
GCONV_INLINE void forward(const V* x, V* y) {
    if constexpr (kCoefficients<kind> == 1) {
        y[0] = x[0];
        for (int i = 1; i < kPlanes<kind>; ++i) y[0] += x[i];
    } else if constexpr (kind == Butterfly::c2) {
        y[0] = x[0] + x[1];
        y[1] = x[0] - x[1];
    } else if constexpr (kind == Butterfly::c4_in || kind == Butterfly::c4_out) {
        const V s0 = x[0] + x[2], s1 = x[1] + x[3], re = x[0] - x[2], im = x[1] - x[3];
        y[0] = s0 + s1;
        y[1] = s0 - s1;
        if constexpr (kind == Butterfly::c4_in) {
            y[2] = re;
            y[3] = im - re;
            y[4] = re + im;
        } else {
            y[2] = re + im;
            y[3] = im;
            y[4] = -re;
        }
    } else if constexpr (kind == Butterfly::d2) {
        const V s0 = x[0] + x[2], s1 = x[1] + x[3], t0 = x[0] - x[2], t1 = x[1] - x[3];
        y[0] = s0 + s1;
        y[1] = s0 - s1;
        y[2] = t0 + t1;
        y[3] = t0 - t1;
    } else {
        V s[4], t[4];
        for (int q = 0; q < 4; ++q) {
            s[q] = x[q] + x[q + 4];
            t[q] = x[q] - x[q + 4];
        }
        forward<Butterfly::d2>(s, y);
        y[4] = t[0] + t[1];
        y[5] = t[2] + t[3];
        y[6] = t[2] - t[3];
        y[7] = t[0] - t[1];
    }
}

// x = the transpose of forward, of y.
template <Butterfly kind, typename V>
GCONV_INLINE void transposed(const V* y, V* x) {
    if constexpr (kCoefficients<kind> == 1) {
        for (int i = 0; i < kPlanes<kind>; ++i) x[i] = y[0];
    } else if constexpr (kind == Butterfly::c2) {
        forward<kind>(y, x);
    } else if constexpr (kind == Butterfly::c4_in || kind == Butterfly::c4_out) {
        const V s0 = y[0] + y[1], s1 = y[0] - y[1];
        const V re = kind == Butterfly::c4_in ? y[2] - y[3] + y[4] : y[2] - y[4];
        const V im = kind == Butterfly::c4_in ? y[3] + y[4] : y[2] + y[3];
        x[0] = s0 + re;
        x[1] = s1 + im;
        x[2] = s0 - re;
        x[3] = s1 - im;
    } else if constexpr (kind == Butterfly::d2) {
        const V s0 = y[0] + y[1], s1 = y[0] - y[1], t0 = y[2] + y[3], t1 = y[2] - y[3];
        x[0] = s0 + t0;
        x[1] = s1 + t1;
        x[2] = s0 - t0;
        x[3] = s1 - t1;
    } else {
        V s[4];
        transposed<Butterfly::d2>(y, s);
        const V t[4] = {y[4] + y[7], y[4] - y[7], y[5] + y[6], y[5] - y[6]};
        for (int q = 0; q < 4; ++q) {
            x[q] = s[q] + t[q];
            x[q + 4] = s[q] - t[q];
        }
    }
}

}  // namespace
}  // namespace gconv
