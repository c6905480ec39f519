// still_background: robust temporal mean of every pixel, the mean of the central third of its sorted values.
//
//   values  PIXEL (FRAMES, n)   the picked frames, n pixels each
//   mean    float (n)
//
// Constants: PIXEL, FRAMES, FIRST and LAST (the ranks FIRST … LAST − 1 count), THREADS. Launch: ⌈n / THREADS⌉ blocks of
// THREADS threads, a thread per pixel; threads beyond the last pixel have nothing to do, and no barrier to reach.
//
// A thread sorts its values in a column of shared memory of its own, by Batcher's merge exchange (Knuth, TAOCP vol. 3,
// algorithm 5.2.2M), the network of the CPU; the sum is taken in increasing order, as there: the same bits. All threads
// compare the same places at the same time, neighbours in neighbouring words: 31 frames take 186 comparisons, 301 take
// 4955, of two reads and two writes each. (Insertion, which a warp leaves with its last lane, takes 490 and 44,000
// steps of a read and a write for values in random order; counting ranks takes FRAMES² reads.) Bytes per pixel of a
// frame: those of the pixel, read once.
#include "exotrack.cuh"

// Put the smaller of two values of a column into the lower place.
__device__ inline void exchange(Shared<PIXEL> own, int low, int high) {
    const PIXEL a = own[low * THREADS], b = own[high * THREADS];
    own[low * THREADS] = a < b ? a : b;
    own[high * THREADS] = b < a ? a : b;
}

__device__ inline void sort(Shared<PIXEL> own) {
    int top = 1;
    while (2 * top < FRAMES) top *= 2;
    for (int p = top; p > 0; p /= 2) {
        for (int q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (int first = r; first < FRAMES - d; first += 2 * p) {
                for (int i = first; i < min(first + p, FRAMES - d); i++) exchange(own, i, i + d);
            }
            if (q == p) break;
        }
    }
}

KERNEL(THREADS) central_mean(In<PIXEL> values, int64 n, Out<float> mean) {
    SHARED(PIXEL, column, FRAMES * THREADS);
    const int64 at = int64(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= n) return;
    const Shared<PIXEL> own = column + threadIdx.x;
    for (int i = 0; i < FRAMES; i++) own[i * THREADS] = values[i * n + at];
    sort(own);
    float total = 0.0f;
    for (int i = FIRST; i < LAST; i++) total += float(own[i * THREADS]);
    mean[at] = total * float(1.0 / (LAST - FIRST));
}
