// What multiplies in a tile: the same for the cores that have one number in a register, `Scalar`,
// and for tensor cores, `Tensor`. Of each, all threads hold sums [up][side] of a tile:
//
//     own_up, own_side    which of the threads with the same columns, and with the same rows
//     row, column         where a thread's i-th row and j-th column are within the tile
//     Side                what a thread fetches of the factors on one side, and then shares
//     multiply            the products of what is shared, added to the sums
//     hold, follow        the same, where the left factors are values that threads hold as sums
//
// Factors come from functions of a row or column (a line), which give functions of k, and these
// functions of i, which give the factor at k + i.
#pragma once

namespace tile {

// How factors on one side are read: by neighbouring threads along k if ALONG, else along the other
// axis. Of RUN neighbours along k, from a multiple of RUN on, what is worked out for the first holds
// for all; if PACKED, they are neighbours in memory too, from a multiple of 16 bytes on.
template <bool ALONG, int RUN = 1, bool PACKED = false> struct Reading {
    static constexpr bool along = ALONG, packed = PACKED;
    static constexpr int run = RUN;
};

// What products of such factors are added up in.
template <class F> struct Summed { using type = F; };
template <> struct Summed<f16> { using type = float; };
template <> struct Summed<bf16> { using type = float; };
template <> struct Summed<tf32> { using type = float; };

// Each thread multiplies UP x SIDE pairs of numbers at a time, of DEPTH that are shared.
template <class F, int ROWS, int COLUMNS, int DEPTH, int UP, int SIDE> struct Scalar {
    using T = typename Summed<F>::type;
    using Shared = T;
    static constexpr int up = UP, side = SIDE, depth = DEPTH;
    static constexpr int lanes = COLUMNS / SIDE;  // threads that have the same rows
    static constexpr int threads = ROWS / UP * lanes;
    static constexpr int padding = 16 / sizeof(T);  // spreads memory banks
    static constexpr int row_step = ROWS + padding, column_step = COLUMNS + padding;
    static constexpr int rights = DEPTH * row_step;  // where the right factors begin
    static constexpr int elements = rights + DEPTH * column_step;
    static constexpr int held = COLUMNS * row_step;  // elements more for values
    static constexpr int unrolled = 1;  // turns of what follows them
    static constexpr int pitch = COLUMNS;  // of rows on their way to where they are wanted
    // Neighbours that a thread has, so that it reads them at once.
    static constexpr int most = 16 / sizeof(T);
    static constexpr int run_up = UP < most ? UP : most, run_side = SIDE < most ? SIDE : most;

    static DEVICE int own_side() { return threadIdx.x % lanes; }
    static DEVICE int own_up() { return threadIdx.x / lanes; }
    static DEVICE int row(int up, int i) {
        return (i / run_up * (ROWS / UP) + up) * run_up + i % run_up;
    }
    static DEVICE int column(int side, int j) {
        return (j / run_side * lanes + side) * run_side + j % run_side;
    }

    // LINES rows or columns, from `first` to `lines`. Each thread has one line, or a few neighbours
    // along k of several. They are shared column by column.
    template <class Reading, int LINES, class Line, bool FOLLOWS = false> struct Side {
        static constexpr bool ALONG = Reading::along;
        static constexpr int each = LINES * DEPTH / threads, step = LINES + padding;
        static_assert(each * threads == LINES * DEPTH && threads % LINES == 0);
        const Line& line;
        const int first, lines, to, own;
        const decltype(line(0)) at;
        T next[each];

        DEVICE Side(const Line& line, int first, int lines, int to)
            : line(line), first(first), lines(lines), to(to),
              own(first + (ALONG ? 0 : threadIdx.x % LINES)), at(line(own)) {}

        DEVICE void fetch(int from) {
#pragma unroll
            for (int e = 0; e < each; e++) {
                const int number = threadIdx.x + e * threads;
                const int k = from + (ALONG ? number % DEPTH : number / LINES);
                if constexpr (ALONG) {
                    const int n = first + number / DEPTH;
                    next[e] = n < lines && k < to ? T(line(n)(k)(0)) : T(0);
                } else {
                    next[e] = own < lines && k < to ? T(at(k)(0)) : T(0);
                }
            }
        }

        DEVICE void share(T* memory) const {
#pragma unroll
            for (int e = 0; e < each; e++) {
                const int number = threadIdx.x + e * threads;
                const int n = ALONG ? number / DEPTH : number % LINES;
                const int k = ALONG ? number % DEPTH : number / LINES;
                memory[k * step + n] = next[e];
            }
        }
    };

    static DEVICE void multiply(T (&sums)[UP][SIDE], const T* memory) {
        multiply(sums, memory, row_step, memory + rights);
    }

    // Values to shared memory, column by column.
    static DEVICE void hold(const T (&values)[UP][SIDE], T* held) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < UP; i++) {
#pragma unroll
            for (int j = 0; j < SIDE; j++) {
                held[column(own_side(), j) * row_step + row(own_up(), i)] = values[i][j];
            }
        }
    }

    // The products of the values' columns from `start` on.
    template <class Values>
    static DEVICE void follow(
        T (&sums)[UP][SIDE], const typename Values::Sums&, const T* held, int start, const T* memory
    ) {
        multiply(sums, held + start * row_step, row_step, memory);
    }

    static DEVICE void multiply(T (&sums)[UP][SIDE], const T* left, int left_step, const T* right) {
        const int up = own_up(), side = own_side();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            T a[UP], b[SIDE];
#pragma unroll
            for (int i = 0; i < UP; i += run_up) {
                const auto run = load<run_up>(left + k * left_step + row(up, i));
#pragma unroll
                for (int r = 0; r < run_up; r++) a[i + r] = run.at[r];
            }
#pragma unroll
            for (int j = 0; j < SIDE; j += run_side) {
                const auto run = load<run_side>(right + k * column_step + column(side, j));
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
};

// DOWN rows of warps, each with a part of the sums: 16 rows x 8 columns a fragment.
template <class F, int ROWS, int COLUMNS, int THREADS, int DOWN> struct Tensor {
    using T = float;
    using Shared = unsigned;  // words of factors
    static constexpr int threads = THREADS, lanes = THREADS / DOWN / 8;
    static constexpr int height = ROWS / DOWN, width = COLUMNS * 4 / lanes;  // of a warp's part
    static constexpr int up = height / 8, side = width / 4;
    static_assert(height % 16 == 0 && width % 16 == 0 && lanes % 4 == 0);
    static constexpr int words = 16, depth = words * mma::per_word<F>;
    static constexpr int step = words + 4;  // 8 rows of 16 bytes then are in all memory banks
    static constexpr int pitch = COLUMNS + 8, results = ROWS / up * pitch;
    static constexpr int rights = ROWS * step, factors = rights + COLUMNS * step;
    static constexpr int elements = factors > results ? factors : results;
    static constexpr int held = 0, unrolled = 8;  // values stay in registers: all is unrolled

    // Of a warp's lanes, 4 have the same rows and 8 the same columns.
    static DEVICE int own_side() { return threadIdx.x / 32 % (lanes / 4) * 4 + threadIdx.x % 4; }
    static DEVICE int own_up() { return threadIdx.x / (lanes * 8) * 8 + threadIdx.x % 32 / 4; }
    static DEVICE int row(int up, int i) { return up / 8 * height + i * 8 + up % 8; }
    static DEVICE int column(int side, int j) {
        return side / 4 * width + j / 2 * 8 + side % 4 * 2 + j % 2;
    }

    // As that of `Scalar`; lines are shared one after the other, each in words along k. Where it
    // FOLLOWS values, words are in the order in which `follow` has their columns.
    template <class Reading, int LINES, class Line, bool FOLLOWS = false> struct Side {
        static constexpr bool ALONG = Reading::along;
        static constexpr int per_word = mma::per_word<F>, each = LINES * words / THREADS;
        static constexpr int run = FOLLOWS && per_word == 1 ? 1 : Reading::run;
        // Words that a thread reads together, and that it shares together.
        static constexpr int most = run / per_word < each ? run / per_word : each;
        static constexpr int read = most ? most : 1, written = ALONG ? read : each < 4 ? each : 4;
        static_assert(each * THREADS == LINES * words && THREADS % LINES == 0);
        static_assert(each % read == 0 && each % written == 0 && words % read == 0);
        const Line& line;
        const int first, lines, to, own;
        const decltype(line(0)) at;
        unsigned next[each];

        DEVICE Side(const Line& line, int first, int lines, int to)
            : line(line), first(first), lines(lines), to(to),
              own(first + (ALONG ? 0 : threadIdx.x % LINES)), at(line(own)) {}

        // The words of a thread are neighbours in one line, or some in each of several lines.
        static DEVICE int line_of(int e) {
            return ALONG ? (threadIdx.x + e / read * THREADS) / (words / read)
                         : threadIdx.x % LINES;
        }
        static DEVICE int word_of(int e) {
            return ALONG ? threadIdx.x % (words / read) * read + e % read
                         : threadIdx.x / LINES * each + e;
        }
        static DEVICE int factor_of(int e) {
            const int word = word_of(e);
            if constexpr (per_word == 2) return 2 * word;
            else return FOLLOWS ? word / 8 * 8 + word % 4 * 2 + word / 4 % 2 : word;
        }

        template <class Factor> static DEVICE unsigned bits(const Factor& at, int i) {
            return F(at(i)).bits;
        }

        // Words from number e on, of line n.
        template <class At> DEVICE void fetch(const At& at, int n, int k, int e) {
            if constexpr (run == 1) {
                const bool inside = n < lines;
                next[e] = inside && k < to ? bits(at(k), 0) : 0u;
                if constexpr (per_word == 2) {
                    next[e] |= (inside && k + 1 < to ? bits(at(k + 1), 0) : 0u) << 16;
                }
            } else {
                const auto factors = at(k);
                const bool inside = n < lines && k < to;
                if constexpr (Reading::packed && per_word == 2) {
                    Pack<unsigned, read> found = {};
                    if (inside) found = load<read>(reinterpret_cast<const unsigned*>(&factors(0)));
#pragma unroll
                    for (int r = 0; r < read; r++) next[e + r] = found.at[r];
                } else if constexpr (Reading::packed) {
                    Pack<float, read> found = {};
                    if (inside) found = load<read>(&factors(0));
#pragma unroll
                    for (int r = 0; r < read; r++) next[e + r] = F(found.at[r]).bits;
                } else {
#pragma unroll
                    for (int r = 0; r < read; r++) {
                        next[e + r] = inside ? bits(factors, per_word * r) : 0u;
                        if constexpr (per_word == 2) {
                            next[e + r] |= (inside ? bits(factors, 2 * r + 1) : 0u) << 16;
                        }
                    }
                }
            }
        }

        DEVICE void fetch(int from) {
#pragma unroll
            for (int e = 0; e < each; e += read) {
                const int k = from + factor_of(e);
                if constexpr (ALONG) {
                    const int n = first + line_of(e);
                    fetch(line(n), n, k, e);
                } else {
                    fetch(at, own, k, e);
                }
            }
        }

        DEVICE void share(unsigned* memory) const {
#pragma unroll
            for (int e = 0; e < each; e += written) {
                Pack<unsigned, written> run;
#pragma unroll
                for (int r = 0; r < written; r++) run.at[r] = next[e + r];
                store(memory + line_of(e) * step + word_of(e), run);
            }
        }
    };

    static DEVICE void multiply(T (&sums)[up][side], const unsigned* memory) {
        const unsigned* const own = memory + row(own_up() / 8 * 8, 0) * step;
#pragma unroll
        for (int w = 0; w < words; w += 8) {
            unsigned left[up / 2][4];
#pragma unroll
            for (int i = 0; i < up / 2; i++) mma::load(left[i], own + i * 16 * step + w, step);
            multiply(sums, left, memory + rights + w);
        }
    }

    static DEVICE void hold(const T (&)[up][side], unsigned*) {}

    // A lane has columns 2t and 2t + 1 of each 8: just those of a word of two, and of tf32 those
    // that are words t and t + 4 if the even ones of 8 come first.
    template <class Values>
    static DEVICE void follow(
        T (&sums)[up][side], const typename Values::Sums& values, const unsigned*, int start,
        const unsigned* memory
    ) {
        static_assert(Values::lanes == 4 && lanes == 4);
#pragma unroll
        for (int w = 0; w < words; w += 8) {
            const int n = (start + w * mma::per_word<F>) / 4;
            unsigned left[up / 2][4];
#pragma unroll
            for (int i = 0; i < up; i++) {
                const T(&row)[Values::side] = values[i];
                if constexpr (mma::per_word<F> == 2) {
                    left[i / 2][i % 2] = mma::word<F>(row[n], row[n + 1]);
                    left[i / 2][i % 2 + 2] = mma::word<F>(row[n + 2], row[n + 3]);
                } else {
                    left[i / 2][i % 2] = mma::word<F>(row[n]);
                    left[i / 2][i % 2 + 2] = mma::word<F>(row[n + 1]);
                }
            }
            multiply(sums, left, memory + w);
        }
    }

    // 8 words of each line.
    static DEVICE void multiply(
        T (&sums)[up][side], const unsigned (&left)[up / 2][4], const unsigned* right
    ) {
        const unsigned* const own = right + column(own_side() / 4 * 4, 0) * step;
#pragma unroll
        for (int j = 0; j < side / 2; j += 2) {
            unsigned pair[4];
            mma::load(pair, own + j * 8 * step, step);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const unsigned b[2] = {pair[half], pair[half + 2]};
                const int n = (j + half) * 2;
#pragma unroll
                for (int i = 0; i < up / 2; i++) {
                    T(&upper)[side] = sums[2 * i], (&lower)[side] = sums[2 * i + 1];
                    T c[4] = {upper[n], upper[n + 1], lower[n], lower[n + 1]};
                    mma::multiply<F>(c, left[i], b);
                    upper[n] = c[0], upper[n + 1] = c[1], lower[n] = c[2], lower[n + 1] = c[3];
                }
            }
        }
    }
};

// The cores of a target that multiply such factors: the only place that chooses.
template <bool TENSOR> struct Chosen {
    template <class F, int ROWS, int COLUMNS, int DEPTH, int UP, int SIDE, int DOWN>
    using Core = Scalar<F, ROWS, COLUMNS, DEPTH, UP, SIDE>;
};
template <> struct Chosen<true> {
    template <class F, int ROWS, int COLUMNS, int DEPTH, int UP, int SIDE, int DOWN>
    using Core = Tensor<F, ROWS, COLUMNS, ROWS / UP * (COLUMNS / SIDE), DOWN>;
};

}  // namespace tile
