// Watches what emulated kernels do to memory. They are compiled with `-fsanitize=thread`, which puts
// a call before every access; but what is called is not the library that comes with the compiler,
// which knows nothing of CUDA, but this:
//
//   outside       an access that is neither in the shared memory of the function nor in memory that
//                 contains one of its arguments
//   undefined     what `-fsanitize=undefined` finds: several elements read at once from a place that
//                 is no multiple of their size, integers that overflow, and the like
//   race          two accesses to a byte by different threads, one of them a write, with nothing
//                 between them that orders them: within a block `__syncthreads`, within a warp also
//                 `__syncwarp`, and between blocks nothing. (Shuffles and votes order no memory.)
//
// It does not matter in which order the emulator has run the threads.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "moment.hpp"

Moment weft_moment;

namespace {

struct Access {
    unsigned block, barrier, sync;
    int thread;
    bool atomic, valid;
};

// What is known of a byte: who wrote it last, and who has read it since.
struct Byte {
    unsigned long time;
    Access write, read;
    bool threads, warps, blocks;  // whether several of them read it, the last in the same interval
};

// Where only whole words are accessed, the first byte of each stands for it.
struct Page {
    static constexpr uintptr_t SIZE = 256, WORD = 4;
    bool narrow = false;
    Byte bytes[SIZE] = {};
};

std::unordered_map<uintptr_t, Page> pages;

struct Known {
    uintptr_t number;
    Page* page;
};
constexpr uintptr_t LATELY = 1 << 10;
Known lately[LATELY];  // the pages that were asked for last
std::vector<Range> memory;  // that contains an argument
char message[512];
unsigned long launch_time = 1, block_time = 1, clock_ = 1;
unsigned seen_block;

// Whether an earlier access by another thread comes before a later one, whatever the order is in
// which threads run.
bool ordered(const Access& a, const Access& b) {
    if (a.atomic && b.atomic) return true;
    if (a.block != b.block) return false;
    if (a.thread == b.thread || a.barrier < b.barrier) return true;
    return a.thread / 32 == b.thread / 32 && a.sync < b.sync;
}

// Of the launch: what was about to happen may be the end of the process.
[[noreturn]] void end_launch() {
    weft_moment.watched = false;
    _longjmp(weft_moment.end, 1);
}

void report(const char* what, bool shared, uintptr_t offset, const Access& a, const Access& b) {
    if (message[0]) return;
    std::snprintf(
        message, sizeof(message), "%s of %s memory, byte %lu: thread %d of block %u and thread %d of block %u",
        what, shared ? "shared" : "global", (unsigned long)offset, a.thread, a.block, b.thread, b.block);
}

Page& page_of(uintptr_t at) {
    const uintptr_t number = at / Page::SIZE;
    Known& known = lately[number % LATELY];
    if (!known.page || known.number != number) known = {number, &pages[number]};
    return *known.page;
}

void access(Byte& byte, const Access& now, bool writes, bool shared, uintptr_t offset) {
    const unsigned long time = shared ? block_time : launch_time;
    if (byte.time != time) byte = {time};
    if (byte.write.valid && !ordered(byte.write, now)) {
        report(writes ? "two writes race" : "a write and a read race", shared, offset, byte.write, now);
    }
    if (writes) {
        if (byte.read.valid) {
            const bool other_warp = byte.warps || byte.read.thread / 32 != now.thread / 32;
            const bool other = byte.threads || byte.read.thread != now.thread;
            const bool unordered = byte.blocks || byte.read.block != now.block ||
                (byte.read.barrier == now.barrier && other &&
                 (other_warp || byte.read.sync == now.sync));
            if (unordered) report("a read and a write race", shared, offset, byte.read, now);
        }
        byte.write = now;
        byte.read.valid = false;
        return;
    }
    if (!byte.read.valid || (byte.read.block == now.block && byte.read.barrier < now.barrier)) {
        byte.threads = byte.warps = false;
        byte.blocks = byte.read.valid && byte.blocks;
    } else if (byte.read.block != now.block) {
        byte.blocks = true;
    } else if (byte.read.thread != now.thread) {
        byte.threads = true;
        byte.warps = byte.warps || byte.read.thread / 32 != now.thread / 32;
    }
    byte.read = now;
}

void watch(void* address, unsigned long size, bool writes) {
    const uintptr_t at = uintptr_t(address), end = at + size;
    Moment& m = weft_moment;
    if (m.fibers.has(at) || m.stack.has(at) || m.arguments.has(at) || m.statics.has(at)) return;
    if (Range{uintptr_t(&m), uintptr_t(&m + 1)}.has(at)) return;
    if (m.block != seen_block) {  // shared memory begins anew
        seen_block = m.block;
        block_time = ++clock_;
    }
    if (m.atomic && !writes) return;  // what is read and written at once
    const Access now = {m.block, m.barrier, m.syncs[m.thread / 32], m.thread, m.atomic, true};
    const bool shared = m.shared.has(at);
    const Range* inside = shared ? &m.shared : nullptr;
    for (size_t i = 0; i < memory.size() && !inside; i++) {
        if (memory[i].has(at)) inside = &memory[i];
    }
    if (!inside || end > inside->end) {
        if (!writes && m.constants.has(at)) return;
        std::snprintf(
            message, sizeof(message), "%s of %lu bytes outside of all memory, by thread %d of block %u",
            writes ? "a write" : "a read", size, m.thread, m.block);
        end_launch();
    }
    for (uintptr_t i = at; i < end;) {
        Page& page = page_of(i);
        page.narrow |= size < Page::WORD || at % Page::WORD;
        access(page.bytes[i % Page::SIZE], now, writes, shared, i - inside->start);
        i += page.narrow ? 1 : Page::WORD;
    }
}

}  // namespace

// Memory for the emulated threads' stacks, which is the same for all functions.
extern "C" char* weft_stacks(size_t size) {
    static char* stacks = static_cast<char*>(std::malloc(size));
    if (!stacks) std::abort();
    return stacks;
}

// `ranges` are the beginnings and ends of `count` pieces of memory.
extern "C" void weft_watch(const uintptr_t* ranges, int count) {
    if (pages.size() > 1 << 13) {
        pages.clear();
        std::memset(lately, 0, sizeof(lately));
    }
    weft_moment.watched = false;  // until the function runs
    memory.clear();
    for (int i = 0; i < count; i++) memory.push_back({ranges[2 * i], ranges[2 * i + 1]});
    message[0] = 0;
    launch_time = ++clock_;
    seen_block = ~0u;
}

extern "C" const char* weft_watched() {
    weft_moment.watched = false;
    return message;
}

#define WATCH(name, size, ...)                                         \
    extern "C" void __tsan_read##name(void* p __VA_ARGS__) {           \
        if (weft_moment.watched) watch(p, size, false);                \
    }                                                                  \
    extern "C" void __tsan_write##name(void* p __VA_ARGS__) {          \
        if (weft_moment.watched) watch(p, size, true);                 \
    }
WATCH(1, 1)
WATCH(2, 2)
WATCH(4, 4)
WATCH(8, 8)
WATCH(16, 16)
WATCH(_range, size, , unsigned long size)
#define WATCH_UNALIGNED(size)                                          \
    extern "C" void __tsan_unaligned_read##size(void* p) { __tsan_read##size(p); }   \
    extern "C" void __tsan_unaligned_write##size(void* p) { __tsan_write##size(p); }
WATCH_UNALIGNED(2)
WATCH_UNALIGNED(4)
WATCH_UNALIGNED(8)
WATCH_UNALIGNED(16)
extern "C" void __tsan_init() {}

#define UNDEFINED(name)                                          \
    extern "C" void __ubsan_handle_##name() {                    \
        Moment& m = weft_moment;                                 \
        if (!m.watched) return;                                  \
        std::snprintf(                                           \
            message, sizeof(message),                            \
            "undefined: " #name ", by thread %d of block %u",    \
            m.thread, m.block);                                  \
        end_launch();                                            \
    }
UNDEFINED(type_mismatch_v1)
UNDEFINED(add_overflow)
UNDEFINED(sub_overflow)
UNDEFINED(mul_overflow)
UNDEFINED(negate_overflow)
UNDEFINED(divrem_overflow)
UNDEFINED(shift_out_of_bounds)
UNDEFINED(float_cast_overflow)
