// Sums at positions that data name, without atomic sums: equal rows are added in order.
#pragma once

namespace scatter {

// One warp: `add(row(p), value(p))` for each p below `count`. 32 at a time: of those with the same
// row the first adds the sum of all.
template <class T, class Row, class Value, class Add>
DEVICE void by_warp(int count, const Row& row, const Value& value, const Add& add) {
    const int lane = threadIdx.x % 32;
    for (int start = 0; start < count; start += 32) {
        const int p = start + lane;
        const int target = p < count ? int(row(p)) : -1;
        const T mine = p < count ? value(p) : T(0);
        const unsigned peers = __match_any_sync(0xffffffffu, target);
        unsigned left = peers & (peers - 1);
        T sum = order::of_lane(mine, __ffs(int(peers)) - 1);
        while (__ballot_sync(0xffffffffu, left != 0)) {
            const T other = order::of_lane(mine, left ? __ffs(int(left)) - 1 : lane);
            if (left) sum = op::add(sum, other);
            left &= left - 1;
        }
        if (target >= 0 && lane == __ffs(int(peers)) - 1) add(target, sum);
        __syncwarp();
    }
}

// One warp for update p: if no update before it has its row, `sum(q)` for each q that has, in order,
// between `begin(row)` and `end(row)`.
template <class Row, class Begin, class Sum, class End>
DEVICE void by_update(
    int p, int count, const Row& row, const Begin& begin, const Sum& sum, const End& end
) {
    const int lane = threadIdx.x % 32;
    const int target = int(row(p));
    for (int start = 0; start < p; start += 32) {
        const int q = start + lane;
        if (__ballot_sync(0xffffffffu, q < p && int(row(q)) == target)) return;
    }
    begin(target);
    for (int start = p / 32 * 32; start < count; start += 32) {
        const int q = start + lane;
        const bool same = q >= p && q < count && int(row(q)) == target;
        for (unsigned left = __ballot_sync(0xffffffffu, same); left; left &= left - 1) {
            sum(start + __ffs(int(left)) - 1);
        }
    }
    end(target);
}

// -- many updates: sorted by row first ------------------------------------------------------------

// Keys are sorted by digits of 8 bits, the lowest first, and equal ones keep their order:
//   count    of each digit in each block's keys      one block's keys: LOT
//   (running sums of the counts, digit after digit)
//   move     each key to where its digit begins, after those of blocks and lanes before it
constexpr int DIGITS = 256, LOT = 1024;

DEVICE int digit_of(unsigned key, int shift) { return int(key >> shift & (DIGITS - 1)); }

// A block of DIGITS threads writes how often each digit is among its keys, to counts[digit, block].
DEVICE void count(int total, int shift, const unsigned* keys, int* counts, int* memory) {
    const int thread = threadIdx.x, first = blockIdx.x * LOT;
    memory[thread] = 0;
    __syncthreads();
    for (int i = first + thread; i < first + LOT && i < total; i += DIGITS) {
        atomicAdd(&memory[digit_of(keys[i], shift)], 1);  // of integers: in any order the same
    }
    __syncthreads();
    counts[thread * gridDim.x + blockIdx.x] = memory[thread];
}

// `ends` are the running sums of the counts. `memory` has room for DIGITS numbers, and as many for
// each warp.
DEVICE void move(
    int total, int shift, const unsigned* keys, const int* places, const int* counts,
    const int* ends, unsigned* new_keys, int* new_places, int* memory
) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int own = thread * gridDim.x + blockIdx.x;
    int* begins = memory;
    int* in_warps = memory + DIGITS;
    begins[thread] = ends[own] - counts[own];
    for (int start = blockIdx.x * LOT; start < (blockIdx.x + 1) * LOT; start += DIGITS) {
        for (int w = 0; w < DIGITS / 32; w++) in_warps[w * DIGITS + thread] = 0;
        __syncthreads();
        const int i = start + thread;
        const unsigned key = i < total ? keys[i] : 0;
        const int digit = i < total ? digit_of(key, shift) : -1;
        const unsigned peers = __match_any_sync(0xffffffffu, digit);
        const int rank = __popc(peers & ((1u << lane) - 1));
        if (digit >= 0 && rank == 0) in_warps[warp * DIGITS + digit] = __popc(peers);
        __syncthreads();
        if (digit >= 0) {
            int target = begins[digit] + rank;
            for (int w = 0; w < warp; w++) target += in_warps[w * DIGITS + digit];
            new_keys[target] = key;
            new_places[target] = places[i];
        }
        __syncthreads();
        for (int w = 0; w < DIGITS / 32; w++) begins[thread] += in_warps[w * DIGITS + thread];
    }
}

// One warp for number i of the sorted keys: if it is the first of its row, all of the row.
template <class Begin, class Sum, class End>
DEVICE void by_run(
    int i, int count, const unsigned* keys, const int* places,
    const Begin& begin, const Sum& sum, const End& end
) {
    const unsigned key = keys[i];
    if (i && keys[i - 1] == key) return;
    begin(key);
    for (int j = i; j < count && keys[j] == key; j++) sum(places[j]);
    end(key);
}

}  // namespace scatter
