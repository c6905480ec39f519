"""Closing gaps: ends of tracks to starts of tracks a few frames later."""

from __future__ import annotations

import numpy as np

from exotrack.link.material import Material
from exotrack.link.pairs import Linked, match


def close_gaps(material: Material, linked: Linked) -> int:
    """Link ends of tracks to starts of tracks some frames later, the shortest gaps first.

    Writes into `linked.successor`; returns how often groups were narrowed.
    """
    successor, offsets = linked.successor, material.frames.offsets
    n_shrunk = 0
    for lag in range(2, material.settings.gap_frames + 2):
        preceded = np.zeros(len(successor), bool)
        preceded[successor[successor >= 0]] = True
        ends, starts = np.flatnonzero(successor < 0), np.flatnonzero(~preceded)
        _, pairs = material.frames.pairs(
            lag, np.searchsorted(ends, offsets), len(ends) + np.searchsorted(starts, offsets)
        )
        rows = np.concatenate([ends, starts])
        # An end is as likely a particle that was missed as one that left; the start found may be any other's.
        unmatched = -np.log(max(len(starts), 1) / material.area)
        at = linked.carry(material, lag)
        partner, shrunk = match(material, rows, at, pairs, linked.steps, intervals=lag, unmatched=unmatched)
        found = np.flatnonzero(partner >= 0)
        successor[rows[found]] = rows[partner[found]]
        n_shrunk += shrunk
    return n_shrunk
