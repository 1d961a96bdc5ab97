// Running sums and sorting. Each in one fixed order.
#pragma once

namespace order {

// What the warp's lane number `lane` holds.
template <class T> DEVICE T of_lane(T mine, int lane) {
    if constexpr (sizeof(T) < 4) return T(__shfl_sync(0xffffffffu, int(mine), lane));
    else return __shfl_sync(0xffffffffu, mine, lane);
}
template <class T> DEVICE T of_lane_before(T mine, int distance) {
    if constexpr (sizeof(T) < 4) return T(__shfl_up_sync(0xffffffffu, int(mine), distance));
    else return __shfl_up_sync(0xffffffffu, mine, distance);
}

// -- running sums ---------------------------------------------------------------------------------

// One thread: `write(i, sum of read(0) .. read(i))` for each i below `count`.
template <class T, class Read, class Write>
DEVICE void sums_by_thread(int count, const Read& read, const Write& write) {
    T sum = T(0);
    for (int i = 0; i < count; i++) {
        sum = i ? op::add(sum, read(i)) : read(i);
        write(i, sum);
    }
}

// The same by a whole block: sums within warps, of warps, and of what came before. `memory` has
// room for an element of each warp.
template <class T, class Read, class Write>
DEVICE void sums_by_block(int count, const Read& read, const Write& write, T* memory) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int warps = blockDim.x / 32;
    T before = T(0);
    for (int start = 0; start < count; start += blockDim.x) {
        const int i = start + thread;
        T sum = i < count ? read(i) : T(0);
        for (int distance = 1; distance < 32; distance *= 2) {
            const T other = of_lane_before(sum, distance);
            if (lane >= distance) sum = op::add(other, sum);
        }
        if (lane == 31) memory[warp] = sum;
        __syncthreads();
        T others = before;
        for (int w = 0; w < warps; w++) {
            if (w == warp && (start || w)) sum = op::add(others, sum);
            others = start || w ? op::add(others, memory[w]) : memory[w];
        }
        before = others;
        if (i < count) write(i, sum);
        __syncthreads();
    }
}

// -- sorting --------------------------------------------------------------------------------------

// Whether element `a` from place i stands before `b` from place j. Of equals the first stays first;
// NaN is larger than any number; places from `count` on are filling, and stand last.
template <bool DESCENDING, class T> DEVICE bool before(T a, int i, T b, int j, int count) {
    if (i < count && j < count) {
        const bool a_odd = a != a, b_odd = b != b;
        if (a_odd || b_odd) {
            if (a_odd != b_odd) return DESCENDING ? a_odd : b_odd;
        } else if (a != b) {
            return DESCENDING ? a > b : a < b;
        }
    }
    return i < j;
}

// A block sorts `read(0) .. read(count - 1)` by bitonic exchange in `elements` and `places`, which
// have room for `room` elements, a power of two; then `write(i, element, place)` for the first few.
template <bool DESCENDING, class T, class Read, class Write>
DEVICE void sort_row(
    int count, int room, int wanted, const Read& read, const Write& write, T* elements, int* places
) {
    const int thread = threadIdx.x, threads = blockDim.x;
    for (int i = thread; i < room; i += threads) {
        elements[i] = i < count ? read(i) : T(0);
        places[i] = i;
    }
    for (int size = 2; size <= room; size *= 2) {
        for (int step = size / 2; step; step /= 2) {
            __syncthreads();
            for (int pair = thread; pair < room / 2; pair += threads) {
                const int i = 2 * pair - (pair & (step - 1)), j = i + step;
                const T a = elements[i], b = elements[j];
                const int from_a = places[i], from_b = places[j];
                const bool is_up = (i & size) == 0;
                if (before<DESCENDING>(b, from_b, a, from_a, count) == is_up) {
                    elements[i] = b, elements[j] = a;
                    places[i] = from_b, places[j] = from_a;
                }
            }
        }
    }
    __syncthreads();
    for (int i = thread; i < wanted; i += threads) write(i, elements[i], places[i]);
    __syncthreads();
}

}  // namespace order
