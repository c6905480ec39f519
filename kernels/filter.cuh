// The matched filter of a tile of a frame, shared by `matched_filter` and `detect`.
//
//   filtered(k, j) = Σ_v Σ_u t|v| t|u| f(k s + v, j s + u) − mean of f over the square of half width BOX_HALF,
//
// a Gaussian of unit sum minus the mean of a square, on a lattice of every s-th pixel; beyond the border the frame is
// continued by its outermost pixels. Raw pixels are converted in registers, after the pedestal is taken off.
//
// Constants: PIXEL (type of a pixel), STEP (s), RADIUS (taps t0 … tRADIUS), BOX_HALF, and the tile: TILE_H × TILE_W
// lattice points, MARGIN more on each side, HELD rows of the lattice at a time.
//
// Per lattice row a thread adds up one column of pixels: 2 RADIUS + 1 for the Gaussian, 2 STEP for the square, whose sum
// moves on with the rows; neighbouring threads read neighbouring pixels. The sums lie in shared memory for the second
// pass, along the rows. For σ = 1.3 px (STEP 2, RADIUS 3, BOX_HALF 7): 1 byte of a uint8 frame and about 12 additions
// and multiplications per pixel, 1.5 times that with the margins of a tile.
#pragma once
#include "exotrack.cuh"

#define REACH (RADIUS > BOX_HALF ? RADIUS : BOX_HALF)
#define ROWS (TILE_H + 2 * MARGIN)
#define COLUMNS (TILE_W + 2 * MARGIN)
#define SPAN ((COLUMNS - 1) * STEP + 1 + 2 * REACH)

// Pixel of a column of a frame, rows beyond the border those at it.
__device__ inline float pixel(In<PIXEL> column, int row, int height, int width, float pedestal) {
    return float(column[int64(clamped(row, 0, height - 1)) * width]) - pedestal;
}

// Weighted sum of the pixels of a column around a row.
__device__ inline float weigh(In<PIXEL> column, int row, int height, int width, float pedestal,
                              const float (&tap)[RADIUS + 1]) {
    float sum = tap[0] * pixel(column, row, height, width, pedestal);
#pragma unroll
    for (int t = 1; t <= RADIUS; t++) {
        sum = fmaf(tap[t],
                   pixel(column, row - t, height, width, pedestal) + pixel(column, row + t, height, width, pedestal),
                   sum);
    }
    return sum;
}

// Weighted sum of the sums of columns around one of them, minus their mean in the square.
__device__ inline float across(Shared<float> gauss, Shared<float> box, int centre, const float (&tap)[RADIUS + 1]) {
    float sum = tap[0] * gauss[centre];
#pragma unroll
    for (int t = 1; t <= RADIUS; t++) sum = fmaf(tap[t], gauss[centre - t] + gauss[centre + t], sum);
    float square = 0.0f;
    for (int u = -BOX_HALF; u <= BOX_HALF; u++) square += box[centre + u];
    return fmaf(-(1.0f / ((2 * BOX_HALF + 1) * (2 * BOX_HALF + 1))), square, sum);
}

// Filtered lattice points of rows first_row … first_row + ROWS − 1 and columns first_column …, as `filtered` holds them
// after the last barrier; all threads of the block take part. `gauss` and `box` are HELD × SPAN, `filtered` is
// ROWS × COLUMNS.
__device__ inline void filter_tile(In<PIXEL> frame, In<float> taps, int height, int width, float pedestal,
                                   int first_row, int first_column, Shared<float> gauss, Shared<float> box,
                                   Shared<float> filtered) {
    float tap[RADIUS + 1];
#pragma unroll
    for (int t = 0; t <= RADIUS; t++) tap[t] = taps[t];
    for (int top = 0; top < ROWS; top += HELD) {
        const int held = min(HELD, ROWS - top);
        for (int c = threadIdx.x; c < SPAN; c += blockDim.x) {
            const In<PIXEL> column = frame + clamped(first_column * STEP - REACH + c, 0, width - 1);
            float sum = 0.0f;
            for (int r = 0; r < held; r++) {
                const int row = (first_row + top + r) * STEP;
                if (r == 0) {
                    for (int v = -BOX_HALF; v <= BOX_HALF; v++) sum += pixel(column, row + v, height, width, pedestal);
                } else {
#pragma unroll
                    for (int v = 0; v < STEP; v++) {
                        sum += pixel(column, row + BOX_HALF - v, height, width, pedestal) -
                               pixel(column, row - BOX_HALF - 1 - v, height, width, pedestal);
                    }
                }
                box[r * SPAN + c] = sum;
                gauss[r * SPAN + c] = weigh(column, row, height, width, pedestal, tap);
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < held * COLUMNS; i += blockDim.x) {
            const int centre = i / COLUMNS * SPAN + i % COLUMNS * STEP + REACH;
            filtered[top * COLUMNS + i] = across(gauss, box, centre, tap);
        }
        __syncthreads();
    }
}
