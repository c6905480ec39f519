// Five equations with five unknowns, held in registers: the step of a fit and the variances of its result.
//
// The operations are those of backends/cpu/solve.py in double precision, in the same order, with reciprocal square
// roots in place of quotients. Every lane of a warp does the same work on the same numbers. To factor and solve takes
// 65 multiplications, 40 subtractions and 5 reciprocal square roots.
#pragma once
#include "exotrack.cuh"

// y, x, amplitude, offset, squared width.
#define PARAMETERS 5

// Cholesky factor of a symmetric matrix given by its lower triangle, reciprocals on its diagonal; false if none.
__device__ inline bool factor(const double (&matrix)[PARAMETERS][PARAMETERS], double (&lower)[PARAMETERS][PARAMETERS]) {
#pragma unroll
    for (int i = 0; i < PARAMETERS; i++) {
#pragma unroll
        for (int j = 0; j <= i; j++) {
            double total = matrix[i][j];
#pragma unroll
            for (int k = 0; k < j; k++) total -= lower[i][k] * lower[j][k];
            if (i > j) {
                lower[i][j] = total * lower[j][j];
            } else {
                if (!(total > 1e-5 * matrix[i][i])) return false;
                lower[i][i] = rsqrt(total);
            }
        }
    }
    return true;
}

// Solve for a vector, in its place.
__device__ inline void solve(const double (&lower)[PARAMETERS][PARAMETERS], double (&vector)[PARAMETERS]) {
#pragma unroll
    for (int i = 0; i < PARAMETERS; i++) {
#pragma unroll
        for (int k = 0; k < i; k++) vector[i] -= lower[i][k] * vector[k];
        vector[i] *= lower[i][i];
    }
#pragma unroll
    for (int i = PARAMETERS - 1; i >= 0; i--) {
#pragma unroll
        for (int k = i + 1; k < PARAMETERS; k++) vector[i] -= lower[k][i] * vector[k];
        vector[i] *= lower[i][i];
    }
}

// Diagonal element C of the inverse of the factored matrix.
template <int C> __device__ inline double variance_of(const double (&lower)[PARAMETERS][PARAMETERS]) {
    double column[PARAMETERS];
    column[C] = lower[C][C];
    double norm = column[C] * column[C];
#pragma unroll
    for (int i = C + 1; i < PARAMETERS; i++) {
        double total = 0.0;
#pragma unroll
        for (int k = C; k < i; k++) total -= lower[i][k] * column[k];
        column[i] = total * lower[i][i];
        norm += column[i] * column[i];
    }
    return norm;
}
