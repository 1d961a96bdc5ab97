// Products of matrices in tiles: what a block makes goes through shared memory once.
#pragma once

namespace tile {

// Sizes of a tile: ROWS x COLUMNS results, DEPTH factors at a time, UP x SIDE results a thread.
template <class T, int ROWS, int COLUMNS, int DEPTH, int UP, int SIDE> struct Tile {
    static constexpr int wide = COLUMNS / SIDE;  // threads side by side
    static constexpr int columns_each = SIDE;
    static constexpr int threads = ROWS / UP * wide;
    static constexpr int row_step = ROWS + 16 / sizeof(T);  // the padding spreads memory banks
    static constexpr int column_step = COLUMNS + 16 / sizeof(T);
    static constexpr int elements = DEPTH * (row_step + column_step);
    // Neighbours that a thread has, so that it reads them at once.
    static constexpr int most = 16 / sizeof(T);
    static constexpr int run_up = UP < most ? UP : most, run_side = SIDE < most ? SIDE : most;

    // `finish(m, n, sum of left(m, k) * right(n)(k) for k from `from` to `to`)` for each m and n of
    // the tile at (first_m, first_n) that are below the sizes. Neighbouring threads read along k on
    // the left if LEFT_ALONG, and along n on the right if RIGHT_ALONG.
    template <bool LEFT_ALONG, bool RIGHT_ALONG, class Left, class Right, class Finish>
    static DEVICE void product(
        int first_m, int first_n, int rows, int columns, int from, int to,
        const Left& left, const Right& right, const Finish& finish, T* memory
    ) {
        T sums[UP][SIDE];
        clear(sums);
        accumulate<LEFT_ALONG, RIGHT_ALONG>(
            sums, first_m, first_n, rows, columns, from, to, left, right, memory);
        put(sums, first_m, first_n, rows, columns, finish, memory);
    }

    static DEVICE void clear(T (&sums)[UP][SIDE]) {
#pragma unroll
        for (int i = 0; i < UP; i++) {
#pragma unroll
            for (int j = 0; j < SIDE; j++) sums[i][j] = T(0);
        }
    }

    // Each row times a number of its own.
    static DEVICE void scale(T (&sums)[UP][SIDE], const T (&by)[UP]) {
#pragma unroll
        for (int i = 0; i < UP; i++) {
#pragma unroll
            for (int j = 0; j < SIDE; j++) sums[i][j] *= by[i];
        }
    }

    // What the threads hold to shared memory, column by column, for all threads to read.
    static DEVICE void hold(const T (&sums)[UP][SIDE], T* memory) {
#pragma unroll
        for (int i = 0; i < UP; i++) {
#pragma unroll
            for (int j = 0; j < SIDE; j++) {
                memory[column(own_side(), j) * row_step + row(own_up(), i)] = sums[i][j];
            }
        }
        __syncthreads();
    }

    // The products added to what each thread holds.
    template <bool LEFT_ALONG, bool RIGHT_ALONG, class Left, class Right>
    static DEVICE void accumulate(
        T (&sums)[UP][SIDE], int first_m, int first_n, int rows, int columns, int from, int to,
        const Left& left, const Right& right, T* memory
    ) {
        constexpr int LEFTS = ROWS * DEPTH / threads, RIGHTS = COLUMNS * DEPTH / threads;
        static_assert(LEFTS * threads == ROWS * DEPTH && RIGHTS * threads == COLUMNS * DEPTH);
        T* lefts = memory;
        T* rights = memory + DEPTH * row_step;
        const int thread = threadIdx.x, up = thread / wide, side = thread % wide;
        T next_left[LEFTS], next_right[RIGHTS];
        // Neighbouring threads along n: each has one column of the factors on the right.
        const int own_n = first_n + (RIGHT_ALONG ? thread % COLUMNS : 0);
        const auto own_column = right(own_n);
        static_assert(threads % COLUMNS == 0);
        for (int start = from - DEPTH; start < to; start += DEPTH) {
            if (start >= from) {
                __syncthreads();
#pragma unroll
                for (int e = 0; e < LEFTS; e++) {
                    const int at = thread + e * threads;
                    const int m = LEFT_ALONG ? at / DEPTH : at % ROWS;
                    const int k = LEFT_ALONG ? at % DEPTH : at / ROWS;
                    lefts[k * row_step + m] = next_left[e];
                }
#pragma unroll
                for (int e = 0; e < RIGHTS; e++) {
                    const int at = thread + e * threads;
                    const int n = RIGHT_ALONG ? at % COLUMNS : at / DEPTH;
                    const int k = RIGHT_ALONG ? at / COLUMNS : at % DEPTH;
                    rights[k * column_step + n] = next_right[e];
                }
                __syncthreads();
            }
            // The next factors are on their way while these are multiplied.
            const int next = start + DEPTH;
#pragma unroll
            for (int e = 0; e < LEFTS; e++) {
                const int at = thread + e * threads;
                const int m = first_m + (LEFT_ALONG ? at / DEPTH : at % ROWS);
                const int k = next + (LEFT_ALONG ? at % DEPTH : at / ROWS);
                next_left[e] = m < rows && k < to ? left(m, k) : T(0);
            }
#pragma unroll
            for (int e = 0; e < RIGHTS; e++) {
                const int at = thread + e * threads;
                const int k = next + (RIGHT_ALONG ? at / COLUMNS : at % DEPTH);
                if constexpr (RIGHT_ALONG) {
                    next_right[e] = own_n < columns && k < to ? own_column(k) : T(0);
                } else {
                    const int n = first_n + at / DEPTH;
                    next_right[e] = n < columns && k < to ? right(n)(k) : T(0);
                }
            }
            if (start < from) continue;
#pragma unroll
            for (int k = 0; k < DEPTH; k++) {
                T a[UP], b[SIDE];
#pragma unroll
                for (int i = 0; i < UP; i += run_up) {
                    const auto run = load<run_up>(lefts + k * row_step + row(up, i));
#pragma unroll
                    for (int r = 0; r < run_up; r++) a[i + r] = run.at[r];
                }
#pragma unroll
                for (int j = 0; j < SIDE; j += run_side) {
                    const auto run = load<run_side>(rights + k * column_step + column(side, j));
#pragma unroll
                    for (int r = 0; r < run_side; r++) b[j + r] = run.at[r];
                }
#pragma unroll
                for (int i = 0; i < UP; i++) {
#pragma unroll
                    for (int j = 0; j < SIDE; j++) sums[i][j] += a[i] * b[j];
                }
            }
        }
    }

    // `finish` for what the threads hold. One row of each thread at a time goes through shared
    // memory, so that neighbouring threads finish neighbours. (All that is unrolled is what must be
    // known to be in registers.)
    template <class Finish>
    static DEVICE void put(
        const T (&sums)[UP][SIDE], int first_m, int first_n, int rows, int columns,
        const Finish& finish, T* memory
    ) {
        const int thread = threadIdx.x, up = thread / wide, side = thread % wide;
        static_assert(ROWS / UP * COLUMNS <= elements);
#pragma unroll 1
        for (int i = 0; i < UP; i++) {
            __syncthreads();
#pragma unroll
            for (int r = 0; r < UP; r++) {
#pragma unroll
                for (int j = 0; j < SIDE; j++) {
                    if (r == i) memory[up * COLUMNS + column(side, j)] = sums[r][j];
                }
            }
            __syncthreads();
#pragma unroll 1
            for (int at = thread; at < ROWS / UP * COLUMNS; at += threads) {
                const int m = first_m + row(at / COLUMNS, i), n = first_n + at % COLUMNS;
                if (m < rows && n < columns) finish(m, n, memory[at]);
            }
        }
    }

    // Which of the threads that have the same rows, and which of those that have the same columns.
    static DEVICE int own_side() { return threadIdx.x % wide; }
    static DEVICE int own_up() { return threadIdx.x / wide; }

    // Where a thread's i-th row and j-th column are within the tile.
    static DEVICE int row(int up, int i) {
        return (i / run_up * (ROWS / UP) + up) * run_up + i % run_up;
    }
    static DEVICE int column(int side, int j) {
        return (j / run_side * wide + side) * run_side + j % run_side;
    }
};

}  // namespace tile
