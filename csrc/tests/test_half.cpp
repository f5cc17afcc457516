// Half precision in memory: every 16-bit pattern widens and narrows back, and rounding goes to the nearest, ties to
// even. A convolution with a single weight of 1 carries the values through gather and epilogue.
#include "check.h"

using namespace check;

namespace {

// By the formats' definitions: sign, exponent bits, mantissa bits.
double value_of(uint16_t bits, int mantissa, int bias) {
    const int exponent = (bits & 0x7fff) >> mantissa, fraction = bits & ((1 << mantissa) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * bias + 1) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
    return sign * std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
}

struct Format {
    int mantissa, bias;
};

// All patterns as the pixels of one image; out = x * weight, in the same format.
template <typename S>
std::vector<uint16_t> multiplied(uint16_t weight_bits, int64_t channels) {
    const Lattice c1(1, false);
    std::vector<S> x(65536), out(65536);
    std::vector<S> weight(channels * channels);  // weight on the diagonal
    for (int i = 0; i < 65536; ++i) x[i].bits = static_cast<uint16_t>(i);
    for (int64_t c = 0; c < channels; ++c) weight[c * channels + c].bits = weight_bits;
    const int64_t width = 65536 / channels;
    const gconv::Image<const S> from{x.data(), 1, channels, 1, 1, width, 65536, 65536, 65536, channels};
    const gconv::Image<S> to{out.data(), 1, channels, 1, 1, width, 65536, 65536, 65536, channels};
    const gconv::Filter<const S> filter{weight.data(), channels, channels, 1, 1};
    gconv::group_conv2d<S>(*c1.group, from, filter, nullptr, to, 1, 0, 1);
    std::vector<uint16_t> bits;
    for (const S& value : out) bits.push_back(value.bits);
    return bits;
}

template <typename S>
void round_trip(Format format, uint16_t one) {
    const auto bits = multiplied<S>(one, 1);
    for (int i = 0; i < 65536; ++i) {
        const double value = value_of(static_cast<uint16_t>(i), format.mantissa, format.bias);
        if (std::isnan(value))
            CHECK(std::isnan(value_of(bits[i], format.mantissa, format.bias)));
        else
            CHECK(bits[i] == i || value == 0);
    }
}

// The float that a product has is rounded: of two neighbours the nearer, of equally near ones the even.
template <typename S>
void rounding(Format format, uint16_t factor) {
    const auto bits = multiplied<S>(factor, 1);
    for (int i = 0; i < 65536; ++i) {
        const double exact = static_cast<float>(value_of(static_cast<uint16_t>(i), format.mantissa, format.bias)) *
                             static_cast<float>(value_of(factor, format.mantissa, format.bias));
        const double rounded = value_of(bits[i], format.mantissa, format.bias);
        if (!std::isfinite(exact)) continue;
        const uint16_t largest = static_cast<uint16_t>((2 * format.bias + 1) << format.mantissa) - 1;
        const double last = value_of(largest, format.mantissa, format.bias);
        const double step = last - value_of(static_cast<uint16_t>(largest - 1), format.mantissa, format.bias);
        if (std::abs(exact) > last) {
            CHECK(std::isinf(rounded) == (std::abs(exact) >= last + step / 2));
            continue;
        }
        const double error = std::abs(rounded - exact);
        for (const int next : {-1, 1}) {
            const uint16_t neighbour = static_cast<uint16_t>(bits[i] + next);
            if ((neighbour & 0x7fff) > largest || ((bits[i] & 0x7fff) == 0 && next < 0)) continue;
            const double other = std::abs(value_of(neighbour, format.mantissa, format.bias) - exact);
            CHECK(error < other || (error == other && bits[i] % 2 == 0));
        }
    }
}

}  // namespace

void test_half() {
    for (const std::string& set : gconv::instruction_sets()) {
        gconv::use_instruction_set(set);
        run("bfloat16: every value, " + set, [] { round_trip<gconv::bfloat16>({7, 127}, 0x3f80); });
        run("float16: every value, " + set, [] { round_trip<gconv::float16>({10, 15}, 0x3c00); });
        for (const int factor : {0x3f81, 0x3f35, 0x0b80, 0x4111})
            run("bfloat16: rounding, " + set + " " + std::to_string(factor),
                [&] { rounding<gconv::bfloat16>({7, 127}, static_cast<uint16_t>(factor)); });
        for (const int factor : {0x3c01, 0x3555, 0x0fff, 0x4111})
            run("float16: rounding, " + set + " " + std::to_string(factor),
                [&] { rounding<gconv::float16>({10, 15}, static_cast<uint16_t>(factor)); });
        run("bfloat16: vectors of every width, " + set, [] {
            const auto one = multiplied<gconv::bfloat16>(0x3f80, 1);
            for (const int64_t channels : {2, 4, 8, 16, 32}) {
                const auto many = multiplied<gconv::bfloat16>(0x3f80, channels);
                for (int i = 0; i < 65536; ++i) {
                    const int64_t first = i / channels * channels;  // a NaN or infinity spreads: 0 times it is NaN
                    bool finite = true;
                    for (int64_t c = 0; c < channels; ++c) finite = finite && ((first + c) & 0x7f80) != 0x7f80;
                    CHECK(!finite || many[i] == one[i]);
                }
            }
        });
    }
}
