// The operations on the host: what bindings_cuda.cpp gives to Python. Addresses are of device memory; every call only
// starts kernels on the stream, whose device must be the thread's current one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "epilogue.h"

namespace gconv::cuda {

enum class Type { float32, float16, bfloat16 };

// A CUDA stream's handle.
using Stream = uintptr_t;

// A device as the host code plans for it.
struct Device {
    int capability;  // 10 major + minor
    int multiprocessors;
    int shared_bytes;  // that a block may have
};

// How many devices there are; says why if none.
int device_count(std::string* error);

// One convolution of stride 1, from a map over a lattice group H or (lifting) from an image, and its two transposes.
// Sizes are those of the forward pass: x (N, C_in[, m |H|], H, W), weight (m C_out, m C_in, |H|, K, K) or
// (m C_out, C_in, K, K), contiguous, and m cosets of H.
class Convolution {
  public:
    // tf32: float32 is rounded to tf32 once, instead of split in two. Throws std::invalid_argument for sizes that
    // cannot be.
    Convolution(const std::string& group, bool lifting, Type type, int64_t cosets, int64_t batch, int64_t c_in,
                int64_t c_out, int64_t height, int64_t width, int64_t size, int64_t padding, const Device& device,
                bool tf32);
    ~Convolution();

    // Why it cannot run on the device; empty if it can.
    std::string missing() const;

    // Bytes of device memory that a pass needs besides its operands, at a multiple of 1024.
    int64_t forward_workspace() const;
    int64_t input_grad_workspace() const;
    int64_t weight_grad_workspace() const;

    // bias: null, or (C_out). Throws std::invalid_argument for a pooling of a map that is not over the lattice group
    // alone (more cosets than one, or lifting), whose planes are not in one thread's registers.
    void forward(const void* x, const void* weight, const void* bias, void* out, void* workspace, Stream stream,
                 const Epilogue& epilogue = {}) const;
    void input_grad(const void* grad_out, const void* weight, void* grad_x, void* workspace, Stream stream) const;
    void weight_grad(const void* x, const void* grad_out, void* grad_weight, void* workspace, Stream stream) const;

  private:
    struct Plans;
    std::unique_ptr<const Plans> plans_;
};

}  // namespace gconv::cuda
