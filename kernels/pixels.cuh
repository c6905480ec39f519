// The pixels of a fitting window: their values and variances in the registers of a warp, and the light of a spot on them;
// the counterpart of backends/cpu/pixels.py, shared by the kernels of `refine`.
//
// Constants: PIXEL (type of a pixel), HALF (half width of the window, px, ≥ 1). Lane l of a warp holds the pixels l,
// l + 32, … of the window; those beyond its end and those outside of the frame are left out by their variance.
#pragma once
#include "exotrack.cuh"

#define SIDE (2 * HALF + 1)
#define PIXELS (SIDE * SIDE)
#define PER_LANE ((PIXELS + WARP - 1) / WARP)
#define MIDDLE (HALF * SIDE + HALF)

// Variance of a pixel that is left out.
#define BLIND 1e30f

// Few pixels per lane are registers, many are local memory, in which a loop may as well be one.
constexpr int UNROLLED = PER_LANE <= 8 ? PER_LANE : 1;

// Pixels of a lane: values without background, and variances.
struct Window {
    float data[PER_LANE], weight[PER_LANE];
};

// What is the same for all spots.
struct Scene {
    In<PIXEL> frames;
    In<float> background, variance;
    int height, width;
    float sign;
    double sigma;
    float gain;
    double saturation;
};

// Pixel nearest to a place, within an axis of a length.
__device__ inline int nearest(float place, int length) { return clamped(int(rintf(place)), 0, length - 1); }

// Number of a lane's pixel in the window, and its row and column from the middle.
__device__ inline int number_of(int i) { return lane_of_warp() + WARP * i; }
__device__ inline int down(int p) { return p / SIDE - HALF; }
__device__ inline int right(int p) { return p % SIDE - HALF; }

// Read the window around a pixel, clipped pixels left out; whether any of these is within half of it.
__device__ inline bool gather(const Scene& scene, int64 frame, int row, int column, Window& window) {
    const In<PIXEL> image = scene.frames + frame * scene.height * scene.width;
    bool near = false;
#pragma unroll UNROLLED
    for (int i = 0; i < PER_LANE; i++) {
        const int p = number_of(i), dy = down(p), dx = right(p), v = row + dy, u = column + dx;
        window.data[i] = 0.0f;
        window.weight[i] = BLIND;
        if (p < PIXELS && v >= 0 && v < scene.height && u >= 0 && u < scene.width) {
            const int64 at = int64(v) * scene.width + u;
            const PIXEL value = image[at];
            const bool clipped = double(value) >= scene.saturation;
            window.data[i] = scene.sign * (float(value) - scene.background[at]);
            if (!clipped) window.weight[i] = scene.variance[at];
            near = near || (clipped && 4 * (dy * dy + dx * dx) <= HALF * HALF);
        }
    }
    return __any_sync(EVERY_LANE, near);
}

// Pixels that are not left out.
__device__ inline int count(const Window& window) {
    int used = 0;
#pragma unroll UNROLLED
    for (int i = 0; i < PER_LANE; i++) used += window.weight[i] < BLIND;
    return warp_sum(used);
}

// Profiles of a spot of unit height along y, then along x, for the warp's window.
__device__ inline void profiles(float cy, float cx, float squared, Shared<float> lines) {
    const float slope = -0.5f / squared;
    __syncwarp();  // the former ones have been read
    for (int m = lane_of_warp(); m < 2 * SIDE; m += WARP) {
        const float away = m < SIDE ? float(m - HALF) - cy : float(m - SIDE - HALF) - cx;
        lines[m] = expf(slope * (away * away));
    }
    __syncwarp();
}

// Height of a spot at a lane's pixel; those beyond the window's end are left out by their weight.
__device__ inline float share_of(Shared<float> lines, int p) {
    return lines[min(p / SIDE, SIDE - 1)] * lines[SIDE + p % SIDE];
}

// Subtract the fitted light of another spot from a window, and add its shot noise to the variances.
__device__ inline void remove(Out<double> fitted, int64 n, int64 other, int row, int column, float gain,
                              Shared<float> lines, Window& window) {
    profiles(float(fitted[other] - row), float(fitted[n + other] - column), float(fitted[4 * n + other]), lines);
    const float amplitude = float(fitted[2 * n + other]);
#pragma unroll UNROLLED
    for (int i = 0; i < PER_LANE; i++) {
        const float light = amplitude * share_of(lines, number_of(i));
        window.data[i] -= light;
        window.weight[i] = fmaf(gain, light, window.weight[i]);
    }
}
