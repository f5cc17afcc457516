// Python bindings. A tensor is (address, shape, strides in elements); gconv/backends/cpu.py makes them from torch
// tensors.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/ops.h"

namespace py = pybind11;

namespace {

using gconv::Filter;
using gconv::Group;
using gconv::Image;
using gconv::PackedFilter;
using Tensor = std::tuple<uintptr_t, std::vector<int64_t>, std::vector<int64_t>>;
using Cosets = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

int64_t count(const std::vector<int64_t>& shape) {
    int64_t product = 1;
    for (const int64_t length : shape) {
        require(length >= 0, "shapes must not be negative");
        require(length == 0 || product <= (int64_t{1} << 60) / length, "the tensor is too large");
        product *= length;
    }
    return product;
}

// (N, C, G, H, W), or (N, C, H, W) as one plane; channels must be adjacent.
template <typename T>
Image<T> image(const Tensor& tensor, const char* name, bool planes) {
    const auto& [address, shape, strides] = tensor;
    const size_t rank = planes ? 5 : 4;
    require(shape.size() == rank && strides.size() == rank, std::string(name) + " must have " + std::to_string(rank) +
                                                                " dimensions, got " + std::to_string(shape.size()));
    const bool empty = count(shape) == 0;
    require(address != 0 || empty, std::string(name) + " must have an address");
    require(shape[1] <= 1 || strides[1] == 1 || empty,
            std::string(name) + " must have adjacent channels, got channel stride " + std::to_string(strides[1]));
    require(address % alignof(T) == 0, std::string(name) + " must be aligned to its elements");
    const size_t h = rank - 2, w = rank - 1;
    return {reinterpret_cast<T*>(address), shape[0],   shape[1],  planes ? shape[2] : 1, shape[h], shape[w], strides[0],
            planes ? strides[2] : 0,       strides[h], strides[w]};
}

// As image, or a map with its channels in blocks, (N, C / blocks, G, blocks, H, W).
template <typename T>
Image<T> blocked_image(const Tensor& tensor, const char* name, bool planes) {
    const auto& [address, shape, strides] = tensor;
    if (!planes || shape.size() != 6 || strides.size() != 6) return image<T>(tensor, name, planes);
    count(shape);
    require(shape[3] >= 1, std::string(name) + " must have blocks of channels");
    Tensor first = tensor;
    std::get<1>(first).erase(std::get<1>(first).begin() + 3);
    std::get<2>(first).erase(std::get<2>(first).begin() + 3);
    Image<T> map = image<T>(first, name, true);
    map.blocks = shape[3];
    map.channels *= map.blocks;
    map.stride_block = strides[3];
    return map;
}

// (C_out, C_in, G, K, K), or (C_out, C_in, K, K) as one plane; contiguous.
template <typename T>
Filter<T> filter(const Tensor& tensor, const char* name, bool planes) {
    const auto& [address, shape, strides] = tensor;
    const size_t rank = planes ? 5 : 4;
    require(shape.size() == rank && strides.size() == rank, std::string(name) + " must have " + std::to_string(rank) +
                                                                " dimensions, got " + std::to_string(shape.size()));
    require(shape[rank - 1] == shape[rank - 2], std::string(name) + " must be square");
    require(address != 0 || count(shape) == 0, std::string(name) + " must have an address");
    int64_t step = 1;
    for (size_t axis = rank; axis-- > 0; step *= shape[axis])
        require(shape[axis] <= 1 || strides[axis] == step || count(shape) == 0,
                std::string(name) + " must be contiguous");
    return {reinterpret_cast<T*>(address), shape[0], shape[1], planes ? shape[2] : 1, shape[rank - 1]};
}

template <typename T>
const T* vector(const std::optional<Tensor>& tensor, const char* name, int64_t length) {
    if (!tensor) return nullptr;
    const auto& [address, shape, strides] = *tensor;
    require(shape.size() == 1 && strides.size() == 1 && shape[0] == length && (length <= 1 || strides[0] == 1) &&
                (address != 0 || length == 0),
            std::string(name) + " must be a contiguous vector of " + std::to_string(length));
    return reinterpret_cast<const T*>(address);
}

// Calls body(S{}) with the type in memory, without the interpreter lock.
template <typename Body>
void with_type(const std::string& dtype, const Body& body) {
    require(dtype == "float32" || dtype == "float64" || dtype == "bfloat16" || dtype == "float16",
            "dtype must be float32, float64, bfloat16 or float16, got " + dtype);
    py::gil_scoped_release release;
    if (dtype == "float32") body(float{});
    if (dtype == "float64") body(double{});
    if (dtype == "bfloat16") body(gconv::bfloat16{});
    if (dtype == "float16") body(gconv::float16{});
}

gconv::PoolMode pool_mode(const std::string& mode) {
    require(mode == "max" || mode == "mean", "mode must be max or mean, got " + mode);
    return mode == "max" ? gconv::PoolMode::max : gconv::PoolMode::mean;
}

std::pair<std::vector<int32_t>, int> members(const Cosets& cosets) {
    require(cosets.ndim() == 2, "cosets must have 2 dimensions");
    return {std::vector<int32_t>(cosets.data(), cosets.data() + cosets.size()), static_cast<int>(cosets.shape(1))};
}

template <typename T>
Image<T> index_image(const std::optional<Tensor>& index) {
    return index ? image<T>(*index, "index", true) : Image<T>{};
}

template <typename T>
std::vector<T> values(const py::array_t<T, py::array::c_style | py::array::forcecast>& array) {
    return std::vector<T>(array.data(), array.data() + array.size());
}

std::unique_ptr<Group> make_group(const Cosets& product, const Cosets& action, const py::list& irreps) {
    require(product.ndim() == 2 && action.ndim() == 3, "Group: product must be (G, G) and action (G, 2, 2)");
    const int64_t order = product.shape(0);
    require(order >= 1 && order <= 8, "Group: order must be in 1..8, got " + std::to_string(order));
    std::vector<gconv::Irrep> list;
    for (const py::handle& item : irreps) {
        const auto [matrices, columns] =
            item.cast<std::pair<py::array_t<int8_t, py::array::c_style | py::array::forcecast>, int>>();
        require(matrices.ndim() == 3 && matrices.shape(0) == order && matrices.shape(1) == matrices.shape(2),
                "Group: irreps must be (G, d, d) arrays");
        list.push_back({static_cast<int>(matrices.shape(1)), columns, values(matrices)});
    }
    return std::make_unique<Group>(static_cast<int>(order), values(product), values(action), std::move(list));
}

// The two convolutions differ in the native call and in whether the image has planes.
struct GroupConv2d {
    static constexpr bool lifting = false;
    template <typename... A>
    static void forward(const A&... arguments) {
        gconv::group_conv2d(arguments...);
    }
    template <typename... A>
    static void adjoint(const A&... arguments) {
        gconv::group_conv2d_adjoint(arguments...);
    }
    template <typename... A>
    static void weight_grad(const A&... arguments) {
        gconv::group_conv2d_weight_grad(arguments...);
    }
    template <typename... A>
    static PackedFilter pack(const A&... arguments) {
        return gconv::pack_group_conv2d(arguments...);
    }
};

struct LiftingConv2d {
    static constexpr bool lifting = true;
    template <typename... A>
    static void forward(const A&... arguments) {
        gconv::lifting_conv2d(arguments...);
    }
    template <typename... A>
    static void adjoint(const A&... arguments) {
        gconv::lifting_conv2d_adjoint(arguments...);
    }
    template <typename... A>
    static void weight_grad(const A&... arguments) {
        gconv::lifting_conv2d_weight_grad(arguments...);
    }
    template <typename... A>
    static PackedFilter pack(const A&... arguments) {
        return gconv::pack_lifting_conv2d(arguments...);
    }
};

template <typename Op>
void conv2d(const Group& group, const std::string& dtype, const Tensor& x, const Tensor& weight,
            const std::optional<Tensor>& bias, const Tensor& out, int64_t stride, int64_t padding, int threads) {
    with_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        const auto to = blocked_image<S>(out, "out", true);
        Op::forward(group, blocked_image<const S>(x, "x", !Op::lifting),
                    filter<const S>(weight, "weight", !Op::lifting), vector<S>(bias, "bias", to.block_channels()), to,
                    stride, padding, threads);
    });
}

template <typename Op>
void conv2d_adjoint(const Group& group, const std::string& dtype, const Tensor& x, const Tensor& weight,
                    const Tensor& out, int64_t padding, int threads) {
    with_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        Op::adjoint(group, blocked_image<const S>(x, "x", true), filter<const S>(weight, "weight", !Op::lifting),
                    blocked_image<S>(out, "out", !Op::lifting), padding, threads);
    });
}

template <typename Op>
void conv2d_weight_grad(const Group& group, const std::string& dtype, const Tensor& x, const Tensor& grad_out,
                        const Tensor& grad_weight, int64_t stride, int64_t padding, int threads) {
    with_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        Op::weight_grad(group, blocked_image<const S>(x, "x", !Op::lifting),
                        blocked_image<const S>(grad_out, "grad_out", true),
                        filter<S>(grad_weight, "grad_weight", !Op::lifting), stride, padding, threads);
    });
}

template <typename Op>
PackedFilter pack(const Group& group, const std::string& dtype, const Tensor& weight, int64_t in_blocks, int threads) {
    PackedFilter packed{};
    with_type(dtype, [&](auto zero) {
        packed = Op::pack(group, filter<const decltype(zero)>(weight, "weight", !Op::lifting), in_blocks, threads);
    });
    return packed;
}

void conv2d_packed(const PackedFilter& packed, const std::string& dtype, const Tensor& x,
                   const std::optional<Tensor>& bias, const Tensor& out, int64_t stride, int64_t padding, int threads) {
    with_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        const auto to = blocked_image<S>(out, "out", true);
        gconv::conv2d_packed(packed, blocked_image<const S>(x, "x", std::get<1>(x).size() > 4),
                             vector<S>(bias, "bias", to.block_channels()), to, stride, padding, threads);
    });
}

template <typename Op>
void define(py::module_& module, const std::string& name) {
    using namespace py::literals;
    module.def(name.c_str(), &conv2d<Op>, "group"_a, "dtype"_a, "x"_a, "weight"_a, "bias"_a, "out"_a, "stride"_a,
               "padding"_a, "threads"_a);
    module.def((name + "_adjoint").c_str(), &conv2d_adjoint<Op>, "group"_a, "dtype"_a, "x"_a, "weight"_a, "out"_a,
               "padding"_a, "threads"_a);
    module.def((name + "_weight_grad").c_str(), &conv2d_weight_grad<Op>, "group"_a, "dtype"_a, "x"_a, "grad_out"_a,
               "grad_weight"_a, "stride"_a, "padding"_a, "threads"_a);
    module.def(("pack_" + name).c_str(), &pack<Op>, "group"_a, "dtype"_a, "weight"_a, "in_blocks"_a, "threads"_a,
               py::keep_alive<0, 1>());
}

void group_pool(const std::string& dtype, const Tensor& x, const Tensor& out, const std::optional<Tensor>& index,
                const Cosets& cosets, const std::string& mode, int threads) {
    const auto [elements, size] = members(cosets);
    const auto& list = elements;
    const int length = size;
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        gconv::group_pool<T>(image<const T>(x, "x", true), image<T>(out, "out", true), index_image<uint8_t>(index),
                             list, length, pool_mode(mode), threads);
    });
}

void group_pool_backward(const std::string& dtype, const Tensor& grad_out, const std::optional<Tensor>& index,
                         const Tensor& grad_x, const Cosets& cosets, const std::string& mode, int threads) {
    const auto [elements, size] = members(cosets);
    const auto& list = elements;
    const int length = size;
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        gconv::group_pool_backward<T>(image<const T>(grad_out, "grad_out", true), index_image<const uint8_t>(index),
                                      image<T>(grad_x, "grad_x", true), list, length, pool_mode(mode), threads);
    });
}

void group_pool_select(const std::string& dtype, const Tensor& x, const Tensor& index, const Tensor& out,
                       const Cosets& cosets, int threads) {
    const auto [elements, size] = members(cosets);
    const auto& list = elements;
    const int length = size;
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        gconv::group_pool_select<T>(image<const T>(x, "x", true), image<const uint8_t>(index, "index", true),
                                    image<T>(out, "out", true), list, length, threads);
    });
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    using namespace py::literals;
    module.doc() =
        "Native CPU kernels of gconv. Tensors are (address, shape, strides in elements), dtype is its name, "
        "sizes are checked again here (ValueError) and nothing else is.";
    py::class_<Group>(module, "Group",
                      "A lattice group: product (G, G), action (G, 2, 2), irreps [((G, d, d), columns)].")
        .def(py::init(&make_group), "product"_a, "action"_a, "irreps"_a)
        .def_readonly("order", &Group::order);
    py::class_<PackedFilter>(module, "PackedFilter", "A filter transformed for the kernels in use; group stays alive.")
        .def_readonly("bytes", &PackedFilter::bytes);
    define<GroupConv2d>(module, "group_conv2d");
    define<LiftingConv2d>(module, "lifting_conv2d");
    module.def("conv2d_packed", &conv2d_packed, "packed"_a, "dtype"_a, "x"_a, "bias"_a, "out"_a, "stride"_a,
               "padding"_a, "threads"_a);
    module.def("fma_peak", &gconv::fma_peak, "threads"_a, "FLOP/s of float32 multiply-adds in registers.",
               py::call_guard<py::gil_scoped_release>());
    module.def("profile", &gconv::profile, "on"_a, "Starts (and clears) or stops the clocks of the stages.");
    module.def("profile_seconds", &gconv::profile_seconds, "[(stage, seconds summed over threads)].");
    module.def("group_pool", &group_pool, "dtype"_a, "x"_a, "out"_a, "index"_a, "cosets"_a, "mode"_a, "threads"_a);
    module.def("group_pool_backward", &group_pool_backward, "dtype"_a, "grad_out"_a, "index"_a, "grad_x"_a, "cosets"_a,
               "mode"_a, "threads"_a);
    module.def("group_pool_select", &group_pool_select, "dtype"_a, "x"_a, "index"_a, "out"_a, "cosets"_a, "threads"_a);
    module.def("instruction_sets", &gconv::instruction_sets, "Built in and supported by this machine, the best last.");
    module.def("instruction_set", &gconv::instruction_set, "The one in use.");
    module.def("use_instruction_set", &gconv::use_instruction_set, "name"_a, "For tests; not while ops run.");
}
