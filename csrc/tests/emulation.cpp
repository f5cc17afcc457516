// The emulation's scheduler, barriers, copies and matrix products; see emulation.h. One launch runs at a time.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda/device.h"
#include "fiber.h"

#ifdef __x86_64__
asm(R"(
    .text
    .type gconv_switch_stack, @function
    .hidden gconv_switch_stack
    .globl gconv_switch_stack
gconv_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size gconv_switch_stack, . - gconv_switch_stack
)");
#endif

namespace gconv::cuda {

emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr uint32_t kWindow = 1024;  // the address of a block's first byte of shared memory
constexpr int kWarp = 32;
constexpr unsigned char kPoison = 0xff;  // a NaN in every format

struct Block;
struct Thread;
struct Warp;

// A barrier for threads, of bar.sync or the cluster's.
struct Meeting {
    int count = 0;
    std::vector<Thread*> waiting;
};

// An mbarrier. Its 8 bytes in shared memory hold a stamp, so that what overwrites them is found.
struct Barrier {
    int count = 0, pending = 0;
    int64_t bytes = 0;           // expected and not yet come; below 0 where they came first
    uint32_t phase = 0;          // that has not ended
    Thread* fence_by = nullptr;  // who has yet to show it to the cluster
    std::vector<Thread*> waiting;
};

// A copy_async under way, or the arrival at a barrier that follows those before it.
struct Copy {
    uint32_t shared;
    const void* global;
    bool exists, arrival;
};

// One block's part of a copy_bulk.
struct Bulk {
    Thread* by;
    Block* to;
    uint32_t shared;
    const void* global;
    uint32_t bytes, barrier;
};

// The accumulators of a warp while products with them are under way: 16 rows.
struct Tile {
    int columns = 0, products = 0;
    std::vector<float> values;
    std::array<float*, kWarp> d{};
};

struct Product {
    Kind kind;
    int columns, sign;
    uint64_t b;
    std::array<const uint32_t*, kWarp> a;
    Tile* tile;  // null once it is done
};

struct Warp {
    Block* block = nullptr;
    int index = 0;
    const char* what = nullptr;  // the instruction that its threads meet at
    int arrived = 0;
    std::array<void*, kWarp> operands{};
    std::array<Thread*, kWarp> threads{};
    bool fenced = false;
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
    std::map<float*, Tile> tiles;  // by the first thread's accumulators
};

// The four warps of a warpgroup run the same of its instructions, in the same order.
struct Warpgroup {
    std::vector<std::string> log;
    int done[4] = {};
};

struct Block {
    int64_t index = 0;
    int rank = 0, live = 0;
    unsigned char* memory = nullptr;
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    std::map<uint32_t, Barrier> barriers;
    Meeting meetings[16];
};

enum class State { ready, waiting, done };

struct Thread {
    Fiber fiber;
    Block* block = nullptr;
    Warp* warp = nullptr;
    int index = 0, position = 0;
    State state = State::done;
    const void* wait = nullptr;  // what it waits for, in words if it is for ever
    std::string (*why)(const void* wait) = nullptr;
    std::deque<Copy> copies;
    int arrivals = 0;  // among them
};

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

struct Machine {
    // Settings
    Order order = Order::forward;
    Asynchrony asynchrony = Asynchrony::eager;
    uint32_t seed = 0;
    // The launch
    std::mutex launching;
    std::string op;
    int threads_per_block = 0, shared_bytes = 0, cluster = 1;
    const std::function<void()>* body = nullptr;
    std::exception_ptr error;
    std::mt19937 random;
    // The cluster
    Fiber main;
    bool broken = false;  // fibers were left where they were, by an error
    Thread* current = nullptr;
    std::vector<std::unique_ptr<Thread>> pool;
    std::vector<Thread*> at;  // by position, the order in which threads get their turn
    int first_class = 0;      // so many positions go before the others
    std::vector<uint64_t> ready;
    std::vector<Block> blocks;
    std::vector<std::unique_ptr<unsigned char, Free>> memories;
    Meeting cluster_meeting;
    int live = 0;
    std::deque<Bulk> bulks;
    std::vector<Thread*> copying;  // threads with copies under way that an arrival follows
};

Machine& machine() {
    static Machine machine;
    return machine;
}

bool late() { return machine().asynchrony == Asynchrony::late; }

std::string text(uint64_t value) { return std::to_string(value); }

[[noreturn]] void fail(const Thread& thread, const std::string& message) {
    throw std::runtime_error(machine().op + ": block " + text(thread.block->index) + ", thread " + text(thread.index) +
                             ": " + message);
}

Thread& self() { return *machine().current; }

// ---- the scheduler
void set_ready(Thread& thread) {
    thread.state = State::ready;
    machine().ready[thread.position / 64] |= uint64_t{1} << thread.position % 64;
}

void set_not_ready(Thread& thread, State state) {
    thread.state = state;
    machine().ready[thread.position / 64] &= ~(uint64_t{1} << thread.position % 64);
}

int find_ready(int begin, int end) {
    const auto& ready = machine().ready;
    while (begin < end) {
        const uint64_t bits = ready[begin / 64] >> begin % 64;
        if (bits) {
            const int found = begin + __builtin_ctzll(bits);
            return found < end ? found : -1;
        }
        begin = (begin / 64 + 1) * 64;
    }
    return -1;
}

Thread* choose_among(int begin, int end) {
    Machine& m = machine();
    if (begin == end) return nullptr;
    int from = begin;
    if (m.order == Order::random)
        from += static_cast<int>(m.random() % (end - begin));
    else if (m.current && m.current->position >= begin && m.current->position + 1 < end)
        from = m.current->position + 1;
    int found = find_ready(from, end);
    if (found < 0) found = find_ready(begin, from);
    return found < 0 ? nullptr : m.at[found];
}

Thread* choose() {
    Machine& m = machine();
    Thread* thread = choose_among(0, m.first_class);
    return thread ? thread : choose_among(m.first_class, static_cast<int>(m.at.size()));
}

void resume_as(Thread& thread) {
    machine().current = &thread;
    threadIdx.x = thread.index;
    blockIdx.x = static_cast<unsigned>(thread.block->index);
}

// Lets the next thread go on; comes back when it is this one's turn.
void leave() {
    Machine& m = machine();
    Thread& thread = self();
    Thread* next = choose();
    if (next == &thread) return;
    if (next) {
        resume_as(*next);
        thread.fiber.switch_to(next->fiber);
    } else {
        thread.fiber.switch_to(m.main);
    }
}

// `why` tells what the thread waits for, if it waits for ever.
template <typename Why>
void wait(const Why& why) {
    Thread& thread = self();
    set_not_ready(thread, State::waiting);
    thread.wait = &why;
    thread.why = [](const void* wait) { return (*static_cast<const Why*>(wait))(); };
    leave();
}

// Before an instruction that other threads see: anything may have happened in between.
void interleave() {
    Machine& m = machine();
    if (m.order == Order::random && m.random() % 8 == 0) leave();
}

void wake(std::vector<Thread*>& threads) {
    for (Thread* thread : threads) set_ready(*thread);
    threads.clear();
}

// ---- shared memory
unsigned char* at(const Thread& by, const Block& block, uint32_t address, uint32_t bytes, uint32_t alignment,
                  const char* what) {
    const auto where = [&] {
        return std::string(what) + ": address " + text(address) + " (" + text(bytes) + " bytes)";
    };
    const uint64_t end = kWindow + static_cast<uint64_t>(machine().shared_bytes);
    if (address < kWindow || address + uint64_t{bytes} > end)
        fail(by, where() + " is not in the block's shared memory, " + text(kWindow) + " to " + text(end));
    if (address % alignment) fail(by, where() + " is not aligned to " + text(alignment));
    if (block.live == 0) fail(by, where() + " is in block " + text(block.index) + ", whose threads have all exited");
    return block.memory + (address - kWindow);
}

unsigned char* at(uint32_t address, uint32_t bytes, uint32_t alignment, const char* what) {
    return at(self(), *self().block, address, bytes, alignment, what);
}

// ---- mbarriers
uint64_t stamp(const Barrier& barrier) {
    return 0x6d62617272696572u ^ uint64_t { barrier.phase } << 40 ^ static_cast<uint64_t>(barrier.pending) << 20 ^
           static_cast<uint64_t>(barrier.bytes);
}

Barrier& find_barrier(const Thread& by, Block& block, uint32_t address, const char* what) {
    unsigned char* memory = at(by, block, address, 8, 8, what);
    const auto found = block.barriers.find(address);
    const std::string where = std::string(what) + ": barrier " + text(address) + " of block " + text(block.index);
    if (found == block.barriers.end()) fail(by, where + " is not initialised");
    uint64_t stored;
    std::memcpy(&stored, memory, 8);
    if (stored != stamp(found->second)) fail(by, where + " was overwritten");
    if (found->second.fence_by && (&block != by.block || std::strcmp(what, "copy_bulk") == 0))
        fail(by, where + " was initialised without a barrier_init_fence");
    return found->second;
}

void update(const Thread& by, Block& block, uint32_t address, Barrier& barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
        ++barrier.phase;
        barrier.pending = barrier.count;
        wake(barrier.waiting);
    }
    const uint64_t stored = stamp(barrier);
    std::memcpy(at(by, block, address, 8, 8, "barrier"), &stored, 8);
}

void arrive(const Thread& by, Block& block, uint32_t address, int64_t expected_bytes, const char* what) {
    Barrier& barrier = find_barrier(by, block, address, what);
    if (barrier.pending == 0)
        fail(by,
             std::string(what) + ": more than the " + text(barrier.count) + " arrivals of barrier " + text(address));
    --barrier.pending;
    barrier.bytes += expected_bytes;
    update(by, block, address, barrier);
}

// ---- copies under way
void perform(Thread& by, const Copy& copy) {
    if (copy.arrival) return arrive(by, *by.block, copy.shared, 0, "barrier_arrive_after_copies");
    unsigned char* to = at(by, *by.block, copy.shared, 16, 16, "copy_async");
    if (copy.exists)
        std::memcpy(to, copy.global, 16);
    else
        std::memset(to, 0, 16);
}

void perform(const Bulk& bulk) {
    std::memcpy(at(*bulk.by, *bulk.to, bulk.shared, bulk.bytes, 16, "copy_bulk"), bulk.global, bulk.bytes);
    Barrier& barrier = find_barrier(*bulk.by, *bulk.to, bulk.barrier, "copy_bulk");
    barrier.bytes -= bulk.bytes;
    update(*bulk.by, *bulk.to, bulk.barrier, barrier);
}

// Of one thread, up to the first arrival that they precede. Copies that none follows wake nobody: they can be later.
void perform_copies(Thread& thread) {
    for (bool arrived = false; !arrived; thread.copies.pop_front()) {
        arrived = thread.copies.front().arrival;
        perform(thread, thread.copies.front());
    }
    auto& copying = machine().copying;
    if (--thread.arrivals == 0) copying.erase(std::find(copying.begin(), copying.end(), &thread));
}

// The least of what is under way; false if nothing is.
bool perform_one() {
    Machine& m = machine();
    const size_t threads = m.copying.size(), all = threads + m.bulks.size();
    if (all == 0) return false;
    const size_t chosen = m.order == Order::random ? m.random() % all : m.order == Order::reversed ? all - 1 : 0;
    if (chosen < threads) {
        perform_copies(*m.copying[chosen]);
    } else {
        const Bulk bulk = m.bulks[chosen - threads];
        m.bulks.erase(m.bulks.begin() + static_cast<std::ptrdiff_t>(chosen - threads));
        perform(bulk);
    }
    return true;
}

// Both ends, so that AddressSanitizer names the thread that asked for the copy.
void touch(const void* global, uint32_t bytes, const char* what) {
    check_aligned(global, 16, what);
    const volatile unsigned char* p = static_cast<const volatile unsigned char*>(global);
    static_cast<void>(p[0]);
    static_cast<void>(p[bytes - 1]);
}

// ---- barriers for threads
void meet(Meeting& meeting, int count, const char* what, int barrier) {
    Thread& thread = self();
    if (meeting.waiting.empty()) meeting.count = count;
    if (meeting.count != count)
        fail(thread, std::string(what) + ": barrier " + text(barrier) + " is waited at by " + text(meeting.count) +
                         " and by " + text(count) + " threads");
    if (static_cast<int>(meeting.waiting.size()) + 1 == count) return wake(meeting.waiting);
    meeting.waiting.push_back(&thread);
    wait([&meeting, what, barrier] {
        return std::string(what) + " (barrier " + text(barrier) + "): " + text(meeting.waiting.size()) + " of " +
               text(meeting.count) + " threads came";
    });
}

// Runs `perform` once when all threads of the warp have come, with what each brought.
template <typename Perform>
void meet_warp(const char* what, void* operands, const Perform& perform) {
    Thread& thread = self();
    Warp& warp = *thread.warp;
    if (warp.arrived == 0) warp.what = what;
    if (std::strcmp(warp.what, what) != 0)
        fail(thread, std::string(what) + ": other threads of the warp are at " + warp.what);
    warp.operands[thread.index % kWarp] = operands;
    if (++warp.arrived == kWarp) {
        warp.arrived = 0;
        perform(warp);
        for (Thread* other : warp.threads)
            if (other != &thread) set_ready(*other);
        return;
    }
    wait([&warp, what] { return std::string(what) + ": " + text(warp.arrived) + " threads of the warp came"; });
}

void log_warpgroup(Warp& warp, const std::string& step) {
    Warpgroup& group = warp.block->warpgroups[warp.index / 4];
    const size_t place = group.done[warp.index % 4]++;
    if (place == group.log.size())
        group.log.push_back(step);
    else if (group.log[place] != step)
        fail(self(), step + ": another warp of the warpgroup ran " + group.log[place] + " instead");
}

// ---- matrix products. D (16 x columns) += A (16 x depth) B (depth x columns).
template <typename T>
float half(uint32_t pair, int i) {
    return to_float(T{static_cast<uint16_t>(pair >> 16 * i)});
}

float operand(Kind kind, uint32_t bits, int i) {
    if (kind == Kind::tf32) return bits_to_float(bits & ~0x1fffu);
    return kind == Kind::bfloat16 ? half<Bfloat16>(bits, i) : half<Float16>(bits, i);
}

// Where element i of register r of a lane lies: rows by g = lane / 4, pairs of columns by lane % 4 (PTX ISA, "Matrix
// Fragments for mma.m16n8k16", and of m16n8k8 for tf32).
struct Place {
    int row, column;
};
Place place_of_a(Kind kind, int lane, int r, int i) {
    if (kind == Kind::tf32) return {lane / 4 + r % 2 * 8, lane % 4 + r / 2 * 4};
    return {lane / 4 + r % 2 * 8, lane % 4 * 2 + r / 2 * 8 + i};
}
Place place_of_b(Kind kind, int lane, int r, int i) {
    if (kind == Kind::tf32) return {lane % 4 + r * 4, lane / 4};
    return {lane % 4 * 2 + r * 8 + i, lane / 4};
}
Place place_of_d(int lane, int r) { return {lane / 4 + r % 4 / 2 * 8, r / 4 * 8 + lane % 4 * 2 + r % 2}; }

using Rows = float[16][16];

void gather_a(Kind kind, const std::array<const uint32_t*, kWarp>& a, int sign, Rows& rows) {
    const int halves = kind == Kind::tf32 ? 1 : 2;
    for (int lane = 0; lane < kWarp; ++lane)
        for (int r = 0; r < 4; ++r)
            for (int i = 0; i < halves; ++i) {
                const Place place = place_of_a(kind, lane, r, i);
                rows[place.row][place.column] = static_cast<float>(sign) * operand(kind, a[lane][r], i);
            }
}

template <int columns>
__attribute__((no_sanitize("address", "undefined"))) void multiply(int depth, const Rows& a, const float* b, float* d) {
    for (int row = 0; row < 16; ++row) {
        float sums[columns];
        for (int n = 0; n < columns; ++n) sums[n] = d[row * columns + n];
        for (int k = 0; k < depth; ++k) {
            const float factor = a[row][k];
            for (int n = 0; n < columns; ++n) sums[n] += factor * b[k * columns + n];
        }
        for (int n = 0; n < columns; ++n) d[row * columns + n] = sums[n];
    }
}

// A matrix of wgmma in shared memory, from its descriptor (PTX ISA, "Matrix Descriptor Format" and "Shared Memory
// Matrix Layout", K-major): rows of 128, 64 or 32 bytes in groups of 8, whose 16-byte chunks are permuted by address
// bits.
void read_b(const Thread& by, const Block& block, Kind kind, int columns, uint64_t descriptor, float* b) {
    const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    const uint32_t stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    const int mode = static_cast<int>(descriptor >> 62);
    if (mode == 0) fail(by, "wgmma: a descriptor without swizzling is not emulated");
    if (descriptor >> 49 & 7) fail(by, "wgmma: a descriptor with a base offset is not emulated");
    const uint32_t row_bytes = 256u >> mode, chunks = row_bytes / 16;
    if (start % row_bytes + 32 > row_bytes) fail(by, "wgmma: a step of 32 bytes crosses the end of a row");
    for (int n = 0; n < columns; ++n)
        for (uint32_t chunk = 0; chunk < 2; ++chunk) {
            const uint32_t plain = start + n % 8 * row_bytes + n / 8 * stride + chunk * 16;
            const uint32_t address = plain ^ ((plain >> 7 & (chunks - 1)) << 4);
            uint16_t halves[8];
            std::memcpy(halves, at(by, block, address, 16, 16, "wgmma"), 16);
            float* column = b + chunk * 8 * columns + n;
            for (int k = 0; k < 8; ++k) column[k * columns] = operand(kind, halves[k], 0);
        }
}

void perform(const Thread& by, const Product& product, float* d) {
    Rows a;
    float b[16 * 256];
    gather_a(product.kind, product.a, product.sign, a);
    read_b(by, *by.block, product.kind, product.columns, product.b, b);
    switch (product.columns) {
        case 32:
            return multiply<32>(16, a, b, d);
        case 64:
            return multiply<64>(16, a, b, d);
        case 128:
            return multiply<128>(16, a, b, d);
        default:
            fail(by, "wgmma: " + text(product.columns) + " columns are not emulated");
    }
}

void gather(Tile& tile) {
    for (int lane = 0; lane < kWarp; ++lane)
        for (int r = 0; r < tile.columns / 2; ++r) {
            const Place place = place_of_d(lane, r);
            tile.values[place.row * tile.columns + place.column] = tile.d[lane][r];
        }
}

void scatter(const Tile& tile) {
    for (int lane = 0; lane < kWarp; ++lane)
        for (int r = 0; r < tile.columns / 2; ++r) {
            const Place place = place_of_d(lane, r);
            tile.d[lane][r] = tile.values[place.row * tile.columns + place.column];
        }
}

// ---- a thread's life
void check_end(const Thread& thread) {
    const Warp& warp = *thread.warp;
    if (!warp.open.empty() || !warp.groups.empty()) fail(thread, "exits while wgmma products are under way");
    if (thread.block->live > 0) return;
    for (size_t warp = 0; warp < thread.block->warps.size(); ++warp) {
        const int* done = thread.block->warpgroups[warp / 4].done;
        if (done[warp % 4] != done[0])
            fail(thread, "warp " + text(warp) + " ran " + text(done[warp % 4]) +
                             " instructions of its warpgroup, the warpgroup's first warp " + text(done[0]));
    }
}

void exit_thread(Thread& thread) {
    Machine& m = machine();
    set_not_ready(thread, State::done);
    --thread.block->live;
    --m.live;
    check_end(thread);
    auto& waiting = m.cluster_meeting.waiting;  // the cluster's barrier is for threads that have not exited
    if (!waiting.empty() && static_cast<int>(waiting.size()) == m.live) wake(waiting);
}

// A fiber runs the kernel once per cluster.
void enter() {
    Machine& m = machine();
    Fiber::begin();
    for (;;) {
        Thread& thread = self();
        try {
            (*m.body)();
            exit_thread(thread);
        } catch (...) {
            m.error = std::current_exception();
        }
        if (m.error)
            thread.fiber.switch_to(m.main);
        else
            leave();
    }
}

std::string ranges(const std::vector<int>& threads) {
    std::string list;
    for (size_t i = 0, j; i < threads.size(); i = j) {
        for (j = i + 1; j < threads.size() && threads[j] == threads[j - 1] + 1;) ++j;
        list += (i ? ", " : "") + text(threads[i]) + (j > i + 1 ? "-" + text(threads[j - 1]) : "");
    }
    return list;
}

[[noreturn]] void report_deadlock() {
    std::map<std::string, std::vector<int>> waits;
    for (const Thread* thread : machine().at)
        if (thread->state == State::waiting)
            waits["block " + text(thread->block->index) + ": " + thread->why(thread->wait)].push_back(thread->index);
    std::string message = machine().op + ": deadlock";
    for (auto& [why, threads] : waits) {
        std::sort(threads.begin(), threads.end());
        message += "\n  " + why + ": threads " + ranges(threads);
    }
    throw std::runtime_error(message);
}

// ---- a cluster's life
void place_threads() {
    Machine& m = machine();
    const int count = m.threads_per_block * m.cluster, warps = std::max(1, count / kWarp);
    const int chosen = static_cast<int>(m.seed % warps) * kWarp, size = std::min(kWarp, count);
    m.at.assign(count, nullptr);
    m.ready.assign((count + 63) / 64, 0);
    m.first_class = m.order == Order::ahead ? size : m.order == Order::behind ? count - size : count;
    for (int i = 0; i < count; ++i) {
        int position = i;
        if (m.order == Order::reversed) position = count - 1 - i;
        if (m.order == Order::ahead) position = (i - chosen + count) % count;
        if (m.order == Order::behind) position = (i - chosen - size + 2 * count) % count;
        Thread& thread = *m.pool[i];
        thread.position = position;
        m.at[position] = &thread;
    }
}

void start_cluster(int64_t first_block) {
    Machine& m = machine();
    m.blocks.clear();
    m.blocks.resize(m.cluster);
    m.cluster_meeting = {};
    m.live = m.threads_per_block * m.cluster;
    for (int rank = 0; rank < m.cluster; ++rank) {
        Block& block = m.blocks[rank];
        block.index = first_block + rank;
        block.rank = rank;
        block.live = m.threads_per_block;
        block.memory = m.memories[rank].get();
        std::memset(block.memory, kPoison, m.shared_bytes);
        block.warps.resize((m.threads_per_block + kWarp - 1) / kWarp);
        block.warpgroups.resize((block.warps.size() + 3) / 4);
        for (int i = 0; i < m.threads_per_block; ++i) {
            Thread& thread = *m.pool[rank * m.threads_per_block + i];
            Warp& warp = block.warps[i / kWarp];
            thread.block = &block;
            thread.warp = &warp;
            thread.index = i;
            warp.block = &block;
            warp.index = i / kWarp;
            warp.threads[i % kWarp] = &thread;
            thread.copies.clear();
            thread.arrivals = 0;
            set_ready(thread);
        }
    }
}

void run_cluster() {
    Machine& m = machine();
    m.current = nullptr;
    for (;;) {
        if (Thread* thread = choose()) {
            resume_as(*thread);
            m.main.switch_to(thread->fiber);
            if (m.error) std::rethrow_exception(m.error);
        } else if (m.live == 0) {
            break;
        } else if (!perform_one()) {
            report_deadlock();
        }
    }
    if (!m.bulks.empty()) fail(*m.bulks[0].by, "copy_bulk: under way when all threads have exited");
    for (const Thread* thread : m.at)
        if (!thread->copies.empty()) fail(*thread, "copy_async: under way when all threads have exited");
}

}  // namespace

void set_schedule(Order order, Asynchrony asynchrony, uint32_t seed) {
    Machine& m = machine();
    const std::lock_guard<std::mutex> lock(m.launching);
    m.order = order;
    m.asynchrony = asynchrony;
    m.seed = seed;
}

void set_schedule(const std::string& order, const std::string& asynchrony, uint32_t seed) {
    const std::map<std::string, Order> orders = {{"forward", Order::forward},
                                                 {"reversed", Order::reversed},
                                                 {"random", Order::random},
                                                 {"ahead", Order::ahead},
                                                 {"behind", Order::behind}};
    const std::map<std::string, Asynchrony> asynchronies = {{"eager", Asynchrony::eager}, {"late", Asynchrony::late}};
    if (!orders.count(order))
        throw std::invalid_argument("set_schedule: order must be forward, reversed, random, ahead or behind, got " +
                                    order);
    if (!asynchronies.count(asynchrony))
        throw std::invalid_argument("set_schedule: asynchrony must be eager or late, got " + asynchrony);
    set_schedule(orders.at(order), asynchronies.at(asynchrony), seed);
}

void run(const char* op, int64_t blocks, int threads, int shared_bytes, int cluster,
         const std::function<void()>& thread) {
    Machine& m = machine();
    const std::lock_guard<std::mutex> lock(m.launching);
    if (blocks < 0 || blocks > INT32_MAX || threads < 1 || threads > 1024 || shared_bytes < 0 ||
        shared_bytes > 232448 || cluster < 1 || cluster > 8 || blocks % cluster)
        throw std::invalid_argument(std::string(op) + ": a launch of " + std::to_string(blocks) + " blocks of " +
                                    std::to_string(threads) + " threads with " + std::to_string(shared_bytes) +
                                    " bytes of shared memory in clusters of " + std::to_string(cluster));
    m.op = op;
    m.threads_per_block = threads;
    m.shared_bytes = shared_bytes;
    m.cluster = cluster;
    m.body = &thread;
    m.error = nullptr;
    m.random.seed(m.seed);
    m.bulks.clear();
    m.copying.clear();
    m.memories.clear();
    for (int rank = 0; rank < cluster; ++rank) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 1024, shared_bytes) != 0) throw std::bad_alloc();
        m.memories.emplace_back(static_cast<unsigned char*>(memory));
    }
    for (auto& left : m.pool)
        if (m.broken) left->fiber.start(enter);
    while (static_cast<int>(m.pool.size()) < threads * cluster) {
        m.pool.push_back(std::make_unique<Thread>());
        m.pool.back()->fiber.start(enter);
    }
    m.broken = true;
    blockDim.x = threads;
    gridDim.x = static_cast<unsigned>(blocks);
    place_threads();
    for (int64_t block = 0; block < blocks; block += cluster) {
        start_cluster(block);
        run_cluster();
    }
    m.broken = false;
    m.memories.clear();
}

void load_matrices(uint32_t* to, uint32_t address, bool transposed) {
    struct Lane {
        uint32_t* to;
        uint32_t address;
    } lane{to, address};
    meet_warp(transposed ? "load_matrices_transposed" : "load_matrices", &lane, [transposed](Warp& warp) {
        const auto lane_of = [&](int i) { return *static_cast<Lane*>(warp.operands[i]); };
        for (int i = 0; i < 4; ++i) {
            uint16_t matrix[8][8];
            for (int row = 0; row < 8; ++row)
                std::memcpy(
                    matrix[row],
                    at(*warp.threads[8 * i + row], *warp.block, lane_of(8 * i + row).address, 16, 16, "load_matrices"),
                    16);
            for (int l = 0; l < kWarp; ++l) {
                const int row = l / 4, column = l % 4 * 2;
                const uint16_t low = transposed ? matrix[column][row] : matrix[row][column];
                const uint16_t high = transposed ? matrix[column + 1][row] : matrix[row][column + 1];
                lane_of(l).to[i] = uint32_t{high} << 16 | low;
            }
        }
    });
}

void multiply_matrices(Kind kind, float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
    struct Lane {
        Kind kind;
        float* d;
        const uint32_t* a;
        uint32_t b[2];
    } lane{kind, d, a, {b0, b1}};
    meet_warp("multiply_matrices", &lane, [kind](Warp& warp) {
        std::array<const uint32_t*, kWarp> a;
        Tile tile{8, 1, std::vector<float>(16 * 8), {}};
        float b[16 * 8];
        Rows rows;
        for (int l = 0; l < kWarp; ++l) {
            const Lane& lane = *static_cast<Lane*>(warp.operands[l]);
            if (lane.kind != kind) fail(*warp.threads[l], "multiply_matrices: the warp's threads have different types");
            a[l] = lane.a;
            tile.d[l] = lane.d;
            for (int r = 0; r < 2; ++r)
                for (int i = 0; i < (kind == Kind::tf32 ? 1 : 2); ++i) {
                    const Place place = place_of_b(kind, l, r, i);
                    b[place.row * 8 + place.column] = operand(kind, lane.b[r], i);
                }
        }
        gather_a(kind, a, 1, rows);
        gather(tile);
        multiply<8>(kind == Kind::tf32 ? 8 : 16, rows, b, tile.values.data());
        scatter(tile);
    });
}

void wgmma(Kind kind, int columns, int sign, float* d, const uint32_t* a, uint64_t b) {
    struct Lane {
        float* d;
        const uint32_t* a;
        uint64_t b;
    } lane{d, a, b};
    if (kind == Kind::tf32) fail(self(), "wgmma: of halves only");
    if (self().warp->index / 4 * 4 + 4 > static_cast<int>(self().block->warps.size()))
        fail(self(), "wgmma: the block's last warpgroup is not whole");
    meet_warp("wgmma", &lane, [=](Warp& warp) {
        if (!warp.fenced) fail(self(), "wgmma: without a wgmma_fence before the first of a group");
        log_warpgroup(warp,
                      "wgmma of " + text(columns) + " columns by descriptor " + text(b) + (sign > 0 ? "" : ", -"));
        Tile& tile = warp.tiles[static_cast<Lane*>(warp.operands[0])->d];
        Product product{kind, columns, sign, b, {}, &tile};
        const bool fresh = tile.products == 0;
        if (!fresh && tile.columns != columns) fail(self(), "wgmma: accumulators under way in another shape");
        tile.columns = columns;
        tile.values.resize(16 * columns);
        for (int l = 0; l < kWarp; ++l) {
            const Lane& lane = *static_cast<Lane*>(warp.operands[l]);
            if (lane.b != b) fail(*warp.threads[l], "wgmma: the warp's threads have different descriptors");
            if (!fresh && tile.d[l] != lane.d) fail(*warp.threads[l], "wgmma: the accumulators overlap others");
            tile.d[l] = lane.d;
            product.a[l] = lane.a;
        }
        if (fresh) gather(tile);
        if (late()) {
            ++tile.products;
            for (int l = 0; fresh && l < kWarp; ++l) std::memset(tile.d[l], kPoison, columns / 2 * sizeof(float));
        } else {
            perform(self(), product, tile.values.data());
            scatter(tile);
            product.tile = nullptr;
        }
        warp.open.push_back(product);
    });
}

void wgmma_wait(int pending) {
    meet_warp("wgmma_wait", nullptr, [pending](Warp& warp) {
        log_warpgroup(warp, "wgmma_wait " + text(pending));
        for (; static_cast<int>(warp.groups.size()) > pending; warp.groups.pop_front())
            for (const Product& product : warp.groups.front())
                if (product.tile) {
                    perform(self(), product, product.tile->values.data());
                    if (--product.tile->products == 0) scatter(*product.tile);
                }
    });
}

void check_aligned(const void* global, size_t alignment, const char* what) {
    if (reinterpret_cast<uintptr_t>(global) % alignment)
        fail(self(), std::string(what) + ": the global address is not aligned to " + text(alignment));
}

void check_global(const void* global, size_t bytes, const char* what) {
    check_aligned(global, bytes, what);
    for (const Block& block : machine().blocks)
        if (const auto place = reinterpret_cast<uintptr_t>(global) - reinterpret_cast<uintptr_t>(block.memory);
            place < static_cast<uintptr_t>(machine().shared_bytes))
            fail(self(), std::string(what) + ": the address is of shared memory, and the instruction for global");
}

void set_registers(int count, bool raise) {
    meet_warp("setmaxnreg", nullptr, [=](Warp& warp) {
        if (count % 8 || count < 24 || count > 256) fail(self(), "setmaxnreg: of " + text(count) + " registers");
        log_warpgroup(warp, (raise ? "raise_registers " : "lower_registers ") + text(count));
    });
}

}  // namespace emulation

using namespace emulation;

unsigned char* shared_memory() { return self().block->memory; }

uint32_t shared_address(const void* pointer) {
    const auto* byte = static_cast<const unsigned char*>(pointer);
    const Block& block = *self().block;
    if (byte < block.memory || byte > block.memory + machine().shared_bytes)
        fail(self(), "shared_address: not of the block's shared memory");
    return kWindow + static_cast<uint32_t>(byte - block.memory);
}

void sync_threads() { meet(self().block->meetings[0], static_cast<int>(blockDim.x), "sync_threads", 0); }

void sync_threads(int barrier, int count) {
    if (barrier < 1 || barrier > 15 || count % kWarp || count < kWarp || count > static_cast<int>(blockDim.x))
        fail(self(), "sync_threads: " + std::to_string(count) + " threads at barrier " + std::to_string(barrier));
    meet(self().block->meetings[barrier], count, "sync_threads", barrier);
}

void sync_warp() {
    meet_warp("sync_warp", nullptr, [](Warp&) {});
}

int of_first_lane(int x) {
    meet_warp("of_first_lane", &x, [](Warp& warp) {
        const int first = *static_cast<int*>(warp.operands[0]);
        for (int l = 0; l < kWarp; ++l) *static_cast<int*>(warp.operands[l]) = first;
    });
    return x;
}

float shuffle_xor(float x, int mask) {
    struct Lane {
        float x;
        int mask;
        float result;
    } lane{x, mask, 0};
    meet_warp("shuffle_xor", &lane, [](Warp& warp) {
        for (int l = 0; l < kWarp; ++l) {
            Lane& lane = *static_cast<Lane*>(warp.operands[l]);
            if (lane.mask < 0 || lane.mask >= kWarp) fail(*warp.threads[l], "shuffle_xor: mask " + text(lane.mask));
            lane.result = static_cast<Lane*>(warp.operands[l ^ lane.mask])->x;
        }
    });
    return lane.result;
}

uint32_t load_shared(uint32_t address) {
    interleave();
    uint32_t bits;
    std::memcpy(&bits, at(address, 4, 4, "load_shared"), 4);
    return bits;
}

void store_shared(uint32_t address, uint16_t bits) {
    interleave();
    std::memcpy(at(address, 2, 2, "store_shared"), &bits, 2);
}

void store_shared(uint32_t address, uint32_t bits) {
    interleave();
    std::memcpy(at(address, 4, 4, "store_shared"), &bits, 4);
}

void copy_async(uint32_t shared, const void* global, bool exists) {
    interleave();
    Thread& thread = self();
    if (exists) touch(global, 16, "copy_async");
    const Copy copy{shared, global, exists, false};
    if (!late()) return perform(thread, copy);
    std::memset(at(shared, 16, 16, "copy_async"), kPoison, 16);
    thread.copies.push_back(copy);
}

void barrier_init(uint32_t barrier, int arrivals) {
    Thread& thread = self();
    Block& block = *thread.block;
    at(barrier, 8, 8, "barrier_init");
    if (arrivals < 1 || arrivals >= 1 << 20) fail(thread, "barrier_init: " + std::to_string(arrivals) + " arrivals");
    if (block.barriers.count(barrier)) fail(thread, "barrier_init: barrier " + text(barrier) + " is initialised twice");
    Barrier& made = block.barriers[barrier];
    made.count = made.pending = arrivals;
    made.fence_by = &thread;
    update(thread, block, barrier, made);
}

void barrier_arrive(uint32_t barrier) {
    interleave();
    arrive(self(), *self().block, barrier, 0, "barrier_arrive");
}

void barrier_arrive_after_copies(uint32_t barrier) {
    interleave();
    Thread& thread = self();
    if (thread.copies.empty()) return arrive(thread, *thread.block, barrier, 0, "barrier_arrive_after_copies");
    find_barrier(thread, *thread.block, barrier, "barrier_arrive_after_copies");
    thread.copies.push_back({barrier, nullptr, false, true});
    if (thread.arrivals++ == 0) machine().copying.push_back(&thread);
}

void barrier_wait(uint32_t barrier, uint32_t parity) {
    interleave();
    Block& block = *self().block;
    if (parity > 1) fail(self(), "barrier_wait: parity " + text(parity));
    for (;;) {
        Barrier& found = find_barrier(self(), block, barrier, "barrier_wait");
        if (found.phase % 2 != parity) return;
        found.waiting.push_back(&self());
        wait([&found, barrier, parity] {
            return "barrier_wait (barrier " + text(barrier) + ", parity " + text(parity) + "): in phase " +
                   text(found.phase) + " " + text(found.pending) + " of " + text(found.count) + " arrivals and " +
                   std::to_string(found.bytes) + " bytes are missing";
        });
    }
}

void barrier_init_fence() {
    for (auto& [address, barrier] : self().block->barriers)
        if (barrier.fence_by == &self()) barrier.fence_by = nullptr;
}

void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    interleave();
    arrive(self(), *self().block, barrier, bytes, "barrier_arrive_expect");
}

void barrier_arrive_at(uint32_t barrier, uint32_t block) {
    interleave();
    Machine& m = machine();
    if (block >= m.blocks.size()) fail(self(), "barrier_arrive_at: the cluster has no block " + text(block));
    arrive(self(), m.blocks[block], barrier, 0, "barrier_arrive_at");
}

uint32_t cluster_block() { return self().block->rank; }

void cluster_sync() {
    Machine& m = machine();
    auto& waiting = m.cluster_meeting.waiting;
    if (static_cast<int>(waiting.size()) + 1 == m.live) return wake(waiting);
    waiting.push_back(&self());
    wait([&m] {
        return "cluster_sync: " + text(m.cluster_meeting.waiting.size()) + " of " + text(m.live) + " threads came";
    });
}

void copy_bulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier, uint16_t blocks) {
    interleave();
    Machine& m = machine();
    Thread& thread = self();
    if (bytes == 0 || bytes % 16) fail(thread, "copy_bulk: of " + text(bytes) + " bytes");
    if (blocks == 0 || blocks >> m.blocks.size()) fail(thread, "copy_bulk: to the blocks of mask " + text(blocks));
    touch(global, bytes, "copy_bulk");
    for (Block& to : m.blocks) {
        if (!(blocks >> to.rank & 1)) continue;
        const Bulk bulk{&thread, &to, shared, global, bytes, barrier};
        find_barrier(thread, to, barrier, "copy_bulk");
        std::memset(at(thread, to, shared, bytes, 16, "copy_bulk"), kPoison, bytes);
        if (late())
            m.bulks.push_back(bulk);
        else
            perform(bulk);
    }
}

void wgmma_fence() {
    meet_warp("wgmma_fence", nullptr, [](Warp& warp) {
        log_warpgroup(warp, "wgmma_fence");
        warp.fenced = true;
    });
}

void wgmma_commit() {
    meet_warp("wgmma_commit", nullptr, [](Warp& warp) {
        log_warpgroup(warp, "wgmma_commit");
        warp.fenced = false;
        warp.groups.push_back(std::move(warp.open));
        warp.open.clear();
    });
}

}  // namespace gconv::cuda
