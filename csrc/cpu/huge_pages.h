// Large outputs on huge pages.
#pragma once

#include <sys/mman.h>

#include <cstdint>

#include "ops.h"

namespace gconv {

// Asks the system to back an output that is about to be written by huge pages, where it asks to be asked (Linux with
// transparent huge pages on "madvise"). An allocator gives every large tensor fresh memory, and then 512 page faults
// per 2 MiB cost several times what writing it does. Only whole huge pages inside the output are named, so no more
// memory is used than without.
template <typename T>
void prefer_huge_pages(const Image<T>& out) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 2 << 20;
    const int64_t count = out.batch * out.planes * out.height * out.width * out.channels;
    const bool dense = out.stride_batch == out.planes * out.stride_plane &&
                       out.stride_plane == out.height * out.stride_row &&
                       out.stride_row == out.width * out.stride_column && out.stride_column == out.channels;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(out.data) + page - 1) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(out.data + count) / page * page;
    if (dense && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)out;
#endif
}

}  // namespace gconv
