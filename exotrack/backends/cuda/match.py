"""Exact assignment between the spots of pairs of frames on the device; what is too dense for it goes to the host."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from exotrack.backends import cpu
from exotrack.backends.cpu.match import MOST_IN_CELL, WORK_PER_SPOT
from exotrack.backends.cuda import device
from exotrack.tables import F64, I64, Mask

logger = logging.getLogger(__name__)

_LINKS: Final = 16
_THREADS: Final = 128
_CONSTANTS: Final = {
    "LINKS": _LINKS,
    "GROUP": 32,
    "THREADS": _THREADS,
    "MOST_IN_CELL": MOST_IN_CELL,
    "WORK_PER_SPOT": WORK_PER_SPOT,
}
_AT_A_TIME: Final = 2**20
"""Spots, of sources and targets, whose pairs are solved in one launch: 170 MB, 10,000 pairs of 50 each."""


def match(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, *, gate: float, costs: F64, cost_unmatched: int
) -> int:
    """As `exotrack.backends.cpu.match`, link for link.

    Pairs of frames with a spot that has more than 16 candidates, with more than 32 spots that compete, or with more
    than 100 in a cell are matched by the CPU backend; a message says how many they were.
    """
    left = match_on_device(y, x, at_y, at_x, pairs, partner, gate=gate, costs=costs, cost_unmatched=cost_unmatched)
    if not left.any():
        return 0
    logger.info("%d of %d pairs of frames are too dense for the device and matched on the host", left.sum(), len(left))
    return cpu.match(y, x, at_y, at_x, pairs[left], partner, gate=gate, costs=costs, cost_unmatched=cost_unmatched)


def match_on_device(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, *, gate: float, costs: F64, cost_unmatched: int
) -> Mask:
    """Match what the device can match; which pairs it cannot, whose part of `partner` stays as it is."""
    if not len(pairs):
        return np.zeros(0, np.bool_)
    spots = np.cumsum(pairs[:, 1] - pairs[:, 0] + pairs[:, 3] - pairs[:, 2])
    cuts = np.flatnonzero(np.diff(spots // _AT_A_TIME)) + 1
    parts = np.split(pairs, cuts)
    return np.concatenate([_match_part(y, x, at_y, at_x, part, partner, gate, costs, cost_unmatched) for part in parts])


def _match_part(
    y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, partner: I64, gate: float, costs: F64, cost_unmatched: int
) -> Mask:
    base, top = int(pairs[:, ::2].min()), int(pairs[:, 1::2].max())
    n, n_pairs = top - base, len(pairs)
    sources, targets = pairs[:, 1] - pairs[:, 0], pairs[:, 3] - pairs[:, 2]
    first_target = np.concatenate([[0], np.cumsum(targets)])
    first_cell = np.concatenate([[0], np.cumsum(4 * np.maximum(sources, targets) + 65)])
    n_targets, n_cells = int(first_target[-1]), int(first_cell[-1])
    with device.lane("match") as lane:
        rows = tuple(lane.put(values[base:top]) for values in (y, x, at_y, at_x))
        places = tuple(lane.put(values) for values in (pairs - base, first_target[:-1], first_cell[:-1]))
        costing = (np.float64(gate), lane.put(costs), np.int32(len(costs)), np.float64((len(costs) - 1) / gate))
        by_source = (
            *(lane.empty(n * _LINKS, np.int32), lane.empty(n * _LINKS, np.int64)),
            *(lane.empty(n, np.int32) for _ in range(4)),
            lane.empty(n, np.int64),
        )
        by_target = (
            *(lane.empty(n_targets, np.int32) for _ in range(6)),
            *(lane.empty(n_targets, np.int64) for _ in range(2)),
        )
        cells, found, unsolved = lane.empty(n_cells, np.int32), lane.empty(n, np.int64), lane.empty(n_pairs, np.int32)
        lane.launch(
            "match",
            "assign",
            (n_pairs, 1, 1),
            _THREADS,
            (*rows, *places, *costing, np.int64(cost_unmatched), *by_source, *by_target, cells, found, unsolved),
            _CONSTANTS,
        )
        of_rows = lane.get(found)
        left: Mask = lane.get(unsolved) != 0
    # The sources of the pairs that are solved, and no other row: their neighbours may be another thread's.
    lengths = sources[~left]
    own = np.repeat(pairs[~left, 0] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    chosen = of_rows[own - base]
    partner[own] = np.where(chosen < 0, -1, chosen + base)
    return left
