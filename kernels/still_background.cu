// still_background: robust temporal mean of every pixel, the mean of the central third of its sorted values.
//
//   values  PIXEL (FRAMES, n)   the picked frames, n pixels each
//   mean    float (n)
//
// Constants: PIXEL, FRAMES, FIRST and LAST (the ranks FIRST … LAST − 1 count), THREADS. Launch: ⌈n / THREADS⌉ blocks of
// THREADS threads, a thread per pixel; threads beyond the last pixel have nothing to do, and no barrier to reach.
//
// A thread sorts its values by insertion in a column of shared memory of its own: about FRAMES² / 4 moves, and the sum
// is taken in increasing order, as on the CPU: the same bits. Bytes per pixel of a frame: those of the pixel, read once.
#include "exotrack.cuh"

KERNEL(THREADS) central_mean(In<PIXEL> values, int64 n, Out<float> mean) {
    SHARED(PIXEL, column, FRAMES * THREADS);
    const int64 at = int64(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= n) return;
    const Shared<PIXEL> own = column + threadIdx.x;
    for (int i = 0; i < FRAMES; i++) {
        const PIXEL value = values[i * n + at];
        int place = i;
        for (; place > 0 && own[(place - 1) * THREADS] > value; place--) own[place * THREADS] = own[(place - 1) * THREADS];
        own[place * THREADS] = value;
    }
    float total = 0.0f;
    for (int i = FIRST; i < LAST; i++) total += float(own[i * THREADS]);
    mean[at] = total * float(1.0 / (LAST - FIRST));
}
