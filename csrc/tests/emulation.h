// Kernels on the CPU: device.h's host side. Each CUDA thread is a fiber that runs until it has to wait; the blocks of a
// cluster run together, the clusters one after the other, in shared memory of exactly their size that starts as NaN.
// Every function of device.h has a twin here, which does what the PTX ISA says and throws on what it forbids: addresses
// outside of the block's shared memory or misaligned, barriers that are not initialised or arrived at too often, threads
// of a warp at different instructions, waits that never end.
//
// What a missing barrier or wait leaves undefined depends on the schedule; a correct kernel gives the same bits under
// each. In the asynchrony `late`, a copy turns its destination to NaN at once and arrives when no thread can go on
// without it; wgmma turns its accumulators to NaN at once and reads its operands when it is waited for.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>

#include "cuda/device.h"

#define GCONV_KERNEL void
#define GCONV_DEVICE inline
#define GCONV_HOST_DEVICE inline
#define GCONV_PARAMETERS(Type) const Type
#define GCONV_BOUNDS(threads, blocks)

namespace gconv::cuda {

struct Grid;

namespace emulation {

// Which of the threads that can go on does: the next in cyclic order, upwards or downwards; any; or one warp of the
// cluster (number `seed` of them) whenever it can, or only when no other can.
enum class Order { forward, reversed, random, ahead, behind };
enum class Asynchrony { eager, late };

// Of the launches from here on. By name: "forward" ..., "eager" or "late"; throws std::invalid_argument for others.
void set_schedule(Order order, Asynchrony asynchrony, uint32_t seed = 0);
void set_schedule(const std::string& order, const std::string& asynchrony, uint32_t seed = 0);

// Runs `thread` for each thread of the grid. Throws std::runtime_error, with the thread's name, for what it does wrong.
void run(const char* op, int64_t blocks, int threads, int shared_bytes, int cluster,
         const std::function<void()>& thread);

struct Index {
    unsigned x;
};

enum class Kind { bfloat16, float16, tf32 };
void load_matrices(uint32_t* to, uint32_t address, bool transposed);
void multiply_matrices(Kind kind, float* d, const uint32_t* a, uint32_t b0, uint32_t b1);
void wgmma(Kind kind, int columns, int sign, float* d, const uint32_t* a, uint64_t b);
void wgmma_wait(int pending);
void set_registers(int count, bool raise);
void check_aligned(const void* global, size_t alignment, const char* what);
// Whether the bytes are where an instruction for global memory may write: aligned to their number, and not shared.
void check_global(const void* global, size_t bytes, const char* what);

}  // namespace emulation

extern emulation::Index threadIdx, blockIdx, blockDim, gridDim;

// runtime.h's; returns when the kernel has ended.
template <typename Shape = Grid, typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), const Shape& grid, uintptr_t,
            const Arguments&... arguments) {
    if (grid.blocks == 0) return;
    const std::tuple<Parameters...> values{Parameters(arguments)...};
    emulation::run(op, grid.blocks, grid.threads, grid.shared_bytes, grid.cluster, [&] { std::apply(kernel, values); });
}

unsigned char* shared_memory();
uint32_t shared_address(const void* pointer);

// ---- numbers
inline float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline uint32_t bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline uint16_t bits(Bfloat16 x) { return x.bits; }
inline uint16_t bits(Float16 x) { return x.bits; }

inline float to_float(float x) { return x; }
inline float to_float(Bfloat16 x) { return bits_to_float(uint32_t{x.bits} << 16); }
inline float to_float(Float16 x) {
    const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
    const uint32_t finite = cuda::bits(bits_to_float(magnitude) * 0x1p112f);  // exact, of a subnormal too
    return bits_to_float(sign | ((x.bits & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : finite));
}

template <typename T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline Bfloat16 from_float<Bfloat16>(float x) {
    const uint32_t bits = cuda::bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
template <>
inline Float16 from_float<Float16>(float x) {
    const uint32_t bits = cuda::bits(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    if (magnitude > 0x7f800000u) return {0x7fff};
    uint32_t half = 0x7c00;
    if (magnitude < 0x38800000u)  // below 2^-14: 0.5 has the last place 2^-24
        half = cuda::bits(bits_to_float(magnitude) + 0.5f) - cuda::bits(0.5f);
    else if (magnitude < 0x477ff000u)  // what rounds to 65504 at most
        half = (magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
    return {static_cast<uint16_t>(sign | half)};
}

// float has twice the bits of a half and two more: rounding a sum to it first changes nothing.
template <typename T>
uint32_t add(uint32_t a, uint32_t b) {
    const auto half = [&](int shift) -> uint32_t {
        const T x{static_cast<uint16_t>(a >> shift)}, y{static_cast<uint16_t>(b >> shift)};
        return from_float<T>(to_float(x) + to_float(y)).bits;
    };
    return half(16) << 16 | half(0);
}
template <typename T>
uint32_t subtract(uint32_t a, uint32_t b) {
    const auto half = [&](int shift) -> uint32_t {
        const T x{static_cast<uint16_t>(a >> shift)}, y{static_cast<uint16_t>(b >> shift)};
        return from_float<T>(to_float(x) - to_float(y)).bits;
    };
    return half(16) << 16 | half(0);
}
template <>
inline uint32_t add<float>(uint32_t a, uint32_t b) {
    return cuda::bits(bits_to_float(a) + bits_to_float(b));
}
template <>
inline uint32_t subtract<float>(uint32_t a, uint32_t b) {
    return cuda::bits(bits_to_float(a) - bits_to_float(b));
}

inline uint32_t to_tf32(float x) {
    const uint32_t bits = cuda::bits(x);
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffffffu : (bits + 0x1000u) & ~0x1fffu;
}

template <typename T>
void store_pair(T* to, T a, T b) {
    emulation::check_aligned(to, 2 * sizeof(T), "store_pair");
    to[0] = a;
    to[1] = b;
}
inline void store_chunk(void* to, const uint32_t (&x)[4]) {
    emulation::check_global(to, sizeof(x), "store_chunk");
    std::memcpy(to, x, sizeof(x));
}

template <bool wgmma>
constexpr bool runs_on_this_device = true;

// ---- threads of a block
void sync_threads();
void sync_threads(int barrier, int count);
void sync_warp();
int of_first_lane(int x);
float shuffle_xor(float x, int mask);

// ---- a warp's matrices
inline void load_matrices(uint32_t (&to)[4], uint32_t address) { emulation::load_matrices(to, address, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
    emulation::load_matrices(to, address, true);
}
uint32_t load_shared(uint32_t address);
void store_shared(uint32_t address, uint16_t bits);
void store_shared(uint32_t address, uint32_t bits);

namespace emulation {
template <typename T>
constexpr Kind kind = Kind::tf32;
template <>
inline constexpr Kind kind<Bfloat16> = Kind::bfloat16;
template <>
inline constexpr Kind kind<Float16> = Kind::float16;
}  // namespace emulation

template <typename T>
void multiply_matrices(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulation::multiply_matrices(emulation::kind<T>, d, a, b0, b1);
}

// ---- copies and barriers
void copy_async(uint32_t shared, const void* global, bool exists);
void barrier_init(uint32_t barrier, int arrivals);
void barrier_arrive(uint32_t barrier);
void barrier_arrive_after_copies(uint32_t barrier);
void barrier_wait(uint32_t barrier, uint32_t parity);

// ---- Hopper
void barrier_init_fence();
void barrier_arrive_expect(uint32_t barrier, uint32_t bytes);
void barrier_arrive_at(uint32_t barrier, uint32_t block);
uint32_t cluster_block();
void cluster_sync();
void copy_bulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier, uint16_t blocks);
template <int count>
void raise_registers() {
    emulation::set_registers(count, true);
}
template <int count>
void lower_registers() {
    emulation::set_registers(count, false);
}
void wgmma_fence();
void wgmma_commit();
template <int pending>
void wgmma_wait() {
    emulation::wgmma_wait(pending);
}
template <typename T, int columns, int sign>
void wgmma(float (&d)[columns / 2], const uint32_t (&a)[4], uint64_t b) {
    static_assert(columns % 8 == 0 && columns <= 256 && (sign == 1 || sign == -1));
    emulation::wgmma(emulation::kind<T>, columns, sign, d, a, b);
}

}  // namespace gconv::cuda
