// The lifting convolution, its adjoint and its weight gradient against out(x, s) = sum_d f(stride x - padding + s d)
// W(d).
#include <vector>

#include "check.h"

using namespace check;

namespace {

// Calls body(n, o, s, y, x, c, tap, row, column) for every product of the definition.
template <typename Body>
void each_product(const Lattice& lattice, const Sizes& s, const Body& body) {
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t o = 0; o < s.c_out; ++o)
            for (int g = 0; g < lattice.order; ++g)
                for (int64_t y = 0; y < s.out_height(); ++y)
                    for (int64_t x = 0; x < s.out_width(); ++x)
                        for (int64_t c = 0; c < s.c_in; ++c)
                            for (int64_t tap = 0; tap < s.size * s.size; ++tap) {
                                const int64_t at = moved(lattice, g, tap, s.size);
                                body(n, o, g, y, x, c, tap, s.stride * y - s.padding + at / s.size,
                                     s.stride * x - s.padding + at % s.size);
                            }
}

template <typename T>
void one_case(const Lattice& lattice, const Sizes& s, Random& random) {
    const int64_t h = s.out_height(), w = s.out_width();
    const Map<T> x(s.batch, s.c_in, 1, s.height, s.width, pick(random, {0, 5}));
    const int64_t blocks = some_blocks(random, s.c_out);
    const Map<T> out(s.batch, s.c_out, lattice.order, h, w, pick(random, {0, 3}), blocks);
    const Map<T> expected(s.batch, s.c_out, lattice.order, h, w);
    const Weight<T> weight(s.c_out, s.c_in, 1, s.size), grad(s.c_out, s.c_in, 1, s.size),
        expected_grad(s.c_out, s.c_in, 1, s.size);
    randomise(random, x);
    randomise(random, weight);
    std::fill_n(expected.memory.get(), s.batch * s.c_out * lattice.order * h * w, T{0});
    each_product(lattice, s, [&](auto n, auto o, auto g, auto y, auto z, auto c, auto tap, auto row, auto column) {
        expected(n, o, g, y, z) += padded(x, n, c, 0, row, column) * weight(o, c, 0, tap);
    });
    gconv::lifting_conv2d<T>(*lattice.group, x.read(), weight.read(), nullptr, out.image, s.stride, s.padding,
                             s.threads);
    CHECK(equal(out, expected));

    randomise(random, out);
    each_product(lattice, s, [&](auto n, auto o, auto g, auto y, auto z, auto c, auto tap, auto row, auto column) {
        expected_grad(o, c, 0, tap) += padded(x, n, c, 0, row, column) * out(n, o, g, y, z);
    });
    gconv::lifting_conv2d_weight_grad(*lattice.group, x.read(), out.read(), grad.filter, s.stride, s.padding,
                                      s.threads);
    CHECK(equal(grad, expected_grad));

    // The transpose in x at stride 1: grad(y - K + 1 + padding', s) meets the filter's tap that put it there.
    Sizes adjoint = s;
    adjoint.stride = 1;
    const Map<T> planes(s.batch, s.c_out, lattice.order, s.height, s.width, 0, blocks);
    const Map<T> sums(s.batch, s.c_in, 1, adjoint.out_height(), adjoint.out_width());
    const Map<T> expected_sums(s.batch, s.c_in, 1, adjoint.out_height(), adjoint.out_width());
    randomise(random, planes);
    std::fill_n(expected_sums.memory.get(), s.batch * s.c_in * adjoint.out_height() * adjoint.out_width(), T{0});
    const int64_t last = s.size * s.size - 1;
    each_product(lattice, adjoint,
                 [&](auto n, auto o, auto g, auto y, auto z, auto c, auto tap, auto row, auto column) {
                     expected_sums(n, c, 0, y, z) += padded(planes, n, o, g, row, column) * weight(o, c, 0, last - tap);
                 });
    gconv::lifting_conv2d_adjoint(*lattice.group, planes.read(), weight.read(), sums.image, s.padding, s.threads);
    CHECK(equal(sums, expected_sums));

    const auto packed = gconv::pack_lifting_conv2d(*lattice.group, weight.read(), 1, s.threads);
    const Map<T> again(s.batch, s.c_out, lattice.order, h, w, 0, blocks);
    std::vector<T> bias;
    for (int64_t o = 0; o < s.c_out; ++o) bias.push_back(static_cast<T>(o % (s.c_out / blocks) - 2));
    for (int64_t o = 0; o < s.c_out; ++o)
        for (int64_t n = 0; n < s.batch; ++n)
            for (int g = 0; g < lattice.order; ++g)
                for (int64_t y = 0; y < h; ++y)
                    for (int64_t z = 0; z < w; ++z) expected(n, o, g, y, z) += bias[o];
    gconv::conv2d_packed<T>(packed, x.read(), bias.data(), again.image, s.stride, s.padding, s.threads);
    CHECK(equal(again, expected));
}

}  // namespace

void test_lifting_conv2d() {
    each_case("lifting_conv2d float", 12, one_case<float>);
    each_case("lifting_conv2d double", 5, one_case<double>);

    const Lattice d4(4, true);
    run("lifting_conv2d: rejects sizes that do not fit", [&] {
        const Map<float> x(1, 3, 1, 5, 5), planes(1, 3, 8, 5, 5), out(1, 2, 8, 3, 3), sums(1, 3, 1, 3, 3);
        const Map<float> grad(1, 2, 8, 5, 5), grad_x(1, 2, 1, 5, 5);
        const Weight<float> w(2, 3, 1, 3), full(2, 3, 8, 3);
        const auto lift = [&](const Map<float>& from, const Weight<float>& filter, const Map<float>& to) {
            return rejects([&] {
                gconv::lifting_conv2d<float>(*d4.group, from.read(), filter.read(), nullptr, to.image, 1, 0, 1);
            });
        };
        const auto adjoint = [&](const Map<float>& from, const Weight<float>& filter, const Map<float>& to) {
            return rejects(
                [&] { gconv::lifting_conv2d_adjoint<float>(*d4.group, from.read(), filter.read(), to.image, 0, 1); });
        };
        CHECK(!lift(x, w, out));
        CHECK(lift(planes, w, out));
        CHECK(lift(x, full, out));
        CHECK(lift(x, w, sums));
        CHECK(!adjoint(grad, w, sums));
        CHECK(adjoint(grad_x, w, sums));
        CHECK(adjoint(planes, w, sums));
        CHECK(adjoint(grad, full, sums));
        CHECK(adjoint(grad, w, out));
    });
}
