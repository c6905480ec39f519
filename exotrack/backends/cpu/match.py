"""Exact assignment between the spots of two frames, for many pairs of frames at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from exotrack.backends.cpu.assignment import assign
from exotrack.backends.cpu.cells import MOST_SPANS, find_spans, sort_into_cells, swamped
from exotrack.tables import F64, I64

MOST_IN_CELL = 100
"""Spots in a square as wide as the gate beyond which none of them is linked: there is no telling them apart."""
WORK_PER_SPOT = 1000
"""Candidate links looked at per source beyond which a group of spots counts as too dense."""
NARROWING = 0.8
"""Factor by which the gate of such a group is narrowed, until it falls apart."""


class Links(NamedTuple):
    """Candidate links between the spots of two frames, by source."""

    heads: I64
    """Where the links of each source begin, with one more entry at the end."""
    ends: I64
    """Target of each."""
    cost: I64
    distance: F64
    """Distance of the target from where it is expected, px; infinite for a link that is removed."""


def match(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, *, gate: float, costs: F64, cost_unmatched: int
) -> int:
    """Link the spots of pairs of frames so that the total cost of each pair is the least possible.

    Each pair of frames is a problem of its own, so the result for it depends on its spots alone, and pairs may be
    matched in any order, in parts, and at the same time. A source may be linked to a target within `gate` of where it
    is expected. Links that compete for a spot form a group; no candidate joins two groups, so the optimum of the pair
    is that of its groups.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px.
    at_y, at_x : float64 (n,)
        Where each row, as a source, is expected in the frame of its targets, px.
    pairs : int64 (n_pairs, 4)
        First and one-past-last row of the sources, then of the targets; none is empty, and no row is a source twice.
    partner : int64 (n,)
        Written for the sources: row of their target, -1 where they have none.
    gate : float
        Largest distance between a target and the expected position, px.
    costs : float64 (n_costs,)
        Cost of a link at distances from 0 to `gate`, equally spaced; linear in between, rounded to an integer.
    cost_unmatched : int
        What it costs to leave one source and one target without a link; links as dear as this are not made.

    Returns
    -------
    int
        How often spots lay too densely to be matched: cells of more than `MOST_IN_CELL` spots, which take no part,
        and groups whose gate was narrowed since their optimum would have taken more than `WORK_PER_SPOT` looks per
        source. So the time is proportional to the number of spots, whatever their places. The cells are as wide as the
        gate and begin at the lowest spot of the frame, so that it depends on that spot which of a heap are too many.

    Notes
    -----
    Costs are integers, so equal totals are exactly equal; between them the order of the rows decides. The optimum is
    found by successive shortest augmenting paths with dual prices.

    References
    ----------
    Jonker & Volgenant, Computing 38, 325 (1987), doi:10.1007/BF02278710.
    """
    return int(_match_pairs(y, x, at_y, at_x, pairs, gate, costs, cost_unmatched, partner))


@njit(nogil=True, cache=True, error_model="numpy")
def _match_pairs(
    y: F64,
    x: F64,
    at_y: F64,
    at_x: F64,
    pairs: I64,
    gate: float,
    costs: F64,
    cost_unmatched: int,
    partner: I64,
) -> int:
    n_shrunk = 0
    for p in range(len(pairs)):
        n_full, links = candidate_links(y, x, at_y, at_x, pairs[p], gate, costs, cost_unmatched)
        n_shrunk += n_full + solve(pairs[p], links, gate, cost_unmatched, partner)
    return n_shrunk


@njit(nogil=True, cache=True, error_model="numpy")
def candidate_links(
    y: F64,
    x: F64,
    at_y: F64,
    at_x: F64,
    pair: I64,
    gate: float,
    costs: F64,
    cost_unmatched: int,
) -> tuple[int, Links]:
    """Number of cells of the sources that are too full, and the links worth making of all others."""
    start, stop, target, end = pair[0], pair[1], pair[2], pair[3]
    n_full, left_out = swamped(y, x, start, stop, gate, MOST_IN_CELL)
    cells = sort_into_cells(y, x, target, end, gate, MOST_IN_CELL)
    heads = np.zeros(stop - start + 1, np.int64)
    ends = np.empty(2 * (stop - start), np.int64)
    cost = np.empty(len(ends), np.int64)
    distance = np.empty(len(ends), np.float64)
    spans = np.empty((MOST_SPANS, 2), np.int64)
    scale = (len(costs) - 1) / gate
    n = 0
    for i in range(start, stop):
        heads[i - start + 1] = n
        if left_out[i - start]:
            continue
        for run in range(find_spans(cells, at_y[i], at_x[i], spans)):
            for k in range(spans[run, 0], spans[run, 1]):
                square = (cells.y[k] - at_y[i]) ** 2 + (cells.x[k] - at_x[i]) ** 2
                if square > gate * gate:
                    continue
                r = np.sqrt(square)
                at = min(int(r * scale), len(costs) - 2)
                c = int(np.rint(costs[at] + (r * scale - at) * (costs[at + 1] - costs[at])))
                if c >= cost_unmatched:
                    continue
                if n == len(ends):
                    ends = np.concatenate((ends, np.empty_like(ends)))
                    cost = np.concatenate((cost, np.empty_like(cost)))
                    distance = np.concatenate((distance, np.empty_like(distance)))
                ends[n], cost[n], distance[n] = cells.rows[k] - target, c, r
                n += 1
        heads[i - start + 1] = n
    return n_full, Links(heads, ends[:n], cost[:n], distance[:n])


@njit(nogil=True, cache=True)
def solve(pair: I64, links: Links, gate: float, cost_unmatched: int, partner: I64) -> int:
    """Write the target of each source of a pair; how often groups were narrowed before this was done in time.

    Each group has the work of its own sources, so that it does not matter what else is in the frame. Where all groups
    together exceed theirs, so does one of them.
    """
    start, stop, target, end = pair[0], pair[1], pair[2], pair[3]
    most_work = WORK_PER_SPOT * (stop - start)
    n_narrowed = 0
    while True:
        chosen, work = assign(end - target, links.heads, links.ends, links.cost, cost_unmatched, most_work)
        narrowed = 0
        if work.max() > WORK_PER_SPOT:
            narrowed = _narrow_groups(end - target, links, work, gate)
        if narrowed == 0:
            break
        n_narrowed += narrowed
        links = remaining(links)
    for i in range(stop - start):
        partner[start + i] = target + chosen[i] if chosen[i] >= 0 else -1
    return n_narrowed


@njit(nogil=True, cache=True)
def _narrow_groups(n_targets: int, links: Links, work: I64, gate: float) -> int:
    """Remove the longest links (distance = inf) of groups that took too much work; the number of such groups."""
    heads, distance = links.heads, links.distance
    n_sources = len(heads) - 1
    root = _components(n_targets, heads, links.ends)
    allowed = np.zeros(len(root), np.int64)
    longest = np.zeros(len(root), np.float64)
    for i in range(n_sources):
        allowed[root[i]] += WORK_PER_SPOT - work[i]
        for k in range(heads[i], heads[i + 1]):
            longest[root[i]] = max(longest[root[i]], distance[k])
    for i in range(n_sources):
        if allowed[root[i]] >= 0:
            continue
        keep = NARROWING * longest[root[i]]
        for k in range(heads[i], heads[i + 1]):
            # Hundreds of spots within a thousandth of the gate are no image of particles: none of them is linked.
            if distance[k] > keep or keep < 1e-3 * gate:
                distance[k] = np.inf
    return int(np.sum(allowed < 0))


@njit(nogil=True, cache=True)
def _components(n_targets: int, heads: I64, ends: I64) -> I64:
    """Smallest node of the connected component of each node (sources, then targets), by union-find."""
    n_sources = len(heads) - 1
    root = np.arange(n_sources + n_targets)
    for i in range(n_sources):
        for k in range(heads[i], heads[i + 1]):
            a, b = _find(root, i), _find(root, n_sources + ends[k])
            root[max(a, b)] = min(a, b)
    for node in range(len(root)):
        root[node] = _find(root, node)
    return root


@njit(nogil=True, cache=True)
def _find(root: I64, node: int) -> int:
    while root[node] != node:
        root[node] = root[root[node]]
        node = root[node]
    return node


@njit(nogil=True, cache=True)
def remaining(links: Links) -> Links:
    """Candidate links without the removed ones."""
    heads, distance = links.heads, links.distance
    kept = np.zeros_like(heads)
    for i in range(len(heads) - 1):
        kept[i + 1] = kept[i] + np.sum(distance[heads[i] : heads[i + 1]] < np.inf)
    stays = distance < np.inf
    return Links(kept, links.ends[stays], links.cost[stays], distance[stays])
