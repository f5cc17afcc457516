// What the host side of the kernels needs of CUDA's runtime: launches, and errors as exceptions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.h"
#include "ops.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

namespace gconv::cuda {

// Blocks along one axis, in clusters of so many (before Hopper: 1), and each one's threads and dynamic shared memory.
struct Grid {
    int64_t blocks;
    int threads;
    int shared_bytes = 0;
    int cluster = 1;
};

#ifdef __CUDACC__
// Throws std::runtime_error "op: CUDA error: ..." unless the status is success.
inline void check(const char* op, cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(status));
}

// Lets a kernel's blocks have all the shared memory that the current device gives a block. Once per kernel and device:
// the limit is the kernel's, whatever thread launches it with how much.
void allow_shared_memory(const char* op, const void* kernel);

// Starts a kernel and returns at once; no blocks are no launch.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), const Grid& grid, Stream stream,
            const Arguments&... arguments) {
    if (grid.blocks == 0) return;
    if (grid.blocks > INT32_MAX)
        throw std::invalid_argument(std::string(op) + ": the maps are too large for one launch");
    if (grid.shared_bytes > 48 * 1024) allow_shared_memory(op, reinterpret_cast<const void*>(kernel));
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = grid.cluster > 1 ? 1 : 0;
    check(op, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}
#endif

}  // namespace gconv::cuda
