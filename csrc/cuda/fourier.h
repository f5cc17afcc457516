// A group's Fourier transform at compile time: butterflies, products per irrep, rows of the transformed filter.
//
// For one tap, out(g) = sum_s u(g s) W(s). A butterfly (i, j) replaces planes a, b by a + b and a - b; a few of them are
// an integer matrix S with orthogonal rows, S^-1 = S^T D^-1 with D = S S^T. In the coefficients U = S u,
//
//     out = S^T A,   A[a] = sum_b U[b] What[a, b],   What[a, b] = sum_s M_s[a, b] W(s) / D[a],   M_s = S R_s S^T D^-1,
//
// where (R_s u)(g) = u(g s). M_s is block diagonal; the blocks are the irreps. Entries What[a, b] that are equal or
// opposite whatever the filter are one row: C4's complex irrep has two, [[Wr, -Wi], [Wi, Wr]], D4's two-dimensional one
// four, which both of its columns share. gconv/backends/triton/fourier.py has the algebra for kernels that cannot negate.
#pragma once

#include <cstdint>

namespace gconv::cuda {

struct Butterfly {
    int i, j;
};

// A[to] += sign U[from] What_row.
struct Product {
    int to, from, row, sign;
};

template <int order>
struct Tables {
    int transform[order][order] = {};  // S
    int forms[order][order] = {};      // What_row = sum_s forms[row][s] W(s) / norms[row]
    int norms[order] = {};
    int rows = 0;
    Product products[2 * order] = {};  // by row: what is read once from shared memory is used at once
    int product_count = 0;
};

// A lattice group as an abstract group: element f n + r rotates r times by 1 / n of a turn, then flips if f = 1. D1 is C2.
template <typename Group>
constexpr int product_of(int a, int b) {
    constexpr int n = Group::rotations;
    const int turns = b / n ? n - a % n + b % n : a % n + b % n;  // R F = F R^-1
    return (a / n ^ b / n) * n + turns % n;
}

template <typename Group>
constexpr auto make_tables() {
    constexpr int order = Group::order;
    Tables<order> t;
    for (int i = 0; i < order; ++i) t.transform[i][i] = 1;
    for (int k = 0; k < Group::butterfly_count; ++k)
        for (int g = 0; g < order; ++g) {
            int &a = t.transform[Group::butterflies[k].i][g], &b = t.transform[Group::butterflies[k].j][g];
            const int sum = a + b, difference = a - b;
            a = sum;
            b = difference;
        }
    int norms[order] = {};
    for (int a = 0; a < order; ++a)
        for (int g = 0; g < order; ++g) norms[a] += t.transform[a][g] * t.transform[a][g];
    // By from, then to, one form per pair: What[to, from] = sum_s form[s] W(s) / norms[to].
    for (int from = 0; from < order; ++from)
        for (int to = 0; to < order; ++to) {
            int form[order] = {};
            bool any = false;
            for (int s = 0; s < order; ++s) {
                for (int g = 0; g < order; ++g)
                    form[s] += t.transform[to][g] * t.transform[from][product_of<Group>(g, s)];
                form[s] /= norms[from];
                any = any || form[s] != 0;
            }
            if (!any) continue;
            int row = 0, sign = 0;
            for (; row < t.rows; ++row) {
                bool same = t.norms[row] == norms[to], opposite = same;
                for (int s = 0; s < order; ++s) {
                    same = same && t.forms[row][s] == form[s];
                    opposite = opposite && t.forms[row][s] == -form[s];
                }
                sign = same ? 1 : opposite ? -1 : 0;
                if (sign != 0) break;
            }
            if (row == t.rows) {
                for (int s = 0; s < order; ++s) t.forms[row][s] = form[s];
                t.norms[row] = norms[to];
                sign = 1;
                ++t.rows;
            }
            int place = t.product_count++;
            for (; place > 0 && t.products[place - 1].row > row; --place) t.products[place] = t.products[place - 1];
            t.products[place] = {to, from, row, sign};
        }
    return t;
}

struct C1 {
    static constexpr int rotations = 1, order = 1, butterfly_count = 0;
    static constexpr Butterfly butterflies[1] = {};
};
struct C2 {
    static constexpr int rotations = 2, order = 2, butterfly_count = 1;
    static constexpr Butterfly butterflies[] = {{0, 1}};
};
struct C4 {
    static constexpr int rotations = 4, order = 4, butterfly_count = 3;
    static constexpr Butterfly butterflies[] = {{0, 2}, {1, 3}, {0, 1}};
};
struct D2 {
    static constexpr int rotations = 2, order = 4, butterfly_count = 4;
    static constexpr Butterfly butterflies[] = {{0, 1}, {2, 3}, {0, 2}, {1, 3}};
};
// The last butterfly is the wrong way around on purpose: so both columns of the two-dimensional irrep have one matrix.
struct D4 {
    static constexpr int rotations = 4, order = 8, butterfly_count = 10;
    static constexpr Butterfly butterflies[] = {{0, 2}, {1, 3}, {0, 1}, {4, 6}, {5, 7},
                                                {4, 5}, {0, 4}, {1, 5}, {3, 7}, {6, 2}};
};

template <typename Group>
constexpr auto tables = make_tables<Group>();

}  // namespace gconv::cuda
