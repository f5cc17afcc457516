// The group pooling kernels of one instruction set: compiled once per set; GCONV_ISA names it, the compiler's flags
// choose it.
//
// Mapping     a few vectors of adjacent elements at a time from every plane of the coset; the winners and their
//             positions stay in registers, so that each element is read once and each output written once.
// Accumulator the scalar type, float for half precision. Memory bound beyond the caches; in them the maximum is bound by its comparisons.
//
// Only plain data and file-local functions here: an inline function of the standard library compiled with these flags
// could be the copy that the linker keeps for everyone.
#include <cstdint>
#include <cstring>

#include "pool_kernels.h"
#include "vector.h"

namespace gconv {
namespace {

constexpr int kBlock = 64;  // elements whose positions are narrowed to a cache line of indices, or widened, together
constexpr int kRun = 4;     // vectors of one plane before the next plane; one took up to 1.4 times as long (AVX2)

template <typename T>
struct Integer;
template <>
struct Integer<float> {
    using type = int32_t;
};
template <>
struct Integer<double> {
    using type = int64_t;
};

// S is the type in memory.
template <typename S>
using Scalar = typename Compute<S>::type;
// In the coset, as wide as a scalar: a comparison of values selects positions too.
template <typename S>
using Position = typename Integer<Scalar<S>>::type;
template <typename S, int lanes>
using Values = Vector<Scalar<S>, lanes* static_cast<int>(sizeof(Scalar<S>))>;
template <typename S, int lanes>
using Positions = Vector<Position<S>, lanes* static_cast<int>(sizeof(Scalar<S>))>;

template <typename S>
constexpr int kLanes = kVectorBytes / sizeof(Scalar<S>);

template <typename P>
inline bool any(const P& mask) {
    uint64_t words[sizeof mask / sizeof(uint64_t)], all = 0;
    std::memcpy(words, &mask, sizeof mask);
    for (const uint64_t word : words) all |= word;
    return all != 0;
}

// The compilers' vectorisers narrow and widen better in a loop than __builtin_convertvector does.
template <typename From, typename To>
inline void convert(const From* __restrict from, To* __restrict to, int count) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

template <typename S, bool indexed>
struct Max {
    static constexpr bool reads_index = false, writes_index = indexed;
    int size;
    const S* const* x;
    S* out;
    uint8_t* index;

    template <int lanes, int run>
    inline void at(int64_t first, Position<S>* positions) const {
        using V = Values<S, lanes>;
        using P = Positions<S, lanes>;
        typename V::type best[run];
        typename P::type position[run] = {};
        for (int i = 0; i < run; ++i) best[i] = V::load(x[0] + first + i * lanes);
        for (int member = 1; member < size; ++member)
            for (int i = 0; i < run; ++i) {
                const typename V::type value = V::load(x[member] + first + i * lanes);
                const typename P::type stays = (value <= best[i]) | (best[i] != best[i]);
                best[i] = stays ? best[i] : value;
                position[i] = stays ? position[i] : typename P::type{} + member;
            }
        for (int i = 0; i < run; ++i) {
            V::store(out + first + i * lanes, best[i]);
            if constexpr (indexed) P::store(positions + i * lanes, position[i]);
        }
    }

    // Whole blocks from `first` on, by one comparison per element instead of two: right unless a member past the first
    // is NaN, which no comparison lets win. Stops at the first block whose sum of those members is NaN (or holds
    // infinities of both signs) and returns where it starts.
    inline int64_t ordered_blocks(int64_t first, int64_t count) const {
        using V = Values<S, kLanes<S>>;
        using P = Positions<S, kLanes<S>>;
        for (; first + kBlock <= count; first += kBlock) {
            Position<S> positions[kBlock];
            typename V::type sum{};
            for (int at = 0; at < kBlock; at += kRun * kLanes<S>) {
                typename V::type best[kRun];
                typename P::type position[kRun] = {};
                for (int i = 0; i < kRun; ++i) best[i] = V::load(x[0] + first + at + i * kLanes<S>);
                for (int member = 1; member < size; ++member) {
                    typename V::type members{};
                    for (int i = 0; i < kRun; ++i) {
                        const typename V::type value = V::load(x[member] + first + at + i * kLanes<S>);
                        const typename P::type wins = value > best[i];
                        best[i] = wins ? value : best[i];
                        position[i] = wins ? typename P::type{} + member : position[i];
                        members = i == 0 ? value : members + value;
                    }
                    sum += members;
                }
                for (int i = 0; i < kRun; ++i) {
                    V::store(out + first + at + i * kLanes<S>, best[i]);
                    if constexpr (indexed) P::store(positions + at + i * kLanes<S>, position[i]);
                }
            }
            if (any(sum != sum)) break;
            if constexpr (indexed) convert(positions, index + first, kBlock);
        }
        return first;
    }
};

template <typename S>
struct Mean {
    static constexpr bool reads_index = false, writes_index = false;
    int size;
    Scalar<S> factor;
    const S* const* x;
    S* out;

    template <int lanes, int run>
    inline void at(int64_t first, Position<S>*) const {
        using V = Values<S, lanes>;
        typename V::type sum[run];
        for (int i = 0; i < run; ++i) sum[i] = V::load(x[0] + first + i * lanes);
        for (int member = 1; member < size; ++member)
            for (int i = 0; i < run; ++i) sum[i] += V::load(x[member] + first + i * lanes);
        for (int i = 0; i < run; ++i) V::store(out + first + i * lanes, sum[i] * factor);
    }
};

template <typename S>
struct MaxBackward {
    static constexpr bool reads_index = true, writes_index = false;
    int size;
    const S* grad_out;
    const uint8_t* index;
    S* const* grad_x;

    template <int lanes, int run>
    inline void at(int64_t first, const Position<S>* positions) const {
        using V = Values<S, lanes>;
        using P = Positions<S, lanes>;
        typename V::type value[run];
        typename P::type position[run];
        for (int i = 0; i < run; ++i) value[i] = V::load(grad_out + first + i * lanes);
        for (int i = 0; i < run; ++i) position[i] = P::load(positions + i * lanes);
        for (int member = 0; member < size; ++member) {
            S* to = grad_x[member] + first;
            for (int i = 0; i < run; ++i) {
                const typename P::type won = position[i] == typename P::type{} + member;
                V::store(to + i * lanes, won ? value[i] : typename V::type{});
            }
        }
    }
};

template <typename S>
struct MeanBackward {
    static constexpr bool reads_index = false, writes_index = false;
    int size;
    Scalar<S> factor;
    const S* grad_out;
    S* const* grad_x;

    template <int lanes, int run>
    inline void at(int64_t first, Position<S>*) const {
        using V = Values<S, lanes>;
        typename V::type share[run];
        for (int i = 0; i < run; ++i) share[i] = V::load(grad_out + first + i * lanes) * factor;
        for (int member = 0; member < size; ++member) {
            S* to = grad_x[member] + first;
            for (int i = 0; i < run; ++i) V::store(to + i * lanes, share[i]);
        }
    }
};

template <typename S>
struct Select {
    static constexpr bool reads_index = true, writes_index = false;
    int size;
    const S* const* x;
    const uint8_t* index;
    S* out;

    template <int lanes, int run>
    inline void at(int64_t first, const Position<S>* positions) const {
        using V = Values<S, lanes>;
        using P = Positions<S, lanes>;
        typename V::type chosen[run] = {};  // an index past the coset selects nothing
        typename P::type position[run];
        for (int i = 0; i < run; ++i) position[i] = P::load(positions + i * lanes);
        for (int member = 0; member < size; ++member)
            for (int i = 0; i < run; ++i) {
                const typename V::type value = V::load(x[member] + first + i * lanes);
                chosen[i] = position[i] == typename P::type{} + member ? value : chosen[i];
            }
        for (int i = 0; i < run; ++i) V::store(out + first + i * lanes, chosen[i]);
    }
};

// Elements first .. first + count, count <= kBlock.
template <typename S, typename Kernel>
inline void block(const Kernel& kernel, int64_t first, int count) {
    Position<S> positions[kBlock];
    if constexpr (Kernel::reads_index) convert(kernel.index + first, positions, count);
    int i = 0;
    for (; i + kRun * kLanes<S> <= count; i += kRun * kLanes<S>)
        kernel.template at<kLanes<S>, kRun>(first + i, positions + i);
    for (; i + kLanes<S> <= count; i += kLanes<S>) kernel.template at<kLanes<S>, 1>(first + i, positions + i);
    for (; i < count; ++i) kernel.template at<1, 1>(first + i, positions + i);
    if constexpr (Kernel::writes_index) convert(positions, kernel.index + first, count);
}

template <typename S, typename Kernel>
inline void sweep(const Kernel& kernel, int64_t count) {
    int64_t first = 0;
    for (; first + kBlock <= count; first += kBlock) block<S>(kernel, first, kBlock);
    if (first < count) block<S>(kernel, first, static_cast<int>(count - first));
}

template <typename S, bool indexed>
inline void sweep_max(const Max<S, indexed>& kernel, int64_t count) {
    for (int64_t first = 0; first < count; first += kBlock) {
        first = kernel.ordered_blocks(first, count);
        if (first < count) block<S>(kernel, first, static_cast<int>(count - first < kBlock ? count - first : kBlock));
    }
}

template <typename S>
void max(int size, const S* const* x, S* out, uint8_t* index, int64_t count) {
    if (index)
        sweep_max(Max<S, true>{size, x, out, index}, count);
    else
        sweep_max(Max<S, false>{size, x, out, index}, count);
}

template <typename S>
Scalar<S> one_over(int size) {
    return Scalar<S>{1} / static_cast<Scalar<S>>(size);
}

template <typename S>
void mean(int size, const S* const* x, S* out, int64_t count) {
    sweep<S>(Mean<S>{size, one_over<S>(size), x, out}, count);
}

template <typename S>
void max_backward(int size, const S* grad_out, const uint8_t* index, S* const* grad_x, int64_t count) {
    sweep<S>(MaxBackward<S>{size, grad_out, index, grad_x}, count);
}

template <typename S>
void mean_backward(int size, const S* grad_out, S* const* grad_x, int64_t count) {
    sweep<S>(MeanBackward<S>{size, one_over<S>(size), grad_out, grad_x}, count);
}

template <typename S>
void select(int size, const S* const* x, const uint8_t* index, S* out, int64_t count) {
    sweep<S>(Select<S>{size, x, index, out}, count);
}

template <typename S>
constexpr PoolKernels<S> kKernels = {&max<S>, &mean<S>, &max_backward<S>, &mean_backward<S>, &select<S>};

}  // namespace

#define GCONV_JOIN(a, b) a##b
#define GCONV_NAME(isa) GCONV_JOIN(pool_instruction_set_, isa)
#define GCONV_TEXT2(isa) #isa
#define GCONV_TEXT(isa) GCONV_TEXT2(isa)

extern const PoolInstructionSet GCONV_NAME(GCONV_ISA) = {GCONV_TEXT(GCONV_ISA), &kKernels<float>, &kKernels<double>,
                                                         &kKernels<bfloat16>, &kKernels<float16>};

}  // namespace gconv
