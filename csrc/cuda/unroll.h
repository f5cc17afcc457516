// Loops whose index is a constant expression, for tables that are known at compile time.
#pragma once

#include <type_traits>
#include <utility>

#include "device.h"

namespace gconv::cuda {

template <typename Body, int... indices>
GCONV_DEVICE void static_for(Body&& body, std::integer_sequence<int, indices...>) {
    (body(std::integral_constant<int, indices>()), ...);
}

// body(integral_constant<int, 0>()), ..., body(integral_constant<int, count - 1>()).
template <int count, typename Body>
GCONV_DEVICE void static_for(Body&& body) {
    static_for(body, std::make_integer_sequence<int, count>());
}

}  // namespace gconv::cuda
