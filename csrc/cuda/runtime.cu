// Whether there is a device, and what launches need once. The build also compiles this file first, to see whether nvcc
// works.
#include "runtime.h"

#include <mutex>
#include <set>
#include <utility>

namespace gconv::cuda {

#ifdef __CUDACC__

void allow_shared_memory(const char* op, const void* kernel) {
    static std::mutex mutex;
    static std::set<std::pair<const void*, int>> allowed;
    int device = 0, most = 0;
    check(op, cudaGetDevice(&device));
    const std::lock_guard<std::mutex> lock(mutex);
    if (allowed.count({kernel, device})) return;
    check(op, cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    check(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    allowed.insert({kernel, device});
}

int device_count(std::string* error) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        cudaGetLastError();  // or a later call would report it
        int driver = 0;
        cudaDriverGetVersion(&driver);
        *error = driver == 0 ? "no CUDA driver was found" : cudaGetErrorString(status);
        return 0;
    }
    *error = count == 0 ? "no CUDA device was found" : "";
    return count;
}

#else

int device_count(std::string* error) {
    *error = "the kernels are emulated on the CPU";
    return 0;
}

#endif

}  // namespace gconv::cuda
