// What rows of a tile hold of a softmax that comes to them some columns at a time: the largest
// score so far and the sum of exp(score - largest). Milakov and Gimelshein 2018.
#pragma once

namespace attention {

// `fold` of what the LANES threads hold that have the same rows, for each of them.
template <class Fold, int LANES, class T> DEVICE T over_lanes(T mine) {
#pragma unroll
    for (int half = LANES / 2; half; half /= 2) mine = Fold::join(mine, fold::from_lane(mine, half));
    return mine;
}

// Scores of more columns become weights, and `scale` what earlier weights are now to be taken
// times. A score that is no column of the matrix is minus infinity.
template <int LANES, class T, int UP, int SIDE>
DEVICE void weigh(T (&scores)[UP][SIDE], T (&maximum)[UP], T (&total)[UP], T (&scale)[UP]) {
    const T lowest = -op::infinity<T>();
#pragma unroll
    for (int i = 0; i < UP; i++) {
        T high = scores[i][0];
#pragma unroll
        for (int j = 1; j < SIDE; j++) high = op::maximum(high, scores[i][j]);
        high = op::maximum(maximum[i], over_lanes<fold::Max, LANES>(high));
        // Of a row that has no score above minus infinity yet, all weights are 0.
        const T base = high == lowest ? T(0) : high;
        scale[i] = op::exp(maximum[i] - base);
        maximum[i] = high;
        T sum = T(0);
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            scores[i][j] = op::exp(scores[i][j] - base);
            sum += scores[i][j];
        }
        total[i] = total[i] * scale[i] + over_lanes<fold::Sum, LANES>(sum);
    }
}

}  // namespace attention
