// Fibers: stacks that a thread switches between.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define GCONV_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GCONV_ASAN 1
#endif
#endif
#ifdef GCONV_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef __x86_64__
// ucontext's switch is a system call; this one saves what a called function must keep.
extern "C" void gconv_switch_stack(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace gconv::cuda::emulation {

// A place to come back to: a fiber's, or that of the thread which started the first one (`memory` is null).
class Fiber {
  public:
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    ~Fiber() {
        if (memory_) munmap(memory_, kBytes + kGuard);
    }

    // From its beginning at the next switch; `entry` never returns.
    void start(void (*entry)()) {
        if (!memory_) {
            void* memory = mmap(nullptr, kBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) throw std::bad_alloc();
            memory_ = static_cast<char*>(memory);
            mprotect(memory_, kGuard, PROT_NONE);
        }
        bottom_ = memory_ + kGuard;
        size_ = kBytes;
#ifdef GCONV_ASAN
        ASAN_UNPOISON_MEMORY_REGION(bottom_, size_);  // what an earlier run that ended in an error left
#endif
#ifdef __x86_64__
        void** top = reinterpret_cast<void**>(memory_ + kGuard + kBytes);
        top[-1] = nullptr;  // entry's return address
        top[-2] = reinterpret_cast<void*>(entry);
        for (int i = 3; i <= 8; ++i) top[-i] = nullptr;  // the registers
        place_ = top - 8;
#else
        getcontext(&place_);
        place_.uc_stack.ss_sp = memory_ + kGuard;
        place_.uc_stack.ss_size = kBytes;
        makecontext(&place_, entry, 0);
#endif
    }

    void switch_to(Fiber& to) {
        from() = this;
#ifdef GCONV_ASAN
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, to.bottom_, to.size_);
#endif
#ifdef __x86_64__
        gconv_switch_stack(&place_, to.place_);
#else
        swapcontext(&place_, &to.place_);
#endif
#ifdef GCONV_ASAN
        __sanitizer_finish_switch_fiber(fake, &from()->bottom_, &from()->size_);
#endif
    }

    // What a fiber does first.
    static void begin() {
#ifdef GCONV_ASAN
        __sanitizer_finish_switch_fiber(nullptr, &from()->bottom_, &from()->size_);
#endif
    }

  private:
    static constexpr size_t kBytes = 256 * 1024, kGuard = 64 * 1024;
    static Fiber*& from() {  // whose switch was the last
        static Fiber* from;
        return from;
    }

    char* memory_ = nullptr;
    const void* bottom_ = nullptr;
    size_t size_ = 0;
#ifdef __x86_64__
    void* place_ = nullptr;
#else
    ucontext_t place_ = {};
#endif
};

}  // namespace gconv::cuda::emulation
