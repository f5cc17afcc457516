// Group pooling over left cosets: max (with the winner's position), mean, and their backward passes.
//
// Mapping     a thread takes an equal part of the pooled elements and walks it in the longest stretches that are
//             adjacent in every image: whole planes of a channels-last map, else rows, else single pixels. The loop
//             over a stretch is in group_pool_kernel.cpp.
// Work        memory bound: each element is read once and written once.
// Determinism every output is one thread's; ties take the first position, the first NaN wins over everything.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "huge_pages.h"
#include "pool_kernels.h"

namespace gconv {
namespace {

constexpr int kMaxSize = 255;  // of a coset: positions are bytes
// Read and written: what a core does in about the time that a team of threads needs to start.
constexpr int64_t kBytesWorthAThread = 1 << 17;

void check_cosets(const char* op, const std::vector<int32_t>& cosets, int size, int64_t order) {
    require(size >= 1 && size <= kMaxSize && !cosets.empty() && cosets.size() % size == 0, op,
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

const PoolInstructionSet& current_set() {
    const std::string name = instruction_set();
#ifdef GCONV_HAS_AVX512_AS_AVX2
    if (name == pool_instruction_set_avx512_as_avx2.name) return pool_instruction_set_avx512_as_avx2;
#endif
#ifdef GCONV_HAS_AVX512
    if (name == pool_instruction_set_avx512.name) return pool_instruction_set_avx512;
#endif
#ifdef GCONV_HAS_AVX2
    if (name == pool_instruction_set_avx2.name) return pool_instruction_set_avx2;
#endif
#ifdef GCONV_HAS_NEON
    return pool_instruction_set_neon;
#else
    return pool_instruction_set_baseline;
#endif
}

template <typename T>
const PoolKernels<T>& kernels();
template <>
const PoolKernels<float>& kernels<float>() {
    return *current_set().kernels_float;
}
template <>
const PoolKernels<double>& kernels<double>() {
    return *current_set().kernels_double;
}
template <>
const PoolKernels<bfloat16>& kernels<bfloat16>() {
    return *current_set().kernels_bfloat16;
}
template <>
const PoolKernels<float16>& kernels<float16>() {
    return *current_set().kernels_float16;
}

template <typename T>
bool rows_are_adjacent(const Image<T>& image) {
    return image.width == 1 || image.stride_column == image.channels;
}

template <typename T>
bool planes_are_adjacent(const Image<T>& image) {
    return rows_are_adjacent(image) && (image.height == 1 || image.stride_row == image.width * image.channels);
}

// `length` elements of a pooled plane that are adjacent in every image.
struct Stretch {
    int64_t n, coset, row, column, skip, length;  // `skip` elements after the pixel's first channel
};

template <typename T>
T* at(const Image<T>& image, int64_t plane, const Stretch& s) {
    return image.data + (s.n * image.stride_batch + plane * image.stride_plane + s.row * image.stride_row +
                         s.column * image.stride_column + s.skip);
}

// Where the stretch starts in every plane of its coset.
template <typename T>
void list_planes(const Image<T>& image, const int32_t* coset, int size, const Stretch& s, T** planes) {
    for (int member = 0; member < size; ++member) planes[member] = at(image, coset[member], s);
}

// Calls body(stretch) on stretches that cover the pooled image, whose other images are `images`.
template <typename Body, typename T, typename... Images>
void for_each_stretch(int size, int threads, const Body& body, const Image<T>& pooled, const Images&... images) {
    const bool by_row = rows_are_adjacent(pooled) && (rows_are_adjacent(images) && ...);
    const bool by_plane = planes_are_adjacent(pooled) && (planes_are_adjacent(images) && ...);
    const int64_t rows = by_plane ? 1 : pooled.height, columns = by_row ? 1 : pooled.width;
    const int64_t plane = pooled.height * pooled.width * pooled.channels;
    const int64_t total = pooled.batch * pooled.planes * plane;
    if (total == 0) return;
    const int64_t length = plane / (rows * columns);
    const int parts =
        allowed_threads(threads, total * (size + 1) * static_cast<int64_t>(sizeof(T)) / kBytesWorthAThread);
    const int64_t share = (total + parts - 1) / parts;
    parallel_for(parts, parts, [&](int64_t part, int) {
        const int64_t end = std::min(total, (part + 1) * share);
        for (int64_t begin = part * share; begin < end;) {
            const int64_t pixel = begin / length, row = pixel / columns, coset = row / rows, skip = begin % length;
            const Stretch s{coset / pooled.planes,
                            coset % pooled.planes,
                            row % rows,
                            pixel % columns,
                            skip,
                            std::min(length - skip, end - begin)};
            body(s);
            begin += s.length;
        }
    });
}

}  // namespace

template <typename T>
void group_pool(const Image<const T>& x, const Image<T>& out, const Image<uint8_t>& index,
                const std::vector<int32_t>& cosets, int size, PoolMode mode, int threads) {
    check_cosets("group_pool", cosets, size, x.planes);
    const size_t count = cosets.size() / size;
    check_like("group_pool", "out", x, out, count);
    if (index.data) check_like("group_pool", "index", x, index, count);
    const PoolKernels<T>& kernel = kernels<T>();
    const auto body = [&](const Stretch& s) {
        const T* from[kMaxSize];
        list_planes(x, &cosets[s.coset * size], size, s, from);
        if (mode == PoolMode::max)
            kernel.max(size, from, at(out, s.coset, s), index.data ? at(index, s.coset, s) : nullptr, s.length);
        else
            kernel.mean(size, from, at(out, s.coset, s), s.length);
    };
    prefer_huge_pages(out);
    index.data ? for_each_stretch(size, threads, body, out, x, index) : for_each_stretch(size, threads, body, out, x);
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
    const PoolKernels<T>& kernel = kernels<T>();
    const auto body = [&](const Stretch& s) {
        T* to[kMaxSize];
        list_planes(grad_x, &cosets[s.coset * size], size, s, to);
        if (mode == PoolMode::max)
            kernel.max_backward(size, at(grad_out, s.coset, s), at(index, s.coset, s), to, s.length);
        else
            kernel.mean_backward(size, at(grad_out, s.coset, s), to, s.length);
    };
    prefer_huge_pages(grad_x);
    mode == PoolMode::max ? for_each_stretch(size, threads, body, grad_out, grad_x, index)
                          : for_each_stretch(size, threads, body, grad_out, grad_x);
}

template <typename T>
void group_pool_select(const Image<const T>& x, const Image<const uint8_t>& index, const Image<T>& out,
                       const std::vector<int32_t>& cosets, int size, int threads) {
    const char* op = "group_pool_select";
    check_cosets(op, cosets, size, x.planes);
    const size_t count = cosets.size() / size;
    check_like(op, "out", x, out, count);
    check_like(op, "index", x, index, count);
    const PoolKernels<T>& kernel = kernels<T>();
    const auto body = [&](const Stretch& s) {
        const T* from[kMaxSize];
        list_planes(x, &cosets[s.coset * size], size, s, from);
        kernel.select(size, from, at(index, s.coset, s), at(out, s.coset, s), s.length);
    };
    prefer_huge_pages(out);
    for_each_stretch(size, threads, body, out, x, index);
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
GCONV_INSTANTIATE(bfloat16)
GCONV_INSTANTIATE(float16)

}  // namespace gconv
