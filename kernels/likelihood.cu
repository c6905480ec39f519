// likelihood: log-likelihood of every track at every diffusion coefficient, relative to its own maximum.
//
// The displacements of an axis are jointly normal with a tridiagonal covariance, C_ii = 2DΔt(g_i − 2R) + σ_i² + σ²_i+1,
// C_i,i+1 = 2RDΔt − σ²_i+1, factorized by one forward recursion; Berglund, Phys. Rev. E 82, 011917 (2010),
// doi:10.1103/PhysRevE.82.011917. With OWN_VELOCITY the most likely velocity of the track is put in at every D and
// −½ ln(gᵀC⁻¹g) is added (REML).
//
//   step_y, step_x          double (n_localizations − n_tracks)   displacements, µm
//   gap                     int, same shape                       frames that each spans
//   variance_y, variance_x  double (n_localizations)              of a localization, µm²
//   blur                    double (n_tracks)                     R
//   offsets                 int64 (n_tracks + 1)                  first localization of each track
//   scale                   double (n_grid)                       2DΔt, µm²
//   rows                    float (n_tracks, n_grid)
//
// Constants: ROOM (n_grid or more, 6000 at the most: totals stay in shared memory until their maximum is known, which is
// cheaper than a second recursion), OWN_VELOCITY (0 or 1), STEPS_PER_LOG (pivots multiplied
// before their logarithm is taken), THREADS. Launch: n_tracks blocks of THREADS threads; a thread takes
// grid points, whose recursions are independent, and all read the same displacement at a time. Double precision
// throughout, as on the CPU. Per axis, displacement and grid point: 12 operations (18 with OWN_VELOCITY), one division
// and 1/16 logarithm. Bytes: 4 written per grid point, 36 read per displacement (20 per axis, of which gap is shared).
// Bounds: the caller guarantees that offsets increase and end at n_localizations.
#include "exotrack.cuh"

// −½ Σ (ln q_i + e_i²/q_i) of one axis of one track.
__device__ inline double axis(In<double> step, In<int> gap, In<double> variance, int64 n, double blur, double scale) {
    const double inverse = 1.0 / scale;
    double pivot_inverse = 0.0, e = 0.0, product = 1.0, total = 0.0;
    double e_gap = 0.0, gap_gap = 0.0, gap_step = 0.0;
    for (int64 i = 0; i < n; i++) {
        const double before = variance[i], after = variance[i + 1];
        const double off = fma(blur, scale, -before);
        const double ratio = off * pivot_inverse;  // 0 at the first step, where pivot_inverse is 0
        if (OWN_VELOCITY) e_gap = fma(-ratio, e_gap, double(gap[i]));
        const double q = fma(gap[i] - 2.0 * blur, scale, before + after) - ratio * off;
        pivot_inverse = 1.0 / q;
        e = fma(-ratio, e, step[i]);
        product *= q * inverse;
        total -= 0.5 * e * e * pivot_inverse;
        if (OWN_VELOCITY) {
            gap_gap = fma(e_gap * e_gap, pivot_inverse, gap_gap);
            gap_step = fma(e_gap * e, pivot_inverse, gap_step);
        }
        if (i % STEPS_PER_LOG == STEPS_PER_LOG - 1 || i == n - 1) {
            total -= 0.5 * log(product);
            product = 1.0;
        }
    }
    total += 0.5 * double(n) * log(inverse);
    if (OWN_VELOCITY && n > 0) total += 0.5 * (gap_step * gap_step / gap_gap - log(gap_gap));
    return total;
}

KERNEL(THREADS) rows_of_tracks(In<double> step_y, In<double> step_x, In<int> gap, In<double> variance_y,
                               In<double> variance_x, In<double> blur, In<int64> offsets, In<double> scale, int n_grid,
                               Out<float> rows) {
    SHARED(double, total, ROOM);
    SHARED(double, highest, THREADS / WARP);
    const int64 track = blockIdx.x, spots = offsets[track], steps = spots - track;
    const int64 n = max(offsets[track + 1] - spots - 1, int64(0));
    double most = -INFINITY;
    for (int k = threadIdx.x; k < n_grid; k += THREADS) {
        double both = 0.0;
        #pragma unroll 1  // both axes at a time would take more registers than there are
        for (int a = 0; a < 2; a++) {
            const In<double> step = a == 0 ? step_y : step_x, variance = a == 0 ? variance_y : variance_x;
            both += axis(step + steps, gap + steps, variance + spots, n, blur[track], scale[k]);
        }
        total[k] = both;
        most = both > most ? both : most;
    }
    most = warp_max(most);
    if (lane_of_warp() == 0) highest[threadIdx.x / WARP] = most;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++) most = highest[w] > most ? highest[w] : most;
    for (int k = threadIdx.x; k < n_grid; k += THREADS) rows[track * n_grid + k] = float(total[k] - most);
}
