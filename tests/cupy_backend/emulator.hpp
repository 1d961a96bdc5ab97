// CUDA on a CPU, for tests: the threads of a block are fibers that take turns at barriers and
// warp exchanges. Blocks run one after the other. Shared memory holds NaN when a block begins, and
// threads run in one of several orders, so that a barrier that is missing shows.
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// The emulator writes SHARED(function) for `__shared__`, so that it finds each function's memory.
#define SHARED(function) static __attribute__((section("shared_" #function), used))

struct Index3 {
    int x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr int MOST = 1024;
constexpr size_t STACK = 128 * 1024;

struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
};

struct Fiber {
    jmp_buf place;
    bool begun, done;
};

static Fiber fibers[MOST];
static char* stacks;
static jmp_buf scheduler;
static ucontext_t home;
static int current, threads, finished;
static unsigned long progress;
static Barrier block;
static Barrier warps[MOST / 32];
static unsigned long long exchange[MOST];
static void (*body)(void**);
static void** arguments;

static void yield() {
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

static void wait(Barrier& barrier, int members) {
    if (++barrier.arrived == members) {
        barrier.arrived = 0;
        barrier.generation++;
        progress++;
        return;
    }
    const unsigned generation = barrier.generation;
    while (barrier.generation == generation) yield();
}

static void wait_for_warp() { wait(warps[current / 32], 32); }

static void begin() {
    body(arguments);
    fibers[current].done = true;
    finished++;
    progress++;
    _longjmp(scheduler, 1);
}

static void resume(int thread) {
    current = thread;
    threadIdx.x = thread;
    if (_setjmp(scheduler)) return;
    if (fibers[thread].begun) _longjmp(fibers[thread].place, 1);
    fibers[thread].begun = true;
    static ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + thread * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = &home;
    makecontext(&context, begin, 0);
    setcontext(&context);
}

// The number of what comes at place i of `count`: forwards, backwards, or the even ones last.
static int ordered(int order, int i, int count) {
    if (order == 0) return i;
    if (order == 1) return count - 1 - i;
    return i < count / 2 ? 2 * i + 1 : 2 * (i - count / 2);
}

// 0, or 1 where threads wait for others that never come.
static int run_block(int order) {
    for (int i = 0; i < threads; i++) fibers[i].begun = fibers[i].done = false;
    block = Barrier();
    for (Barrier& warp : warps) warp = Barrier();
    finished = 0;
    while (finished < threads) {
        const unsigned long before = progress;
        for (int i = 0; i < threads; i++) {
            const int thread = ordered(order, i, threads);
            if (!fibers[thread].done) resume(thread);
        }
        if (progress == before) return 1;
    }
    return 0;
}

template <class T> T exchanged(T mine, int from) {
    static_assert(sizeof(T) <= 8);
    std::memcpy(&exchange[current], &mine, sizeof(T));
    wait_for_warp();
    T found;
    std::memcpy(&found, &exchange[from], sizeof(T));
    wait_for_warp();
    return found;
}

}  // namespace emulator

static void __syncthreads() { emulator::wait(emulator::block, emulator::threads); }
static int __syncthreads_or(int vote) {
    static int any;
    if (vote) any = 1;
    __syncthreads();
    const int found = any;
    __syncthreads();
    any = 0;
    return found;
}
static void __syncwarp(unsigned = ~0u) { emulator::wait_for_warp(); }

template <class T> T __shfl_xor_sync(unsigned, T mine, int difference) {
    return emulator::exchanged(mine, emulator::current ^ difference);
}
template <class T> T __shfl_sync(unsigned, T mine, int lane) {
    return emulator::exchanged(mine, emulator::current / 32 * 32 + lane % 32);
}
template <class T> T __shfl_up_sync(unsigned, T mine, int distance) {
    const int lane = emulator::current % 32;
    return emulator::exchanged(mine, emulator::current - (lane < distance ? 0 : distance));
}
static unsigned __ballot_sync(unsigned, int vote) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++) {
        votes |= unsigned(__shfl_sync(~0u, vote != 0, lane)) << lane;
    }
    return votes;
}
template <class T> unsigned __match_any_sync(unsigned, T mine) {
    unsigned same = 0;
    for (int lane = 0; lane < 32; lane++) {
        same |= unsigned(__shfl_sync(~0u, mine, lane) == mine) << lane;
    }
    return same;
}
static int atomicAdd(int* address, int value) {
    const int before = *address;
    *address += value;
    return before;
}
static int __ffs(int word) { return __builtin_ffs(word); }
static int __popc(unsigned word) { return __builtin_popcount(word); }
static int __float_as_int(float value) {
    int word;
    std::memcpy(&word, &value, sizeof(word));
    return word;
}
// What a GPU has instructions for: a float to the nearest f16, as a multiple of its last place.
static unsigned short half_bits(float value) {
    const int sign = std::signbit(value) ? 0x8000 : 0;
    const double size = std::fabs(value);
    if (size != size) return sign | 0x7e00;
    if (size == 0 || size >= 65520) return sign | (size == 0 ? 0 : 0x7c00);
    int power;
    std::frexp(size, &power);
    const int place = power - 11 < -24 ? -24 : power - 11;
    return sign | ((place + 24) * 1024 + int(std::nearbyint(std::ldexp(size, -place))));
}
static float half_value(unsigned short bits) {
    const int power = bits >> 10 & 31, rest = bits & 1023;
    float size = std::ldexp(float(power ? 1024 + rest : rest), (power ? power : 1) - 25);
    if (power == 31) size = rest ? NAN : INFINITY;
    return bits >> 15 ? -size : size;
}
static float __int_as_float(int word) {
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
}
static double __longlong_as_double(long long word) {
    double value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
}

// `fibers` is whether the kernel has threads that wait for each other; its shared memory is from
// `start` to `stop`.
extern "C" int weft_run(
    void (*body)(void**), void** arguments, int x, int y, int z, int threads, int fibers,
    int order, char* start, char* stop
) {
    using namespace emulator;
    emulator::body = body;
    emulator::arguments = arguments;
    emulator::threads = threads;
    if (!stacks) stacks = static_cast<char*>(std::malloc(MOST * STACK));
    gridDim = {x, y, z};
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++) {
            for (int i = 0; i < x; i++) {
                blockIdx.x = ordered(order, i, x);
                if (start) std::memset(start, 0xff, stop - start);
                if (fibers) {
                    if (run_block(order)) return 1;
                } else {
                    for (int t = 0; t < threads; t++) {
                        threadIdx.x = current = ordered(order, t, threads);
                        body(arguments);
                    }
                }
            }
        }
    }
    return 0;
}
