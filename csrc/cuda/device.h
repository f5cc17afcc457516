// The instructions that the kernels use, one function each; PTX ISA 8.0 names. In the tests' emulation, which compiles
// the kernels for the host, csrc/tests/emulation.h has a twin of every function here.
//
// Addresses of shared memory are 32-bit numbers in the block's window, from shared_address(shared_memory()) on. A
// kernel's shared memory is all dynamic.
#pragma once

#include <cstdint>

namespace gconv::cuda {

// Numbers in memory; arithmetic is in float32, or on two at once in a 32-bit register (lower half first).
struct alignas(2) Bfloat16 {
    uint16_t bits;
};
struct alignas(2) Float16 {
    uint16_t bits;
};

}  // namespace gconv::cuda

#ifndef __CUDACC__
#include "tests/emulation.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define GCONV_KERNEL __global__ void
#define GCONV_DEVICE __device__ __forceinline__
#define GCONV_HOST_DEVICE __host__ __device__ __forceinline__
// A struct of parameters that threads index with what they know only at run time: read where it is, never copied.
#define GCONV_PARAMETERS(Type) const __grid_constant__ Type
// Threads per block, and blocks per multiprocessor that registers must suffice for.
#define GCONV_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)

namespace gconv::cuda {

extern __shared__ __align__(1024) unsigned char shared_memory_window[];

GCONV_DEVICE unsigned char* shared_memory() { return shared_memory_window; }
GCONV_DEVICE uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- numbers
GCONV_DEVICE float to_float(float x) { return x; }
GCONV_DEVICE float to_float(Bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
GCONV_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

GCONV_DEVICE uint32_t bits(float x) { return __float_as_uint(x); }
GCONV_DEVICE uint16_t bits(Bfloat16 x) { return x.bits; }
GCONV_DEVICE uint16_t bits(Float16 x) { return x.bits; }

// Rounded to nearest, ties to even.
template <typename T>
GCONV_DEVICE T from_float(float x);
template <>
GCONV_DEVICE float from_float<float>(float x) {
    return x;
}
template <>
GCONV_DEVICE Bfloat16 from_float<Bfloat16>(float x) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
GCONV_DEVICE Float16 from_float<Float16>(float x) {
    return {__half_as_ushort(__float2half_rn(x))};
}

GCONV_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// Sums and differences in a register: of two halves, or of one float.
template <typename T>
GCONV_DEVICE uint32_t add(uint32_t a, uint32_t b);
template <typename T>
GCONV_DEVICE uint32_t subtract(uint32_t a, uint32_t b);
template <>
GCONV_DEVICE uint32_t add<float>(uint32_t a, uint32_t b) {
    return __float_as_uint(__uint_as_float(a) + __uint_as_float(b));
}
template <>
GCONV_DEVICE uint32_t subtract<float>(uint32_t a, uint32_t b) {
    return __float_as_uint(__uint_as_float(a) - __uint_as_float(b));
}
template <>
GCONV_DEVICE uint32_t add<Float16>(uint32_t a, uint32_t b) {
    uint32_t sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}
template <>
GCONV_DEVICE uint32_t subtract<Float16>(uint32_t a, uint32_t b) {
    uint32_t difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
// a + b and a - b as fma(b, +-1, a), which devices before 9.0 have.
template <>
GCONV_DEVICE uint32_t add<Bfloat16>(uint32_t a, uint32_t b) {
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(b), "r"(0x3f803f80u), "r"(a));
    return sum;
}
template <>
GCONV_DEVICE uint32_t subtract<Bfloat16>(uint32_t a, uint32_t b) {
    uint32_t difference;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(b), "r"(0xbf80bf80u), "r"(a));
    return difference;
}

// Two neighbours, of which the first is aligned to both.
GCONV_DEVICE void store_pair(float* to, float a, float b) { *reinterpret_cast<float2*>(to) = {a, b}; }
template <typename Half>
GCONV_DEVICE void store_pair(Half* to, Half a, Half b) {
    *reinterpret_cast<uint32_t*>(to) = a.bits | static_cast<uint32_t>(b.bits) << 16;
}

// 16 bytes of global memory, aligned to them. By its name, since nvcc splits a plain store of a uint4 into four where the
// words come out of selections; bench/nvcc.py counts them.
GCONV_DEVICE void store_chunk(void* to, const uint32_t (&x)[4]) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(x[0]), "r"(x[1]),
                 "r"(x[2]), "r"(x[3])
                 : "memory");
}

// Whether code is compiled for a device that has wgmma, or for one that need not: a kernel is empty on all others.
#if __CUDA_ARCH__ >= 900 && defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <bool wgmma>
constexpr bool runs_on_this_device = true;
#else
template <bool wgmma>
constexpr bool runs_on_this_device = !wgmma;
#endif

// ---- threads of a block
GCONV_DEVICE void sync_threads() { __syncthreads(); }
// Of `count` threads, a multiple of 32, that name the same barrier, 1 to 15.
GCONV_DEVICE void sync_threads(int barrier, int count) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}
GCONV_DEVICE void sync_warp() { __syncwarp(); }
// The first lane's, in a register that the compiler knows to be the same in all.
GCONV_DEVICE int of_first_lane(int x) { return __shfl_sync(0xffffffffu, x, 0); }
GCONV_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// ---- a warp's matrices: lane l gives the address of row l % 8 of matrix l / 8, 8 x 16 bytes each
GCONV_DEVICE void load_matrices(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
GCONV_DEVICE void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
GCONV_DEVICE uint32_t load_shared(uint32_t address) {
    uint32_t bits;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(bits) : "r"(address) : "memory");
    return bits;
}

// d += a b, 16 x 16 times 16 x 8 halves; float32 is cut to 10 bits of mantissa, 16 x 8 times 8 x 8.
template <typename T>
GCONV_DEVICE void multiply_matrices(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define GCONV_MMA(T, shape_and_types)                                                                    \
    template <>                                                                                          \
    GCONV_DEVICE void multiply_matrices<T>(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
        asm volatile("mma.sync.aligned." shape_and_types                                                 \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                                   \
                     "{%0, %1, %2, %3};"                                                                 \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                    \
    }
GCONV_MMA(Bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
GCONV_MMA(Float16, "m16n8k16.row.col.f32.f16.f16.f32")
GCONV_MMA(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef GCONV_MMA
// The nearest number that multiply_matrices<float> takes as it is.
GCONV_DEVICE uint32_t to_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// ---- copies from global to shared memory that a thread does not wait for
// 16 bytes of a source aligned to them, or zeros.
GCONV_DEVICE void copy_async(uint32_t shared, const void* global, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
                 "r"(exists ? 16 : 0)
                 : "memory");
}
GCONV_DEVICE void store_shared(uint32_t address, uint16_t bits) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(bits) : "memory");
}
GCONV_DEVICE void store_shared(uint32_t address, uint32_t bits) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(bits) : "memory");
}

// ---- barriers in shared memory, 8 bytes each: a phase ends when all arrivals and all expected bytes have come
GCONV_DEVICE void barrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
GCONV_DEVICE void barrier_arrive(uint32_t barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}
// Arrives when the thread's copy_async until now are done; counts as one of the arrivals.
GCONV_DEVICE void barrier_arrive_after_copies(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// try_wait sleeps for a while where nothing has come yet.
#if __CUDA_ARCH__ >= 900
#define GCONV_WAIT "mbarrier.try_wait.parity.shared::cta.b64"
#else
#define GCONV_WAIT "mbarrier.test_wait.parity.shared::cta.b64"
#endif
// Waits until the phase of this parity has ended; a fresh barrier is in phase 0, and its phase 1 counts as ended.
//
// Where GCONV_SPIN_LIMIT is defined, as in builds for tests, the launch fails after so many looks at the barrier in place
// of hanging. Those are of test_wait, whose time is known: it does not sleep, and takes some 30 clocks.
GCONV_DEVICE void barrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef GCONV_SPIN_LIMIT
    asm volatile(
        "{\n.reg .pred done, over;\n.reg .u32 spins;\nmov.u32 spins, 0;\n" GCONV_WAIT
        " done, [%0], %1;\n@done bra ended;\nagain:\n"
        "mbarrier.test_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ended;\n"
        "add.u32 spins, spins, 1;\nsetp.ge.u32 over, spins, %2;\n@!over bra again;\ntrap;\nended:\n}" ::"r"(barrier),
        "r"(parity), "n"(GCONV_SPIN_LIMIT)
        : "memory");
#else
    asm volatile("{\n.reg .pred done;\nagain:\n" GCONV_WAIT " done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#endif
}
#undef GCONV_WAIT

// ---- Hopper
// Makes the initialised barriers seen by the cluster and by bulk copies.
GCONV_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
GCONV_DEVICE void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}
// At the same barrier of a block of the cluster, this one included; orders no writes of this thread for the other block,
// which would cost a fence of the whole GPU's memory. What wgmma has read when wgmma_wait returns needs none.
GCONV_DEVICE void barrier_arrive_at(uint32_t barrier, uint32_t block) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
        "r"(block)
        : "memory");
}
GCONV_DEVICE uint32_t cluster_block() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
GCONV_DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Copies a multiple of 16 bytes to the same place in the blocks of the mask; their same barrier counts the bytes.
GCONV_DEVICE void copy_bulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(shared),
        "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier), "h"(blocks)
        : "memory");
}
// Registers per thread of this warpgroup from here on: those that a producer gives up, two consumers share. Two times the
// consumers' and once the producer's are 504, three times what a thread of 384 starts with; the kernels' splits are those
// at which ptxas spills none.
template <int count>
GCONV_DEVICE void raise_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
GCONV_DEVICE void lower_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

// A warpgroup's products: registers and shared memory are the instructions' own between fence and wait.
GCONV_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GCONV_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
GCONV_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// d += sign a b: 64 x 16 halves in registers times 16 x columns in shared memory, of which each of the columns is a row.
// Thread t holds rows 16 (t / 32) + t % 32 / 4 + {0, 8}: of a as in mma.m16n8k16, of d as columns / 8 times its d.
template <typename T, int columns, int sign>
GCONV_DEVICE void wgmma(float (&d)[columns / 2], const uint32_t (&a)[4], uint64_t b);
#define GCONV_8(i)                                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define GCONV_16(i) GCONV_8(i), GCONV_8(i + 8)
#define GCONV_32(i) GCONV_16(i), GCONV_16(i + 16)
#define GCONV_64(i) GCONV_32(i), GCONV_32(i + 32)
#define GCONV_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define GCONV_NAMES_32 GCONV_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GCONV_NAMES_64                                                                                            \
    GCONV_NAMES_32                                                                                                \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GCONV_WGMMA(T, types, columns, accumulators, names, a0, a1, a2, a3, b_name, scale)                         \
    template <>                                                                                                    \
    GCONV_DEVICE void wgmma<T, columns, scale>(float (&d)[columns / 2], const uint32_t (&a)[4], uint64_t b) {      \
        asm volatile(                                                                                              \
            "{\n.reg .pred accumulate;\nsetp.eq.u32 accumulate, 0, 0;\nwgmma.mma_async.sync.aligned.m64n" #columns \
            "k16.f32." types " {" names "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b_name ", accumulate, " #scale     \
            ", 1, 0;\n}"                                                                                           \
            : accumulators(0)                                                                                      \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                 \
    }
#define GCONV_WGMMA_32(T, types, scale) \
    GCONV_WGMMA(T, types, 32, GCONV_16, GCONV_NAMES_16, "%16", "%17", "%18", "%19", "%20", scale)
#define GCONV_WGMMA_64(T, types, scale) \
    GCONV_WGMMA(T, types, 64, GCONV_32, GCONV_NAMES_32, "%32", "%33", "%34", "%35", "%36", scale)
#define GCONV_WGMMA_128(T, types, scale) \
    GCONV_WGMMA(T, types, 128, GCONV_64, GCONV_NAMES_64, "%64", "%65", "%66", "%67", "%68", scale)
GCONV_WGMMA_32(Bfloat16, "bf16.bf16", 1)
GCONV_WGMMA_32(Bfloat16, "bf16.bf16", -1)
GCONV_WGMMA_32(Float16, "f16.f16", 1)
GCONV_WGMMA_32(Float16, "f16.f16", -1)
GCONV_WGMMA_64(Bfloat16, "bf16.bf16", 1)
GCONV_WGMMA_64(Bfloat16, "bf16.bf16", -1)
GCONV_WGMMA_64(Float16, "f16.f16", 1)
GCONV_WGMMA_64(Float16, "f16.f16", -1)
GCONV_WGMMA_128(Bfloat16, "bf16.bf16", 1)
GCONV_WGMMA_128(Bfloat16, "bf16.bf16", -1)
GCONV_WGMMA_128(Float16, "f16.f16", 1)
GCONV_WGMMA_128(Float16, "f16.f16", -1)

}  // namespace gconv::cuda
#endif
