// matched_filter: signal of a bright spot of the filter's width on a lattice of pixels; see filter.cuh for the equation.
//
//   frames    PIXEL (n, height, width)      raw
//   taps      float (RADIUS + 1)
//   filtered  float (n, lattice_height, lattice_width)
//
// Launch: grid (n, ⌈lattice_height / TILE_H⌉, ⌈lattice_width / TILE_W⌉), THREADS threads; MARGIN is 0. Every lattice
// point of a tile is guarded here, pixels are clamped to the frame.
#include "filter.cuh"

KERNEL(THREADS) filter(In<PIXEL> frames, In<float> taps, int height, int width, float pedestal, int lattice_height,
                       int lattice_width, Out<float> filtered) {
    SHARED(float, gauss, HELD * SPAN);
    SHARED(float, box, HELD * SPAN);
    SHARED(float, tile, ROWS * COLUMNS);
    const int64 frame = blockIdx.x;
    const int first_row = blockIdx.y * TILE_H, first_column = blockIdx.z * TILE_W;
    filter_tile(frames + frame * height * width, taps, height, width, pedestal, first_row, first_column, gauss, box,
                tile);
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += blockDim.x) {
        const int row = first_row + i / COLUMNS, column = first_column + i % COLUMNS;
        if (row < lattice_height && column < lattice_width) {
            filtered[(frame * lattice_height + row) * lattice_width + column] = tile[i];
        }
    }
}
