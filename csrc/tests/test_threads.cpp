// Threads: the same bits on any number of them, inside another parallel region, from several threads at once, and in a
// forked child of a process whose OpenMP has run.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "check.h"

#ifdef _OPENMP
#include <omp.h>
#endif

using namespace check;

namespace {

template <typename T>
void randomise_reals(Random& random, T* values, int64_t count) {
    std::uniform_real_distribution<T> uniform(-1, 1);
    for (int64_t i = 0; i < count; ++i) values[i] = uniform(random);
}

// A convolution, its gradients and a pooling of real numbers, with more tiles and slices than threads.
struct Work {
    Lattice c4{4, false};
    Map<float> x{9, 5, 4, 16, 16}, grad{9, 6, 4, 16, 16};
    Weight<float> weight{6, 5, 4, 3};

    Work() {
        Random random(4);
        randomise_reals(random, x.memory.get(), 9 * 5 * 4 * 256);
        randomise_reals(random, grad.memory.get(), 9 * 6 * 4 * 256);
        randomise_reals(random, weight.memory.get(), 6 * 5 * 4 * 9);
    }
};

struct Result {
    Map<float> out{9, 6, 4, 16, 16}, grad_x{9, 5, 4, 16, 16}, pooled{9, 5, 1, 16, 16};
    Map<uint8_t> index{9, 5, 1, 16, 16};
    Weight<float> grad_weight{6, 5, 4, 3};

    Result(const Work& work, int threads) {
        const gconv::Group& group = *work.c4.group;
        gconv::group_conv2d<float>(group, work.x.read(), work.weight.read(), nullptr, out.image, 1, 1, threads);
        gconv::group_conv2d_adjoint(group, work.grad.read(), work.weight.read(), grad_x.image, 1, threads);
        gconv::group_conv2d_weight_grad(group, work.x.read(), work.grad.read(), grad_weight.filter, 1, 1, threads);
        gconv::group_pool(work.x.read(), pooled.image, index.image, {0, 1, 2, 3}, 4, gconv::PoolMode::max, threads);
    }
    bool operator==(const Result& other) const {
        return equal(out, other.out) && equal(grad_x, other.grad_x) && equal(grad_weight, other.grad_weight) &&
               equal(pooled, other.pooled) && equal(index, other.index);
    }
};

// Forks after `parent` threads were used; the child asks for two and has a minute.
void fork_after(const Work& work, const Result& expected, int parent) {
    CHECK(Result(work, parent) == expected);
    std::fflush(stdout);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(Result(work, 2) == expected ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace

void test_threads() {
    const Work work;
    for (const std::string& set : gconv::instruction_sets()) {
        gconv::use_instruction_set(set);
        const Result expected(work, 1);
        for (const int threads : {2, 3, 16})
            run("threads: the same bits, " + set + " " + std::to_string(threads),
                [&] { CHECK(Result(work, threads) == expected); });
        run("threads: several at once, " + set, [&] {
            bool right[3] = {};
            std::vector<std::thread> threads;
            for (bool& same : right) threads.emplace_back([&] { same = Result(work, 2) == expected; });
            for (std::thread& thread : threads) thread.join();
            CHECK(right[0] && right[1] && right[2]);
        });
    }
    const Result expected(work, 1);
#ifdef _OPENMP
    for (const int levels : {1, 2})
        run("threads: inside a parallel region, active levels " + std::to_string(levels), [&] {
            const int before = omp_get_max_active_levels();
            omp_set_max_active_levels(levels);
            bool right[2] = {true, true};  // one thread of the region may have to do
#pragma omp parallel num_threads(2)
            right[omp_get_thread_num()] = Result(work, 2) == expected;
            omp_set_max_active_levels(before);
            CHECK(right[0] && right[1]);
        });
#endif
    run("threads: a fork after one", [&] { fork_after(work, expected, 1); });
    run("threads: a fork after several", [&] { fork_after(work, expected, 3); });
}
