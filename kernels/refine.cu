// refine: maximum-likelihood position, mass, width and background of each spot, with errors from the Fisher matrix.
//
// A Gaussian on a constant, m(p) = b + a g(y_p) g(x_p) with g(t) = exp(−(t − centre)² / 2s²), is fitted by Fisher
// scoring to noise of variance w⁻¹(p) = variance(p) + gain × signal(p): F = Σ w ∇m ∇mᵀ, step F⁻¹ Σ w (d − m) ∇m; see
// Smith et al., Nat. Methods 7, 373 (2010), doi:10.1038/nmeth.1449, and backends/cpu/refine.py, which is the
// specification.
//
// Constants: PIXEL (type of a pixel), HALF (half width of the window, px, ≥ 1), FREE_WIDTH (0 or 1), WARPS (per block
// of `fit`). With n spots and SIDE = 2 HALF + 1:
//
//   frames      PIXEL (n_frames, height, width)   raw
//   background  float (height, width)             still background, DN
//   variance    float (height, width)             of the noise without any spot, DN²
//   frame       int (n)                           ascending
//   y, x        float (n)                         seeds, px, in the order of `detect`
//   border      int64 (n_frames + 1)              first spot of each frame, and n
//   fitted      double (6, n)                     y, x, amplitude, offset, squared width, χ² (negative: no fit)
//   errors      double (2, n)                     of y and x, px; inf where there is no fit
//   seeds       double (2, n)                     amplitude and offset that the first fit started from
//   pixels      int (n)                           that took part in the latest fit
//   near        int (n, NEIGHBOURS), n_near int (n)   spots of the same frame within reach
//   values      double (9, n), flags uint16 (n)   as the CPU operation returns them
//
// `fit`: every spot by itself, its neighbours' nearer pixels left out. Launch: ⌈n / WARPS⌉ blocks of WARPS warps, a
// warp per spot. `fit_crowded`: spots with neighbours once more, each without the light of the others, in their order,
// until none of the frame moves. Launch: n_frames blocks of one warp; frames without such spots are done at once, which
// costs less than asking the host whether there are any. `finish`: what is returned. Launch: ⌈n / 128⌉ blocks of 128
// threads.
//
// The pixels of a window stay in registers, lane l of a warp holds l, l + 32, …. Profiles and sums over pixels are
// float32 (the CPU's sums too, in another order); the equations, steps and tests are double precision, the same in each
// lane, so that all branches are those of whole warps. From HALF = 8 on (σ > 2.4 px) the pixels of a lane are more than
// 8 and lie in local memory.
//
// Floors per spot: SIDE² pixels and maps are read, 9 bytes each for uint8 (729 for HALF = 4), 90 bytes pass from one
// kernel to the next and 74 are returned. An iteration takes about 60 float32 operations and a quotient per pixel, 2
// SIDE exponentials, 5 shuffles for each of 21 sums, and in every lane 170 double-precision operations and 9 roots and
// quotients. For HALF = 4 the latter are the largest part, then the shuffles. 2 to 3 iterations per fit are usual, and
// one or two fits per spot where a tenth of them have neighbours.
//
// Rows and columns of the window are guarded here; the caller guarantees 0 ≤ frame < n_frames, and finite y and x.
#include "pixels.cuh"
#include "solve.cuh"

#define FITTED (FREE_WIDTH ? 5 : 4)

#define PIXEL_VARIANCE (1.0 / 12.0)

// As `max` and `min` of Python: the first where one is not a number.
__device__ inline double larger(double a, double b) { return b > a ? b : a; }
__device__ inline double smaller(double a, double b) { return b < a ? b : a; }

// Up to NEIGHBOURS other seeds of the same frame within `reach` along y and x, 32 of them looked at a time.
__device__ inline int neighbours(int64 k, int64 n, In<int> frame, In<float> y, In<float> x, double reach,
                                 Out<int> near) {
    const int lane = lane_of_warp();
    int found = 0;
    for (int step = -1; step <= 1; step += 2) {
        for (int64 first = k + step;; first += step * WARP) {
            const int64 j = first + step * lane;
            bool inside = false, close = false;
            if (j >= 0 && j < n && frame[j] == frame[k]) {
                const double away = fabsf(y[j] - y[k]);
                // Seeds are ordered by the row of their lattice point, which a seed leaves by less than 4 px.
                inside = away <= reach + 8.0;
                close = away <= reach && fabsf(x[j] - x[k]) <= reach;
            }
            const unsigned inner = __ballot_sync(EVERY_LANE, inside);
            const unsigned before = inner & ~(inner + 1u);  // lanes before the first one that ends the search
            const unsigned hits = __ballot_sync(EVERY_LANE, close) & before;
            const int rank = found + __popc(hits & ((1u << lane) - 1u));
            if ((hits >> lane & 1u) && rank < NEIGHBOURS) near[rank] = int(j);
            found = min(found + __popc(hits), NEIGHBOURS);
            if (before != EVERY_LANE) break;
        }
    }
    __syncwarp();
    return found;
}

// Estimates to start from: offset from the rim of the window, amplitude from the middle.
__device__ inline void start(const Window& window, double cy, double cx, double squared,
                             double (&estimate)[PARAMETERS]) {
    float total = 0.0f;
    int used = 0;
#pragma unroll UNROLLED
    for (int i = 0; i < PER_LANE; i++) {
        const int p = number_of(i), dy = down(p), dx = right(p);
        const bool rim = 4 * (dy * dy + dx * dx) > (2 * HALF - 1) * (2 * HALF - 1);
        if (rim && window.weight[i] < BLIND) {
            total += window.data[i];
            used++;
        }
    }
    total = warp_sum(total);
    used = warp_sum(used);
    const double offset = used > 0 ? double(total) / used : 0.0;
    const float weight = __shfl_sync(EVERY_LANE, window.weight[MIDDLE / WARP], MIDDLE % WARP);
    double height = __shfl_sync(EVERY_LANE, window.data[MIDDLE / WARP], MIDDLE % WARP) - offset;
    if (weight < BLIND) height = larger(height, sqrtf(weight));
    estimate[0] = cy;
    estimate[1] = cx;
    estimate[2] = larger(height, 1e-3);
    estimate[3] = offset;
    estimate[4] = squared;
}

// Fisher matrix (lower triangle) and score of y, x, amplitude, offset and width, and the sum of squared residuals over
// variances, which is returned. The derivatives lack a factor of one over the squared width (y, x), or over twice its
// square (width): the caller multiplies.
__device__ inline float sums(const Window& window, Shared<float> lines, const double (&estimate)[PARAMETERS],
                             float gain, double (&fisher)[PARAMETERS][PARAMETERS], double (&score)[PARAMETERS]) {
    const float cy = float(estimate[0]), cx = float(estimate[1]);
    const float amplitude = float(estimate[2]), offset = float(estimate[3]);
    float f[FITTED][FITTED] = {}, s[FITTED] = {}, chi2 = 0.0f;
#pragma unroll UNROLLED
    for (int i = 0; i < PER_LANE; i++) {
        const int p = number_of(i);
        const float y = float(down(p)) - cy, x = float(right(p)) - cx;
        const float share = share_of(lines, p), signal = amplitude * share;
        const float weight = 1.0f / fmaf(gain, signal, window.weight[i]);
        const float residual = window.data[i] - offset - signal;
        const float slope[PARAMETERS] = {share * y, share * x, share, 1.0f, share * fmaf(y, y, x * x)};
        chi2 = fmaf(weight * residual, residual, chi2);
#pragma unroll
        for (int a = 0; a < FITTED; a++) {
            const float weighted = weight * slope[a];
            s[a] = fmaf(weighted, residual, s[a]);
#pragma unroll
            for (int b = 0; b <= a; b++) f[a][b] = fmaf(weighted, slope[b], f[a][b]);
        }
    }
    const double scale[PARAMETERS] = {estimate[2], estimate[2], 1.0, 1.0, estimate[2]};
#pragma unroll
    for (int a = 0; a < PARAMETERS; a++) {
        score[a] = a < FITTED ? scale[a] * warp_sum(s[a]) : 0.0;
#pragma unroll
        for (int b = 0; b <= a; b++) {
            fisher[a][b] = a < FITTED ? scale[a] * scale[b] * warp_sum(f[a][b]) : double(a == b);
        }
    }
    return warp_sum(chi2);
}

// Fisher scoring from `estimate` (y, x, amplitude, offset, squared width; y and x from the middle of the window): χ² of
// the last but one step, negative where the matrix cannot be inverted. `squared_0` is the squared width from which the
// fit may stray, `variances` those of y and x.
__device__ inline double scoring(const Window& window, Shared<float> lines, double squared_0, float gain,
                                 double (&estimate)[PARAMETERS], double (&variances)[2]) {
    double fisher[PARAMETERS][PARAMETERS], lower[PARAMETERS][PARAMETERS], score[PARAMETERS];
    double chi2 = -1.0, squared = estimate[4];
#pragma unroll 1
    for (int round = 0; round < ITERATIONS; round++) {
        const double amplitude = estimate[2];
        squared = estimate[4];
        profiles(float(estimate[0]), float(estimate[1]), float(squared), lines);
        const double now = sums(window, lines, estimate, gain, fisher, score);
        if (!factor(fisher, lower)) return -1.0;
        solve(lower, score);
        chi2 = now;
        // Undo the scaling of the derivatives.
        const double dy = score[0] * squared, dx = score[1] * squared, d_squared = 2.0 * score[4] * squared * squared;
        // The diagonal of the matrix gives errors with all else known, which are smaller: the test is on the safe side.
        bool settled = true;
#pragma unroll
        for (int a = 0; a < PARAMETERS; a++) {
            settled = settled && (a == 3 || score[a] * score[a] * fisher[a][a] < ENOUGH * ENOUGH);
        }
        // A step is cut where the quadratic approximation cannot be trusted.
        double cut = 1.0;
        const double largest = 0.35 * sqrt(squared) + 0.25;
        cut = smaller(cut, largest / larger(larger(fabs(dy), fabs(dx)), 1e-12));
        cut = smaller(cut, 0.5 * squared / larger(fabs(d_squared), 1e-12));
        if (score[2] < 0.0) cut = smaller(cut, 0.7 * amplitude / -score[2]);
        estimate[0] += cut * dy;
        estimate[1] += cut * dx;
        estimate[2] += cut * score[2];
        estimate[3] += cut * score[3];
        estimate[4] = smaller(larger(squared + cut * d_squared, NARROWEST * squared_0), WIDEST * squared_0);
        const bool strayed = larger(fabs(estimate[0]), fabs(estimate[1])) > HALF + 1.0;
        if ((settled && cut == 1.0) || strayed) break;
    }
    // Where the spot itself is uncertain the estimates scatter more than the Fisher matrix says.
    const double strength = larger(estimate[2] * estimate[2] * fisher[2][2], 16.0);
    const double scatter = (1.0 + FAINT_2 / strength + FAINT_4 / (strength * strength)) * squared * squared;
    variances[0] = variance_of<0>(lower) * scatter;
    variances[1] = variance_of<1>(lower) * scatter;
    return chi2;
}

KERNEL(WARPS * WARP) fit(In<PIXEL> frames, In<float> background, In<float> variance, In<int> frame, In<float> y,
                         In<float> x, int64 n, int height, int width, float sign, double sigma, float gain,
                         double saturation, Out<double> fitted, Out<double> errors, Out<double> seeds, Out<int> pixels,
                         Out<int> near, Out<int> n_near, Out<unsigned short> flags) {
    SHARED(float, all_lines, WARPS * 2 * SIDE);
    const int warp = threadIdx.x / WARP;
    const int64 k = int64(blockIdx.x) * WARPS + warp;
    if (k >= n) return;  // the whole warp
    const Scene scene = {frames, background, variance, height, width, sign, sigma, gain, saturation};
    const float own_y = y[k], own_x = x[k];
    const int row = nearest(own_y, height), column = nearest(own_x, width);
    unsigned flag = 0;
    if (row < HALF || column < HALF || row + HALF >= height || column + HALF >= width) flag |= EDGE;
    Window window;
    if (gather(scene, frame[k], row, column, window)) flag |= SATURATED;

    const int found = neighbours(k, n, frame, y, x, HALF + 2.5 * sigma, near + k * NEIGHBOURS);
    for (int m = 0; m < found; m++) {
        const int other = near[k * NEIGHBOURS + m];
        const float other_y = y[other], other_x = x[other];
        const float dy = other_y - own_y, dx = other_x - own_x;
        if (dy * dy + dx * dx < (4.0 * sigma) * (4.0 * sigma)) flag |= CROWDED;
#pragma unroll UNROLLED
        for (int i = 0; i < PER_LANE; i++) {
            const double v = row + down(number_of(i)), u = column + right(number_of(i));
            const double own = (v - own_y) * (v - own_y) + (u - own_x) * (u - own_x);
            if ((v - other_y) * (v - other_y) + (u - other_x) * (u - other_x) < own) window.weight[i] = BLIND;
        }
    }
    const int used = count(window);
    const double squared = sigma * sigma + PIXEL_VARIANCE;
    double estimate[PARAMETERS], variances[2];
    start(window, own_y - row, own_x - column, squared, estimate);
    const double amplitude = estimate[2], offset = estimate[3];
    const double chi2 = scoring(window, all_lines + warp * 2 * SIDE, squared, gain, estimate, variances);
    if (lane_of_warp() > 0) return;
    fitted[k] = row + estimate[0];
    fitted[n + k] = column + estimate[1];
    for (int a = 2; a < PARAMETERS; a++) fitted[a * n + k] = estimate[a];
    fitted[5 * n + k] = chi2;
    errors[k] = chi2 >= 0.0 ? sqrt(variances[0]) : INFINITY;
    errors[n + k] = chi2 >= 0.0 ? sqrt(variances[1]) : INFINITY;
    seeds[k] = amplitude;
    seeds[n + k] = offset;
    pixels[k] = used;
    n_near[k] = found;
    flags[k] = (unsigned short)flag;
}

// Fit a spot once more without the light of its neighbours; whether it has moved.
__device__ inline bool refit(const Scene& scene, int64 frame, int64 k, int64 n, float y, float x, In<int> near,
                             int n_near, Shared<float> lines, Out<double> fitted, Out<double> errors,
                             Out<int> pixels) {
    const int row = nearest(y, scene.height), column = nearest(x, scene.width);
    Window window;
    gather(scene, frame, row, column, window);
    for (int m = 0; m < n_near; m++) {
        const int64 other = near[m];
        if (fitted[5 * n + other] >= 0.0) remove(fitted, n, other, row, column, scene.gain, lines, window);
    }
    const int used = count(window);
    const double was_y = fitted[k], was_x = fitted[n + k], error_y = errors[k], error_x = errors[n + k];
    double estimate[PARAMETERS] = {was_y - row, was_x - column, fitted[2 * n + k], fitted[3 * n + k],
                                   fitted[4 * n + k]};
    double variances[2];
    const double squared = scene.sigma * scene.sigma + PIXEL_VARIANCE;
    const double chi2 = scoring(window, lines, squared, scene.gain, estimate, variances);
    const double now_y = row + estimate[0], now_x = column + estimate[1];
    if (lane_of_warp() == 0) {
        pixels[k] = used;
        if (chi2 >= 0.0) {
            fitted[k] = now_y;
            fitted[n + k] = now_x;
            for (int a = 2; a < PARAMETERS; a++) fitted[a * n + k] = estimate[a];
            fitted[5 * n + k] = chi2;
            // The errors of the first fit, to which each spot's neighbours left only its own pixels, hold.
            errors[k] = larger(error_y, sqrt(variances[0]));
            errors[n + k] = larger(error_x, sqrt(variances[1]));
        }
    }
    __syncwarp();  // the next spots of the warp see it; a shuffle would not order the memory
    return chi2 >= 0.0 && larger(fabs(now_y - was_y) / error_y, fabs(now_x - was_x) / error_x) > SETTLED;
}

KERNEL(WARP) fit_crowded(In<PIXEL> frames, In<float> background, In<float> variance, In<int64> border, In<float> y,
                         In<float> x, int64 n, int height, int width, float sign, double sigma, float gain,
                         double saturation, In<int> near, In<int> n_near, Out<double> fitted, Out<double> errors,
                         Out<int> pixels) {
    SHARED(float, lines, 2 * SIDE);
    const Scene scene = {frames, background, variance, height, width, sign, sigma, gain, saturation};
    const int64 frame = blockIdx.x, end = border[frame + 1];
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool moved = false;
        for (int64 first = border[frame]; first < end; first += WARP) {
            const int64 j = first + lane_of_warp();
            const bool crowded = j < end && n_near[j] > 0 && !(fitted[5 * n + j] < 0.0);
            unsigned left = __ballot_sync(EVERY_LANE, crowded);
            while (left) {
                const int64 k = first + __popc(~left & (left - 1u));  // the lowest bit
                left &= left - 1u;
                const bool it = refit(scene, frame, k, n, y[k], x[k], near + k * NEIGHBOURS, n_near[k], lines, fitted,
                                      errors, pixels);
                moved = moved || it;
            }
        }
        if (!moved) break;
    }
}

KERNEL(THREADS) finish(In<float> variance, In<float> y, In<float> x, int64 n, int height, int width, double sigma,
                   In<double> fitted, In<double> errors, In<double> seeds, In<int> pixels, Out<double> values,
                   Out<unsigned short> flags) {
    const int64 k = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k >= n) return;
    const double pi = 3.141592653589793;
    const double local = sqrtf(variance[int64(nearest(y[k], height)) * width + nearest(x[k], width)]);
    double cy = fitted[k], cx = fitted[n + k], amplitude = fitted[2 * n + k], offset = fitted[3 * n + k];
    double squared = fitted[4 * n + k], error_y = errors[k], error_x = errors[n + k];
    const double chi2 = fitted[5 * n + k];
    const bool strayed = larger(fabs(cy - y[k]), fabs(cx - x[k])) > 1.5 * larger(sigma, 1.0);
    const bool inside = -0.5 <= cy && cy < height - 0.5 && -0.5 <= cx && cx < width - 0.5;
    if (chi2 < 0.0 || pixels[k] < 8 || (strayed && inside) || !(amplitude > 0.0)) {
        flags[k] = (unsigned short)(flags[k] | SEED_ONLY);
        cy = y[k];
        cx = x[k];
        amplitude = seeds[k];
        offset = seeds[n + k];
        squared = sigma * sigma + PIXEL_VARIANCE;
        // Log-quadratic seeds stay below twice the bound of a spot that is just detected.
        error_y = error_x = 2.0 * sqrt(2.0 / pi) * local / amplitude * 2.0;
    }
    values[k] = cy;
    values[n + k] = cx;
    values[2 * n + k] = amplitude * 2.0 * pi * squared;
    values[3 * n + k] = offset;
    values[4 * n + k] = local;
    values[5 * n + k] = sqrt(larger(squared - PIXEL_VARIANCE, 0.0));
    values[6 * n + k] = error_y;
    values[7 * n + k] = error_x;
    values[8 * n + k] = larger(chi2, 0.0) / max(pixels[k] - FITTED, 1);
}
