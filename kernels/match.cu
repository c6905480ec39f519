// match: exact assignment between the spots of pairs of frames, a block for each pair.
//
// Sources may be linked to targets within `gate` of where they are expected, at an integer cost below `cost_unmatched`;
// the total cost, with `cost_unmatched` for every source left alone, is made the least possible. Links that compete form
// groups, and each group is solved by one thread with successive shortest augmenting paths (Jonker & Volgenant,
// Computing 38, 325 (1987), doi:10.1007/BF02278710), with the CPU's rules for ties: sources in the order of their rows,
// targets by (cost, row). Costs are the CPU's to the bit (double precision, nothing fused), so the links are the same.
//
// What is not solved here, and told by `left`: pairs with a source of more than LINKS candidates, with a group of more
// than GROUP sources, or with more than MOST_IN_CELL spots in a cell of the grid. A path scans each source of its group
// once at the most, so it looks at GROUP × LINKS = 512 links or fewer: the CPU, which narrows the gate of a group whose
// paths look at more than 1000 links per source, never does so where this kernel solves.
//
//   y, x, at_y, at_x  double (n)          positions and where each row is expected, px; finite
//   pairs             int64 (n_pairs, 4)  first and one-past-last row of sources, then of targets; none is empty
//   first_target      int64 (n_pairs)     where the scratch of each pair's targets begins
//   first_cell        int64 (n_pairs)     where its cells begin: 4 max(sources, targets) + 65 of them
//   costs             double (n_costs)    cost at distances from 0 to gate, equally spaced, `scale` of them per px; 2 or
//                                         more, finite
//   partner           int64 (n)           row of the target of each source, −1 for none; not written where `left`
//   left              int (n_pairs)       1: not solved
// Scratch: links int (n, LINKS), cost int64 (n, LINKS), n_links, group, size, chosen int (n), price int64 (n) by source;
// label, cell_rows, taken_by, from, touched, scanned int (targets), target_price, reached int64 (targets); cells int.
// Bounds: the caller guarantees what is said above, that rows lie in 0 … n, and that no row is a source of two pairs. The
// cells of a grid are 4 per row + 64 at the most by its construction; links beyond LINKS are counted, not written.
//
// Constants: LINKS, GROUP, THREADS, and the CPU's MOST_IN_CELL and WORK_PER_SPOT. Launch: n_pairs blocks of THREADS
// threads. Per spot: 64 bytes read for the grid, which has up to 5 cells of 4 bytes for it, passed over three times. Per
// source: 32 bytes and nine cells; per spot in them 20 bytes and 7 operations; per
// candidate among those a root, 10 operations and 12 bytes written, of which 4 are read in each sweep over the groups and
// all 12 when the source enters.
#include "exotrack.cuh"

// After so many sweeps the groups of GROUP sources or fewer have settled: the least number gets to a source in one sweep
// and from all its targets to the next ones in another, and the last sweep finds nothing to do.
#define MOST_SWEEPS (2 * GROUP)
#define FAR 0x7fffffffffffffffll
static_assert(GROUP * LINKS <= WORK_PER_SPOT, "else the CPU might narrow the gate of a group that is solved here");

// A grid whose first cell begins at the lowest y and x of some rows; see backends/cpu/cells.py.
struct Grid {
    double y0, x0, per_px;
    int n_y, n_x;
    bool wraps_y, wraps_x;
};

// The least (sign 1) or the largest (sign −1) of an array's rows, for all threads of the block.
__device__ inline double extreme(In<double> values, int64 first, int64 last, double sign, Shared<double> room) {
    double best = INFINITY;
    #pragma unroll 1
    for (int64 k = first + threadIdx.x; k < last; k += THREADS) best = min(best, sign * values[k]);
    best = -warp_max(-best);
    __syncthreads();  // the last value has been read
    if (lane_of_warp() == 0) room[threadIdx.x / WARP] = best;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++) best = min(best, room[w]);
    return sign * best;
}

__device__ inline Grid lay_grid(In<double> y, In<double> x, int64 first, int64 last, double gate,
                                Shared<double> room) {
    Grid grid;
    grid.y0 = extreme(y, first, last, 1.0, room);
    grid.x0 = extreme(x, first, last, 1.0, room);
    grid.per_px = 1.0 / (1.000001 * gate);
    const double lines = floor((extreme(y, first, last, -1.0, room) - grid.y0) * grid.per_px) + 1.0;
    const double columns = floor((extreme(x, first, last, -1.0, room) - grid.x0) * grid.per_px) + 1.0;
    const double most = 4.0 * double(last - first) + 64.0;
    double n_y = lines, n_x = columns;
    if (lines * columns > most) {
        const double side = floor(sqrt(most));
        n_y = min(lines, max(side, floor(most / columns)));
        n_x = min(columns, max(side, floor(most / lines)));
    }
    grid.n_y = int(n_y);
    grid.n_x = int(n_x);
    grid.wraps_y = n_y < lines;
    grid.wraps_x = n_x < columns;
    return grid;
}

// Place along an axis of n cells; −1 where no row can be: before the first one, and behind the last of no wrapped axis.
__device__ inline int64 placed(int64 place, int n, bool wraps) {
    if (place < 0) return -1;
    if (wraps) return place % n;
    return place < n ? place : -1;
}

// Cell of a row.
__device__ inline int64 cell_of(const Grid& grid, double y, double x) {
    const int64 line = placed(int64((y - grid.y0) * grid.per_px), grid.n_y, grid.wraps_y);
    return line * grid.n_x + placed(int64((x - grid.x0) * grid.per_px), grid.n_x, grid.wraps_x);
}

// Count rows into cells; whether one of them holds too many. `cells` gets the number of rows of each cell.
__device__ inline bool fill_cells(const Grid& grid, In<double> y, In<double> x, int64 first, int64 last,
                                  Out<int> cells, Shared<int> full) {
    const int n_cells = grid.n_y * grid.n_x;
    for (int c = threadIdx.x; c <= n_cells; c += THREADS) cells[c] = 0;
    if (threadIdx.x == 0) full[0] = 0;
    __syncthreads();
    for (int64 k = first + threadIdx.x; k < last; k += THREADS) {
        if (atomicAdd(&cells[cell_of(grid, y[k], x[k])], 1) >= MOST_IN_CELL) atomicMax(&full[0], 1);
    }
    __syncthreads();
    return full[0] > 0;
}

// Sums of the numbers before each cell, in place, the whole at the end; all threads take part.
__device__ inline void sum_up(Out<int> cells, int n_cells, Shared<int> parts) {
    const int share = (n_cells + THREADS - 1) / THREADS;
    const int first = min(int(threadIdx.x) * share, n_cells), last = min(first + share, n_cells);
    int sum = 0;
    for (int c = first; c < last; c++) sum += cells[c];
    parts[threadIdx.x] = sum;
    __syncthreads();
    int before = 0;
    for (int t = 0; t < int(threadIdx.x); t++) before += parts[t];
    for (int c = first; c < last; c++) {
        const int here = cells[c];
        cells[c] = before;
        before += here;
    }
    if (threadIdx.x == THREADS - 1) cells[n_cells] = before;
    __syncthreads();
}

// The state of the assignment, sources and targets counted from the first ones of the pair.
struct State {
    Out<int> links, n_links;  // written earlier in the same kernel: not read-only
    Out<int64> cost;
    Out<int> chosen, taken_by, from, touched, scanned;
    Out<int64> price, target_price, reached;
};

// Let a source enter by the shortest augmenting path, as backends/cpu/assignment.py does.
__device__ inline void enter(const State& s, int newcomer, int64 cost_unmatched) {
    int64 price = cost_unmatched;
    int favourite = -1;
    for (int k = newcomer * LINKS; k < newcomer * LINKS + s.n_links[newcomer]; k++) {
        const int j = s.links[k];
        const int64 asked = s.cost[k] - s.target_price[j];
        if (asked < price || (asked == price && favourite > j)) {
            price = asked;
            favourite = j;
        }
    }
    s.price[newcomer] = price;
    if (favourite < 0) return;
    if (s.taken_by[favourite] < 0) {
        s.chosen[newcomer] = favourite;
        s.taken_by[favourite] = newcomer;
        return;
    }
    int source = newcomer, target = -1, last_touched = -1, loser = -1;
    int64 travelled = 0, give_up = FAR;  // the cheapest way to end the path by leaving one of its sources unmatched
    while (true) {
        const int64 here = travelled + cost_unmatched - s.price[source];
        if (here < give_up) {
            give_up = here;
            loser = source;
        }
        for (int k = source * LINKS; k < source * LINKS + s.n_links[source]; k++) {
            const int j = s.links[k];
            const int64 there = travelled + s.cost[k] - s.price[source] - s.target_price[j];
            if (there < s.reached[j] && there <= give_up) {
                if (s.reached[j] == FAR) {
                    s.touched[j] = last_touched;
                    last_touched = j;
                }
                s.reached[j] = there;
                s.from[j] = source;
            }
        }
        int nearest = -1;
        for (int j = last_touched; j >= 0; j = s.touched[j]) {
            if (s.scanned[j]) continue;
            const bool nearer = nearest < 0 || s.reached[j] < s.reached[nearest];
            if (nearer || (s.reached[j] == s.reached[nearest] && j < nearest)) nearest = j;
        }
        if (nearest < 0 || s.reached[nearest] > give_up) {
            travelled = give_up;
            target = s.chosen[loser];
            s.chosen[loser] = -1;
            break;
        }
        travelled = s.reached[nearest];
        target = nearest;
        if (s.taken_by[target] < 0) break;
        s.scanned[target] = 1;
        source = s.taken_by[target];
    }
    s.price[newcomer] += travelled;
    for (int j = last_touched; j >= 0; j = s.touched[j]) {
        if (!s.scanned[j]) continue;
        s.price[s.taken_by[j]] += travelled - s.reached[j];
        s.target_price[j] += s.reached[j] - travelled;
    }
    while (target >= 0) {  // back along the path: each source hands its target on
        source = s.from[target];
        const int given_up = s.chosen[source];
        s.chosen[source] = target;
        s.taken_by[target] = source;
        target = given_up;
    }
    for (int j = last_touched; j >= 0; j = s.touched[j]) {
        s.reached[j] = FAR;
        s.scanned[j] = 0;
    }
}

KERNEL(THREADS) assign(In<double> all_y, In<double> all_x, In<double> all_at_y, In<double> all_at_x, In<int64> pairs,
                       In<int64> first_target, In<int64> first_cell, double gate, In<double> costs, int n_costs,
                       double scale, int64 cost_unmatched, Out<int> all_links, Out<int64> all_cost, Out<int> all_n_links,
                       Out<int> all_group, Out<int> all_size, Out<int> all_chosen, Out<int64> all_price,
                       Out<int> all_label, Out<int> all_cell_rows, Out<int> all_taken_by, Out<int> all_from,
                       Out<int> all_touched, Out<int> all_scanned, Out<int64> all_target_price, Out<int64> all_reached,
                       Out<int> all_cells, Out<int64> all_partner, Out<int> left) {
    SHARED(double, room, THREADS / WARP);
    SHARED(int, parts, THREADS);
    SHARED(int, flag, 1);
    SHARED(int, changed, 1);
    const int64 pair = blockIdx.x;
    const int64 start = pairs[4 * pair], stop = pairs[4 * pair + 1];
    const int64 target = pairs[4 * pair + 2], end = pairs[4 * pair + 3];
    const int n_sources = int(stop - start), n_targets = int(end - target);
    const Out<int> cells = all_cells + first_cell[pair];
    const Out<int> links = all_links + start * LINKS, n_links = all_n_links + start, group = all_group + start;
    const Out<int> size = all_size + start, chosen = all_chosen + start;
    const Out<int64> cost = all_cost + start * LINKS, price = all_price + start, partner = all_partner + start;
    const Out<int> label = all_label + first_target[pair], cell_rows = all_cell_rows + first_target[pair];
    const Out<int> taken_by = all_taken_by + first_target[pair], from = all_from + first_target[pair];
    const Out<int> touched = all_touched + first_target[pair], scanned = all_scanned + first_target[pair];
    const Out<int64> target_price = all_target_price + first_target[pair], reached = all_reached + first_target[pair];

    // Cells of the sources, which are only counted, then of the targets. Loops are not unrolled: registers are short.
    bool too_many = false;
    Grid grid;
    #pragma unroll 1
    for (int side = n_sources > MOST_IN_CELL ? 0 : 1; side < 2; side++) {
        const int64 first = side == 0 ? start : target, last = side == 0 ? stop : end;
        grid = lay_grid(all_y, all_x, first, last, gate, room);
        too_many = fill_cells(grid, all_y, all_x, first, last, cells, flag) || too_many;
    }
    const int n_cells = grid.n_y * grid.n_x;
    sum_up(cells, n_cells, parts);
    for (int j = threadIdx.x; j < n_targets; j += THREADS) {
        const int64 cell = cell_of(grid, all_y[target + j], all_x[target + j]);
        cell_rows[atomicAdd(&cells[cell], 1)] = j;  // afterwards each cell's entry is where it ends
        label[j] = n_sources;
        taken_by[j] = -1;
        scanned[j] = 0;
        target_price[j] = 0;
        reached[j] = FAR;
    }
    if (threadIdx.x == 0) flag[0] = too_many;
    __syncthreads();

    // Candidate links.
    for (int i = threadIdx.x; i < n_sources; i += THREADS) {
        const double at_y = all_at_y[start + i], at_x = all_at_x[start + i];
        const int64 line = int64(floor((at_y - grid.y0) * grid.per_px));
        const int64 column = int64(floor((at_x - grid.x0) * grid.per_px));
        int found = 0;
        #pragma unroll 1
        for (int v = -1; v <= 1; v++) {
            const int64 row = placed(line + v, grid.n_y, grid.wraps_y);
            #pragma unroll 1
            for (int u = -1; u <= 1; u++) {
                const int64 place = placed(column + u, grid.n_x, grid.wraps_x);
                if (row < 0 || place < 0) continue;
                const int64 cell = row * grid.n_x + place;
                #pragma unroll 1
                for (int k = cell > 0 ? cells[cell - 1] : 0; k < cells[cell]; k++) {
                    const int j = cell_rows[k];
                    const double dy = all_y[target + j] - at_y, dx = all_x[target + j] - at_x;
                    const double square = dy * dy + dx * dx;
                    if (square > gate * gate) continue;
                    const double r = sqrt(square) * scale;
                    const int at = int(min(int64(r), int64(n_costs - 2)));
                    const int64 dear = int64(rint(costs[at] + (r - at) * (costs[at + 1] - costs[at])));
                    if (dear >= cost_unmatched) continue;
                    if (found < LINKS) {
                        links[i * LINKS + found] = j;
                        cost[i * LINKS + found] = dear;
                    }
                    found++;
                }
            }
        }
        if (found > LINKS) atomicMax(&flag[0], 1);
        n_links[i] = min(found, LINKS);
        group[i] = i;
        size[i] = 0;
        chosen[i] = -1;
    }
    __syncthreads();
    if (flag[0]) {
        if (threadIdx.x == 0) left[pair] = 1;
        return;  // the whole block
    }

    // Groups: every source takes the least number among its targets' labels, and they its own, until nothing changes.
    for (int sweep = 0; sweep < MOST_SWEEPS; sweep++) {
        __syncthreads();
        if (threadIdx.x == 0) changed[0] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n_sources; i += THREADS) {
            int least = group[i];
            for (int k = i * LINKS; k < i * LINKS + n_links[i]; k++) {
                const int other = atomicMin(&label[links[k]], least);
                if (other != least) atomicMax(&changed[0], 1);
                least = min(least, other);
            }
            group[i] = least;
        }
        __syncthreads();
        if (!changed[0]) break;
    }
    for (int i = threadIdx.x; i < n_sources; i += THREADS) {
        if (atomicAdd(&size[group[i]], 1) >= GROUP || changed[0]) atomicMax(&flag[0], 1);
    }
    __syncthreads();
    if (flag[0]) {
        if (threadIdx.x == 0) left[pair] = 1;
        return;  // the whole block
    }

    // A thread for each group.
    const State state = {links, n_links, cost, chosen, taken_by, from, touched, scanned, price, target_price, reached};
    for (int i = threadIdx.x; i < n_sources; i += THREADS) {
        if (group[i] != i) continue;
        for (int member = i, rest = size[i]; rest > 0; member++) {
            if (group[member] != i) continue;
            enter(state, member, cost_unmatched);
            rest--;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_sources; i += THREADS) partner[i] = chosen[i] < 0 ? -1 : target + chosen[i];
    if (threadIdx.x == 0) left[pair] = 0;
}
