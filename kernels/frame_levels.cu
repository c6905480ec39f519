// frame_levels: how bright frames are, from some of their rows.
//
//   pixels  PIXEL (n, rows, width)   the rows that are looked at
//   corner  PIXEL (n)                the first pixel of each frame, with which lowest and highest begin
//   levels  double (n, 4)            mean, lowest and highest grey level, share of pixels at `limit` or above
//
// Constants: PIXEL, THREADS. Launch: n blocks of THREADS threads; a thread takes whole rows, so that its sum, in float32 over
// every fourth pixel as on the CPU, has the CPU's order; the sums of the rows are added in order by one thread. Nothing
// is read beyond `rows`. A byte of a uint8 frame, three comparisons and a quarter of an addition per pixel; there are
// up to 63 rows, so that a block is a chain of `width` steps.
#include "exotrack.cuh"

KERNEL(THREADS) levels_of_rows(In<PIXEL> pixels, In<PIXEL> corner, int rows, int width, double limit,
                               Out<double> levels) {
    SHARED(float, part, THREADS);
    SHARED(PIXEL, lowest, THREADS);
    SHARED(PIXEL, highest, THREADS);
    SHARED(int, clipped, THREADS);
    const int64 frame = blockIdx.x;
    const int number = threadIdx.x;
    double total = 0.0;
    int64 n_clipped = 0;
    PIXEL low = corner[frame], high = low;
    for (int first = 0; first < rows; first += THREADS) {
        if (first + number < rows) {
            const In<PIXEL> row = pixels + (frame * rows + first + number) * width;
            float sum = 0.0f;
            PIXEL least = row[0], most = row[0];
            int over = 0;
            for (int x = 0; x < width; x++) {
                const PIXEL value = row[x];
                least = value < least ? value : least;
                most = value > most ? value : most;
                over += double(value) >= limit;
                if (x % 4 == 0) sum += float(value);
            }
            part[number] = sum;
            lowest[number] = least;
            highest[number] = most;
            clipped[number] = over;
        }
        __syncthreads();
        if (number == 0) {
            for (int k = 0; k < min(THREADS, rows - first); k++) {
                total += double(part[k]);
                low = lowest[k] < low ? lowest[k] : low;
                high = highest[k] > high ? highest[k] : high;
                n_clipped += clipped[k];
            }
        }
        __syncthreads();
    }
    if (number > 0) return;
    levels[4 * frame] = total / (double(rows) * ((width + 3) / 4));
    levels[4 * frame + 1] = double(low);
    levels[4 * frame + 2] = double(high);
    levels[4 * frame + 3] = double(n_clipped) / (double(rows) * width);
}
