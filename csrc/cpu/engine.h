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
// of complex type (C4's rotations) needs only half of its columns j: the others repeat them. What is a complex number
// there, and its product is done with three multiplications (butterfly.h), each a block of its own.
// The filter's gradient runs the same steps transposed: gWhat[i, k] = sum_x sum_j gA[i, j] U[k, j] with gA[i, j] =
// sum_g rho(g)[j, i] grad_out(g). The gradient in x is a convolution of grad_out with the adjoint filter W*(p, s) =
// W(-s^-1 p, s^-1)^T, whose W*_d(s) is W(-d, s^-1)^T: the same filter, read in another order.
// Lifting has no sum over the group: its filters in every orientation are one product. Its gradient in x sums over the
// group first.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "ops.h"

namespace gconv {

// One matrix product: pixels x (in_dim * taps * C_in) times (out_dim * C_out), `columns` times over. The butterfly's
// coefficient (column j, row k) of the input is in_first + j * in_dim + k, (j, i) of the output out_first + j * out_dim
// + i.
struct Block {
    int in_dim, out_dim;
    int columns;
    int in_first, out_first;
};

// u_d(x, i) = f(x + elements[i] d, source[i]), coefficients = in(u), products per block, transpose of out.
// Planes are listed in the butterfly's order: elements[i], source[i] and target[i] belong to its i-th operand.
struct Plan {
    const char* op;
    const Group* group;
    Transform in;
    Transform out;              // its transpose makes the output planes of the coefficients
    std::vector<int> elements;  // how the tap of gathered plane i is rotated
    std::vector<int> source;    // input plane of gathered plane i
    std::vector<int> target;    // output plane i of the butterfly
    std::vector<Block> blocks;
    int filter_planes;                  // of the filter in memory: |G| or 1
    bool adjoint;                       // it is (C_in, C_out, ...), its window read backwards
    std::vector<int> filter_source;     // W_d(s) is plane filter_source[s] of the filter
    std::vector<int> filter_elements;   // at the tap filter_elements[s] d
    std::vector<int8_t> filter_matrix;  // [block][row i][row k][s], each block's entries one after the other
    std::vector<double> filter_scale;   // per block: dim / |G|, a power of two
};

Plan make_group_plan(const Group& group);
Plan make_group_adjoint_plan(const Group& group);
Plan make_lifting_plan(const Group& group);
Plan make_lifting_adjoint_plan(const Group& group);

template <typename S>
PackedFilter pack(const Plan& plan, const Filter<const S>& weight, int64_t in_blocks, int threads);

template <typename S>
void convolve(const Plan& plan, const Image<const S>& x, const Filter<const S>& weight, const S* bias,
              const Image<S>& out, int64_t stride, int64_t padding, int threads);

template <typename S>
void convolve_weight_grad(const Plan& plan, const Image<const S>& x, const Image<const S>& grad_out,
                          const Filter<S>& grad_weight, int64_t stride, int64_t padding, int threads);

// Adds the time until the end of its scope to a stage of the profile, if one is being taken.
class Timed {
  public:
    explicit Timed(Stage stage) : stage_(stage), start_(profiling() ? now() : 0) {}
    ~Timed() {
        if (start_) add(stage_, now() - start_);
    }

  private:
    static bool profiling();
    static int64_t now() {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }
    static void add(Stage stage, int64_t nanoseconds);
    Stage stage_;
    int64_t start_;
};

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
