// From what the host knows at run time to template arguments.
#pragma once

#include <stdexcept>
#include <string>

#include "device.h"
#include "fourier.h"
#include "runtime.h"

namespace gconv::cuda {

// Calls body(T{}) with the type in memory.
template <typename Body>
void with_type(Type type, const Body& body) {
    switch (type) {
        case Type::float32:
            return body(float{});
        case Type::float16:
            return body(Float16{});
        case Type::bfloat16:
            return body(Bfloat16{});
    }
}

// Calls body(Group{}) with the tables of fourier.h for a lattice group's name.
template <typename Body>
void with_group(const std::string& name, const Body& body) {
    if (name == "C1") return body(C1{});
    if (name == "C2" || name == "D1") return body(C2{});
    if (name == "C4") return body(C4{});
    if (name == "D2") return body(D2{});
    if (name == "D4") return body(D4{});
    throw std::invalid_argument("group must be C1, C2, C4, D1, D2 or D4, got " + name);
}

inline int type_bytes(Type type) { return type == Type::float32 ? 4 : 2; }

template <typename A, typename B>
constexpr int64_t cdiv(A length, B block) {
    return (static_cast<int64_t>(length) + block - 1) / block;
}

}  // namespace gconv::cuda
