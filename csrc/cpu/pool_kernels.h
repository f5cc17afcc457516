// What group_pool.cpp hands to the kernels of an instruction set: plain data and function pointers only.
#pragma once

#include <cstdint>

namespace gconv {

// The kernels of one instruction set and one storage type. x and grad_x list the planes of one coset, `size` of them;
// every pointer leads to `count` adjacent elements.
template <typename T>
struct PoolKernels {
    // index may be null.
    void (*max)(int size, const T* const* x, T* out, uint8_t* index, int64_t count);
    void (*mean)(int size, const T* const* x, T* out, int64_t count);
    void (*max_backward)(int size, const T* grad_out, const uint8_t* index, T* const* grad_x, int64_t count);
    void (*mean_backward)(int size, const T* grad_out, T* const* grad_x, int64_t count);
    void (*select)(int size, const T* const* x, const uint8_t* index, T* out, int64_t count);
};

struct PoolInstructionSet {
    const char* name;  // of the InstructionSet in kernels.h that it belongs to
    const PoolKernels<float>* kernels_float;
    const PoolKernels<double>* kernels_double;
};

extern const PoolInstructionSet pool_instruction_set_baseline, pool_instruction_set_avx2, pool_instruction_set_avx512;

}  // namespace gconv
