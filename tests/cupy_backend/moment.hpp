// What `watching.cpp` must know of the emulator when memory is accessed.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>

struct Range {
    uintptr_t start, end;
    bool has(uintptr_t at) const { return at >= start && at < end; }
};

struct Moment {
    bool watched;         // all that follows is known, and accesses are to be watched
    bool atomic;          // what the thread does, nobody comes between
    int thread;
    unsigned block;       // of all blocks
    unsigned barrier;     // how many `__syncthreads` the block has passed
    unsigned syncs[32];   // and how many `__syncwarp` each warp
    Range stack, fibers;  // memory of the process's thread, and of the emulated threads' own
    Range arguments;      // what the function is called with
    Range shared;         // by a block's threads
    Range statics;        // of the emulator
    Range constants;      // of the function, and its code
    jmp_buf end;          // of the launch, before an access that is not to be
};
extern "C" Moment weft_moment;
extern "C" char* weft_stacks(size_t size);
