// The transforms over the group as additions. In an unnamed namespace: each instruction set has its own copy.
#pragma once

#include "kernels.h"

namespace gconv {
namespace {

template <Butterfly kind>
constexpr int kPlanes = kind == Butterfly::c2   ? 2
                        : kind == Butterfly::d4 ? 8
                                                : 4;

// y = matrix x, by the central element first: sums carry the irreps in which it is 1, differences those in which it is
// -1.
template <Butterfly kind, typename V>
inline void forward(const V* x, V* y) {
    if constexpr (kind == Butterfly::c2) {
        y[0] = x[0] + x[1];
        y[1] = x[0] - x[1];
    } else if constexpr (kind == Butterfly::c4) {
        const V s0 = x[0] + x[2], s1 = x[1] + x[3];
        y[0] = s0 + s1;
        y[1] = s0 - s1;
        y[2] = x[0] - x[2];
        y[3] = x[1] - x[3];
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
        y[5] = t[0] - t[1];
        y[6] = t[2] + t[3];
        y[7] = t[2] - t[3];
    }
}

// x = matrix^T y.
template <Butterfly kind, typename V>
inline void transposed(const V* y, V* x) {
    if constexpr (kind == Butterfly::c2) {
        forward<kind>(y, x);
    } else if constexpr (kind == Butterfly::c4) {
        const V s0 = y[0] + y[1], s1 = y[0] - y[1];
        x[0] = s0 + y[2];
        x[1] = s1 + y[3];
        x[2] = s0 - y[2];
        x[3] = s1 - y[3];
    } else if constexpr (kind == Butterfly::d2) {
        const V s0 = y[0] + y[1], s1 = y[0] - y[1], t0 = y[2] + y[3], t1 = y[2] - y[3];
        x[0] = s0 + t0;
        x[1] = s1 + t1;
        x[2] = s0 - t0;
        x[3] = s1 - t1;
    } else {
        V s[4];
        transposed<Butterfly::d2>(y, s);
        const V t[4] = {y[4] + y[5], y[4] - y[5], y[6] + y[7], y[6] - y[7]};
        for (int q = 0; q < 4; ++q) {
            x[q] = s[q] + t[q];
            x[q + 4] = s[q] - t[q];
        }
    }
}

}  // namespace
}  // namespace gconv
