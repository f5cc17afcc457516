// The emulation of CUDA kernels: its instructions against plain loops, and that it finds planted bugs: each toy kernel
// here is right under every schedule, and with one line missing or wrong an error or a wrong result under some.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "cuda/layout.h"
#include "cuda/runtime.h"
#include "cuda/unroll.h"
#include "tests/check.h"
#include "tests/fiber.h"

using namespace check;
using namespace gconv::cuda;
using emulation::Asynchrony;
using emulation::Order;

namespace {

// Runs the body under every order of threads, eagerly and late; in the cluster of `warps` warps each is once the first
// and once the last.
void each_schedule(int warps, const std::function<void()>& body) {
    for (const Asynchrony asynchrony : {Asynchrony::eager, Asynchrony::late})
        for (const Order order : {Order::forward, Order::reversed, Order::random, Order::ahead, Order::behind}) {
            const bool one = order == Order::forward || order == Order::reversed;
            for (int seed = 0; seed < (one ? 1 : std::max(warps, 4)); ++seed) {
                emulation::set_schedule(order, asynchrony, seed);
                body();
            }
        }
    emulation::set_schedule(Order::forward, Asynchrony::eager);
}

// What became of a kernel over all schedules: wrong results, and errors by their text without the numbers.
struct Outcome {
    int launches = 0, wrong = 0;
    std::set<std::string> errors;
    bool right() const { return wrong == 0 && errors.empty(); }
    bool says(const std::string& part) const {
        return std::any_of(errors.begin(), errors.end(),
                           [&](const std::string& error) { return error.find(part) != std::string::npos; });
    }
};

Outcome outcome(int warps, const std::function<bool()>& is_right) {
    Outcome outcome;
    each_schedule(warps, [&] {
        ++outcome.launches;
        try {
            outcome.wrong += !is_right();
        } catch (const std::runtime_error& error) {
            outcome.errors.insert(error.what());
        }
    });
    return outcome;
}

// ---- numbers
// By the formats' definitions: sign, exponent bits, mantissa bits.
template <typename T>
double value_of(T half) {
    const int mantissa = std::is_same_v<T, Bfloat16> ? 7 : 10, bias = std::is_same_v<T, Bfloat16> ? 127 : 15;
    const int exponent = (half.bits & 0x7fff) >> mantissa, fraction = half.bits & ((1 << mantissa) - 1);
    const double sign = half.bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * bias + 1) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
    return sign * std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
}

// Whether no neighbour is nearer, nor as near and even. Infinity lies where the next finite number would.
template <typename T>
bool is_nearest(double exact, T rounded) {
    constexpr uint16_t infinity = std::is_same_v<T, Bfloat16> ? 0x7f80 : 0x7c00;
    const auto value = [](int magnitude) {
        if (magnitude < infinity) return value_of(T{static_cast<uint16_t>(magnitude)});
        return 2 * value_of(T{infinity - 1}) - value_of(T{infinity - 2});
    };
    const int magnitude = rounded.bits & 0x7fff;
    if (std::isnan(exact)) return magnitude > infinity;
    if (magnitude > infinity || (magnitude != 0 && std::signbit(exact) != (rounded.bits >> 15 == 1))) return false;
    if (std::isinf(exact)) return magnitude == infinity;
    const double error = std::abs(std::abs(exact) - value(magnitude));
    if (magnitude == infinity && std::abs(exact) >= value(infinity)) return true;
    for (const int other : {magnitude - 1, magnitude + 1}) {
        if (other < 0 || other > infinity) continue;
        const double others = std::abs(std::abs(exact) - value(other));
        if (others < error || (others == error && magnitude % 2 == 1)) return false;
    }
    return true;
}

template <typename T>
void test_numbers() {
    Random random(1);
    const auto any = [&] { return T{static_cast<uint16_t>(random())}; };
    for (int i = 0; i < 65536; ++i) {
        const T half{static_cast<uint16_t>(i)};
        if (std::isnan(value_of(half))) {
            CHECK(std::isnan(to_float(half)) && from_float<T>(to_float(half)).bits == 0x7fff);
        } else {
            CHECK(to_float(half) == value_of(half) && std::signbit(to_float(half)) == (i >= 0x8000));
            CHECK(from_float<T>(to_float(half)).bits == i);
        }
    }
    for (int i = 0; i < 100000; ++i) {
        const float x = bits_to_float(random()), near = to_float(any()) * (1 + static_cast<float>(i % 64) / 16384);
        CHECK(is_nearest(x, from_float<T>(x)) && is_nearest(near, from_float<T>(near)));
        const T a = any(), b = i % 2 ? any() : T{static_cast<uint16_t>(a.bits ^ (random() & 0x83ff))}, c = any();
        const uint32_t pair = static_cast<uint32_t>(b.bits) << 16 | a.bits,
                       other = static_cast<uint32_t>(a.bits) << 16 | c.bits;
        const uint32_t sum = add<T>(pair, other), difference = subtract<T>(pair, other);
        CHECK(is_nearest(value_of(a) + value_of(c), T{static_cast<uint16_t>(sum)}));
        CHECK(is_nearest(value_of(b) + value_of(a), T{static_cast<uint16_t>(sum >> 16)}));
        CHECK(is_nearest(value_of(a) - value_of(c), T{static_cast<uint16_t>(difference)}));
        CHECK(is_nearest(value_of(b) - value_of(a), T{static_cast<uint16_t>(difference >> 16)}));
    }
}

// To 10 bits of mantissa; ties go away from zero.
void test_tf32() {
    Random random(2);
    for (int i = 0; i < 100000; ++i) {
        const float x = i % 2 ? bits_to_float(random()) : bits_to_float((random() & ~0x1fffu) | 0x1000);
        if (!std::isfinite(x) || std::abs(x) < 0x1p-126f || std::abs(x) > 0x1p127f) continue;
        int exponent;
        const double mantissa = std::ldexp(std::frexp(std::abs(x), &exponent), 11);
        CHECK(bits_to_float(to_tf32(x)) == std::copysign(std::ldexp(std::floor(mantissa + 0.5), exponent - 11), x));
    }
    CHECK(std::isnan(bits_to_float(to_tf32(std::nanf("")))) && std::isinf(bits_to_float(to_tf32(INFINITY))));
}

// ---- a warp's instructions
// out (16 x 16) = a b with both in shared memory by rows, b by rows of its transpose unless `transposed`.
template <typename T, bool transposed>
GCONV_KERNEL multiply_by_warp(const T* a, const T* b, float* out) {
    constexpr int depth = 32 / sizeof(T);  // a row of 32 bytes
    const int lane = static_cast<int>(threadIdx.x);
    const uint32_t shared = shared_address(shared_memory());
    copy_async(shared + lane * 16, a + lane * 16 / sizeof(T), true);
    copy_async(shared + 512 + lane * 16, b + lane * 16 / sizeof(T), true);
    if (lane == 0) barrier_init(shared + 1024, 32);
    sync_warp();
    barrier_arrive_after_copies(shared + 1024);
    barrier_wait(shared + 1024, 0);
    uint32_t rows[4], columns[4];
    load_matrices(rows, shared + lane % 16 * 32 + lane / 16 * 16);
    if (transposed)  // 16 rows of b, of 16 columns
        load_matrices_transposed(columns, shared + 512 + lane % 16 * 32 + lane / 16 * 16);
    else  // columns 0 to 7 with both chunks, then columns 8 to 15
        load_matrices(columns, shared + 512 + (lane / 16 * 8 + lane % 8) * 32 + lane / 8 % 2 * 16);
    float sums[2][4] = {};
    for (int half = 0; half < 2; ++half) {
        multiply_matrices<T>(sums[half], rows, columns[2 * half], columns[2 * half + 1]);
        for (int r = 0; r < 4; ++r) out[(lane / 4 + r / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + r % 2] = sums[half][r];
    }
    static_assert(depth * sizeof(T) == 32);
}

template <typename T, bool transposed>
Outcome multiplied_by_warp() {
    constexpr int depth = 32 / sizeof(T);
    Random random(3);
    std::vector<T> a(16 * depth), b(16 * depth);
    const auto number = [&](int) { return from_float<T>(static_cast<float>(pick(random, {-3, -2, -1, 0, 1, 2, 3}))); };
    for (int i = 0; i < 16 * depth; ++i) {
        a[i] = number(i);
        b[i] = number(i);
    }
    std::vector<float> expected(256);
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 16; ++n)
            for (int k = 0; k < depth; ++k)
                expected[m * 16 + n] +=
                    to_float(a[m * depth + k]) * to_float(b[transposed ? k * 16 + n : n * depth + k]);
    // The last bits of float32 do not count.
    if constexpr (sizeof(T) == 4)
        for (float& x : a) x = bits_to_float(bits(x) | (x != 0 ? 0x1fff : 0));
    return outcome(1, [&] {
        std::vector<float> out(256);
        launch("multiply_by_warp", multiply_by_warp<T, transposed>, {1, 32, 1024 + 8}, 0, a.data(), b.data(),
               out.data());
        return out == expected;
    });
}

enum class Mistake { none, no_sync, other_count, other_instruction, no_thread, no_alignment, outside, far_outside };

// out[block][i][j] = in[block][j][i] of 32 x 32, by four warps; warps 0 and 1, which wait for 64 threads only, need no more.
template <Mistake mistake>
GCONV_KERNEL transpose(const float* in, float* out, int extra) {
    auto* shared = reinterpret_cast<float*>(shared_memory());
    const int thread = static_cast<int>(threadIdx.x), half = thread / 64;
    in += blockIdx.x * 1024;
    out += blockIdx.x * 1024;
    for (int i = thread % 64; i < 512; i += 64) shared[half * 512 + i] = in[i / 16 * 32 + half * 16 + i % 16];
    if (mistake == Mistake::no_thread && thread == 77) return;
    if (mistake == Mistake::other_instruction && thread == 33) shuffle_xor(1, 1);
    if (mistake == Mistake::other_instruction) sync_warp();
    if (mistake == Mistake::other_count && thread >= 96) sync_threads(1, 128);
    if (mistake != Mistake::no_sync) sync_threads(1 + half, 64);
    const uint32_t address = shared_address(shared_memory());
    for (int i = thread % 64; i < 512; i += 64)
        out[half * 512 + i] = bits_to_float(load_shared(address + (half * 512 + i % 32 * 16 + i / 32) * 4));
    if (thread != 127) return;
    if (mistake == Mistake::no_alignment) load_shared(address + 2);
    if (mistake == Mistake::outside) load_shared(address + 4096);
    if (mistake == Mistake::far_outside) out[512] = shared[1024 + extra];
    out[1023 + extra] += 0;
}

template <Mistake mistake>
Outcome transposed(int extra = 0) {
    std::vector<float> in(3 * 1024), expected(3 * 1024);
    for (int i = 0; i < 3 * 1024; ++i) {
        in[i] = static_cast<float>(i);
        expected[i / 1024 * 1024 + i % 32 * 32 + i / 32 % 32] = in[i];
    }
    return outcome(4, [&] {
        std::vector<float> out(3 * 1024);
        launch("transpose", transpose<mistake>, {3, 128, 4096}, 0, in.data(), out.data(), extra);
        return out == expected;
    });
}

// A chunk of 16 bytes, where it may be and where not.
enum class Place { global, unaligned, shared, past_end };

template <Place place>
GCONV_KERNEL store_chunks(uint32_t* out) {
    const uint32_t chunk[4] = {1, 2, 3, 4};
    void* to = place == Place::shared ? static_cast<void*>(shared_memory() + 16) : out + 4 * threadIdx.x;
    store_chunk(place == Place::unaligned ? static_cast<unsigned char*>(to) + 8 : to, chunk);
}

template <Place place>
Outcome stored() {
    return outcome(1, [] {
        std::vector<uint32_t> out(place == Place::past_end ? 31 * 4 : 33 * 4);
        launch("store_chunks", store_chunks<place>, {1, 32, 64}, 0, out.data());
        for (size_t i = 0; i < out.size() && i < 32 * 4; ++i)
            if (out[i] != i % 4 + 1) return false;
        return true;
    });
}

// ---- sums over tiles that four warps copy by copy_async and four others add, two stages.
enum class CopyBug { none, no_wait, wrong_parity, no_release, arrival_before_copies, past_end, unwaited };

template <CopyBug bug>
GCONV_KERNEL add_tiles(const float* in, float* out, int tiles) {
    const uint32_t shared = shared_address(shared_memory()), barriers = shared + 2 * 2048;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0)
        for (int i = 0; i < 4; ++i) barrier_init(barriers + 8 * i, 128);  // full, full, empty, empty
    sync_threads();
    float sum[4] = {};
    for (int i = 0; i < tiles; ++i) {
        const uint32_t full = barriers + i % 2 * 8, empty = full + 16, parity = i / 2 % 2;
        const uint32_t place = shared + i % 2 * 2048;
        if (thread >= 128) {
            barrier_wait(empty, parity ^ 1);
            if (bug == CopyBug::arrival_before_copies) barrier_arrive_after_copies(full);
            copy_async(place + (thread - 128) * 16,
                       in + i * 512 + (thread - (bug == CopyBug::past_end ? 127 : 128)) * 4, i != 1);
            if (bug != CopyBug::arrival_before_copies) barrier_arrive_after_copies(full);
        } else {
            if (bug != CopyBug::no_wait) barrier_wait(full, parity ^ (bug == CopyBug::wrong_parity));
            for (int j = 0; j < 4; ++j)
                sum[j] += bits_to_float(load_shared(place + ((thread * 4 + j) * 4 + 512) % 2048));
            if (bug != CopyBug::no_release) barrier_arrive(empty);
        }
    }
    if (bug == CopyBug::unwaited && thread == 128) copy_async(shared, in, true);
    if (thread >= 128) return;
    for (int j = 0; j < 4; ++j) out[(thread * 4 + j + 128) % 512] = sum[j];
}

template <CopyBug bug>
Outcome added() {
    constexpr int tiles = 5;
    std::vector<float> in(tiles * 512), expected(512);
    for (int i = 0; i < tiles * 512; ++i) {
        in[i] = static_cast<float>(i * i % 1000);
        if (i / 512 != 1) expected[i % 512] += in[i];
    }
    return outcome(8, [&] {
        std::vector<float> out(512);
        launch("add_tiles", add_tiles<bug>, {1, 256, 2 * 2048 + 32}, 0, in.data(), out.data(), tiles);
        return out == expected;
    });
}

// ---- a product of tiles, as the kernels compute them: a cluster of two blocks, each with 64 rows of A in four warps;
// the fifth warp of each copies half of every tile of B to both. Two stages.
enum class Bug {
    none,
    no_full_wait,
    no_empty_wait,
    early_release,
    no_product_wait,
    early_operands,
    no_arrival,
    too_many_arrivals,
    no_init_fence,
    no_init_sync,
    no_final_sync,
    one_warp_waits_less,
    tile_over_barrier,
    no_fence,
};
constexpr int kStages = 2, kConsumers = 128, kPipelineThreads = kConsumers + 32;

template <typename T, int columns, int sign, Bug bug>
GCONV_KERNEL GCONV_BOUNDS(kPipelineThreads, 1) multiply_tiles(const T* a, const T* b, float* out, int slices) {
    constexpr uint32_t tile_bytes = columns * kRowBytes;
    const uint32_t tiles = shared_address(shared_memory()), full = tiles + kStages * tile_bytes;
    const uint32_t empty = full + kStages * 8;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            barrier_init(full + stage * 8, 1);
            barrier_init(empty + stage * 8, bug == Bug::too_many_arrivals ? 7 : 8);
        }
        if (bug != Bug::no_init_fence) barrier_init_fence();
    }
    if (bug != Bug::no_init_sync) cluster_sync();
    if (warp == kConsumers / 32) {
        lower_registers<24>();
    } else {
        raise_registers<240>();
    }
    if (warp == kConsumers / 32 && lane == 0) {
        const uint32_t part = tile_bytes / 2, offset = cluster_block() * part;
        const auto* source = reinterpret_cast<const unsigned char*>(b);
        for (int i = 0; i < slices; ++i) {
            const int stage = i % kStages;
            if (bug != Bug::no_empty_wait) barrier_wait(empty + stage * 8, (i / kStages + 1) % 2);
            barrier_arrive_expect(full + stage * 8, tile_bytes);
            const uint32_t to = tiles + stage * tile_bytes + offset + (bug == Bug::tile_over_barrier ? 16 : 0);
            copy_bulk(to, source + i * tile_bytes + offset, part, full + stage * 8, 3);
        }
    } else if (warp < kConsumers / 32) {
        const int row = static_cast<int>(blockIdx.x) * 64 + warp * 16 + lane / 4, width = 64 / sizeof(T);
        float sums[columns / 2] = {};
        uint32_t operands[2][4];
        for (int i = 0; i < slices; ++i) {
            const int stage = i % kStages;
            for (int step = 0; step < 2; ++step)
                for (int r = 0; r < 4; ++r)
                    std::memcpy(
                        &operands[step][r],
                        a + (row + r % 2 * 8) * slices * width + i * width + step * 16 + lane % 4 * 2 + r / 2 * 8, 4);
            if (bug != Bug::no_full_wait) barrier_wait(full + stage * 8, i / kStages % 2);
            if (bug != Bug::no_fence) wgmma_fence();
            for (int step = 0; step < 2; ++step)
                wgmma<T, columns, sign>(
                    sums, operands[step],
                    wgmma_descriptor((tiles + stage * tile_bytes + step * kStepBytes) / kChunkBytes));
            wgmma_commit();
            const auto release = [&] {
                if (lane != 0 || (bug == Bug::no_arrival && warp == 3)) return;
                for (uint32_t block = 0; block < 2; ++block) barrier_arrive_at(empty + stage * 8, block);
            };
            if (bug == Bug::early_release) release();
            if (bug == Bug::early_operands) operands[1][3] = 0;
            if (bug == Bug::no_product_wait || (bug == Bug::one_warp_waits_less && warp == 2))
                wgmma_wait<1>();
            else
                wgmma_wait<0>();
            if (bug != Bug::early_release) release();
        }
        for (int r = 0; r < columns / 2; ++r)
            out[(row + r % 4 / 2 * 8) * columns + r / 4 * 8 + lane % 4 * 2 + r % 2] = sums[r];
        if (bug == Bug::no_product_wait) wgmma_wait<0>();
    }
    if (bug != Bug::no_final_sync) cluster_sync();
}

template <typename T, int columns, int sign, Bug bug>
Outcome multiplied() {
    constexpr int slices = 5, rows = 128, width = 64 / sizeof(T), depth = slices * width;
    Random random(columns);
    const auto integers = [&](size_t count) {
        std::vector<T> values(count);
        for (T& value : values) value = from_float<T>(static_cast<float>(pick(random, {-2, -1, 0, 1, 2, 3})));
        return values;
    };
    const std::vector<T> a = integers(rows * depth), plain = integers(columns * depth);  // B[n][k]
    std::vector<T> b(columns * depth);
    for (int n = 0; n < columns; ++n)
        for (int k = 0; k < depth; ++k) {
            const uint32_t place = swizzled(n, k % width * sizeof(T) / kChunkBytes) / sizeof(T) + k % 8;
            b[k / width * columns * width + place] = plain[n * depth + k];
        }
    std::vector<float> expected(rows * columns);
    for (int m = 0; m < rows; ++m)
        for (int n = 0; n < columns; ++n)
            for (int k = 0; k < depth; ++k)
                expected[m * columns + n] += sign * to_float(a[m * depth + k]) * to_float(plain[n * depth + k]);
    return outcome(10, [&] {
        std::vector<float> out(rows * columns);
        launch("multiply_tiles", multiply_tiles<T, columns, sign, bug>,
               {2, kPipelineThreads, kStages * (columns * kRowBytes + 16), 2}, 0, a.data(), b.data(), out.data(),
               slices);
        return out == expected;
    });
}

template <Bug bug>
Outcome with_bug() {
    return multiplied<Bfloat16, 32, -1, bug>();
}

// ---- what AddressSanitizer finds
#ifdef GCONV_ASAN
// What a child process that runs the body writes to stderr; empty if it ends well.
std::string complaint(const std::function<void()>& body) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    std::fflush(stdout);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, count);
    close(ends[0]);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK((WEXITSTATUS(status) == 0) == text.empty());
    return text;
}

bool overflows(const std::function<void()>& body) {
    return complaint(body).find("heap-buffer-overflow") != std::string::npos;
}

void test_overruns() {
    run("AddressSanitizer: nothing", [] { CHECK(!overflows([] { transposed<Mistake::none>(); })); });
    run("AddressSanitizer: a shared pointer out of range",
        [] { CHECK(overflows([] { transposed<Mistake::far_outside>(); })); });
    run("AddressSanitizer: a global pointer out of range",
        [] { CHECK(overflows([] { transposed<Mistake::none>(1); })); });
    run("AddressSanitizer: a chunk out of range", [] { CHECK(overflows([] { stored<Place::past_end>(); })); });
    run("AddressSanitizer: a copy out of range", [] { CHECK(overflows([] { added<CopyBug::past_end>(); })); });
}
#else
void test_overruns() { std::printf("overruns: not without AddressSanitizer\n"); }
#endif

void test_instructions() {
    run("bfloat16", test_numbers<Bfloat16>);
    run("float16", test_numbers<Float16>);
    run("tf32", test_tf32);
    run("chunks", [] { CHECK(stored<Place::global>().right()); });
    run("mma bfloat16", [] { CHECK((multiplied_by_warp<Bfloat16, false>().right())); });
    run("mma float16", [] { CHECK((multiplied_by_warp<Float16, false>().right())); });
    run("mma tf32", [] { CHECK((multiplied_by_warp<float, false>().right())); });
    run("ldmatrix transposed", [] { CHECK((multiplied_by_warp<Bfloat16, true>().right())); });
    run("wgmma bfloat16, 32 columns", [] { CHECK((multiplied<Bfloat16, 32, -1, Bug::none>().right())); });
    run("wgmma bfloat16, 64 columns", [] { CHECK((multiplied<Bfloat16, 64, 1, Bug::none>().right())); });
    run("wgmma float16, 64 columns", [] { CHECK((multiplied<Float16, 64, -1, Bug::none>().right())); });
    run("wgmma float16, 128 columns", [] { CHECK((multiplied<Float16, 128, 1, Bug::none>().right())); });
    run("copy_async", [] { CHECK(added<CopyBug::none>().right()); });
    run("named barriers", [] { CHECK(transposed<Mistake::none>().right()); });
}

void test_bugs() {
    run("no sync_threads", [] { CHECK(transposed<Mistake::no_sync>().wrong > 0); });
    run("a thread that exits before a barrier", [] {
        const Outcome o = transposed<Mistake::no_thread>();
        CHECK(o.says("deadlock") && o.says("sync_threads (barrier 2): 63 of 64 threads came: threads 64-76, 78-127"));
    });
    run("a barrier with two counts", [] { CHECK(transposed<Mistake::other_count>().says("is waited at by")); });
    run("a warp at two instructions",
        [] { CHECK(transposed<Mistake::other_instruction>().says("other threads of the warp are at")); });
    run("a shared address out of range", [] {
        const Outcome o = transposed<Mistake::outside>();
        CHECK(o.says("block 0, thread 127: load_shared: address 5120 (4 bytes) is not in the block's shared memory"));
    });
    run("a shared address not aligned", [] { CHECK(transposed<Mistake::no_alignment>().says("is not aligned to 4")); });
    run("a chunk not aligned",
        [] { CHECK(stored<Place::unaligned>().says("store_chunk: the global address is not aligned to 16")); });
    run("a chunk for global memory to shared",
        [] { CHECK(stored<Place::shared>().says("store_chunk: the address is of shared memory")); });
    run("no wait for copies", [] { CHECK(added<CopyBug::no_wait>().wrong > 0); });
    run("a wait for the wrong phase", [] { CHECK(!added<CopyBug::wrong_parity>().right()); });
    run("an arrival that the copies do not precede", [] { CHECK(!added<CopyBug::arrival_before_copies>().right()); });
    run("copies that nobody waits for",
        [] { CHECK(added<CopyBug::unwaited>().says("under way when all threads have exited")); });
    run("no arrival", [] {
        const Outcome o = added<CopyBug::no_release>();
        CHECK(o.wrong == 0 && o.errors.size() == 1);
        CHECK(
            o.says("block 0: barrier_wait (barrier 5136, parity 0): in phase 0 128 of 128 arrivals and 0 bytes are "
                   "missing: threads 128-255"));
    });
    run("Hopper: no wait for bulk copies", [] { CHECK(with_bug<Bug::no_full_wait>().wrong > 0); });
    run("Hopper: no wait for an empty buffer",
        [] { CHECK(with_bug<Bug::no_empty_wait>().says("more than the 1 arrivals")); });
    run("Hopper: a buffer released before its products", [] { CHECK(with_bug<Bug::early_release>().wrong > 0); });
    run("Hopper: no wait for products", [] { CHECK(with_bug<Bug::no_product_wait>().wrong > 0); });
    run("Hopper: operands changed too early", [] { CHECK(with_bug<Bug::early_operands>().wrong > 0); });
    run("Hopper: a warp that does not arrive", [] {
        const Outcome o = with_bug<Bug::no_arrival>();
        CHECK(o.says("deadlock") && o.says("2 of 8 arrivals and 0 bytes are missing: threads 128"));
    });
    run("Hopper: more arrivals than a barrier counts", [] { CHECK(!with_bug<Bug::too_many_arrivals>().right()); });
    run("Hopper: no barrier_init_fence",
        [] { CHECK(with_bug<Bug::no_init_fence>().says("without a barrier_init_fence")); });
    run("Hopper: no cluster_sync first", [] { CHECK(with_bug<Bug::no_init_sync>().says("is not initialised")); });
    run("Hopper: no cluster_sync last",
        [] { CHECK(with_bug<Bug::no_final_sync>().says("whose threads have all exited")); });
    run("Hopper: a warp that waits for less",
        [] { CHECK(with_bug<Bug::one_warp_waits_less>().says("another warp of the warpgroup")); });
    run("Hopper: a tile over a barrier", [] { CHECK(with_bug<Bug::tile_over_barrier>().says("was overwritten")); });
    run("Hopper: no wgmma_fence", [] { CHECK(with_bug<Bug::no_fence>().says("without a wgmma_fence")); });
    run("a launch that no device takes", [] {
        CHECK(rejects([] { launch("transpose", transpose<Mistake::none>, {1, 1056, 0}, 0, nullptr, nullptr, 0); }));
        CHECK(rejects([] { launch("transpose", transpose<Mistake::none>, {1, 32, 232449}, 0, nullptr, nullptr, 0); }));
        CHECK(rejects([] { launch("transpose", transpose<Mistake::none>, {3, 32, 0, 2}, 0, nullptr, nullptr, 0); }));
    });
    run("an unknown schedule", [] {
        CHECK(rejects([] { emulation::set_schedule("sideways", "late"); }));
        CHECK(rejects([] { emulation::set_schedule("forward", "later"); }));
    });
}

}  // namespace

int main() {
    test_instructions();
    test_bugs();
    test_overruns();
    std::printf("emulation: %d passed, %d failed\n", total().passed, total().failed);
    return total().failed != 0;
}
