// Products of matrices in tiles: what a block makes goes through shared memory once.
#pragma once

namespace tile {

// ROWS x COLUMNS results. On cores without matrices, DEPTH factors at a time and UP x SIDE results
// a thread; on tensor cores as many threads, in DOWN rows of warps.
template <class F, int ROWS, int COLUMNS, int DEPTH, int UP, int SIDE, int DOWN = 1>
struct Tile : Chosen<mma::exist<F>>::template Core<F, ROWS, COLUMNS, DEPTH, UP, SIDE, DOWN> {
    using Core = typename Chosen<mma::exist<F>>::template Core<
        F, ROWS, COLUMNS, DEPTH, UP, SIDE, DOWN>;
    using T = typename Core::T;
    using Shared = typename Core::Shared;
    using Sums = T[Core::up][Core::side];
    static constexpr int up = Core::up, side = Core::side, groups = ROWS / up, columns = COLUMNS;

    // `finish(m, n, sum)` for each m and n of the tile at (first_m, first_n) that are below the
    // sizes, with the sum of left(m)(k)(0) * right(n)(k)(0) for k from `from` to `to`.
    template <class ReadLeft, class ReadRight, class Left, class Right, class Finish>
    static DEVICE void product(
        int first_m, int first_n, int rows, int columns, int from, int to,
        const Left& left, const Right& right, const Finish& finish, Shared* memory
    ) {
        Sums sums;
        clear(sums);
        accumulate<ReadLeft, ReadRight>(
            sums, first_m, first_n, rows, columns, from, to, left, right, memory);
        put(sums, first_m, first_n, rows, columns, finish, memory);
    }

    static DEVICE void clear(Sums& sums) {
#pragma unroll
        for (int i = 0; i < up; i++) {
#pragma unroll
            for (int j = 0; j < side; j++) sums[i][j] = T(0);
        }
    }

    // Each row times a number of its own.
    static DEVICE void scale(Sums& sums, const T (&by)[up]) {
#pragma unroll
        for (int i = 0; i < up; i++) {
#pragma unroll
            for (int j = 0; j < side; j++) sums[i][j] *= by[i];
        }
    }

    // The products added to what each thread holds.
    template <class ReadLeft, class ReadRight, class Left, class Right>
    static DEVICE void accumulate(
        Sums& sums, int first_m, int first_n, int rows, int columns, int from, int to,
        const Left& left, const Right& right, Shared* memory
    ) {
        typename Core::template Side<ReadLeft, ROWS, Left> lefts(left, first_m, rows, to);
        typename Core::template Side<ReadRight, COLUMNS, Right> rights(right, first_n, columns, to);
        for (int start = from - Core::depth; start < to; start += Core::depth) {
            if (start >= from) {
                __syncthreads();
                lefts.share(memory);
                rights.share(memory + Core::rights);
                __syncthreads();
            }
            // The next factors are on their way while these are multiplied.
            lefts.fetch(start + Core::depth);
            rights.fetch(start + Core::depth);
            if (start >= from) Core::multiply(sums, memory);
        }
    }

    // The same for values on the left that threads hold as sums of a tile `Values`, whose columns
    // are k from `from` on; on the right there are no more than `columns` and no k from `to` on.
    template <class Values, class ReadRight, class Right>
    static DEVICE void follow(
        Sums& sums, const typename Values::Sums& values, int columns, int from, int to,
        const Right& right, Shared* memory, Shared* held
    ) {
        typename Core::template Side<ReadRight, COLUMNS, Right, true> rights(right, 0, columns, to);
        Values::hold(values, held);
#pragma unroll Core::unrolled
        for (int start = -Core::depth; start < Values::columns; start += Core::depth) {
            if (start >= 0) {
                __syncthreads();
                rights.share(memory);
                __syncthreads();
            }
            const int next = start + Core::depth;
            if (next < Values::columns) rights.fetch(from + next);
            if (start >= 0) Core::template follow<Values>(sums, values, held, start, memory);
        }
    }

    // `finish` for what the threads hold. One row of each thread at a time goes through shared
    // memory, so that neighbouring threads finish neighbours. (All that is unrolled is what must be
    // known to be in registers.)
    template <class Finish>
    static DEVICE void put(
        const Sums& sums, int first_m, int first_n, int rows, int columns, const Finish& finish,
        Shared* memory
    ) {
        static_assert(sizeof(T) == sizeof(Shared) && groups * Core::pitch <= Core::elements);
        T* const results = reinterpret_cast<T*>(memory);
        const int thread = threadIdx.x, own_up = Core::own_up(), own_side = Core::own_side();
#pragma unroll 1
        for (int i = 0; i < up; i++) {
            __syncthreads();
#pragma unroll
            for (int r = 0; r < up; r++) {
#pragma unroll
                for (int j = 0; j < side; j++) {
                    const int column = Core::column(own_side, j);
                    if (r == i) results[own_up * Core::pitch + column] = sums[r][j];
                }
            }
            __syncthreads();
#pragma unroll 1
            for (int at = thread; at < groups * COLUMNS; at += Core::threads) {
                const int m = first_m + Core::row(at / COLUMNS, i), n = first_n + at % COLUMNS;
                const T result = results[at / COLUMNS * Core::pitch + at % COLUMNS];
                if (m < rows && n < columns) finish(m, n, result);
            }
        }
    }
};

}  // namespace tile
