// The memory-bound CUDA kernels in the emulation: the packed filter by the convolution that it must give, its transpose,
// coefficient images and group pooling by loops over single numbers; every group and type, odd sizes, operands of
// exactly their size, memory that was garbage before.
#include <algorithm>
#include <cstring>
#include <utility>

#include "check.h"
#include "cuda/dispatch.h"
#include "cuda/filter.h"
#include "cuda/fourier.h"
#include "cuda/group_pool.h"
#include "cuda/images.h"

using check::pick;
using check::Random;
using namespace gconv::cuda;

namespace {

// A case, each under another order of the threads.
void run(const std::string& name, const std::function<void()>& body) {
    using emulation::Order;
    static uint32_t number = 0;
    constexpr Order orders[] = {Order::forward, Order::reversed, Order::random, Order::ahead, Order::behind};
    emulation::set_schedule(orders[number % 5], emulation::Asynchrony::eager, number / 5 % 4);
    ++number;
    check::run(name, body);
}

const std::vector<std::string> kGroups = {"C1", "C2", "C4", "D1", "D2", "D4"};

template <typename T>
constexpr Type kType = Type::float32;
template <>
constexpr Type kType<Float16> = Type::float16;
template <>
constexpr Type kType<Bfloat16> = Type::bfloat16;
const std::vector<Type> kTypes = {Type::float32, Type::float16, Type::bfloat16};
const char* name(Type type) {
    return type == Type::float32 ? "float32" : type == Type::float16 ? "float16" : "bfloat16";
}

// Numbers in memory of exactly their size, from an address that 16 divides, or `shift` numbers after one.
template <typename T>
struct Memory {
    std::unique_ptr<unsigned char[]> bytes;
    T* data;
    int64_t count;

    explicit Memory(int64_t count, int shift = 0)
        : bytes(std::make_unique<unsigned char[]>((count + shift) * sizeof(T))),
          data(reinterpret_cast<T*>(bytes.get()) + shift),
          count(count) {
        std::memset(bytes.get(), 0xff, (count + shift) * sizeof(T));  // NaN in every type
    }
    void fill_integers(Random& random, int most) {
        for (int64_t i = 0; i < count; ++i)
            data[i] = from_float<T>(std::uniform_int_distribution<int>(-most, most)(random));
    }
};

// ---- groups, from their actions on the plane
struct Element {
    int m[4];
    bool operator==(const Element& other) const { return std::equal(m, m + 4, other.m); }
    Element operator*(const Element& b) const {  // b first
        return {{m[0] * b.m[0] + m[1] * b.m[2], m[0] * b.m[1] + m[1] * b.m[3], m[2] * b.m[0] + m[3] * b.m[2],
                 m[2] * b.m[1] + m[3] * b.m[3]}};
    }
};

std::vector<Element> elements_of(const std::string& group) {
    const Element identity{{1, 0, 0, 1}}, quarter{{0, -1, 1, 0}}, flip{{-1, 0, 0, 1}};  // quarter: up, then left
    const int n = group[1] - '0';
    std::vector<Element> elements = {identity};
    const Element turn = n == 4 ? quarter : n == 2 ? quarter * quarter : identity;
    for (int r = 1; r < n; ++r) elements.push_back(turn * elements.back());
    for (int r = 0; r < n && group[0] == 'D'; ++r) elements.push_back(flip * elements[r]);
    return elements;
}

int number_of(const std::vector<Element>& elements, const Element& element) {
    return static_cast<int>(std::find(elements.begin(), elements.end(), element) - elements.begin());
}

int inverse_of(const std::vector<Element>& elements, int a) {
    for (int b = 0;; ++b)
        if (elements[a] * elements[b] == elements[0]) return b;
}

// The tap at which an element puts a tap of the window.
int moved(const Element& element, int tap, int size) {
    const double centre = (size - 1) / 2.0, row = tap / size - centre, column = tap % size - centre;
    const double to_row = element.m[0] * row + element.m[1] * column,
                 to_column = element.m[2] * row + element.m[3] * column;
    return static_cast<int>(std::lround(to_row + centre) * size + std::lround(to_column + centre));
}

void test_lattices() {
    for (const std::string& group : kGroups)
        run("lattice " + group, [&] {
            const auto elements = elements_of(group);
            const Lattice ours = lattice(group);
            CHECK(ours.order == static_cast<int>(elements.size()));
            for (int h = 0; h < ours.order; ++h) {
                CHECK(std::equal(ours.matrices[h], ours.matrices[h] + 4, elements[h].m));
                CHECK(ours.inverses[h] == inverse_of(elements, h));
                for (int size = 1; size <= 5; ++size) {
                    const Offsets offsets = ours.offsets(size);
                    for (int tap = 0; tap < size * size; ++tap)
                        CHECK(offsets.row[tap][h] * size + offsets.column[tap][h] == moved(elements[h], tap, size));
                }
            }
        });
    run("lattice, other names", [] {
        for (const char* other : {"", "C3", "C8", "E4", "D44", "4"}) CHECK(check::rejects([&] { lattice(other); }));
    });
}

// ---- filters
struct FilterCase {
    std::string group;
    bool lifting, adjoint;
    int cosets, c_in, c_out, size, columns;

    std::vector<Element> elements = elements_of(group);
    int order = static_cast<int>(elements.size());
    int planes = lifting ? 1 : order, in_cosets = lifting ? 1 : cosets, taps = size * size;
    FilterPlan plan = plan_filter(lattice(group), lifting, cosets, c_in, c_out, size, adjoint, columns);

    int64_t weights() const { return int64_t{cosets} * c_out * in_cosets * c_in * planes * taps; }
    int64_t place(int out, int in, int plane, int tap) const {  // channels over all cosets
        return ((int64_t{out} * in_cosets * c_in + in) * planes + plane) * taps + tap;
    }
    std::string text(Type type) const {
        std::string text = std::string(" ") + name(type) + " " + group;
        for (const int value : {int{lifting}, int{adjoint}, cosets, c_in, c_out, size, columns})
            text += " " + std::to_string(value);
        return text;
    }
};

FilterCase random_case(Random& random, const std::string& group, bool adjoint) {
    const auto some = [&](const std::vector<int64_t>& choices) { return static_cast<int>(pick(random, choices)); };
    return {group,
            pick(random, {0, 0, 1}) == 1,
            adjoint,
            some({1, 1, 2, 3}),
            some({1, 2, 3, 8, 16, 17, 33, 40}),
            some({1, 2, 5, 8, 16, 19, 35, 64}),
            some({1, 2, 3, 3, 4, 5}),
            some({16, 32, 64, 128})};
}

// What, decoded: channels of a coset beyond the filter's included.
template <typename T>
struct Packed {
    const FilterPlan& plan;
    int width = kRowBytes / static_cast<int>(sizeof(T));
    int out_blocks = (plan.c_out + plan.columns - 1) / plan.columns, slices = (plan.c_in + width - 1) / width;
    int outs = out_blocks * plan.columns, ins = slices * width;
    Memory<T> memory{packed_bytes(kType<T>, plan) / static_cast<int>(sizeof(T))};

    float at(int coset_out, int out, int coset_in, int in, int tap, int row) const {
        const int64_t out_tile = coset_out * out_blocks + out / plan.columns;
        const int64_t slice = coset_in * slices + in / width;
        const int64_t tile = (out_tile * plan.cosets_in * slices + slice) * plan.taps + tap;
        const int o = out % plan.columns, byte = in % width * static_cast<int>(sizeof(T));
        const int64_t line = (tile * plan.order + row) * plan.columns + o;
        return to_float(memory.data[(line * 64 + (byte / 16 ^ (o >> 1 & 3)) * 16 + byte % 16) / sizeof(T)]);
    }
};

// out(g) = sum over the taps of f's (channel, plane, tap) at one pixel, by the packed filter, as the kernels do it.
template <typename Group, typename T>
std::vector<float> convolved(const FilterCase& c, const Packed<T>& packed, const std::vector<float>& f, int out_channel,
                             int element) {
    constexpr auto& table = tables<Group>;
    const FilterPlan& plan = packed.plan;
    const Offsets offsets = lattice(c.group).offsets(c.size);
    std::vector<float> sums(Group::order), out(Group::order);
    for (int coset = 0; coset < plan.cosets_in; ++coset)
        for (int i = 0; i < plan.c_in; ++i)
            for (int tap = 0; tap < c.taps; ++tap) {
                float u[kMaxOrder] = {};
                for (int a = 0; a < Group::order; ++a)
                    for (int h = 0; h < Group::order; ++h) {
                        const int e = Group::order == 1 ? element : h;
                        const int read = offsets.row[tap][e] * c.size + offsets.column[tap][e];
                        u[a] += table.transform[a][h] * f[((coset * plan.c_in + i) * Group::order + h) * c.taps + read];
                    }
                for (int k = 0; k < table.product_count; ++k) {
                    const Product& p = table.products[k];
                    sums[p.to] += p.sign * u[p.from] *
                                  packed.at(out_channel / plan.c_out, out_channel % plan.c_out, coset, i, tap, p.row);
                }
            }
    for (int g = 0; g < Group::order; ++g)
        for (int a = 0; a < Group::order; ++a) out[g] += table.transform[a][g] * sums[a];
    return out;
}

// out(g) = sum_d sum_t f(d, t) W(g^-1 d, g^-1 t), f's planes t (lifting: one); or its transpose, with f of the output's
// planes and -d for d.
template <typename T>
float defined(const FilterCase& c, const Memory<T>& weight, const std::vector<float>& f, int channel, int plane,
              const std::vector<int>& f_planes) {
    const int f_channels = static_cast<int>(f.size() / f_planes.size()) / c.taps;
    float sum = 0;
    for (int other = 0; other < f_channels; ++other)
        for (size_t k = 0; k < f_planes.size(); ++k)
            for (int d = 0; d < c.taps; ++d) {
                const int g = c.adjoint ? f_planes[k] : plane, t = c.adjoint ? plane : f_planes[k];
                const Element back = c.elements[inverse_of(c.elements, g)];
                const int s = c.lifting ? 0 : number_of(c.elements, back * c.elements[t]);
                const int tap = moved(back, c.adjoint ? c.taps - 1 - d : d, c.size);
                const int o = c.adjoint ? other : channel, i = c.adjoint ? channel : other;
                sum += f[(other * f_planes.size() + k) * c.taps + d] * to_float(weight.data[c.place(o, i, s, tap)]);
            }
    return sum;
}

template <typename T>
void check_zeros(const Packed<T>& packed) {
    const FilterPlan& p = packed.plan;
    for (int coset = 0; coset < p.cosets_out * p.cosets_in; ++coset)
        for (int o = 0; o < packed.outs; ++o)
            for (int i = o < p.c_out ? p.c_in : 0; i < packed.ins; ++i)
                for (int tap = 0; tap < p.taps; ++tap)
                    for (int r = 0; r < p.order; ++r)
                        CHECK(packed.at(coset % p.cosets_out, o, coset / p.cosets_out, i, tap, r) == 0);
}

template <typename T>
void check_pack(const FilterCase& c, Random& random) {
    Memory<T> weight(c.weights(), static_cast<int>(pick(random, {0, 0, 1})));
    weight.fill_integers(random, 2);
    const Packed<T> packed{c.plan};
    pack_filter(kType<T>, c.plan, weight.data, packed.memory.data, 0);
    check_zeros(packed);
    // Of a lifting convolution the transform sees one plane at a time: that of each element in its turn.
    const int turns = c.lifting ? c.order : 1;
    for (int element = 0; element < turns; ++element) {
        std::vector<int> planes(c.lifting ? 1 : c.order);
        for (size_t t = 0; t < planes.size(); ++t) planes[t] = c.lifting ? (c.adjoint ? element : 0) : t;
        std::vector<float> f(c.plan.cosets_in * c.plan.c_in * planes.size() * c.taps);
        for (float& value : f) value = std::uniform_int_distribution<int>(-2, 2)(random);
        for (int trial = 0; trial < 6; ++trial) {
            const int outs = c.plan.cosets_out * c.plan.c_out;
            const int out = trial == 0 ? outs - 1 : std::uniform_int_distribution<int>(0, outs - 1)(random);
            with_group(c.lifting ? "C1" : c.group, [&](auto tag) {
                const auto got = convolved<decltype(tag)>(c, packed, f, out, element);
                for (size_t g = 0; g < got.size(); ++g)
                    CHECK(got[g] == defined(c, weight, f, out, c.lifting && !c.adjoint ? element : g, planes));
            });
        }
    }
}

// <pack W, Z> = <W, unpack Z> for the gradient Z = sum of splits, on some W.
template <typename T>
void check_unpack(const FilterCase& c, int splits, Random& random) {
    const FilterPlan& p = c.plan;
    const Packed<T> packed{p};
    const int64_t length = sums_bytes(kType<T>, p) / static_cast<int64_t>(sizeof(float));
    Memory<float> sums(splits * length);
    Memory<T> gradient(c.weights(), static_cast<int>(pick(random, {0, 1})));
    const auto each = [&](const auto& body) {  // body(value of What, place of its sum)
        for (int co = 0; co < p.cosets_out; ++co)
            for (int o = 0; o < p.c_out; ++o)
                for (int ci = 0; ci < p.cosets_in; ++ci)
                    for (int i = 0; i < p.c_in; ++i)
                        for (int tap = 0; tap < p.taps; ++tap)
                            for (int r = 0; r < p.order; ++r) {
                                const int64_t out_tile = co * packed.out_blocks + o / p.columns;
                                const int64_t slice = ci * packed.slices + i / packed.width;
                                const int64_t tile = (out_tile * p.cosets_in * packed.slices + slice) * p.taps + tap;
                                body(packed.at(co, o, ci, i, tap, r),
                                     ((tile * p.order + r) * packed.width + i % packed.width) * p.columns +
                                         o % p.columns);
                            }
    };
    each([&](float, int64_t place) {  // the other sums stay NaN
        for (int split = 0; split < splits; ++split)
            sums.data[split * length + place] = std::uniform_int_distribution<int>(-1, 1)(random);
    });
    unpack_gradient(kType<T>, p, sums.data, splits, gradient.data, 0);
    for (int trial = 0; trial < 4; ++trial) {
        Memory<T> weight(c.weights());
        weight.fill_integers(random, 2);
        pack_filter(kType<T>, p, weight.data, packed.memory.data, 0);
        double left = 0, right = 0;
        each([&](float value, int64_t place) {
            for (int split = 0; split < splits; ++split) left += double{value} * sums.data[split * length + place];
        });
        for (int64_t k = 0; k < c.weights(); ++k)
            right += double{to_float(weight.data[k])} * to_float(gradient.data[k]);
        CHECK(left == right);
    }
    for (int64_t k = 0; k < c.weights() && splits == 0; ++k) CHECK(to_float(gradient.data[k]) == 0);
}

// Real numbers: within a rounding to T, and float32's of a sum of |H|.
template <typename T>
void check_rounding(const std::string& group, Random& random) {
    const FilterCase c{group, false, false, 1, 9, 11, 3, 32};
    Memory<T> weight(c.weights());
    for (int64_t k = 0; k < weight.count; ++k)
        weight.data[k] = from_float<T>(std::normal_distribution<float>()(random));
    const Packed<T> packed{c.plan};
    pack_filter(kType<T>, c.plan, weight.data, packed.memory.data, 0);
    const double last = sizeof(T) == 4 ? 0x1p-24 : std::is_same_v<T, Float16> ? 0x1p-11 : 0x1p-8;
    with_group(group, [&](auto tag) {
        constexpr auto& table = tables<decltype(tag)>;
        for (int o = 0; o < c.c_out; ++o)
            for (int i = 0; i < c.c_in; ++i)
                for (int tap = 0; tap < c.taps; ++tap)
                    for (int r = 0; r < table.rows; ++r) {
                        double sum = 0, size = 0;
                        for (int s = 0; s < c.order; ++s) {
                            const double term = table.forms[r][s] / double(table.norms[r]) *
                                                to_float(weight.data[c.place(o, i, s, moved(c.elements[s], tap, 3))]);
                            sum += term;
                            size += std::abs(term);
                        }
                        CHECK(std::abs(packed.at(0, o, 0, i, tap, r) - sum) <=
                              last * std::abs(sum) + 8 * 0x1p-24 * size);
                    }
    });
}

void test_filters() {
    Random random(1);
    for (const std::string& group : kGroups)
        for (const Type type : kTypes) {
            with_type(type, [&](auto zero) {
                using T = decltype(zero);
                for (const bool adjoint : {false, true})
                    for (int k = 0; k < 5; ++k) {
                        const FilterCase c = random_case(random, group, adjoint);
                        run("pack_filter" + c.text(type), [&] { check_pack<T>(c, random); });
                    }
                for (const int splits : {0, 1, 3}) {
                    FilterCase c = random_case(random, group, false);
                    run("unpack_gradient" + c.text(type), [&] { check_unpack<T>(c, splits, random); });
                }
                run("pack_filter rounds once " + group + " " + name(type), [&] { check_rounding<T>(group, random); });
            });
        }
    run("plan_filter, sizes that cannot be", [] {
        CHECK(check::rejects([] { plan_filter(lattice("C4"), false, 1, 8, 8, 6, false, 64); }));
        CHECK(check::rejects([] { plan_filter(lattice("C4"), false, 1, 8, 8, 3, false, 20); }));
    });
}

// ---- coefficient images
template <typename T>
void check_images(const std::string& group, bool lifting, const Map& map, int cosets, int columns,
                  const PixelTile& tile, Random& random) {
    const Lattice ours = lattice(group);
    const auto above = [](int a, int b) { return (a + b - 1) / b; };
    const int width = kRowBytes / static_cast<int>(sizeof(T)), parts = 128 / width;
    const int rows = above(map.height, tile.height), across = above(map.width, tile.width);
    const int pixel_tiles = above(map.batch, tile.images) * rows * across;
    const int coset_tiles = above(map.channels, columns), order = lifting ? 1 : ours.order;
    Memory<T> from(int64_t{map.batch} * map.planes * map.height * map.width * map.channels,
                   static_cast<int>(pick(random, {0, 0, 1})));
    from.fill_integers(random, 3);
    Memory<T> images(images_bytes(kType<T>, ours, map, cosets, columns, tile) / static_cast<int>(sizeof(T)));
    CHECK(images.count == int64_t{ours.order} * pixel_tiles * cosets * coset_tiles * columns * 128);
    coefficient_images(kType<T>, ours, lifting, map, cosets, columns, tile, from.data, images.data, 0);
    with_group(lifting ? "C1" : group, [&](auto tag) {
        constexpr auto& table = tables<decltype(tag)>;
        int64_t k = 0;
        for (int element = 0; element < ours.order / order; ++element)
            for (int pixel_tile = 0; pixel_tile < pixel_tiles; ++pixel_tile)
                for (int out_tile = 0; out_tile < cosets * coset_tiles; ++out_tile)
                    for (int part = 0; part < parts; ++part)
                        for (int a = 0; a < order; ++a)
                            for (int o = 0; o < columns; ++o)
                                for (int at = 0; at < width; ++at, ++k) {
                                    const int byte = at * static_cast<int>(sizeof(T));
                                    const int i =
                                        ((byte / 16 ^ (o >> 1 & 3)) * 16 + byte % 16) / static_cast<int>(sizeof(T));
                                    const int p = part * width + i, c = out_tile % coset_tiles * columns + o;
                                    const int n =
                                        pixel_tile / (rows * across) * tile.images + p / (tile.height * tile.width);
                                    const int y =
                                        pixel_tile / across % rows * tile.height + p / tile.width % tile.height;
                                    const int x = pixel_tile % across * tile.width + p % tile.width;
                                    float expected = 0;
                                    if (n < map.batch && y < map.height && x < map.width && c < map.channels)
                                        for (int h = 0; h < order; ++h) {
                                            const int plane = (lifting ? element : h) * cosets + out_tile / coset_tiles;
                                            const int64_t place =
                                                (((int64_t{n} * map.planes + plane) * map.height + y) * map.width + x) *
                                                    map.channels +
                                                c;
                                            expected += table.transform[a][h] * to_float(from.data[place]);
                                        }
                                    CHECK(to_float(images.data[k]) == expected);
                                }
        CHECK(k == images.count);
    });
}

void test_images() {
    const std::vector<PixelTile> tiles = {{1, 8, 16}, {1, 16, 8}, {2, 8, 8}, {8, 2, 8}, {16, 1, 8}, {1, 4, 32}};
    Random random(2);
    const auto some = [&](const std::vector<int64_t>& choices) { return static_cast<int>(pick(random, choices)); };
    for (const std::string& group : kGroups)
        for (const Type type : kTypes)
            for (int k = 0; k < 6; ++k) {
                const bool lifting = k % 3 == 2;
                const int cosets = some({1, 1, 2, 3}), columns = some({16, 32, 64, 128});
                const PixelTile tile = tiles[some({0, 1, 2, 3, 4, 5})];
                const Map map{some({1, 2, 3, 9}), some({1, 3, 4, 8, 12, 19, 32, 40, 66}), lattice(group).order * cosets,
                              some({1, 2, 5, 8, 9}), some({1, 3, 8, 11, 16, 17})};
                std::string text = "coefficient_images " + group + " " + name(type);
                for (const int value : {int{lifting}, map.batch, map.channels, cosets, map.height, map.width, columns,
                                        tile.images, tile.height, tile.width})
                    text += " " + std::to_string(value);
                run(text, [&] {
                    with_type(type, [&](auto zero) {
                        check_images<decltype(zero)>(group, lifting, map, cosets, columns, tile, random);
                    });
                });
            }
    run("coefficient_images, sizes that cannot be", [] {
        const Lattice c4 = lattice("C4");
        const Map map{1, 8, 4, 8, 8};
        CHECK(images_bytes(Type::float32, c4, map, 1, 32, {1, 8, 16}) == 4 * 32 * 128 * 4);
        CHECK(check::rejects([&] { images_bytes(Type::float32, c4, map, 2, 32, {1, 8, 16}); }));
        CHECK(check::rejects([&] { images_bytes(Type::float32, c4, map, 1, 12, {1, 8, 16}); }));
        CHECK(check::rejects([&] { images_bytes(Type::float32, c4, map, 1, 32, {1, 8, 8}); }));
        CHECK(check::rejects([&] { images_bytes(Type::float32, c4, map, 1, 32, {1, 32, 4}); }));
    });
}

// ---- group pooling
// Equal, or both NaN, and the same zero.
template <typename T>
bool same(T a, T b) {
    const float x = to_float(a), y = to_float(b);
    return std::isnan(x) ? std::isnan(y) : x == y && std::signbit(x) == std::signbit(y);
}

template <typename T>
struct PoolCase {
    Cosets cosets;
    int64_t batch, length;
    int count = static_cast<int>(cosets.size()), size = static_cast<int>(cosets[0].size()), shift;
    Memory<T> x{batch * count * size * length, shift}, out{batch * count * length, shift};
    Memory<T> grad{batch * count * length, shift}, grad_x{batch * count * size * length, shift};
    Memory<uint8_t> index{batch * count * length, shift};

    PoolCase(Cosets cosets, int64_t batch, int64_t length, int shift, Random& random)
        : cosets(std::move(cosets)), batch(batch), length(length), shift(shift) {
        for (Memory<T>* memory : {&x, &grad}) {
            memory->fill_integers(random, 2);  // many ties
            constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
            for (int64_t k = 0; k < memory->count / 8; ++k)
                for (const float value : {nan, infinity, -infinity, -0.0f, 0.3f})
                    if (pick(random, {0, 0, 1}))
                        memory->data[std::uniform_int_distribution<int64_t>(0, memory->count - 1)(random)] =
                            from_float<T>(value);
        }
    }
    int64_t place(int64_t n, int coset, int member, int64_t p) const {
        return (n * count * size + cosets[coset][member]) * length + p;
    }
    // body(place among the pooled, places of the members)
    template <typename Body>
    void each(const Body& body) const {
        std::vector<int64_t> members(size);
        for (int64_t n = 0; n < batch; ++n)
            for (int coset = 0; coset < count; ++coset)
                for (int64_t p = 0; p < length; ++p) {
                    for (int member = 0; member < size; ++member) members[member] = place(n, coset, member, p);
                    body((n * count + coset) * length + p, members);
                }
    }

    void pool(PoolMode mode, bool indexed) {
        group_pool(kType<T>, x.data, out.data, indexed ? index.data : nullptr, batch, length, cosets, mode, 0);
    }
    void backward(PoolMode mode) {
        group_pool_backward(kType<T>, grad.data, mode == PoolMode::max ? index.data : nullptr, grad_x.data, batch,
                            length, cosets, mode, 0);
    }

    void check_max(bool indexed) {
        pool(PoolMode::max, indexed);
        each([&](int64_t at, const std::vector<int64_t>& members) {
            int winner = 0;
            for (int member = 1; member < size; ++member) {
                const float best = to_float(x.data[members[winner]]), value = to_float(x.data[members[member]]);
                if (!std::isnan(best) && (std::isnan(value) || value > best)) winner = member;
            }
            CHECK(same(out.data[at], x.data[members[winner]]));
            CHECK(index.data[at] == (indexed ? winner : 0xff));
        });
    }
    void check_mean() {
        pool(PoolMode::mean, false);
        each([&](int64_t at, const std::vector<int64_t>& members) {
            float sum = to_float(x.data[members[0]]);
            for (int member = 1; member < size; ++member) sum += to_float(x.data[members[member]]);
            CHECK(same(out.data[at], from_float<T>(sum / static_cast<float>(size))));
        });
    }
    void check_backward(PoolMode mode) {
        backward(mode);
        each([&](int64_t at, const std::vector<int64_t>& members) {
            for (int member = 0; member < size; ++member) {
                const T mean = from_float<T>(to_float(grad.data[at]) / static_cast<float>(size));
                const T share = mode == PoolMode::mean ? mean : index.data[at] == member ? grad.data[at] : T{};
                CHECK(same(grad_x.data[members[member]], share));
            }
        });
    }
    void check_select() {
        group_pool_select(kType<T>, x.data, index.data, out.data, batch, length, cosets, 0);
        each([&](int64_t at, const std::vector<int64_t>& members) {
            CHECK(same(out.data[at], x.data[members[index.data[at]]]));
        });
    }
    void check_all() {
        check_max(false);
        check_max(true);
        check_backward(PoolMode::max);
        check_backward(PoolMode::mean);
        check_mean();
        for (int64_t k = 0; k < index.count; ++k) index.data[k] = (index.data[k] + k) % size;  // another choice
        check_select();
    }
};

// The elements 0, ..., planes - 1 in any order.
Cosets shuffled(int planes, int size, Random& random) {
    std::vector<int> elements(planes);
    for (int e = 0; e < planes; ++e) elements[e] = e;
    std::shuffle(elements.begin(), elements.end(), random);
    Cosets cosets(planes / size);
    for (int e = 0; e < planes; ++e) cosets[e / size].push_back(elements[e]);
    return cosets;
}

void test_pools() {
    const std::vector<std::pair<int, int>> sizes = {{1, 1}, {2, 2},  {3, 3},  {4, 2},  {4, 4},  {6, 3},   {8, 4},
                                                    {8, 8}, {10, 5}, {16, 2}, {24, 6}, {32, 8}, {32, 32}, {32, 1}};
    Random random(3);
    for (const Type type : kTypes)
        for (const auto& [planes, size] : sizes)
            for (int k = 0; k < 3; ++k) {
                const int64_t batch = pick(random, {0, 1, 2, 3, 5});
                const int64_t length =
                    k == 0 ? pick(random, {8, 16, 40, 256}) : pick(random, {0, 1, 3, 4, 9, 60, 2056});
                const int shift = static_cast<int>(pick(random, {0, 0, 0, 1}));
                const Cosets cosets = shuffled(planes, size, random);
                std::string text = std::string("group_pool ") + name(type);
                for (const int64_t value : {int64_t{planes}, int64_t{size}, batch, length, int64_t{shift}})
                    text += " " + std::to_string(value);
                run(text, [&] {
                    with_type(type, [&](auto zero) {
                        PoolCase<decltype(zero)>(cosets, batch, length, shift, random).check_all();
                    });
                });
            }
    run("group_pool, cosets that cannot be", [&] {
        const auto rejected = [](const Cosets& cosets, int64_t batch = 1, int64_t length = 8) {
            return check::rejects(
                [&] { group_pool(Type::float32, nullptr, nullptr, nullptr, batch, length, cosets, PoolMode::max, 0); });
        };
        CHECK(!rejected({{0, 1}}, 0));
        CHECK(rejected({}));
        CHECK(rejected({{}}));
        CHECK(rejected({{0, 1}, {2}}));
        CHECK(rejected({{0, 1}, {2, 1}}));
        CHECK(rejected({{0, 1}, {2, 4}}));
        CHECK(rejected({{0, -1}}));
        CHECK(rejected(shuffled(33, 3, random)));
        CHECK(rejected({{0, 1}}, -1));
        CHECK(rejected({{0, 1}}, 1, -1));
        CHECK(rejected({{0, 1}}, int64_t{1} << 31));
        CHECK(rejected({{0, 1}}, 1, int64_t{1} << 60));
        CHECK(check::rejects(
            [] { group_pool_backward(Type::float32, nullptr, nullptr, nullptr, 1, 8, {{0, 1}}, PoolMode::max, 0); }));
    });
}

}  // namespace

int main() {
    test_lattices();
    test_filters();
    test_images();
    test_pools();
    std::printf("%d passed, %d failed\n", check::total().passed, check::total().failed);
    return check::total().failed != 0;
}
