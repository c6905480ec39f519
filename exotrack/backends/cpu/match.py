"""Exact assignment between the spots of two frames, for many pairs of frames at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.backends.cpu.assignment import assign
from exotrack.backends.cpu.cells import candidates, sort_into_cells
from exotrack.tables import F64, I64

LARGEST_GROUP = 500
"""Spots of one frame in a group of competing links beyond which the gate of that group is narrowed."""

NARROWING = 0.8
"""Factor by which it is narrowed, until the group falls apart."""


def match(y: F64, x: F64, pairs: I64, flow: F64, *, gate: float, costs: F64, cost_unmatched: int) -> tuple[I64, int]:
    """Link the spots of pairs of frames so that the total cost of each pair is the least possible.

    Each pair of frames is a problem of its own, so the result for it depends on its spots alone. A source may be
    linked to a target within `gate` of where the flow takes it. Links that compete for a spot form a group; no
    candidate joins two groups, so the optimum of the pair is that of its groups, and they may be solved in any order.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px.
    pairs : int64 (n_pairs, 4)
        First and one-past-last row of the sources, then of the targets; none is empty, and no row is a source twice.
    flow : float64 (n_pairs, 2)
        Displacement along y and x that is expected of every spot of a pair, px.
    gate : float
        Largest distance between a target and the expected position, px.
    costs : float64 (n_costs,)
        Cost of a link at distances from 0 to `gate`, equally spaced; linear in between, rounded to an integer.
    cost_unmatched : int
        What it costs to leave one source and one target without a link; links as dear as this are not made.

    Returns
    -------
    partner : int64 (n,)
        Row of the target of each source; -1 where it has none, and for rows that are not sources.
    n_shrunk : int
        Groups of more than `LARGEST_GROUP` sources or targets, for which the gate was narrowed until they fell apart.

    Notes
    -----
    Costs are integers, so equal totals are exactly equal; between them the order of the rows decides. The optimum of
    a group is found by successive shortest augmenting paths with dual prices.

    References
    ----------
    Jonker & Volgenant, Computing 38, 325 (1987), doi:10.1007/BF02278710.
    """
    partner = np.full(len(y), -1, np.int64)
    n_shrunk = _match_pairs(y, x, pairs, flow, gate, costs, cost_unmatched, partner)
    return partner, int(n_shrunk)


@njit(nogil=True, cache=True, error_model="numpy")
def _match_pairs(
    y: F64, x: F64, pairs: I64, flow: F64, gate: float, costs: F64, cost_unmatched: int, partner: I64
) -> int:
    n_shrunk = 0
    for p in range(len(pairs)):
        source, n_sources = pairs[p, 0], pairs[p, 1] - pairs[p, 0]
        target, n_targets = pairs[p, 2], pairs[p, 3] - pairs[p, 2]
        heads, ends, cost, distance = _candidate_links(y, x, pairs[p], flow[p], gate, costs, cost_unmatched)
        if max(n_sources, n_targets) > LARGEST_GROUP:
            n_shrunk += _split_large_groups(n_targets, heads, ends, distance, gate)
            heads, ends, cost = _remaining(heads, ends, cost, distance)
        chosen = assign(n_targets, heads, ends, cost, cost_unmatched)
        for i in range(n_sources):
            if chosen[i] >= 0:
                partner[source + i] = target + chosen[i]
    return n_shrunk


@njit(nogil=True, cache=True, error_model="numpy")
def _candidate_links(
    y: F64, x: F64, pair: I64, flow: F64, gate: float, costs: F64, cost_unmatched: int
) -> tuple[I64, I64, I64, F64]:
    """Links worth making, by source: where those of each source begin, targets, integer costs, distances."""
    start, stop, target, end = pair[0], pair[1], pair[2], pair[3]
    cells = sort_into_cells(y, x, target, end, gate)
    found = np.empty(end - target, np.int64)
    heads = np.zeros(stop - start + 1, np.int64)
    ends = np.empty(2 * (stop - start), np.int64)
    cost = np.empty(len(ends), np.int64)
    distance = np.empty(len(ends), np.float64)
    scale = (len(costs) - 1) / gate
    n = 0
    for i in range(start, stop):
        at_y, at_x = y[i] + flow[0], x[i] + flow[1]
        for k in range(candidates(cells, at_y, at_x, found)):
            j = found[k]
            r = np.sqrt((y[j] - at_y) ** 2 + (x[j] - at_x) ** 2)
            if r > gate:
                continue
            at = min(int(r * scale), len(costs) - 2)
            c = int(np.rint(costs[at] + (r * scale - at) * (costs[at + 1] - costs[at])))
            if c >= cost_unmatched:
                continue
            if n == len(ends):
                ends = np.concatenate((ends, np.empty_like(ends)))
                cost = np.concatenate((cost, np.empty_like(cost)))
                distance = np.concatenate((distance, np.empty_like(distance)))
            ends[n], cost[n], distance[n] = j - target, c, r
            n += 1
        heads[i - start + 1] = n
    return heads, ends[:n], cost[:n], distance[:n]


@njit(nogil=True, cache=True, error_model="numpy")
def _split_large_groups(n_targets: int, heads: I64, ends: I64, distance: F64, gate: float) -> int:
    """Remove links (distance = inf) of groups that are too large, longest first; the number of such groups."""
    n_sources = len(heads) - 1
    n_large = -1
    while True:
        root = _components(n_targets, heads, ends, distance)
        sources = np.bincount(root[:n_sources], minlength=len(root))
        targets = np.bincount(root[n_sources:], minlength=len(root))
        large = np.maximum(sources, targets) > LARGEST_GROUP
        if n_large < 0:
            n_large = large.sum()
        if not large.any():
            return n_large
        _remove_longest(large, root, heads, distance, gate)


@njit(nogil=True, cache=True)
def _components(n_targets: int, heads: I64, ends: I64, distance: F64) -> I64:
    """Smallest node of the connected component of each node (sources, then targets), by union-find."""
    n_sources = len(heads) - 1
    root = np.arange(n_sources + n_targets)
    for i in range(n_sources):
        for k in range(heads[i], heads[i + 1]):
            if distance[k] < np.inf:
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
def _remove_longest(large: npt.NDArray[np.bool_], root: I64, heads: I64, distance: F64, gate: float) -> None:
    """Narrow the gate of each large group."""
    n_sources = len(heads) - 1
    longest = np.zeros(len(root), np.float64)
    for i in range(n_sources):
        for k in range(heads[i], heads[i + 1]):
            if distance[k] < np.inf:
                longest[root[i]] = max(longest[root[i]], distance[k])
    for i in range(n_sources):
        if not large[root[i]]:
            continue
        keep = NARROWING * longest[root[i]]
        for k in range(heads[i], heads[i + 1]):
            # Hundreds of spots within a thousandth of the gate are no image of particles: none of them is linked.
            if distance[k] > keep or keep < 1e-3 * gate:
                distance[k] = np.inf


@njit(nogil=True, cache=True)
def _remaining(heads: I64, ends: I64, cost: I64, distance: F64) -> tuple[I64, I64, I64]:
    """Candidate links without the removed ones."""
    kept = np.zeros_like(heads)
    for i in range(len(heads) - 1):
        kept[i + 1] = kept[i] + np.sum(distance[heads[i] : heads[i + 1]] < np.inf)
    stays = distance < np.inf
    return kept, ends[stays], cost[stays]
