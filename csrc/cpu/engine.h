// What the three convolutions share: a plan (which planes are gathered, how they are transformed, which products
// follow), the loops around the kernels of one instruction set, and threads.
//
// With W_d(s) = W(s d, s) and u_d(x, h) = f(x + h d, h), the group convolution is a correlation over the group per tap:
//     out(x, g) = sum_d sum_s f(x + g s d, g s) W(s d, s) = sum_d sum_s u_d(x, g s) W_d(s).
// With an orthogonal irrep rho of dimension dim, the coefficients
//     U[k, j] = sum_h rho(h)[j, k] u(h)   and   What[i, k] = dim / |G| sum_s W_d(s) rho(s)[i, k]
// turn it into one product of real matrices per irrep, summed over taps and channels,
//     A[i, j] = sum_k What[i, k] U[k, j]   and   out(g) = sum_rho sum_{i, j} rho(g)[j, i] A[i, j],
// since rho(g s)[j, k] = sum_i rho(g)[j, i] rho(s)[i, k] and sum_rho dim / |G| tr(rho(a)^T rho(b)) = [a == b]. An irrep
// of complex type (C4's rotations) needs only half of its columns j: the others repeat them.
// The filter's gradient runs the same steps transposed: gWhat[i, k] = sum_x sum_j gA[i, j] U[k, j] with gA[i, j] =
// sum_g rho(g)[j, i] grad_out(g). The gradient in x is a convolution of grad_out with the adjoint filter.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "ops.h"

namespace gconv {

// One matrix product per irrep: `columns` (r) times the pixels are the rows of A, dim * K its columns, dim * C_out the
// columns of B. The coefficient (row i or k, column j) of the irrep has index `first + j * dim + k`.
struct Block {
    int dim;
    int columns;
    int first;
};

// u_d(x, i) = f(x + elements[i] d, source[i]), coefficients = transform(u), products per block, transposed transform.
// Planes are listed in the butterfly's order: elements[i], source[i] and target[i] belong to its i-th operand.
struct Plan {
    const Group* group;
    Transform in;
    Transform out;                    // its transpose makes the output planes of the coefficients
    std::vector<int> elements;        // how the tap of gathered plane i is rotated
    std::vector<int> source;          // input plane of gathered plane i
    std::vector<int> target;          // output plane i of the butterfly
    std::vector<int> in_coefficient;  // the butterfly's coefficient c is the plan's coefficient in_coefficient[c]
    std::vector<int> out_coefficient;
    std::vector<Block> blocks;
    int filter_planes;                  // |G| or 1: planes of the filter, plane s read at the tap s d
    std::vector<int8_t> filter_matrix;  // [block][row i][row k][s], each block's entries one after the other
    std::vector<double> filter_scale;   // per block: d / |G|, a power of two
};

Plan make_group_plan(const Group& group);
Plan make_lifting_plan(const Group& group);
Plan make_lifting_adjoint_plan(const Group& group);

template <typename T>
void convolve(const Plan& plan, const char* op, const Image<const T>& x, const Filter<const T>& weight, const T* bias,
              const Image<T>& out, int64_t stride, int64_t padding, int threads);

template <typename T>
void convolve_weight_grad(const Plan& plan, const char* op, const Image<const T>& x, const Image<const T>& grad_out,
                          const Filter<T>& grad_weight, int64_t stride, int64_t padding, int threads);

// How many threads a call may use: `asked`, but 1 in a forked child (a libgomp that has run in the parent would hang).
int allowed_threads(int asked, int64_t items);

// Calls body(item, thread) for every item, on `threads` threads.
template <typename Body>
void parallel_for(int threads, int64_t items, Body&& body) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
            for (int64_t item = 0; item < items; ++item) body(item, thread);
        }
        return;
    }
#else
    (void)threads;
#endif
    for (int64_t item = 0; item < items; ++item) body(item, 0);
}

}  // namespace gconv
