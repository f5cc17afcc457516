// The group pooling kernels of one instruction set: compiled once per set; GCONV_ISA names it, the compiler's flags
// choose it.
//
// Mapping     a few vectors of adjacent elements at a time from every plane of the coset; the winners and their
//             positions stay in registers, so that each element is read once and each output written once.
// Accumulator the scalar type. Memory bound beyond the caches; in them the maximum is bound by its comparisons.
//
// Only plain data and file-local functions here: an inline function of the standard library compiled with these flags
// could be the copy that the linker keeps for everyone.
#include <cstdint>
#include <cstring>

#include "pool_kernels.h"

namespace gconv {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kBlock = 64;  // elements whose positions are narrowed to a cache line of indices, or widened, together
constexpr int kRun = 4;     // vectors of one plane before the next plane; one took up to 1.4 times as long (AVX2)

// What a type in memory is in registers: its scalar, and an integer as wide for positions in the coset, so that a
// comparison of elements selects positions too.
template <typename T>
struct Registers;
template <>
struct Registers<float> {
    using Scalar = float;
    using Position = int32_t;
};
template <>
struct Registers<double> {
    using Scalar = double;
    using Position = int64_t;
};

template <typename T>
using Scalar = typename Registers<T>::Scalar;
template <typename T>
using Position = typename Registers<T>::Position;

// `lanes` adjacent elements, at any address.
template <typename T, int lanes>
struct Lanes {
    typedef Scalar<T> Values __attribute__((vector_size(lanes * sizeof(Scalar<T>))));
    typedef Position<T> Positions __attribute__((vector_size(lanes * sizeof(Scalar<T>))));

    static Values load(const T* p) {
        Values v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(T* p, Values v) { std::memcpy(p, &v, sizeof v); }
    static Positions load_positions(const Position<T>* p) {
        Positions v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store_positions(Position<T>* p, Positions v) { std::memcpy(p, &v, sizeof v); }
    static bool any(Positions v) {
        uint64_t words[(sizeof v + 7) / 8] = {}, all = 0;
        std::memcpy(words, &v, sizeof v);
        for (const uint64_t word : words) all |= word;
        return all != 0;
    }
};

template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(Scalar<T>);

// The compilers' vectorisers narrow and widen better in a loop than __builtin_convertvector does.
template <typename From, typename To>
inline void convert(const From* __restrict from, To* __restrict to, int count) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

template <typename T, bool indexed>
struct Max {
    static constexpr bool reads_index = false, writes_index = indexed;
    int size;
    const T* const* x;
    T* out;
    uint8_t* index;

    template <int lanes, int run>
    inline void at(int64_t first, Position<T>* positions) const {
        using L = Lanes<T, lanes>;
        typename L::Values best[run];
        typename L::Positions position[run] = {};
        for (int i = 0; i < run; ++i) best[i] = L::load(x[0] + first + i * lanes);
        for (int member = 1; member < size; ++member)
            for (int i = 0; i < run; ++i) {
                const typename L::Values value = L::load(x[member] + first + i * lanes);
                const typename L::Positions stays = (value <= best[i]) | (best[i] != best[i]);
                best[i] = stays ? best[i] : value;
                position[i] = stays ? position[i] : typename L::Positions{} + member;
            }
        for (int i = 0; i < run; ++i) {
            L::store(out + first + i * lanes, best[i]);
            if constexpr (indexed) L::store_positions(positions + i * lanes, position[i]);
        }
    }

    // Whole blocks from `first` on, by one comparison per element instead of two: right unless a member past the first
    // is NaN, which no comparison lets win. Stops at the first block whose sum of those members is NaN (or holds
    // infinities of both signs) and returns where it starts.
    inline int64_t ordered_blocks(int64_t first, int64_t count) const {
        using L = Lanes<T, kLanes<T>>;
        for (; first + kBlock <= count; first += kBlock) {
            Position<T> positions[kBlock];
            typename L::Values sum{};
            for (int at = 0; at < kBlock; at += kRun * kLanes<T>) {
                typename L::Values best[kRun];
                typename L::Positions position[kRun] = {};
                for (int i = 0; i < kRun; ++i) best[i] = L::load(x[0] + first + at + i * kLanes<T>);
                for (int member = 1; member < size; ++member) {
                    typename L::Values members{};
                    for (int i = 0; i < kRun; ++i) {
                        const typename L::Values value = L::load(x[member] + first + at + i * kLanes<T>);
                        const typename L::Positions wins = value > best[i];
                        best[i] = wins ? value : best[i];
                        position[i] = wins ? typename L::Positions{} + member : position[i];
                        members = i == 0 ? value : members + value;
                    }
                    sum += members;
                }
                for (int i = 0; i < kRun; ++i) {
                    L::store(out + first + at + i * kLanes<T>, best[i]);
                    if constexpr (indexed) L::store_positions(positions + at + i * kLanes<T>, position[i]);
                }
            }
            if (L::any(sum != sum)) break;
            if constexpr (indexed) convert(positions, index + first, kBlock);
        }
        return first;
    }
};

template <typename T>
struct Mean {
    static constexpr bool reads_index = false, writes_index = false;
    int size;
    Scalar<T> factor;
    const T* const* x;
    T* out;

    template <int lanes, int run>
    inline void at(int64_t first, Position<T>*) const {
        using L = Lanes<T, lanes>;
        typename L::Values sum[run];
        for (int i = 0; i < run; ++i) sum[i] = L::load(x[0] + first + i * lanes);
        for (int member = 1; member < size; ++member)
            for (int i = 0; i < run; ++i) sum[i] += L::load(x[member] + first + i * lanes);
        for (int i = 0; i < run; ++i) L::store(out + first + i * lanes, sum[i] * factor);
    }
};

template <typename T>
struct MaxBackward {
    static constexpr bool reads_index = true, writes_index = false;
    int size;
    const T* grad_out;
    const uint8_t* index;
    T* const* grad_x;

    template <int lanes, int run>
    inline void at(int64_t first, const Position<T>* positions) const {
        using L = Lanes<T, lanes>;
        typename L::Values value[run];
        typename L::Positions position[run];
        for (int i = 0; i < run; ++i) value[i] = L::load(grad_out + first + i * lanes);
        for (int i = 0; i < run; ++i) position[i] = L::load_positions(positions + i * lanes);
        for (int member = 0; member < size; ++member) {
            T* to = grad_x[member] + first;
            for (int i = 0; i < run; ++i) {
                const typename L::Positions won = position[i] == typename L::Positions{} + member;
                L::store(to + i * lanes, won ? value[i] : typename L::Values{});
            }
        }
    }
};

template <typename T>
struct MeanBackward {
    static constexpr bool reads_index = false, writes_index = false;
    int size;
    Scalar<T> factor;
    const T* grad_out;
    T* const* grad_x;

    template <int lanes, int run>
    inline void at(int64_t first, Position<T>*) const {
        using L = Lanes<T, lanes>;
        typename L::Values share[run];
        for (int i = 0; i < run; ++i) share[i] = L::load(grad_out + first + i * lanes) * factor;
        for (int member = 0; member < size; ++member) {
            T* to = grad_x[member] + first;
            for (int i = 0; i < run; ++i) L::store(to + i * lanes, share[i]);
        }
    }
};

template <typename T>
struct Select {
    static constexpr bool reads_index = true, writes_index = false;
    int size;
    const T* const* x;
    const uint8_t* index;
    T* out;

    template <int lanes, int run>
    inline void at(int64_t first, const Position<T>* positions) const {
        using L = Lanes<T, lanes>;
        typename L::Values chosen[run] = {};  // an index past the coset selects nothing
        typename L::Positions position[run];
        for (int i = 0; i < run; ++i) position[i] = L::load_positions(positions + i * lanes);
        for (int member = 0; member < size; ++member)
            for (int i = 0; i < run; ++i) {
                const typename L::Values value = L::load(x[member] + first + i * lanes);
                chosen[i] = position[i] == typename L::Positions{} + member ? value : chosen[i];
            }
        for (int i = 0; i < run; ++i) L::store(out + first + i * lanes, chosen[i]);
    }
};

// Elements first .. first + count, count <= kBlock.
template <typename T, typename Kernel>
inline void block(const Kernel& kernel, int64_t first, int count) {
    Position<T> positions[kBlock];
    if constexpr (Kernel::reads_index) convert(kernel.index + first, positions, count);
    int i = 0;
    for (; i + kRun * kLanes<T> <= count; i += kRun * kLanes<T>)
        kernel.template at<kLanes<T>, kRun>(first + i, positions + i);
    for (; i + kLanes<T> <= count; i += kLanes<T>) kernel.template at<kLanes<T>, 1>(first + i, positions + i);
    for (; i < count; ++i) kernel.template at<1, 1>(first + i, positions + i);
    if constexpr (Kernel::writes_index) convert(positions, kernel.index + first, count);
}

template <typename T, typename Kernel>
inline void sweep(const Kernel& kernel, int64_t count) {
    int64_t first = 0;
    for (; first + kBlock <= count; first += kBlock) block<T>(kernel, first, kBlock);
    if (first < count) block<T>(kernel, first, static_cast<int>(count - first));
}

template <typename T, bool indexed>
inline void sweep_max(const Max<T, indexed>& kernel, int64_t count) {
    for (int64_t first = 0; first < count; first += kBlock) {
        first = kernel.ordered_blocks(first, count);
        if (first < count) block<T>(kernel, first, static_cast<int>(count - first < kBlock ? count - first : kBlock));
    }
}

template <typename T>
void max(int size, const T* const* x, T* out, uint8_t* index, int64_t count) {
    if (index)
        sweep_max(Max<T, true>{size, x, out, index}, count);
    else
        sweep_max(Max<T, false>{size, x, out, index}, count);
}

template <typename T>
Scalar<T> one_over(int size) {
    return Scalar<T>{1} / static_cast<Scalar<T>>(size);
}

template <typename T>
void mean(int size, const T* const* x, T* out, int64_t count) {
    sweep<T>(Mean<T>{size, one_over<T>(size), x, out}, count);
}

template <typename T>
void max_backward(int size, const T* grad_out, const uint8_t* index, T* const* grad_x, int64_t count) {
    sweep<T>(MaxBackward<T>{size, grad_out, index, grad_x}, count);
}

template <typename T>
void mean_backward(int size, const T* grad_out, T* const* grad_x, int64_t count) {
    sweep<T>(MeanBackward<T>{size, one_over<T>(size), grad_out, grad_x}, count);
}

template <typename T>
void select(int size, const T* const* x, const uint8_t* index, T* out, int64_t count) {
    sweep<T>(Select<T>{size, x, index, out}, count);
}

template <typename T>
constexpr PoolKernels<T> kKernels = {&max<T>, &mean<T>, &max_backward<T>, &mean_backward<T>, &select<T>};

}  // namespace

#define GCONV_JOIN(a, b) a##b
#define GCONV_NAME(isa) GCONV_JOIN(pool_instruction_set_, isa)
#define GCONV_TEXT2(isa) #isa
#define GCONV_TEXT(isa) GCONV_TEXT2(isa)

extern const PoolInstructionSet GCONV_NAME(GCONV_ISA) = {GCONV_TEXT(GCONV_ISA), &kKernels<float>, &kKernels<double>};

}  // namespace gconv
