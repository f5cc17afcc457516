// Group pooling against loops over single elements, for every instruction set: ties, NaN, infinities, signed zeros,
// cosets of any size, stretches of memory of any length.
#include <algorithm>
#include <cstring>
#include <utility>

#include "check.h"

using namespace check;

namespace {

using gconv::PoolMode;

const std::vector<int32_t> kCosets = {0, 2, 1, 3};  // C4 over its rotations by half turns

struct Cosets {
    std::vector<int32_t> elements;
    int size;
    int count() const { return static_cast<int>(elements.size()) / size; }
};

constexpr uint8_t kUntouched = 77;

// How the pixels lie in memory: one piece per plane, a gap after every row, or a gap after every pixel.
enum class Layout { planes, rows, pixels };

// The first `channels` of a map that has more of them, or a map with gaps after its rows.
template <typename T>
Map<T> laid_out(Layout layout, int64_t n, int64_t c, int64_t g, int64_t h, int64_t w) {
    Map<T> map(n, layout == Layout::pixels ? c + 3 : c, g, h, w, layout == Layout::rows ? 2 : 0);
    map.image.channels = c;
    return map;
}

// Many ties and, if asked for, values that no comparison orders as numbers.
template <typename T>
void fill(Random& random, const Map<T>& map, bool special) {
    constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    randomise(random, map);
    const auto& i = map.image;
    if (!special || i.batch * i.channels * i.height * i.width == 0) return;
    for (int k = 0; k < 12; ++k)
        for (const T value : {nan, infinity, -infinity, T{0}, -T{0}}) {
            const auto below = [&](int64_t length) {
                return std::uniform_int_distribution<int64_t>(0, length - 1)(random);
            };
            map(below(i.batch), below(i.channels), below(i.planes), below(i.height), below(i.width)) = value;
        }
}

// Equal, or both NaN, and the same zero.
template <typename T>
bool same(T a, T b) {
    return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

template <typename Body>
void each_element(const gconv::Image<uint8_t>& i, const Body& body) {
    for (int64_t n = 0; n < i.batch; ++n)
        for (int64_t c = 0; c < i.channels; ++c)
            for (int64_t p = 0; p < i.planes; ++p)
                for (int64_t y = 0; y < i.height; ++y)
                    for (int64_t x = 0; x < i.width; ++x) body(n, c, p, y, x);
}

// Whether no channel past the image's was written, in a map with a gap after every pixel.
template <typename T>
bool gaps_are_untouched(const Map<T>& map) {
    const auto& i = map.image;
    for (int64_t at = 0; at < i.batch * i.stride_batch; at += i.stride_column)
        for (int64_t c = i.channels; c < i.stride_column; ++c) {
            const T value = map.memory[at + c];
            if (!(value == kUntouched || std::isnan(value))) return false;
        }
    return true;
}

template <typename T>
struct Case {
    Cosets cosets;
    Layout layout;
    Map<T> x, out, grad, grad_x;
    Map<uint8_t> index;
    int threads;

    Case(const Cosets& cosets, Layout layout, bool special, int64_t n, int64_t c, int64_t h, int64_t w, int threads,
         Random& random)
        : cosets(cosets),
          layout(layout),
          x(laid_out<T>(layout, n, c, cosets.elements.size(), h, w)),
          out(laid_out<T>(layout, n, c, cosets.count(), h, w)),
          grad(laid_out<T>(layout, n, c, cosets.count(), h, w)),
          grad_x(laid_out<T>(layout, n, c, cosets.elements.size(), h, w)),
          index(laid_out<uint8_t>(layout, n, c, cosets.count(), h, w)),
          threads(threads) {
        fill(random, x, special);
        fill(random, grad, special);
        if (layout == Layout::pixels) std::fill_n(index.memory.get(), n * index.image.stride_batch, kUntouched);
    }

    T member(int64_t n, int64_t c, int64_t coset, int at, int64_t y, int64_t z) const {
        return x(n, c, cosets.elements[coset * cosets.size + at], y, z);
    }

    void pool(PoolMode mode, bool indexed) const {
        gconv::group_pool(x.read(), out.image, indexed ? index.image : gconv::Image<uint8_t>{}, cosets.elements,
                          cosets.size, mode, threads);
    }

    void check_max(bool indexed) const {
        pool(PoolMode::max, indexed);
        each_element(index.image, [&](int64_t n, int64_t c, int64_t coset, int64_t y, int64_t z) {
            int winner = 0;
            for (int at = 1; at < cosets.size; ++at) {
                const T best = member(n, c, coset, winner, y, z), value = member(n, c, coset, at, y, z);
                if (!std::isnan(best) && (std::isnan(value) || value > best)) winner = at;
            }
            CHECK(same(out(n, c, coset, y, z), member(n, c, coset, winner, y, z)));
            if (indexed) CHECK(index(n, c, coset, y, z) == winner);
        });
    }

    void check_mean() const {
        pool(PoolMode::mean, false);
        each_element(index.image, [&](int64_t n, int64_t c, int64_t coset, int64_t y, int64_t z) {
            T sum = member(n, c, coset, 0, y, z);
            for (int at = 1; at < cosets.size; ++at) sum += member(n, c, coset, at, y, z);
            CHECK(same(out(n, c, coset, y, z), sum * (T{1} / static_cast<T>(cosets.size))));
        });
    }

    void backward(PoolMode mode) const {
        gconv::group_pool_backward(grad.read(), mode == PoolMode::max ? index.read() : gconv::Image<const uint8_t>{},
                                   grad_x.image, cosets.elements, cosets.size, mode, threads);
    }

    void check_backward(PoolMode mode) const {
        backward(mode);
        each_element(index.image, [&](int64_t n, int64_t c, int64_t coset, int64_t y, int64_t z) {
            const T from = grad(n, c, coset, y, z), share = from * (T{1} / static_cast<T>(cosets.size));
            for (int at = 0; at < cosets.size; ++at) {
                const T wanted = mode == PoolMode::mean ? share : index(n, c, coset, y, z) == at ? from : T{0};
                CHECK(same(grad_x(n, c, cosets.elements[coset * cosets.size + at], y, z), wanted));
            }
        });
    }

    // Indices past the coset select nothing.
    void select() const {
        index(0, 0, 0, 0, 0) = static_cast<uint8_t>(cosets.size);
        gconv::group_pool_select(x.read(), index.read(), out.image, cosets.elements, cosets.size, threads);
    }

    void check_select() const {
        select();
        each_element(index.image, [&](int64_t n, int64_t c, int64_t coset, int64_t y, int64_t z) {
            const int at = index(n, c, coset, y, z);
            CHECK(same(out(n, c, coset, y, z), at < cosets.size ? member(n, c, coset, at, y, z) : T{0}));
        });
    }

    void check() const {
        check_max(false);
        check_max(true);
        check_backward(PoolMode::max);
        check_select();
        check_mean();
        check_backward(PoolMode::mean);
        if (layout == Layout::pixels)
            CHECK(gaps_are_untouched(out) && gaps_are_untouched(grad_x) && gaps_are_untouched(index));
    }
};

struct Shape {
    int64_t channels, width;
    int threads;
};

// Sizes with a reason each: below a vector, one past vectors of 4, 8, 16, a block of 64 elements and one past it, two
// threads' shares that end inside a block.
template <typename T>
void one_set(const std::string& set) {
    const std::vector<Cosets> all = {
        {kCosets, 2}, {{0, 1, 2, 3}, 4}, {{3, 1, 0, 2}, 1}, {{0, 3, 5, 1, 2, 4}, 3}, {{0, 1, 2, 3, 4, 5, 6, 7}, 8}};
    Random random(3);
    for (const Cosets& cosets : all)
        for (const Layout layout : {Layout::planes, Layout::rows, Layout::pixels})
            for (const bool special : {false, true})
                for (const Shape s : {Shape{1, 1, 1}, Shape{3, 1, 1}, Shape{5, 1, 1}, Shape{17, 1, 2}, Shape{16, 4, 1},
                                      Shape{65, 1, 2}, Shape{13, 33, 2}}) {
                    const std::string text = " " + set + " " + std::to_string(cosets.size) + " " +
                                             std::to_string(s.channels) + " " + std::to_string(s.width) + " " +
                                             std::to_string(static_cast<int>(layout));
                    run("group_pool" + text, [&] {
                        Case<T>(cosets, layout, special, 2, s.channels, 3, s.width, s.threads, random).check();
                    });
                }
    run("group_pool: a part for each of 3 threads " + set,
        [&] { Case<T>(all[1], Layout::planes, true, 2, 19, 41, 37, 3, random).check(); });
}

float widened(gconv::bfloat16 half) {
    const uint32_t bits = uint32_t{half.bits} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float widened(gconv::float16 half) {
    const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
    const float sign = half.bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(1.0f * fraction, -24));
}

// The half of that value, which there must be.
template <typename S>
S narrowed(float value) {
    static std::vector<std::pair<float, S>> known;
    for (const auto& [wide, half] : known)
        if (same(wide, value)) return half;
    for (int bits = 0; bits < 65536; ++bits) {
        const S half{static_cast<uint16_t>(bits)};
        if (same(widened(half), value)) return known.emplace_back(value, half).second;
    }
    throw std::runtime_error("no half is " + std::to_string(value));
}

// A map like one of floats without gaps, all NaN.
template <typename S>
struct Halves {
    std::vector<S> memory;
    const gconv::Image<float>& like;

    explicit Halves(const Map<float>& map) : memory(map.image.batch * map.image.stride_batch), like(map.image) {
        for (S& half : memory) half.bits = 0x7fff;
    }
    template <typename T>
    gconv::Image<T> as() {
        return {memory.data(), like.batch,        like.channels,     like.planes,     like.height,
                like.width,    like.stride_batch, like.stride_plane, like.stride_row, like.stride_column};
    }
    gconv::Image<const S> read() { return as<const S>(); }
    gconv::Image<S> write() { return as<S>(); }
    void copy(const Map<float>& map) {
        std::transform(map.memory.get(), map.memory.get() + memory.size(), memory.begin(), narrowed<S>);
    }
    bool equals(const Map<float>& map) const {
        return std::equal(memory.begin(), memory.end(), map.memory.get(),
                          [](S half, float value) { return same(widened(half), value); });
    }
};

// As in float: all values and all means over 2, 4 or 8 of them are halves.
template <typename S>
void half_case(const Cosets& cosets, int64_t c, int64_t w, Random& random) {
    const Case<float> wide(cosets, Layout::planes, true, 2, c, 3, w, 1, random);
    Halves<S> x(wide.x), out(wide.out), grad(wide.grad), grad_x(wide.grad_x);
    x.copy(wide.x);
    grad.copy(wide.grad);
    wide.pool(PoolMode::max, true);
    const Map<uint8_t> index(2, c, cosets.count(), 3, w);
    gconv::group_pool(x.read(), out.write(), index.image, cosets.elements, cosets.size, PoolMode::max, 1);
    CHECK(out.equals(wide.out));
    CHECK(std::equal(index.memory.get(), index.memory.get() + out.memory.size(), wide.index.memory.get()));
    wide.pool(PoolMode::mean, false);
    gconv::group_pool(x.read(), out.write(), {}, cosets.elements, cosets.size, PoolMode::mean, 1);
    CHECK(out.equals(wide.out));
    for (const PoolMode mode : {PoolMode::max, PoolMode::mean}) {
        wide.backward(mode);
        gconv::group_pool_backward(grad.read(), index.read(), grad_x.write(), cosets.elements, cosets.size, mode, 1);
        CHECK(grad_x.equals(wide.grad_x));
    }
    wide.select();
    gconv::group_pool_select(x.read(), wide.index.read(), out.write(), cosets.elements, cosets.size, 1);
    CHECK(out.equals(wide.out));
}

}  // namespace

void test_group_pool() {
    for (const std::string& set : gconv::instruction_sets()) {
        gconv::use_instruction_set(set);
        one_set<float>(set);
        one_set<double>(set);
        Random random(5);
        for (const Cosets& cosets : {Cosets{kCosets, 2}, Cosets{{0, 1, 2, 3, 4, 5, 6, 7}, 8}})
            for (const int64_t width : {1, 3, 13}) {
                const std::string text = " " + set + " " + std::to_string(cosets.size) + " " + std::to_string(width);
                run("group_pool bfloat16" + text, [&] { half_case<gconv::bfloat16>(cosets, 5, width, random); });
                run("group_pool float16" + text, [&] { half_case<gconv::float16>(cosets, 5, width, random); });
            }
    }
    Random random(3);
    run("group_pool: the whole group, first on ties, an empty batch", [&] {
        const std::vector<int32_t> group = {0, 1, 2, 3};
        const Map<float> x(1, 1, 4, 1, 1), out(1, 1, 1, 1, 1), none(0, 1, 4, 1, 1), no_out(0, 1, 1, 1, 1);
        const Map<uint8_t> index(1, 1, 1, 1, 1);
        const float values[] = {1, 5, 5, 2};
        std::copy_n(values, 4, x.memory.get());
        gconv::group_pool(x.read(), out.image, index.image, group, 4, PoolMode::max, 2);
        CHECK(out.memory[0] == 5 && index.memory[0] == 1);
        gconv::group_pool(none.read(), no_out.image, {}, group, 4, PoolMode::max, 2);
    });
    run("group_pool: images of different layouts", [&] {
        for (const Layout from : {Layout::planes, Layout::rows, Layout::pixels})
            for (const Layout to : {Layout::planes, Layout::rows, Layout::pixels}) {
                const Map<float> x = laid_out<float>(from, 2, 7, 4, 3, 5), out = laid_out<float>(to, 2, 7, 2, 3, 5);
                randomise(random, x);
                gconv::group_pool(x.read(), out.image, {}, kCosets, 2, PoolMode::mean, 1);
                each_element({nullptr, 2, 7, 2, 3, 5, 0, 0, 0, 0},
                             [&](int64_t n, int64_t c, int64_t coset, int64_t y, int64_t z) {
                                 const float sum = x(n, c, coset, y, z) + x(n, c, coset + 2, y, z);
                                 CHECK(out(n, c, coset, y, z) == sum / 2);
                             });
            }
    });
    run("group_pool: an output of some huge pages", [&] {
        const Map<float> x(1, 1, 2, 1024, 1024), out(1, 1, 1, 1024, 1024);
        std::fill_n(x.memory.get(), 1 << 20, 1.0f);
        std::fill_n(x.memory.get() + (1 << 20), 1 << 20, 2.0f);
        gconv::group_pool(x.read(), out.image, {}, {0, 1}, 2, PoolMode::max, 2);
        CHECK(std::all_of(out.memory.get(), out.memory.get() + (1 << 20), [](float value) { return value == 2; }));
    });
    run("group_pool: cosets of 255", [&] {
        std::vector<int32_t> group(255);
        for (int i = 0; i < 255; ++i) group[i] = 254 - i;
        Case<float>({group, 255}, Layout::planes, true, 1, 3, 2, 5, 1, random).check();
    });
    run("group_pool: rejects cosets and sizes that do not fit", [&] {
        const Map<float> x(1, 2, 4, 3, 3), out(1, 2, 2, 3, 3), wrong(1, 2, 4, 3, 3), grad_x(1, 2, 4, 3, 3);
        const Map<uint8_t> index(1, 2, 2, 3, 3), wrong_index(1, 2, 2, 3, 2);
        randomise(random, x);
        const auto pool = [&](const Map<float>& to, const Map<uint8_t>& at, const std::vector<int32_t>& cosets,
                              int size) {
            return rejects([&] { gconv::group_pool(x.read(), to.image, at.image, cosets, size, PoolMode::max, 1); });
        };
        CHECK(!pool(out, index, kCosets, 2));
        CHECK(pool(wrong, index, kCosets, 2));
        CHECK(pool(out, wrong_index, kCosets, 2));
        CHECK(pool(out, index, {0, 2, 1, 4}, 2));
        CHECK(pool(out, index, {0, 2, 1, -1}, 2));
        CHECK(pool(out, index, {0, 2, 1}, 2));
        CHECK(pool(out, index, {}, 2));
        CHECK(pool(out, index, kCosets, 0));
        CHECK(pool(out, index, std::vector<int32_t>(512, 0), 256));
        const auto backward = [&](const std::vector<int32_t>& cosets) {
            return rejects([&] {
                gconv::group_pool_backward(out.read(), index.read(), grad_x.image, cosets, 2, PoolMode::max, 1);
            });
        };
        CHECK(!backward(kCosets));
        CHECK(backward({0, 2, 0, 2}));
        CHECK(rejects([&] { gconv::group_pool_backward(out.read(), {}, grad_x.image, kCosets, 2, PoolMode::max, 1); }));
    });
}
