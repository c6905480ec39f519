// quieten: take the surroundings of whatever exceeds a limit out of what counts as quiet.
//
//   filtered  float (n, height, width)
//   limit     float (height, width)
//   quiet     bool (n, height, width)    in place: only taken away from
//
// A thread per lattice point looks at the (2 radius + 1)² points around it, 25 of them as a rule: a point that is read
// again is in the cache, and no two threads write the same. Constants: THREADS. Launch: ⌈n × height × width / THREADS⌉ blocks.
#include "exotrack.cuh"

KERNEL(THREADS) silence(In<float> filtered, In<float> limit, int64 n, int height, int width, int radius,
                        Out<bool> quiet) {
    const int64 at = int64(blockIdx.x) * THREADS + threadIdx.x, points = int64(height) * width;
    if (at >= n * points || !quiet[at]) return;
    const int y = int(at % points / width), x = int(at % width);
    const In<float> frame = filtered + at / points * points;
    for (int v = max(y - radius, 0); v < min(y + radius + 1, height); v++) {
        for (int u = max(x - radius, 0); u < min(x + radius + 1, width); u++) {
            if (frame[int64(v) * width + u] > limit[int64(v) * width + u]) {
                quiet[at] = false;
                return;
            }
        }
    }
}
