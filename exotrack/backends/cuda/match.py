"""Exact assignment between the spots of pairs of frames on the device; what is too dense for it goes to the host."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from exotrack.backends import cpu
from exotrack.backends.cuda import device
from exotrack.tables import F64, I64, Mask

logger = logging.getLogger(__name__)

_LINKS: Final = 16
_THREADS: Final = 128


def match(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, *, gate: float, costs: F64, cost_unmatched: int
) -> int:
    """As `exotrack.backends.cpu.match`, link for link.

    Pairs of frames with a spot that has more than 16 candidates, with more than 32 spots that compete, or with more than
    100 in a cell are matched by the CPU backend; a debug message says how many they were.
    """
    settings = {"gate": gate, "costs": costs, "cost_unmatched": cost_unmatched}
    left = match_on_device(y, x, at_y, at_x, pairs, partner, **settings)
    if not left.any():
        return 0
    logger.debug("%d of %d pairs of frames are too dense for the device and matched on the host", left.sum(), len(left))
    n_shrunk: int = cpu.match(y, x, at_y, at_x, np.ascontiguousarray(pairs[left]), partner, **settings)
    return n_shrunk


def match_on_device(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, *, gate: float, costs: F64, cost_unmatched: int
) -> Mask:
    """Match what the device can match; which pairs it cannot."""
    if not len(pairs):
        return np.zeros(0, np.bool_)
    base, top = int(pairs[:, ::2].min()), int(pairs[:, 1::2].max())
    n, n_pairs = top - base, len(pairs)
    sources, targets = pairs[:, 1] - pairs[:, 0], pairs[:, 3] - pairs[:, 2]
    first_target = np.concatenate([[0], np.cumsum(targets)])
    first_cell = np.concatenate([[0], np.cumsum(4 * np.maximum(sources, targets) + 65)])
    with device.lane("match") as lane:
        rows = tuple(lane.put(values[base:top]) for values in (y, x, at_y, at_x))
        places = tuple(lane.put(values) for values in (pairs - base, first_target[:-1], first_cell[:-1]))
        by_source = (
            *(lane.empty(n * _LINKS, np.int32), lane.empty(n * _LINKS, np.int64)),
            *(lane.empty(n, np.int32) for _ in range(4)),
            lane.empty(n, np.int64),
        )
        n_targets = int(first_target[-1])
        by_target = (
            *(lane.empty(n_targets, np.int32) for _ in range(6)),
            *(lane.empty(n_targets, np.int64) for _ in range(2)),
        )
        cells, found, left = (
            lane.empty(int(first_cell[-1]), np.int32),
            lane.empty(n, np.int64),
            lane.empty(n_pairs, np.int32),
        )
        costing = (np.float64(gate), lane.put(costs), np.int32(len(costs)), np.float64((len(costs) - 1) / gate))
        lane.launch(
            "match",
            "assign",
            (n_pairs, 1, 1),
            _THREADS,
            (*rows, *places, *costing, np.int64(cost_unmatched), *by_source, *by_target, cells, found, left),
        )
        of_rows, unsolved = lane.get(found), lane.get(left) > 0
    for start, stop in pairs[~unsolved, :2]:
        here = of_rows[start - base : stop - base]
        partner[start:stop] = np.where(here < 0, -1, here + base)
    return unsolved
