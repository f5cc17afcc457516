// Group pooling: ties, NaN, cosets, backward and select.
#include "check.h"

using namespace check;

namespace {

const std::vector<int32_t> kCosets = {0, 2, 1, 3};  // C4 over its rotations by half turns

// C4 maps of two-element cosets: values with many ties, and a few NaN.
template <typename T>
void one_case(int64_t n, int64_t c, int64_t h, int64_t w, int threads, Random& random) {
    const Map<T> x(n, c, 4, h, w, 2), out(n, c, 2, h, w), picked(n, c, 2, h, w), grad_x(n, c, 4, h, w);
    const Map<uint8_t> index(n, c, 2, h, w, 1);
    randomise(random, x);
    for (int i = 0; i < 3; ++i)
        x(pick(random, {0, n - 1}), pick(random, {0, c - 1}), pick(random, {0, 1, 2, 3}), 0, w - 1) =
            std::numeric_limits<T>::quiet_NaN();
    gconv::group_pool(x.read(), out.image, index.image, kCosets, 2, gconv::PoolMode::max, threads);
    gconv::group_pool_select(x.read(), index.read(), picked.image, kCosets, 2, threads);
    CHECK(equal(out, picked));
    const Map<T> grad(n, c, 2, h, w);
    randomise(random, grad);
    gconv::group_pool_backward(grad.read(), index.read(), grad_x.image, kCosets, 2, gconv::PoolMode::max, threads);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < c; ++j)
            for (int64_t y = 0; y < h; ++y)
                for (int64_t z = 0; z < w; ++z)
                    for (int coset = 0; coset < 2; ++coset) {
                        const T first = x(i, j, coset, y, z), second = x(i, j, coset + 2, y, z);
                        const bool wins = !std::isnan(first) && (std::isnan(second) || second > first);
                        CHECK(index(i, j, coset, y, z) == (wins ? 1 : 0));
                        CHECK(grad_x(i, j, coset, y, z) == (wins ? T{0} : grad(i, j, coset, y, z)));
                        CHECK(grad_x(i, j, coset + 2, y, z) == (wins ? grad(i, j, coset, y, z) : T{0}));
                    }

    gconv::group_pool(x.read(), out.image, {}, kCosets, 2, gconv::PoolMode::mean, threads);
    gconv::group_pool_backward(grad.read(), {}, grad_x.image, kCosets, 2, gconv::PoolMode::mean, threads);
    for (int64_t j = 0; j < c; ++j)
        for (int coset = 0; coset < 2; ++coset) {
            const T mean = (x(0, j, coset, 0, 0) + x(0, j, coset + 2, 0, 0)) / 2;
            CHECK(out(0, j, coset, 0, 0) == mean || std::isnan(mean));
            CHECK(grad_x(0, j, coset, 0, 0) == grad(0, j, coset, 0, 0) / 2);
            CHECK(grad_x(0, j, coset + 2, 0, 0) == grad(0, j, coset, 0, 0) / 2);
        }
}

}  // namespace

void test_group_pool() {
    Random random(3);
    for (const int64_t c : {1, 3, 8, 17})
        for (const int64_t w : {1, 4, 33})
            for (const int threads : {1, 2}) {
                const std::string text = std::to_string(c) + " " + std::to_string(w) + " " + std::to_string(threads);
                run("group_pool float " + text, [&] { one_case<float>(2, c, 9, w, threads, random); });
                run("group_pool double " + text, [&] { one_case<double>(1, c, 2, w, threads, random); });
            }
    run("group_pool: the whole group, first on ties, an empty batch", [&] {
        const std::vector<int32_t> group = {0, 1, 2, 3};
        const Map<float> x(1, 1, 4, 1, 1), out(1, 1, 1, 1, 1), none(0, 1, 4, 1, 1), no_out(0, 1, 1, 1, 1);
        const Map<uint8_t> index(1, 1, 1, 1, 1);
        const float values[] = {1, 5, 5, 2};
        std::copy_n(values, 4, x.memory.get());
        gconv::group_pool(x.read(), out.image, index.image, group, 4, gconv::PoolMode::max, 2);
        CHECK(out.memory[0] == 5 && index.memory[0] == 1);
        gconv::group_pool(none.read(), no_out.image, {}, group, 4, gconv::PoolMode::max, 2);
    });
    run("group_pool: rejects cosets and sizes that do not fit", [&] {
        const Map<float> x(1, 2, 4, 3, 3), out(1, 2, 2, 3, 3), wrong(1, 2, 4, 3, 3), grad_x(1, 2, 4, 3, 3);
        const Map<uint8_t> index(1, 2, 2, 3, 3), wrong_index(1, 2, 2, 3, 2);
        const auto pool = [&](const Map<float>& to, const Map<uint8_t>& at, const std::vector<int32_t>& cosets,
                              int size) {
            return rejects(
                [&] { gconv::group_pool(x.read(), to.image, at.image, cosets, size, gconv::PoolMode::max, 1); });
        };
        CHECK(!pool(out, index, kCosets, 2));
        CHECK(pool(wrong, index, kCosets, 2));
        CHECK(pool(out, wrong_index, kCosets, 2));
        CHECK(pool(out, index, {0, 2, 1, 4}, 2));
        CHECK(pool(out, index, {0, 2, 1, -1}, 2));
        CHECK(pool(out, index, {0, 2, 1}, 2));
        CHECK(pool(out, index, {}, 2));
        CHECK(pool(out, index, kCosets, 0));
        const auto backward = [&](const std::vector<int32_t>& cosets) {
            return rejects([&] {
                gconv::group_pool_backward(out.read(), index.read(), grad_x.image, cosets, 2, gconv::PoolMode::max, 1);
            });
        };
        randomise(random, out);
        std::fill_n(index.memory.get(), 36, uint8_t{0});
        CHECK(!backward(kCosets));
        CHECK(backward({0, 2, 0, 2}));
        CHECK(rejects(
            [&] { gconv::group_pool_backward(out.read(), {}, grad_x.image, kCosets, 2, gconv::PoolMode::max, 1); }));
    });
}
