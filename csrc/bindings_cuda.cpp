// Python bindings of the CUDA kernels. Addresses of device memory and streams are ints; gconv/backends/cuda.py takes
// them from torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/group_pool.h"
#include "cuda/ops.h"
#ifdef GCONV_EMULATED
#include "cuda/device.h"
#endif

namespace py = pybind11;

namespace {

using gconv::cuda::Convolution;
using gconv::cuda::Cosets;
using gconv::cuda::Device;
using gconv::cuda::Pooling;
using gconv::cuda::PoolMode;
using gconv::cuda::Stream;
using gconv::cuda::Type;

#ifdef GCONV_EMULATED
constexpr bool emulated = true;
#else
constexpr bool emulated = false;
#endif
constexpr uintptr_t kWorkspaceAlignment = 1024;

void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

Type type_of(const std::string& dtype) {
    require(dtype == "float32" || dtype == "float16" || dtype == "bfloat16",
            "dtype must be float32, float16 or bfloat16, got " + dtype);
    return dtype == "float32" ? Type::float32 : dtype == "float16" ? Type::float16 : Type::bfloat16;
}

uintptr_t element_bytes(Type type) { return type == Type::float32 ? 4 : 2; }

PoolMode mode_of(const std::string& mode) {
    require(mode == "max" || mode == "mean", "mode must be max or mean, got " + mode);
    return mode == "max" ? PoolMode::max : PoolMode::mean;
}

Pooling pooling_of(const std::string& pool) {
    if (pool.empty()) return Pooling::none;
    require(pool == "max" || pool == "mean", "pool must be max, mean or empty, got " + pool);
    return pool == "max" ? Pooling::max : Pooling::mean;
}

// What lies at an address that must be a multiple of `alignment`, and 0 only if nothing is there.
template <typename T = void>
T* pointer(uintptr_t address, const char* name, uintptr_t alignment, bool empty = false) {
    require(address != 0 || empty, std::string(name) + " must have an address");
    require(address % alignment == 0,
            std::string(name) + " must be aligned to " + std::to_string(alignment) + " bytes");
    return reinterpret_cast<T*>(address);
}

// A convolution, and what its operands must be.
class Checked {
  public:
    Checked(const std::string& group, bool lifting, const std::string& dtype, int64_t cosets, int64_t batch,
            int64_t c_in, int64_t c_out, int64_t height, int64_t width, int64_t size, int64_t padding,
            const Device& device, bool tf32)
        : convolution_(group, lifting, type_of(dtype), cosets, batch, c_in, c_out, height, width, size, padding, device,
                       tf32),
          alignment_(element_bytes(type_of(dtype))),
          empty_(batch == 0) {}

    std::string missing() const { return convolution_.missing(); }

    int64_t workspace(const std::string& step) const {
        if (step == "forward") return convolution_.forward_workspace();
        if (step == "input_grad") return convolution_.input_grad_workspace();
        require(step == "weight_grad", "step must be forward, input_grad or weight_grad, got " + step);
        return convolution_.weight_grad_workspace();
    }

    void forward(uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t out, uintptr_t workspace, Stream stream,
                 float negative_slope, const std::string& pool) const {
        convolution_.forward(map(x, "x"), filter(weight, "weight"), pointer(bias, "bias", alignment_, true),
                             written(out, "out"), scratch(workspace, convolution_.forward_workspace()), stream,
                             {negative_slope, pooling_of(pool)});
    }

    void input_grad(uintptr_t grad_out, uintptr_t weight, uintptr_t grad_x, uintptr_t workspace, Stream stream) const {
        convolution_.input_grad(map(grad_out, "grad_out"), filter(weight, "weight"), written(grad_x, "grad_x"),
                                scratch(workspace, convolution_.input_grad_workspace()), stream);
    }

    void weight_grad(uintptr_t x, uintptr_t grad_out, uintptr_t grad_weight, uintptr_t workspace, Stream stream) const {
        convolution_.weight_grad(map(x, "x"), map(grad_out, "grad_out"), filter(grad_weight, "grad_weight"),
                                 scratch(workspace, convolution_.weight_grad_workspace()), stream);
    }

  private:
    void* map(uintptr_t address, const char* name) const { return pointer(address, name, alignment_, empty_); }
    // The kernels store 16 bytes at once where the channels allow.
    void* written(uintptr_t address, const char* name) const { return pointer(address, name, 16, empty_); }
    void* filter(uintptr_t address, const char* name) const { return pointer(address, name, alignment_); }
    static void* scratch(uintptr_t address, int64_t bytes) {
        return pointer(address, "workspace", kWorkspaceAlignment, bytes == 0);
    }

    Convolution convolution_;
    uintptr_t alignment_;
    bool empty_;
};

void group_pool(const std::string& dtype, uintptr_t x, uintptr_t out, uintptr_t index, int64_t batch,
                int64_t plane_length, const Cosets& cosets, const std::string& mode, Stream stream) {
    const Type type = type_of(dtype);
    const bool empty = batch * plane_length == 0, mean = mode_of(mode) == PoolMode::mean;
    gconv::cuda::group_pool(
        type, pointer(x, "x", element_bytes(type), empty), pointer(out, "out", element_bytes(type), empty),
        pointer<uint8_t>(index, "index", 1, empty || mean), batch, plane_length, cosets, mode_of(mode), stream);
}

void group_pool_backward(const std::string& dtype, uintptr_t grad_out, uintptr_t index, uintptr_t grad_x, int64_t batch,
                         int64_t plane_length, const Cosets& cosets, const std::string& mode, Stream stream) {
    const Type type = type_of(dtype);
    const bool empty = batch * plane_length == 0, mean = mode_of(mode) == PoolMode::mean;
    gconv::cuda::group_pool_backward(type, pointer(grad_out, "grad_out", element_bytes(type), empty),
                                     pointer<uint8_t>(index, "index", 1, empty || mean),
                                     pointer(grad_x, "grad_x", element_bytes(type), empty), batch, plane_length, cosets,
                                     mode_of(mode), stream);
}

void group_pool_select(const std::string& dtype, uintptr_t x, uintptr_t index, uintptr_t out, int64_t batch,
                       int64_t plane_length, const Cosets& cosets, Stream stream) {
    const Type type = type_of(dtype);
    const bool empty = batch * plane_length == 0;
    gconv::cuda::group_pool_select(
        type, pointer(x, "x", element_bytes(type), empty), pointer<uint8_t>(index, "index", 1, empty),
        pointer(out, "out", element_bytes(type), empty), batch, plane_length, cosets, stream);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    using namespace py::literals;
    using WithoutLock = py::call_guard<py::gil_scoped_release>;
    module.doc() =
        "CUDA kernels of gconv. Addresses are of device memory; calls start kernels on the stream and return. Sizes, "
        "nulls and alignments are checked (ValueError); what CUDA refuses is a RuntimeError with its message.";
    module.attr("emulated") = emulated;
    module.def(
        "device_count",
        [] {
            std::string error;
            return gconv::cuda::device_count(&error);
        },
        "How many CUDA devices there are; 0 without a driver.", WithoutLock());
    module.def(
        "error",
        [] {
            std::string error;
            gconv::cuda::device_count(&error);
            return error;
        },
        "Why there is no device; empty if there is one.", WithoutLock());
#ifdef GCONV_EMULATED
    module.def(
        "set_schedule",
        py::overload_cast<const std::string&, const std::string&, uint32_t>(&gconv::cuda::emulation::set_schedule),
        "order"_a, "asynchrony"_a, "seed"_a = 0, "Of the launches from here on; csrc/tests/emulation.h names them.");
#endif
    py::class_<Device>(module, "Device", py::module_local(), "What the host code plans for.")
        .def(py::init([](int capability, int multiprocessors, int shared_bytes) {
                 return Device{capability, multiprocessors, shared_bytes};
             }),
             "capability"_a, "multiprocessors"_a, "shared_bytes"_a)
        .def_readonly("capability", &Device::capability, "10 major + minor")
        .def_readonly("multiprocessors", &Device::multiprocessors)
        .def_readonly("shared_bytes", &Device::shared_bytes, "that a block may have");
    py::class_<Checked>(
        module, "Convolution", py::module_local(),
        "A convolution of stride 1 on a lattice group and its transposes; sizes are the forward pass's.")
        .def(py::init<const std::string&, bool, const std::string&, int64_t, int64_t, int64_t, int64_t, int64_t,
                      int64_t, int64_t, int64_t, const Device&, bool>(),
             "group"_a, "lifting"_a, "dtype"_a, "cosets"_a, "batch"_a, "c_in"_a, "c_out"_a, "height"_a, "width"_a,
             "size"_a, "padding"_a, "device"_a, "tf32"_a)
        .def("missing", &Checked::missing, "Why it cannot run; empty if it can.")
        .def("workspace", &Checked::workspace, "step"_a,
             "Bytes, aligned to 1024, that forward, input_grad or weight_grad needs.")
        .def(
            "forward", &Checked::forward, "x"_a, "weight"_a, "bias"_a, "out"_a, "workspace"_a, "stream"_a,
            "negative_slope"_a = 1.0f, "pool"_a = "",
            "LeakyReLU after the bias, then max or mean over the group if it has no cosets, in float32; out is rounded "
            "once.",
            WithoutLock())
        .def("input_grad", &Checked::input_grad, "grad_out"_a, "weight"_a, "grad_x"_a, "workspace"_a, "stream"_a,
             WithoutLock())
        .def("weight_grad", &Checked::weight_grad, "x"_a, "grad_out"_a, "grad_weight"_a, "workspace"_a, "stream"_a,
             WithoutLock());
    module.def("group_pool", &group_pool, "dtype"_a, "x"_a, "out"_a, "index"_a, "batch"_a, "plane_length"_a, "cosets"_a,
               "mode"_a, "stream"_a, WithoutLock());
    module.def("group_pool_backward", &group_pool_backward, "dtype"_a, "grad_out"_a, "index"_a, "grad_x"_a, "batch"_a,
               "plane_length"_a, "cosets"_a, "mode"_a, "stream"_a, WithoutLock());
    module.def("group_pool_select", &group_pool_select, "dtype"_a, "x"_a, "index"_a, "out"_a, "batch"_a,
               "plane_length"_a, "cosets"_a, "stream"_a, WithoutLock());
}
