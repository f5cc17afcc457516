// What the native tests share: cases that are counted, the six groups, and tensors in exactly-sized heap memory, so
// that AddressSanitizer sees every access past an end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/ops.h"

namespace check {

struct Count {
    int passed = 0, failed = 0;
};

inline Count& total() {
    static Count count;
    return count;
}

// Runs one named case; a thrown exception or a false CHECK fails it.
inline void run(const std::string& name, const std::function<void()>& body) {
    try {
        body();
        ++total().passed;
    } catch (const std::exception& error) {
        ++total().failed;
        std::printf("FAILED %s: %s\n", name.c_str(), error.what());
    }
}

#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        if (!(condition)) throw std::runtime_error(std::string(#condition) + " at line " + std::to_string(__LINE__)); \
    } while (0)

// Whether the body throws std::invalid_argument.
inline bool rejects(const std::function<void()>& body) {
    try {
        body();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

using Random = std::mt19937;

inline int64_t pick(Random& random, const std::vector<int64_t>& choices) {
    return choices[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random)];
}

// The lattice group of n rotations, with flips of the rows if `flips`; element m * n + r rotates by r, then flips.
struct Lattice {
    std::string name;
    int order;
    std::vector<int32_t> product, action;
    std::vector<int> inverse;
    std::unique_ptr<gconv::Group> group;

    Lattice(int n, bool flips) : name((flips ? "D" : "C") + std::to_string(n)), order(flips ? 2 * n : n) {
        for (int element = 0; element < order; ++element) {
            std::vector<int32_t> m = {1, 0, 0, 1};
            for (int turn = 0; turn < element % n * (4 / n); ++turn) m = {-m[2], -m[3], m[0], m[1]};
            if (element >= n) m = {-m[0], -m[1], m[2], m[3]};
            action.insert(action.end(), m.begin(), m.end());
        }
        inverse.resize(order);
        for (int a = 0; a < order; ++a)
            for (int b = 0; b < order; ++b) {
                const int32_t *p = &action[a * 4], *q = &action[b * 4];
                const int32_t m[4] = {p[0] * q[0] + p[1] * q[2], p[0] * q[1] + p[1] * q[3], p[2] * q[0] + p[3] * q[2],
                                      p[2] * q[1] + p[3] * q[3]};
                int c = 0;
                while (!std::equal(m, m + 4, &action[c * 4])) ++c;
                product.push_back(c);
                if (c == 0) inverse[a] = b;
            }
        std::vector<gconv::Irrep> irreps;
        for (int odd_rotation = 0; odd_rotation < (n % 2 == 0 ? 2 : 1); ++odd_rotation)
            for (int odd_flip = 0; odd_flip < (flips ? 2 : 1); ++odd_flip) {
                gconv::Irrep irrep{1, 1, {}};
                for (int e = 0; e < order; ++e)
                    irrep.matrices.push_back((odd_rotation * (e % n) + odd_flip * (e / n)) % 2 ? -1 : 1);
                irreps.push_back(irrep);
            }
        if (n == 4) irreps.push_back({2, flips ? 2 : 1, std::vector<int8_t>(action.begin(), action.end())});
        group = std::make_unique<gconv::Group>(order, product, action, irreps);
    }
};

inline std::vector<Lattice> all_groups() {
    std::vector<Lattice> groups;
    for (const bool flips : {false, true})
        for (const int n : {1, 2, 4}) groups.emplace_back(n, flips);
    return groups;
}

// A feature map (N, G, blocks, H, W, C / blocks) in memory, optionally with a gap after every row.
template <typename T>
struct Map {
    std::unique_ptr<T[]> memory;
    gconv::Image<T> image;

    Map(int64_t n, int64_t c, int64_t g, int64_t h, int64_t w, int64_t gap = 0, int64_t blocks = 1) {
        const int64_t row = w * (c / blocks) + gap, rows = n * g * blocks * h, size = rows * row - (rows > 0 ? gap : 0);
        memory = std::make_unique<T[]>(size);
        std::fill_n(memory.get(), size, static_cast<T>(std::numeric_limits<double>::quiet_NaN()));
        image = {memory.get(), n, c, g, h, w, g * blocks * h * row, blocks * h * row, row, c / blocks, blocks, h * row};
    }
    T& operator()(int64_t n, int64_t c, int64_t g, int64_t y, int64_t x) const {
        return memory[n * image.stride_batch + g * image.stride_plane + y * image.stride_row + x * image.stride_column +
                      c / image.block_channels() * image.stride_block + c % image.block_channels()];
    }
    gconv::Image<const T> read() const {
        const auto& i = image;
        return {i.data,         i.batch,        i.channels,   i.planes,        i.height, i.width,
                i.stride_batch, i.stride_plane, i.stride_row, i.stride_column, i.blocks, i.stride_block};
    }
};

template <typename T>
struct Weight {
    std::unique_ptr<T[]> memory;
    gconv::Filter<T> filter;

    Weight(int64_t c_out, int64_t c_in, int64_t g, int64_t k)
        : memory(std::make_unique<T[]>(c_out * c_in * g * k * k)), filter{memory.get(), c_out, c_in, g, k} {}
    T& operator()(int64_t o, int64_t c, int64_t g, int64_t tap) const {
        return memory[((o * filter.in_channels + c) * filter.planes + g) * filter.size * filter.size + tap];
    }
    gconv::Filter<const T> read() const {
        return {filter.data, filter.out_channels, filter.in_channels, filter.planes, filter.size};
    }
};

// A number of equal blocks that so many channels can come in.
inline int64_t some_blocks(Random& random, int64_t channels) {
    const int64_t blocks = pick(random, {1, 1, 2, 3, 4});
    return channels % blocks ? 1 : blocks;
}

// Small integers: every sum is exact in float.
template <typename T>
void randomise(Random& random, const Map<T>& map) {
    const auto& i = map.image;
    for (int64_t n = 0; n < i.batch; ++n)
        for (int64_t c = 0; c < i.channels; ++c)
            for (int64_t g = 0; g < i.planes; ++g)
                for (int64_t y = 0; y < i.height; ++y)
                    for (int64_t x = 0; x < i.width; ++x)
                        map(n, c, g, y, x) = static_cast<T>(pick(random, {-3, -2, -1, 0, 1, 2, 3}));
}

template <typename T>
void randomise(Random& random, const Weight<T>& weight) {
    const auto& f = weight.filter;
    for (int64_t i = 0; i < f.out_channels * f.in_channels * f.planes * f.size * f.size; ++i)
        weight.memory[i] = static_cast<T>(pick(random, {-2, -1, 0, 1, 2}));
}

// The tap at which an element puts `tap` of the K x K window.
inline int64_t moved(const Lattice& lattice, int element, int64_t tap, int64_t size) {
    const int32_t* m = &lattice.action[element * 4];
    const double centre = (size - 1) / 2.0, y = tap / size - centre, x = tap % size - centre;
    return std::lround(m[0] * y + m[1] * x + centre) * size + std::lround(m[2] * y + m[3] * x + centre);
}

// The value of a map at a position in the padded image.
template <typename T>
T padded(const Map<T>& map, int64_t n, int64_t c, int64_t g, int64_t y, int64_t x) {
    return y >= 0 && x >= 0 && y < map.image.height && x < map.image.width ? map(n, c, g, y, x) : T{0};
}

template <typename T>
bool equal(const Map<T>& a, const Map<T>& b) {
    const auto& i = a.image;
    for (int64_t n = 0; n < i.batch; ++n)
        for (int64_t c = 0; c < i.channels; ++c)
            for (int64_t g = 0; g < i.planes; ++g)
                for (int64_t y = 0; y < i.height; ++y)
                    for (int64_t x = 0; x < i.width; ++x) {
                        const T p = a(n, c, g, y, x), q = b(n, c, g, y, x);
                        if (!(p == q || (std::isnan(p) && std::isnan(q)))) return false;
                    }
    return true;
}

template <typename T>
bool equal(const Weight<T>& a, const Weight<T>& b) {
    const auto& f = a.filter;
    return std::equal(a.memory.get(), a.memory.get() + f.out_channels * f.in_channels * f.planes * f.size * f.size,
                      b.memory.get());
}

// Sizes of one convolution case.
struct Sizes {
    int64_t batch, c_in, c_out, height, width, size, stride, padding;
    int threads;
    int64_t out_height() const { return (height + 2 * padding - size) / stride + 1; }
    int64_t out_width() const { return (width + 2 * padding - size) / stride + 1; }
    std::string text() const {
        std::string text;
        for (const int64_t value : {batch, c_in, c_out, height, width, size, stride, padding, int64_t{threads}})
            text += " " + std::to_string(value);
        return text;
    }
};

inline Sizes random_sizes(Random& random) {
    Sizes s{};
    do {
        s = {pick(random, {1, 2, 3}),
             pick(random, {1, 2, 3, 4, 5, 8, 13, 16, 17}),
             pick(random, {1, 2, 3, 6, 8, 16, 17, 24}),
             pick(random, {1, 2, 3, 5, 7, 8}),
             pick(random, {1, 2, 3, 4, 6, 9}),
             pick(random, {1, 2, 3, 4, 5}),
             pick(random, {1, 1, 2, 3}),
             pick(random, {0, 1, 2}),
             static_cast<int>(pick(random, {1, 2, 3}))};
    } while (s.height + 2 * s.padding < s.size || s.width + 2 * s.padding < s.size);
    return s;
}

// Runs `body(lattice, sizes, random)` on seeded sizes for every group, once per instruction set.
template <typename Body>
void each_case(const std::string& name, int cases, const Body& body) {
    for (const std::string& set : gconv::instruction_sets()) {
        gconv::use_instruction_set(set);
        Random random(1);
        for (const Lattice& lattice : all_groups())
            for (int i = 0; i < cases; ++i) {
                const Sizes sizes = random_sizes(random);
                run(name + " " + set + " " + lattice.name + sizes.text(), [&] { body(lattice, sizes, random); });
            }
    }
}

}  // namespace check

void test_group_conv2d();
void test_lifting_conv2d();
void test_group_pool();
void test_half();
void test_threads();
