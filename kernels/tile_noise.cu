// tile_noise: scaled median of the absolute values of each tile of filtered frames, over those that are quiet.
//
//   filtered      float (n, height, width)   a band of lattice rows of the filtered frames
//   inverse_gain  float (height, width)      s.d. of white noise over that of its filtered image
//   quiet         bool (n, height, width)    values that count; where fewer than a quarter of a tile's are, all do
//   ys, xs        int64 (grid.y + 1), (grid.x + 1)   borders of the tiles, from the top of the band
//   tiles         double (grid.y, grid.x)
//
// Constants: BINS, THREADS. A block per tile, THREADS threads. The median is read from a histogram of BINS classes that reach to three times the
// mean: the mean's sums and the classes are computed with the CPU's operations in the CPU's order (a row of a tile by
// one thread in float32, the rows one after the other in double precision), so that the result is the same to the bit.
// Every other value is looked at, in a chequerboard of which `top` (row of the frame where the band begins) tells the
// parity; 2 passes of 4.5 bytes per value.
#include "exotrack.cuh"

KERNEL(THREADS) median(In<float> filtered, In<float> inverse_gain, In<bool> quiet, In<int64> ys, In<int64> xs, int n,
                       int height, int width, int64 top, Out<double> tiles) {
    SHARED(float, part, THREADS);
    SHARED(int, numbers, THREADS);
    SHARED(int, counts, BINS + 1);
    SHARED(float, scale, 1);
    SHARED(int, everything, 1);
    const int number = threadIdx.x;
    const int64 first_row = ys[blockIdx.y], tall = ys[blockIdx.y + 1] - first_row;
    const int64 left = xs[blockIdx.x], right = xs[blockIdx.x + 1];
    const int64 rows = n * tall;
    double total = 0.0;
    int64 n_quiet = 0, size = 0;
    for (int64 first = 0; first < rows; first += THREADS) {
        const int64 row = first + number;
        if (row < rows) {
            const int64 i = row / tall, y = first_row + row % tall;
            const int64 line = (i * height + y) * width;
            float sum = 0.0f;
            int quiet_here = 0;
            for (int64 x = left + ((left + top + y + i) & 1); x < right; x += 2) {
                sum += fabsf(filtered[line + x]) * inverse_gain[y * width + x];
                quiet_here += quiet[line + x];
            }
            part[number] = sum;
            numbers[number] = quiet_here;
        }
        __syncthreads();
        if (number == 0) {
            for (int64 k = first; k < min(first + THREADS, rows); k++) {
                const int64 i = k / tall, y = first_row + k % tall;
                total += double(part[k - first]);
                n_quiet += numbers[k - first];
                size += (right - left - ((left + top + y + i) & 1) + 1) / 2;
            }
        }
        __syncthreads();
    }
    if (number == 0) {
        everything[0] = 4 * n_quiet < size;
        scale[0] = total > 0.0 ? float(double(BINS * size) / (3.0 * total)) : 0.0f;
    }
    for (int k = number; k <= BINS; k += THREADS) counts[k] = 0;
    __syncthreads();
    for (int64 row = number; row < rows; row += THREADS) {
        const int64 i = row / tall, y = first_row + row % tall;
        const int64 line = (i * height + y) * width;
        for (int64 x = left + ((left + top + y + i) & 1); x < right; x += 2) {
            if (!everything[0] && !quiet[line + x]) continue;
            const float class_ = fabsf(filtered[line + x]) * inverse_gain[y * width + x] * scale[0];
            atomicAdd(&counts[class_ < BINS ? int(class_) : BINS], 1);
        }
    }
    __syncthreads();
    if (number > 0) return;
    const double half = 0.5 * double(everything[0] ? size : n_quiet);
    int64 below = 0;
    int bin = 0;
    while (bin < BINS && double(below + counts[bin]) < half) below += counts[bin++];
    const double in_bin = (half - double(below)) / max(counts[bin], 1);
    tiles[int64(blockIdx.y) * gridDim.x + blockIdx.x] = scale[0] > 0.0f ? 1.4826 * (bin + in_bin) / scale[0] : 0.0;
}
