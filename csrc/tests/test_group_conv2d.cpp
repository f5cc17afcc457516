// The engine against the definition: output g, input t uses plane g^-1 t of the filter, moved by g.
#include "check.h"

using namespace check;

namespace {

template <typename T>
Map<T> convolve_by_definition(const Lattice& lattice, const Map<T>& x, const Weight<T>& w, const T* bias,
                              const Sizes& s) {
    Map<T> out(s.batch, s.c_out, lattice.order, s.out_height(), s.out_width());
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t o = 0; o < s.c_out; ++o)
            for (int g = 0; g < lattice.order; ++g)
                for (int64_t y = 0; y < s.out_height(); ++y)
                    for (int64_t z = 0; z < s.out_width(); ++z) {
                        T sum = bias ? bias[o] : T{0};
                        for (int t = 0; t < lattice.order; ++t) {
                            const int plane = lattice.product[lattice.inverse[g] * lattice.order + t];
                            for (int64_t tap = 0; tap < s.size * s.size; ++tap) {
                                const int64_t from = moved(lattice, lattice.inverse[g], tap, s.size);
                                for (int64_t c = 0; c < s.c_in; ++c)
                                    sum += padded(x, n, c, t, s.stride * y - s.padding + tap / s.size,
                                                  s.stride * z - s.padding + tap % s.size) *
                                           w(o, c, plane, from);
                            }
                        }
                        out(n, o, g, y, z) = sum;
                    }
    return out;
}

template <typename T>
Weight<T> weight_grad_by_definition(const Lattice& lattice, const Map<T>& x, const Map<T>& grad, const Sizes& s) {
    Weight<T> out(s.c_out, s.c_in, lattice.order, s.size);
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t o = 0; o < s.c_out; ++o)
            for (int g = 0; g < lattice.order; ++g)
                for (int64_t y = 0; y < s.out_height(); ++y)
                    for (int64_t z = 0; z < s.out_width(); ++z)
                        for (int t = 0; t < lattice.order; ++t) {
                            const int plane = lattice.product[lattice.inverse[g] * lattice.order + t];
                            for (int64_t tap = 0; tap < s.size * s.size; ++tap) {
                                const int64_t from = moved(lattice, lattice.inverse[g], tap, s.size);
                                for (int64_t c = 0; c < s.c_in; ++c)
                                    out(o, c, plane, from) +=
                                        padded(x, n, c, t, s.stride * y - s.padding + tap / s.size,
                                               s.stride * z - s.padding + tap % s.size) *
                                        grad(n, o, g, y, z);
                            }
                        }
    return out;
}

template <typename T>
void one_case(const Lattice& lattice, const Sizes& s, Random& random) {
    const int64_t in_blocks = some_blocks(random, s.c_in), out_blocks = some_blocks(random, s.c_out);
    const Map<T> x(s.batch, s.c_in, lattice.order, s.height, s.width, pick(random, {0, 5}), in_blocks);
    const Weight<T> w(s.c_out, s.c_in, lattice.order, s.size), grad_w(s.c_out, s.c_in, lattice.order, s.size);
    randomise(random, x);
    randomise(random, w);
    const auto bias = std::make_unique<T[]>(s.c_out);
    for (int64_t o = 0; o < s.c_out; ++o) bias[o] = static_cast<T>(o % (s.c_out / out_blocks) % 5 - 2);
    const Map<T> out(s.batch, s.c_out, lattice.order, s.out_height(), s.out_width(), pick(random, {0, 3}), out_blocks);
    gconv::group_conv2d(*lattice.group, x.read(), w.read(), static_cast<const T*>(bias.get()), out.image, s.stride,
                        s.padding, s.threads);
    CHECK(equal(out, convolve_by_definition(lattice, x, w, bias.get(), s)));
    randomise(random, out);
    gconv::group_conv2d_weight_grad(*lattice.group, x.read(), out.read(), grad_w.filter, s.stride, s.padding,
                                    s.threads);
    CHECK(equal(grad_w, weight_grad_by_definition(lattice, x, out, s)));

    const auto packed = gconv::pack_group_conv2d(*lattice.group, w.read(), in_blocks, s.threads);
    const Map<T> again(s.batch, s.c_out, lattice.order, s.out_height(), s.out_width());
    gconv::conv2d_packed(packed, x.read(), static_cast<const T*>(bias.get()), again.image, s.stride, s.padding,
                         s.threads);
    CHECK(equal(again, convolve_by_definition(lattice, x, w, bias.get(), s)));

    // The transpose in x: W*(p, s) = W(-s^-1 p, s^-1)^T at stride 1.
    Sizes adjoint = s;
    adjoint.stride = 1;
    std::swap(adjoint.c_in, adjoint.c_out);
    const Map<T> grad(s.batch, s.c_out, lattice.order, s.height, s.width, 0, out_blocks);
    const Map<T> grad_x(s.batch, s.c_in, lattice.order, adjoint.out_height(), adjoint.out_width(), 0, in_blocks);
    randomise(random, grad);
    const Weight<T> transposed(s.c_in, s.c_out, lattice.order, s.size);
    for (int g = 0; g < lattice.order; ++g)
        for (int64_t tap = 0; tap < s.size * s.size; ++tap) {
            const int64_t from = s.size * s.size - 1 - moved(lattice, lattice.inverse[g], tap, s.size);
            for (int64_t o = 0; o < s.c_out; ++o)
                for (int64_t c = 0; c < s.c_in; ++c) transposed(c, o, g, tap) = w(o, c, lattice.inverse[g], from);
        }
    gconv::group_conv2d_adjoint(*lattice.group, grad.read(), w.read(), grad_x.image, s.padding, s.threads);
    CHECK(equal(grad_x, convolve_by_definition<T>(lattice, grad, transposed, nullptr, adjoint)));
}

}  // namespace

void test_group_conv2d() {
    each_case("group_conv2d float", 12, one_case<float>);
    each_case("group_conv2d double", 5, one_case<double>);

    const Lattice c4(4, false);
    Random random(2);
    run("group_conv2d: many tiles, chunks and slices", [&] {
        const Lattice d4(4, true);
        for (const std::string& set : gconv::instruction_sets()) {
            gconv::use_instruction_set(set);
            one_case<float>(c4, {2, 201, 3, 6, 5, 2, 1, 0, 2}, random);
            one_case<float>(d4, {7, 2, 2, 15, 14, 3, 1, 1, 2}, random);
        }
    });
    run("group_conv2d: the weight gradient does not depend on the number of threads", [&] {
        const Map<float> x(9, 3, 4, 16, 16), grad(9, 5, 4, 16, 16);
        std::uniform_real_distribution<float> uniform(-1, 1);
        for (int64_t i = 0; i < 9 * 3 * 4 * 256; ++i) x.memory[i] = uniform(random);
        for (int64_t i = 0; i < 9 * 5 * 4 * 256; ++i) grad.memory[i] = uniform(random);
        const Weight<float> one(5, 3, 4, 3), four(5, 3, 4, 3);
        gconv::group_conv2d_weight_grad(*c4.group, x.read(), grad.read(), one.filter, 1, 1, 1);
        gconv::group_conv2d_weight_grad(*c4.group, x.read(), grad.read(), four.filter, 1, 1, 4);
        CHECK(equal(one, four));
    });
    run("group_conv2d: an empty batch", [&] {
        const Map<float> x(0, 3, 4, 5, 5), out(0, 2, 4, 3, 3);
        const Weight<float> w(2, 3, 4, 3), grad_w(2, 3, 4, 3);
        grad_w.memory[7] = 1;
        gconv::group_conv2d<float>(*c4.group, x.read(), w.read(), nullptr, out.image, 1, 0, 2);
        gconv::group_conv2d_weight_grad<float>(*c4.group, x.read(), out.read(), grad_w.filter, 1, 0, 2);
        CHECK(equal(grad_w, w));
    });
    run("group_conv2d: rejects sizes that do not fit", [&] {
        const Map<float> x(1, 3, 4, 5, 5), out(1, 2, 4, 3, 3);
        const Weight<float> w(2, 3, 4, 3);
        const auto call = [&](auto change) {
            auto image = x.read();
            auto to = out.image;
            auto filter = w.read();
            int64_t stride = 1, padding = 0;
            change(image, to, filter, stride, padding);
            return rejects(
                [&] { gconv::group_conv2d<float>(*c4.group, image, filter, nullptr, to, stride, padding, 1); });
        };
        CHECK(!call([](auto&, auto&, auto&, auto&, auto&) {}));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.planes = 8; }));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.channels = 4; }));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.blocks = 2; }));
        CHECK(call([](auto&, auto& o, auto&, auto&, auto&) { o.blocks = 0; }));
        CHECK(rejects([&] { gconv::pack_group_conv2d(*c4.group, w.read(), 2, 1); }));
        CHECK(rejects([&] { gconv::pack_group_conv2d(*c4.group, w.read(), 0, 1); }));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.batch = 2; }));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.batch = -1; }));
        CHECK(call([](auto& i, auto&, auto&, auto&, auto&) { i.height = 2; }));
        CHECK(call([](auto&, auto& o, auto&, auto&, auto&) { o.height = 4; }));
        CHECK(call([](auto&, auto& o, auto&, auto&, auto&) { o.planes = 1; }));
        CHECK(call([](auto&, auto& o, auto&, auto&, auto&) { o.channels = 3; }));
        CHECK(call([](auto&, auto&, auto& f, auto&, auto&) { f.planes = 1; }));
        CHECK(call([](auto&, auto&, auto& f, auto&, auto&) { f.size = 0; }));
        CHECK(call([](auto&, auto&, auto& f, auto&, auto&) { f.size = 6; }));
        CHECK(call([](auto&, auto&, auto&, auto& stride, auto&) { stride = 0; }));
        CHECK(call([](auto&, auto&, auto&, auto&, auto& padding) { padding = -1; }));
        CHECK(call([](auto&, auto&, auto&, auto&, auto& padding) { padding = int64_t{1} << 60; }));
    });
    run("Group: rejects tables that are not a group's", [&] {
        const auto make = [&](int order, std::vector<int32_t> product, std::vector<int32_t> action) {
            return rejects([&] { gconv::Group(order, product, action, {{1, 1, {1, 1}}, {1, 1, {1, -1}}}); });
        };
        CHECK(!make(2, {0, 1, 1, 0}, {1, 0, 0, 1, -1, 0, 0, -1}));
        CHECK(make(2, {0, 1, 1, 2}, {1, 0, 0, 1, -1, 0, 0, -1}));
        CHECK(make(2, {0, 1, 1, 1}, {1, 0, 0, 1, -1, 0, 0, -1}));
        CHECK(make(2, {0, 1, 1, 0}, {1, 0, 0, 1, 2, 0, 0, 2}));
        CHECK(make(3, {0, 1, 1, 0}, {1, 0, 0, 1, -1, 0, 0, -1}));
        CHECK(make(16, {0, 1, 1, 0}, {1, 0, 0, 1, -1, 0, 0, -1}));
    });
}
