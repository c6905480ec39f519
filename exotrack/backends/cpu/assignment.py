"""The assignment problem on sparse integer costs."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numba import njit

from exotrack.tables import I64

FAR = np.iinfo(np.int64).max


@njit(nogil=True, cache=True)
def assign(n_targets: int, heads: I64, ends: I64, cost: I64, cost_unmatched: int, most_work: int) -> tuple[I64, I64]:
    """Target of each source, or -1, with the least total cost; a source without a target costs `cost_unmatched`.

    Sources enter one after the other. Most find the target they like best free; the others enter by the shortest
    augmenting path in reduced costs. A path never leaves the group of spots that compete for one another, so the
    work grows with the groups, not with the frame.

    Parameters
    ----------
    n_targets : int
        Number of targets.
    heads : int64 (n_sources + 1,)
        Where the candidate links of each source begin.
    ends, cost : int64 (n_links,)
        Target and cost of each candidate link; every cost is below `cost_unmatched`.
    cost_unmatched : int
        Cost of a source without a target.
    most_work : int
        Candidate links that may be looked at, each as often as it is needed, before the search stops.

    Returns
    -------
    chosen : int64 (n_sources,)
    work : int64 (n_sources,)
        Links looked at for each source. Where they sum to more than `most_work`, `chosen` is unfinished.
    """
    n_sources = len(heads) - 1
    chosen = np.full(n_sources, -1, np.int64)
    work = np.zeros(n_sources, np.int64)
    taken_by = np.full(n_targets, -1, np.int64)
    source_price = np.zeros(n_sources, np.int64)
    target_price = np.zeros(n_targets, np.int64)
    reached = np.full(n_targets, FAR, np.int64)
    reached_from = np.full(n_targets, -1, np.int64)
    scanned = np.zeros(n_targets, np.bool_)
    touched = np.empty(n_targets, np.int64)
    nearest = [(0, -1)]
    for newcomer in range(n_sources):
        price, favourite = cost_unmatched, -1
        for k in range(heads[newcomer], heads[newcomer + 1]):
            j, asked = ends[k], cost[k] - target_price[ends[k]]
            if asked < price or (asked == price and favourite > j):
                price, favourite = asked, j
        source_price[newcomer] = price
        if favourite < 0:
            continue
        if taken_by[favourite] < 0:
            chosen[newcomer], taken_by[favourite] = favourite, newcomer
            continue

        source, travelled, n_touched = newcomer, 0, 0
        give_up, loser = FAR, -1  # the cheapest way to end the path by leaving one of its sources unmatched
        nearest.clear()
        while True:
            here = travelled + cost_unmatched - source_price[source]
            if here < give_up:
                give_up, loser = here, source
            work[newcomer] += heads[source + 1] - heads[source]
            for k in range(heads[source], heads[source + 1]):
                j = ends[k]
                there = travelled + cost[k] - source_price[source] - target_price[j]
                if there < reached[j] and there <= give_up:
                    if reached[j] == FAR:
                        touched[n_touched] = j
                        n_touched += 1
                    reached[j], reached_from[j] = there, source
                    heappush(nearest, (there, j))
            while len(nearest) > 0 and scanned[nearest[0][1]]:
                heappop(nearest)
            if len(nearest) == 0 or nearest[0][0] > give_up:
                travelled, target = give_up, chosen[loser]
                chosen[loser] = -1
                break
            travelled, target = heappop(nearest)
            if taken_by[target] < 0:
                break
            scanned[target] = True
            source = taken_by[target]

        source_price[newcomer] += travelled
        for k in range(n_touched):
            j = touched[k]
            if scanned[j]:
                source_price[taken_by[j]] += travelled - reached[j]
                target_price[j] += reached[j] - travelled
        while target >= 0:  # back along the path: each source hands its target on
            source = reached_from[target]
            given_up = chosen[source]
            chosen[source], taken_by[target] = target, source
            target = given_up
        for k in range(n_touched):
            reached[touched[k]], scanned[touched[k]] = FAR, False
        most_work -= work[newcomer]
        if most_work < 0:
            break
    return chosen, work
