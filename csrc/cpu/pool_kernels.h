// What group_pool.cpp hands to the kernels of an instruction set: plain data and function pointers only.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace gconv {

// The kernels of one instruction set and one type in memory. x and grad_x list the planes of one coset, `size` of them;
// every pointer leads to `count` adjacent elements.
template <typename S>
struct PoolKernels {
    // index may be null.
    void (*max)(int size, const S* const* x, S* out, uint8_t* index, int64_t count);
    void (*mean)(int size, const S* const* x, S* out, int64_t count);
    void (*max_backward)(int size, const S* grad_out, const uint8_t* index, S* const* grad_x, int64_t count);
    void (*mean_backward)(int size, const S* grad_out, S* const* grad_x, int64_t count);
    void (*select)(int size, const S* const* x, const uint8_t* index, S* out, int64_t count);
};

struct PoolInstructionSet {
    const char* name;  // of the InstructionSet in kernels.h that it belongs to
    const PoolKernels<float>* kernels_float;
    const PoolKernels<double>* kernels_double;
    const PoolKernels<bfloat16>* kernels_bfloat16;
    const PoolKernels<float16>* kernels_float16;
};

extern const PoolInstructionSet pool_instruction_set_baseline, pool_instruction_set_neon, pool_instruction_set_avx2,
    pool_instruction_set_avx512, pool_instruction_set_avx512_as_avx2;

}  // namespace gconv
