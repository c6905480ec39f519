// detect: maxima of the matched filter above a limit, to a fraction of a pixel; see filter.cuh for the filter.
//
//   frames         PIXEL (n, height, width)   raw
//   level          float (lattice_height, lattice_width)   filtered still background times sign
//   inverse_noise  float, same shape           one over the s.d. of the filtered noise
//   limit          float, same shape           a lattice point is looked at where sign × filtered exceeds it
//   taps           float (RADIUS + 1)
//   count          int (1)                     peaks found; it goes on counting beyond the room, and the caller repeats
//   key            int64 (room)                (frame × lattice_height + row) × lattice_width + column of the lattice
//   found          float (room, 3)             y, x, signal-to-noise ratio; the last is NaN until `locate` has looked
//
// `peaks` is one pass over the raw pixels: a tile is filtered in shared memory and its maxima are appended to the list.
// Launch: grid (n, ⌈lattice_height / TILE_H⌉, ⌈lattice_width / TILE_W⌉), THREADS threads; MARGIN is 1. The order of
// the list is that in which blocks finish; the caller sorts by key.
//
// `locate` evaluates the filter at every pixel around those peaks of which the lattice does not tell the top: one warp
// each. Launch: ⌈count / WARPS⌉ blocks of WARPS warps.
//
// Constants: those of filter.cuh, WARPS, and PLAIN of the CPU operation.
//
// Comparisons and parabolas are in double precision, as on the CPU: they concern few points. Frames, rows and columns
// are clamped or guarded here; only `count` may exceed the room.
#include "filter.cuh"

// Half width of the square of pixels around a lattice point at which the filter is evaluated.
#define HALF (STEP / 2 + 1)
#define SIDE (2 * HALF + 1)
#define MIDDLE (HALF + REACH)
#define LINE (2 * MIDDLE + 1)

// Offset of the top of a parabola through the logarithms of a peak and its neighbours, in their distance.
__device__ inline double parabola(double before, double centre, double after) {
    const double floor = 0.02 * centre;
    const double lower = log(before > floor ? before : floor), middle = log(centre);
    const double upper = log(after > floor ? after : floor);
    const double bend = 2.0 * middle - lower - upper;
    return bend > 1e-6 ? clamped(0.5 * (upper - lower) / bend, -0.5, 0.5) : 0.0;
}

KERNEL(THREADS) peaks(In<PIXEL> frames, In<float> level, In<float> inverse_noise, In<float> limit, In<float> taps,
                      int height, int width, int lattice_height, int lattice_width, float pedestal, double sign,
                      Out<int> count, Out<int64> key, Out<float> found, int room) {
    SHARED(float, gauss, HELD * SPAN);
    SHARED(float, box, HELD * SPAN);
    SHARED(float, tile, ROWS * COLUMNS);
    const int64 frame = blockIdx.x;
    const int first_row = int(blockIdx.y) * TILE_H - MARGIN, first_column = int(blockIdx.z) * TILE_W - MARGIN;
    filter_tile(frames + frame * height * width, taps, height, width, pedestal, first_row, first_column, gauss, box,
                tile);
    for (int i = threadIdx.x; i < TILE_H * TILE_W; i += blockDim.x) {
        const int r = i / TILE_W + MARGIN, c = i % TILE_W + MARGIN;
        const int row = first_row + r, column = first_column + c;
        if (row >= lattice_height || column >= lattice_width) continue;
        const int64 here = int64(row) * lattice_width + column;
        if (!(float(sign) * tile[r * COLUMNS + c] > limit[here])) continue;

        // The largest of its 3 × 3 neighbourhood; of equal ones the first in reading order.
        const double value = (sign * tile[r * COLUMNS + c] - level[here]) * inverse_noise[here];
        bool highest = true;
        for (int v = -1; v <= 1; v++) {
            for (int u = -1; u <= 1; u++) {
                if (row + v < 0 || row + v >= lattice_height || column + u < 0 || column + u >= lattice_width) continue;
                const int64 there = here + int64(v) * lattice_width + u;
                const double other = (sign * tile[(r + v) * COLUMNS + c + u] - level[there]) * inverse_noise[there];
                highest = highest && !(other > value || (other == value && (v < 0 || (v == 0 && u < 0))));
            }
        }
        if (!highest) continue;

        const int number = atomicAdd(&count[0], 1);
        if (number >= room) continue;
        key[number] = frame * lattice_height * lattice_width + here;
        const float base = level[here], signal = float(sign) * tile[r * COLUMNS + c] - base;
        const bool inner = row > 0 && row < lattice_height - 1 && column > 0 && column < lattice_width - 1;
        float y = row * STEP, x = column * STEP, snr = NAN;
        if (inner && signal > PLAIN * (limit[here] - base)) {
            const double dy = parabola(sign * tile[(r - 1) * COLUMNS + c] - base, signal,
                                       sign * tile[(r + 1) * COLUMNS + c] - base);
            const double dx = parabola(sign * tile[r * COLUMNS + c - 1] - base, signal,
                                       sign * tile[r * COLUMNS + c + 1] - base);
            y = float((row + dy) * STEP);
            x = float((column + dx) * STEP);
            snr = signal * inverse_noise[here];
        }
        found[3 * int64(number)] = y;
        found[3 * int64(number) + 1] = x;
        found[3 * int64(number) + 2] = snr;
    }
}

KERNEL(WARPS * WARP) locate(In<PIXEL> frames, In<float> level, In<float> inverse_noise, In<float> taps, int height,
                            int width, int lattice_height, int lattice_width, float pedestal, double sign,
                            In<int64> key, Out<float> found, int n) {
    SHARED(float, gauss, WARPS * LINE);
    SHARED(float, box, WARPS * LINE);
    SHARED(float, patch, WARPS * SIDE * SIDE);
    const int warp = threadIdx.x / WARP, lane = lane_of_warp();
    const int number = int(blockIdx.x) * WARPS + warp;
    if (number >= n || found[3 * int64(number) + 2] == found[3 * int64(number) + 2]) return;  // the whole warp
    const int64 points = int64(lattice_height) * lattice_width, here = key[number] % points;
    const int top = int(here / lattice_width) * STEP, left = int(here % lattice_width) * STEP;
    const In<PIXEL> frame = frames + key[number] / points * height * width;
    const Shared<float> own_gauss = gauss + warp * LINE, own_box = box + warp * LINE;
    const Shared<float> own = patch + warp * SIDE * SIDE;
    float tap[RADIUS + 1];
#pragma unroll
    for (int t = 0; t <= RADIUS; t++) tap[t] = taps[t];

    for (int a = 0; a < SIDE; a++) {
        const int row = top - HALF + a;
        for (int c = lane; c < LINE; c += WARP) {
            const In<PIXEL> column = frame + clamped(left - MIDDLE + c, 0, width - 1);
            float sum = 0.0f;
            for (int v = -BOX_HALF; v <= BOX_HALF; v++) sum += pixel(column, row + v, height, width, pedestal);
            own_box[c] = sum;
            own_gauss[c] = weigh(column, row, height, width, pedestal, tap);
        }
        __syncwarp();
        for (int b = lane; b < SIDE; b += WARP) own[a * SIDE + b] = across(own_gauss, own_box, MIDDLE - HALF + b, tap);
        __syncwarp();
    }
    if (lane > 0) return;
    const float base = level[here];
    float signal = -INFINITY;
    int best_row = HALF, best_column = HALF;
    for (int v = 1; v < 2 * HALF; v++) {
        for (int u = 1; u < 2 * HALF; u++) {
            const float height_here = float(sign) * own[v * SIDE + u] - base;
            const int y = top + v - HALF, x = left + u - HALF;
            if (height_here > signal && y >= 0 && y < height && x >= 0 && x < width) {
                signal = height_here;
                best_row = v;
                best_column = u;
            }
        }
    }
    const int at = best_row * SIDE + best_column;
    const double dy = parabola(sign * own[at - SIDE] - base, signal, sign * own[at + SIDE] - base);
    const double dx = parabola(sign * own[at - 1] - base, signal, sign * own[at + 1] - base);
    found[3 * int64(number)] = float(top + best_row - HALF + dy);
    found[3 * int64(number) + 1] = float(left + best_column - HALF + dx);
    found[3 * int64(number) + 2] = signal * inverse_noise[here];
}
