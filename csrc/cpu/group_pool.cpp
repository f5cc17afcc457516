// Group pooling over left cosets: max (with the winner's position), mean, and their backward passes.
//
// Mapping     one image row per item; inner loops run over adjacent channels and vectorise.
// Accumulator the scalar type. Memory bound: each element is read once and written once.
// Determinism every output is one thread's; ties take the first position, the first NaN wins over everything.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace gconv {
namespace {

void check_cosets(const char* op, const std::vector<int32_t>& cosets, int size, int64_t order) {
    require(size >= 1 && size <= 255 && !cosets.empty() && cosets.size() % size == 0, op,
            "cosets must be (cosets, size) with 1 <= size <= 255");
    for (const int32_t element : cosets)
        require(element >= 0 && element < order, op,
                "cosets must have entries in 0.." + std::to_string(order - 1) + ", got " + std::to_string(element));
}

template <typename X, typename Y>
void check_like(const char* op, const char* name, const Image<X>& full, const Image<Y>& pooled, size_t cosets) {
    require(pooled.batch == full.batch && pooled.channels == full.channels && pooled.height == full.height &&
                pooled.width == full.width && pooled.planes == static_cast<int64_t>(cosets),
            op, std::string(name) + " must be (N, C, cosets, H, W) of the feature map on the group");
    require(full.batch >= 0 && full.channels >= 0 && full.height >= 0 && full.width >= 0, op, "negative size");
}

// Where one pixel of one plane starts.
template <typename T>
T* at(const Image<T>& image, int64_t n, int64_t plane, int64_t row, int64_t column) {
    return image.data + (n * image.stride_batch + plane * image.stride_plane + row * image.stride_row +
                         column * image.stride_column);
}

// Calls body(n, row, column) for every pixel.
template <typename T, typename Body>
void for_each_pixel(const Image<T>& image, int threads, const Body& body) {
    if (image.channels == 0 || image.width == 0) return;
    const int64_t rows = image.batch * image.height;
    constexpr int64_t worth_a_thread = 1 << 14;  // elements
    const int64_t work = rows * image.width * image.channels * image.planes / worth_a_thread;
    parallel_for(allowed_threads(threads, std::min(rows, work)), rows, [&](int64_t item, int) {
        for (int64_t column = 0; column < image.width; ++column) body(item / image.height, item % image.height, column);
    });
}

template <typename T>
void max_pixel(const Image<const T>& x, const Image<T>& out, const Image<uint8_t>& index, const int32_t* coset,
               int size, int64_t n, int64_t plane, int64_t row, int64_t column) {
    const int64_t channels = x.channels;
    T* best = at(out, n, plane, row, column);
    uint8_t* position = index.data ? at(index, n, plane, row, column) : nullptr;
    std::copy_n(at(x, n, coset[0], row, column), channels, best);
    if (position) std::fill_n(position, channels, uint8_t{0});
    for (int member = 1; member < size; ++member) {
        const T* from = at(x, n, coset[member], row, column);
        for (int64_t c = 0; c < channels; ++c) {
            const T value = from[c], old = best[c];
            const bool wins = (value > old) | ((value != value) & (old == old));
            best[c] = wins ? value : old;
            if (position) position[c] = wins ? static_cast<uint8_t>(member) : position[c];
        }
    }
}

template <typename T>
void mean_pixel(const Image<const T>& x, const Image<T>& out, const int32_t* coset, int size, int64_t n, int64_t plane,
                int64_t row, int64_t column) {
    T* sum = at(out, n, plane, row, column);
    std::copy_n(at(x, n, coset[0], row, column), x.channels, sum);
    for (int member = 1; member < size; ++member) {
        const T* from = at(x, n, coset[member], row, column);
        for (int64_t c = 0; c < x.channels; ++c) sum[c] += from[c];
    }
    const T factor = T{1} / static_cast<T>(size);
    for (int64_t c = 0; c < x.channels; ++c) sum[c] *= factor;
}

}  // namespace

template <typename T>
void group_pool(const Image<const T>& x, const Image<T>& out, const Image<uint8_t>& index,
                const std::vector<int32_t>& cosets, int size, PoolMode mode, int threads) {
    check_cosets("group_pool", cosets, size, x.planes);
    const size_t count = cosets.size() / size;
    check_like("group_pool", "out", x, out, count);
    if (index.data) check_like("group_pool", "index", x, index, count);
    for_each_pixel(x, threads, [&](int64_t n, int64_t row, int64_t column) {
        for (size_t i = 0; i < count; ++i) {
            const int32_t* coset = &cosets[i * size];
            if (mode == PoolMode::max)
                max_pixel(x, out, index, coset, size, n, static_cast<int64_t>(i), row, column);
            else
                mean_pixel(x, out, coset, size, n, static_cast<int64_t>(i), row, column);
        }
    });
}

template <typename T>
void group_pool_backward(const Image<const T>& grad_out, const Image<const uint8_t>& index, const Image<T>& grad_x,
                         const std::vector<int32_t>& cosets, int size, PoolMode mode, int threads) {
    const char* op = "group_pool_backward";
    check_cosets(op, cosets, size, grad_x.planes);
    const size_t count = cosets.size() / size;
    require(cosets.size() == static_cast<size_t>(grad_x.planes), op, "cosets must cover every element once");
    std::vector<bool> covered(cosets.size(), false);
    for (const int32_t element : cosets) covered[element] = true;
    require(std::all_of(covered.begin(), covered.end(), [](bool yes) { return yes; }), op,
            "cosets must cover every element once");
    check_like(op, "grad_out", grad_x, grad_out, count);
    require(mode == PoolMode::mean || index.data || grad_x.batch * grad_x.channels * grad_x.height * grad_x.width == 0,
            op, "index must be given for mode max");
    if (mode == PoolMode::max) check_like(op, "index", grad_x, index, count);
    const T factor = T{1} / static_cast<T>(size);
    for_each_pixel(grad_x, threads, [&](int64_t n, int64_t row, int64_t column) {
        for (size_t i = 0; i < count; ++i) {
            const int64_t plane = static_cast<int64_t>(i);
            const T* from = at(grad_out, n, plane, row, column);
            const uint8_t* position = mode == PoolMode::max ? at(index, n, plane, row, column) : nullptr;
            for (int member = 0; member < size; ++member) {
                T* to = at(grad_x, n, cosets[i * size + member], row, column);
                if (position)
                    for (int64_t c = 0; c < grad_x.channels; ++c) to[c] = position[c] == member ? from[c] : T{0};
                else
                    for (int64_t c = 0; c < grad_x.channels; ++c) to[c] = factor * from[c];
            }
        }
    });
}

template <typename T>
void group_pool_select(const Image<const T>& x, const Image<const uint8_t>& index, const Image<T>& out,
                       const std::vector<int32_t>& cosets, int size, int threads) {
    const char* op = "group_pool_select";
    check_cosets(op, cosets, size, x.planes);
    const size_t count = cosets.size() / size;
    check_like(op, "out", x, out, count);
    check_like(op, "index", x, index, count);
    for_each_pixel(x, threads, [&](int64_t n, int64_t row, int64_t column) {
        for (size_t i = 0; i < count; ++i) {
            const int64_t plane = static_cast<int64_t>(i);
            const uint8_t* position = at(index, n, plane, row, column);
            T* to = at(out, n, plane, row, column);
            std::fill_n(to, x.channels, T{0});  // an index past the coset selects nothing
            for (int member = 0; member < size; ++member) {
                const T* from = at(x, n, cosets[i * size + member], row, column);
                for (int64_t c = 0; c < x.channels; ++c) to[c] = position[c] == member ? from[c] : to[c];
            }
        }
    });
}

#define GCONV_INSTANTIATE(T)                                                                               \
    template void group_pool(const Image<const T>&, const Image<T>&, const Image<uint8_t>&,                \
                             const std::vector<int32_t>&, int, PoolMode, int);                             \
    template void group_pool_backward(const Image<const T>&, const Image<const uint8_t>&, const Image<T>&, \
                                      const std::vector<int32_t>&, int, PoolMode, int);                    \
    template void group_pool_select(const Image<const T>&, const Image<const uint8_t>&, const Image<T>&,   \
                                    const std::vector<int32_t>&, int, int);
GCONV_INSTANTIATE(float)
GCONV_INSTANTIATE(double)

}  // namespace gconv
