// group_pool: memory bound, every number is moved once.
//
// Grid         a thread has 16 bytes of one coset's plane of one image and walks the coset's members; a block has 256
//              such chunks, of one plane or, where planes are shorter, of several. The pixels and channels of a plane
//              are one axis here. Planes that are no whole chunks, or start off their alignment, go number by number.
// Bytes        forward max: size + 1 numbers and a byte of index per pooled number; mean without the byte. The
//              transposes move the same bytes the other way; select moves as many as the maximum, the index read.
//              Four members are loaded before the first is compared: 64 bytes in flight per thread.
// FLOPs        one comparison or addition per number read: free. Comparisons and sums are float32.
// Determinism  every output is one thread's; ties take the first member, the first NaN wins over everything.
#include "group_pool.h"

#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>

#include "dispatch.h"
#include "vector.h"

namespace gconv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxPlanes = 32;  // D16's
constexpr int kBatch = 4;       // members loaded at once

// How a block's threads lie over a map, and the members of its cosets.
struct PoolPlan {
    int64_t plane_length;
    int pooled_planes;  // batch times cosets
    int cosets, size;
    int column_bits;              // 2^column_bits threads side by side in a plane
    int blocks_across;            // along a plane
    uint8_t members[kMaxPlanes];  // by coset
};

// A thread's numbers: of which image and coset, and where in their planes.
struct Place {
    int64_t image, column, pooled;
    int coset;
    bool exists;

    GCONV_DEVICE Place(const PoolPlan& plan, int length) {
        const int block = blockIdx.x, thread = threadIdx.x, bits = plan.column_bits;
        const int plane = block / plan.blocks_across * (kThreads >> bits) + (thread >> bits);
        const int64_t chunk = (int64_t{block % plan.blocks_across} << bits) + (thread & ((1 << bits) - 1));
        column = chunk * length;
        exists = plane < plan.pooled_planes && column < plan.plane_length;
        image = plane / plan.cosets;
        coset = plane % plan.cosets;
        pooled = plane * plan.plane_length + column;
    }
    // Where the map on the group has these numbers of a member of the coset.
    GCONV_DEVICE int64_t of_member(const PoolPlan& plan, int member) const {
        const int plane = plan.members[coset * plan.size + member];
        return (image * (plan.cosets * plan.size) + plane) * plan.plane_length + column;
    }
};

// body(member, its numbers) for every member of the coset.
template <int length, typename T, typename Body>
GCONV_DEVICE void each_member(const T* x, const PoolPlan& plan, const Place& place, const Body& body) {
    for (int first = 0; first < plan.size; first += kBatch) {
        Vector<T, length> values[kBatch] = {};
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
            if (first + i < plan.size) values[i] = load<T, length>(x + place.of_member(plan, first + i));
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
            if (first + i < plan.size) body(first + i, values[i]);
    }
}

template <typename T, int length>
GCONV_BOUNDS(kThreads, 3)
GCONV_KERNEL max_kernel(const T* __restrict__ x, T* __restrict__ out, uint8_t* __restrict__ index,
                        GCONV_PARAMETERS(PoolPlan) plan) {
    const Place place(plan, length);
    if (!place.exists) return;
    Vector<T, length> best = {};
    Vector<uint8_t, length> winner = {};
    each_member<length>(x, plan, place, [&](int member, const Vector<T, length>& values) {
#pragma unroll
        for (int i = 0; i < length; ++i) {
            const float value = to_float(values.at[i]), old = to_float(best.at[i]);
            const bool stays = member > 0 && (value <= old || old != old);
            best.at[i] = stays ? best.at[i] : values.at[i];
            winner.at[i] = stays ? winner.at[i] : static_cast<uint8_t>(member);
        }
    });
    store(out + place.pooled, best);
    if (index != nullptr) store(index + place.pooled, winner);
}

template <typename T, int length>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL mean_kernel(const T* __restrict__ x, T* __restrict__ out, GCONV_PARAMETERS(PoolPlan) plan) {
    const Place place(plan, length);
    if (!place.exists) return;
    float sums[length] = {};
    each_member<length>(x, plan, place, [&](int member, const Vector<T, length>& values) {
#pragma unroll
        for (int i = 0; i < length; ++i) {
            const float value = to_float(values.at[i]);
            sums[i] = member > 0 ? sums[i] + value : value;  // 0 + -0 is 0
        }
    });
    Vector<T, length> mean;
#pragma unroll
    for (int i = 0; i < length; ++i) mean.at[i] = from_float<T>(sums[i] / plan.size);
    store(out + place.pooled, mean);
}

template <typename T, int length>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL max_backward_kernel(const T* __restrict__ grad_out, const uint8_t* __restrict__ index,
                                 T* __restrict__ grad_x, GCONV_PARAMETERS(PoolPlan) plan) {
    const Place place(plan, length);
    if (!place.exists) return;
    const auto grad = load<T, length>(grad_out + place.pooled);
    const auto winner = load<uint8_t, length>(index + place.pooled);
    for (int member = 0; member < plan.size; ++member) {
        Vector<T, length> share;
#pragma unroll
        for (int i = 0; i < length; ++i) share.at[i] = winner.at[i] == member ? grad.at[i] : T{};
        store(grad_x + place.of_member(plan, member), share);
    }
}

template <typename T, int length>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL
    mean_backward_kernel(const T* __restrict__ grad_out, T* __restrict__ grad_x, GCONV_PARAMETERS(PoolPlan) plan) {
    const Place place(plan, length);
    if (!place.exists) return;
    auto share = load<T, length>(grad_out + place.pooled);
#pragma unroll
    for (int i = 0; i < length; ++i) share.at[i] = from_float<T>(to_float(share.at[i]) / plan.size);
    for (int member = 0; member < plan.size; ++member) store(grad_x + place.of_member(plan, member), share);
}

template <typename T, int length>
GCONV_BOUNDS(kThreads, 4)
GCONV_KERNEL select_kernel(const T* __restrict__ x, const uint8_t* __restrict__ index, T* __restrict__ out,
                           GCONV_PARAMETERS(PoolPlan) plan) {
    const Place place(plan, length);
    if (!place.exists) return;
    const auto winner = load<uint8_t, length>(index + place.pooled);
    Vector<T, length> chosen = {};
    each_member<length>(x, plan, place, [&](int member, const Vector<T, length>& values) {
#pragma unroll
        for (int i = 0; i < length; ++i) chosen.at[i] = winner.at[i] == member ? values.at[i] : chosen.at[i];
    });
    store(out + place.pooled, chosen);
}

void require(bool condition, const char* op, const std::string& what) {
    if (!condition) throw std::invalid_argument(std::string(op) + ": " + what);
}

PoolPlan plan_pool(const char* op, int64_t batch, int64_t plane_length, const Cosets& cosets) {
    require(batch >= 0 && plane_length >= 0, op, "sizes must not be negative");
    PoolPlan plan = {};
    plan.plane_length = plane_length;
    plan.cosets = static_cast<int>(cosets.size());
    plan.size = cosets.empty() ? 0 : static_cast<int>(cosets[0].size());
    const int planes = plan.size <= kMaxPlanes && plan.cosets <= kMaxPlanes ? plan.cosets * plan.size : 0;
    require(planes >= 1 && planes <= kMaxPlanes, op, "cosets must have 1 to 32 elements in all");
    bool covered[kMaxPlanes] = {};
    for (int coset = 0; coset < plan.cosets; ++coset) {
        require(static_cast<int>(cosets[coset].size()) == plan.size, op, "cosets must be of one size");
        for (int member = 0; member < plan.size; ++member) {
            const int element = cosets[coset][member];
            require(element >= 0 && element < planes && !covered[element], op,
                    "cosets must have every element once, got " + std::to_string(element));
            covered[element] = true;
            plan.members[coset * plan.size + member] = static_cast<uint8_t>(element);
        }
    }
    constexpr int64_t most = std::numeric_limits<int64_t>::max() / 4;  // bytes, of the largest type
    require(batch <= (INT32_MAX - kThreads) / planes && (batch == 0 || plane_length <= most / planes / batch), op,
            "the maps are too large");
    plan.pooled_planes = static_cast<int>(batch * plan.cosets);
    return plan;
}

// Divides the plane's chunks among threads; returns how many blocks that are.
int64_t lay_out(PoolPlan& plan, int length) {
    const int64_t chunks = cdiv(plan.plane_length, length);
    while (1 << plan.column_bits < std::min<int64_t>(chunks, kThreads)) ++plan.column_bits;
    const int64_t across = cdiv(chunks, int64_t{1} << plan.column_bits);
    if (across == 0) return 0;
    if (across > INT32_MAX) return across;  // launch refuses
    plan.blocks_across = static_cast<int>(across);
    return across * cdiv(plan.pooled_planes, kThreads >> plan.column_bits);
}

bool aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// Calls body(T{}, integral_constant<length>) with the longest vectors that all of the operands allow: the numbers' by
// chunks, the index's by as many bytes.
template <typename Body>
void with_vectors(Type type, const PoolPlan& plan, const void* full, const void* pooled, const uint8_t* index,
                  const Body& body) {
    with_type(type, [&](auto zero) {
        using T = decltype(zero);
        constexpr int length = kChunkLength<T>;
        if (plan.plane_length % length == 0 && aligned(full, kChunkBytes) && aligned(pooled, kChunkBytes) &&
            aligned(index, length))
            body(zero, std::integral_constant<int, length>());
        else
            body(zero, std::integral_constant<int, 1>());
    });
}

}  // namespace

void group_pool(Type type, const void* x, void* out, uint8_t* index, int64_t batch, int64_t plane_length,
                const Cosets& cosets, PoolMode mode, Stream stream) {
    PoolPlan plan = plan_pool("group_pool", batch, plane_length, cosets);
    with_vectors(type, plan, x, out, index, [&](auto zero, auto length) {
        using T = decltype(zero);
        const Grid grid{lay_out(plan, length), kThreads};
        const auto from = static_cast<const T*>(x);
        const auto to = static_cast<T*>(out);
        if (mode == PoolMode::max)
            launch("group_pool", max_kernel<T, length()>, grid, stream, from, to, index, plan);
        else
            launch("group_pool", mean_kernel<T, length()>, grid, stream, from, to, plan);
    });
}

void group_pool_backward(Type type, const void* grad_out, const uint8_t* index, void* grad_x, int64_t batch,
                         int64_t plane_length, const Cosets& cosets, PoolMode mode, Stream stream) {
    const char* op = "group_pool_backward";
    PoolPlan plan = plan_pool(op, batch, plane_length, cosets);
    require(mode == PoolMode::mean || index != nullptr || batch * plane_length == 0, op,
            "index must be given for mode max");
    with_vectors(type, plan, grad_x, grad_out, index, [&](auto zero, auto length) {
        using T = decltype(zero);
        const Grid grid{lay_out(plan, length), kThreads};
        const auto from = static_cast<const T*>(grad_out);
        const auto to = static_cast<T*>(grad_x);
        if (mode == PoolMode::max)
            launch(op, max_backward_kernel<T, length()>, grid, stream, from, index, to, plan);
        else
            launch(op, mean_backward_kernel<T, length()>, grid, stream, from, to, plan);
    });
}

void group_pool_select(Type type, const void* x, const uint8_t* index, void* out, int64_t batch, int64_t plane_length,
                       const Cosets& cosets, Stream stream) {
    PoolPlan plan = plan_pool("group_pool_select", batch, plane_length, cosets);
    with_vectors(type, plan, x, out, index, [&](auto zero, auto length) {
        using T = decltype(zero);
        launch("group_pool_select", select_kernel<T, length()>, {lay_out(plan, length), kThreads}, stream,
               static_cast<const T*>(x), index, static_cast<T*>(out), plan);
    });
}

}  // namespace gconv::cuda
