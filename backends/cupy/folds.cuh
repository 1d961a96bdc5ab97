// Reductions by a team of threads, always in the same order: no atomics.
//
//   along    neighbouring threads are lanes of one row      thread = row * TEAM + lane
//   across   neighbouring threads are neighbouring rows     thread = lane * ROWS + row
#pragma once

namespace fold {

struct Sum {
    template <class T> static DEVICE T join(T a, T b) { return op::add(a, b); }
};
struct Prod {
    template <class T> static DEVICE T join(T a, T b) { return op::multiply(a, b); }
};
struct Max {
    template <class T> static DEVICE T join(T a, T b) { return op::maximum(a, b); }
};
struct Min {
    template <class T> static DEVICE T join(T a, T b) { return op::minimum(a, b); }
};
struct And {
    static DEVICE bool join(bool a, bool b) { return a && b; }
};
struct Or {
    static DEVICE bool join(bool a, bool b) { return a || b; }
};

// An element and its place; the place -1 is that of no element.
template <class T> struct Best {
    T value;
    long long place;
};

// The first of the extreme elements, whatever the order in which they meet; NaN is more extreme
// than any number.
template <bool LARGEST> struct Extreme {
    template <class T> static DEVICE bool beats(T a, T b) {
        if (a != a || b != b) return a != a && b == b;
        return LARGEST ? a > b : a < b;
    }
    template <class T> static DEVICE Best<T> join(Best<T> a, Best<T> b) {
        if (a.place < 0 || b.place < 0) return a.place < 0 ? b : a;
        if (beats(a.value, b.value)) return a;
        if (beats(b.value, a.value)) return b;
        return a.place < b.place ? a : b;
    }
};
using ArgMax = Extreme<true>;
using ArgMin = Extreme<false>;

// What another lane of the warp holds.
template <class T> DEVICE T from_lane(T mine, int difference) {
    return __shfl_xor_sync(0xffffffffu, mine, difference);
}
template <> DEVICE bool from_lane(bool mine, int difference) {
    return __shfl_xor_sync(0xffffffffu, int(mine), difference) != 0;
}
template <> DEVICE signed char from_lane(signed char mine, int difference) {
    return (signed char)(__shfl_xor_sync(0xffffffffu, int(mine), difference));
}
template <> DEVICE unsigned char from_lane(unsigned char mine, int difference) {
    return (unsigned char)(__shfl_xor_sync(0xffffffffu, int(mine), difference));
}
template <class T> DEVICE Best<T> from_lane(Best<T> mine, int difference) {
    return {from_lane(mine.value, difference), from_lane(mine.place, difference)};
}

// The fold of what all lanes of a team hold, for each of them. Every thread of the block takes
// part; `memory` has room for a value of each thread.
template <class Fold, int TEAM, int ROWS, bool ACROSS, class T>
DEVICE T over_team(T mine, void* memory) {
    if constexpr (TEAM == 1) {
        return mine;
    } else if constexpr (ACROSS) {
        T* slots = static_cast<T*>(memory);
        const int thread = threadIdx.x;
        __syncthreads();
        slots[thread] = mine;
        for (int half = TEAM / 2; half; half /= 2) {
            __syncthreads();
            if (thread < half * ROWS) {
                slots[thread] = Fold::join(slots[thread], slots[thread + half * ROWS]);
            }
        }
        __syncthreads();
        return slots[thread % ROWS];
    } else {
        constexpr int WIDTH = TEAM < 32 ? TEAM : 32;
#pragma unroll
        for (int half = WIDTH / 2; half; half /= 2) {
            mine = Fold::join(mine, from_lane(mine, half));
        }
        if constexpr (TEAM > 32) {
            T* slots = static_cast<T*>(memory);
            const int first = threadIdx.x / TEAM * (TEAM / 32);
            __syncthreads();
            if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = mine;
            __syncthreads();
            mine = slots[first];
            for (int i = 1; i < TEAM / 32; i++) mine = Fold::join(mine, slots[first + i]);
        }
        return mine;
    }
}

}  // namespace fold
