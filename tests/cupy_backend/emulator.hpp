// CUDA on a CPU, for tests: the threads of a block are fibers that take turns at barriers and
// warp exchanges. Blocks run one after the other. Shared memory holds NaN when a block begins, and
// threads run in one of several orders. `watching.cpp` is told where a thread is, and sees from
// that which accesses to memory nothing orders.
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#include "moment.hpp"

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// The emulator writes SHARED(function) for `__shared__`, so that it finds each function's memory.
#define SHARED(function) static __attribute__((section("shared_" #function), used))

struct Index3 {
    unsigned x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

// Where the linker has put the module, and in it what may be written and what begins as zeros.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _DYNAMIC[], __bss_start[], _end[];

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
static Barrier syncs[MOST / 32];  // of warps, which order what they do to memory
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

static void go_to(int thread) {
    threadIdx.x = weft_moment.thread = current = thread;
}

static void begin() {
    body(arguments);
    fibers[current].done = true;
    finished++;
    progress++;
    _longjmp(scheduler, 1);
}

static void resume(int thread) {
    go_to(thread);
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
    for (Barrier& warp : syncs) warp = Barrier();
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

static void __syncthreads() {
    emulator::wait(emulator::block, emulator::threads);
    weft_moment.barrier = emulator::block.generation;
}
static int __syncthreads_or(int vote) {
    static int any;
    if (vote) any = 1;
    __syncthreads();
    const int found = any;
    __syncthreads();
    any = 0;
    return found;
}
static void __syncwarp(unsigned = ~0u) {
    const int warp = emulator::current / 32;
    emulator::wait(emulator::syncs[warp], 32);
    weft_moment.syncs[warp] = emulator::syncs[warp].generation;
}

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
    weft_moment.atomic = true;
    const int before = *address;
    *address = before + value;
    weft_moment.atomic = false;
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
    void (*body)(void**), void** arguments, unsigned x, unsigned y, unsigned z, int threads, int fibers,
    int order, char* start, char* stop, int watched
) {
    using namespace emulator;
    emulator::body = body;
    emulator::arguments = arguments;
    emulator::threads = threads;
    stacks = weft_stacks(MOST * STACK);
    const uintptr_t own = uintptr_t(__builtin_frame_address(0));
    const auto pool = uintptr_t(stacks), given = uintptr_t(arguments);
    weft_moment.stack = {own - (1 << 20), own + (1 << 12)};
    weft_moment.fibers = {pool, pool + MOST * STACK};
    weft_moment.arguments = {given, given + 4096};
    weft_moment.shared = {uintptr_t(start), uintptr_t(stop)};
    weft_moment.statics = {uintptr_t(__bss_start), uintptr_t(_end)};
    weft_moment.constants = {uintptr_t(__ehdr_start), uintptr_t(_DYNAMIC)};
    weft_moment.block = 0;
    if (_setjmp(weft_moment.end)) return 0;
    weft_moment.watched = watched;
    gridDim = {x, y, z};
    blockDim = {unsigned(threads), 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++) {
            for (unsigned i = 0; i < x; i++) {
                blockIdx.x = ordered(order, i, x);
                weft_moment.barrier = 0;
                for (unsigned& sync : weft_moment.syncs) sync = 0;
                if (start) std::memset(start, 0xff, stop - start);
                if (fibers) {
                    if (run_block(order)) return 1;
                } else {
                    for (int t = 0; t < threads; t++) {
                        go_to(ordered(order, t, threads));
                        body(arguments);
                    }
                }
                weft_moment.block++;
            }
        }
    }
    return 0;
}
