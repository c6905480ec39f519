"""From links between spots to numbered tracks."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import I64


@njit(nogil=True, cache=True)
def number_tracks(uncut: I64, cut: I64) -> tuple[I64, I64, I64]:
    """Rows of tracks with two spots or more, in order, with their numbers.

    Rows come before their successors, so one pass in row order hands each track's first row down the chain (where
    all rows are handled at once, pointer jumping gives the same).

    Parameters
    ----------
    uncut, cut : int64 (n,)
        Successor of each row before and after tracks were cut: a later row, or -1 at the end. No row follows two.

    Returns
    -------
    rows : int64 (n_kept,)
        Rows by track, then in the order given.
    particle, identity : int64 (n_kept,)
        Number of the cut and of the uncut track of each of these rows, from 0 in the order of their first rows.
    """
    whole, piece = _starts(uncut), _starts(cut)
    n = len(cut)
    length = np.zeros(n, np.int64)
    for i in range(n):
        length[piece[i]] += 1
    number = np.full(n, -1, np.int64)
    place = np.empty(n, np.int64)
    n_kept, n_tracks, n_whole = 0, 0, 0
    for i in range(n):
        if piece[i] == i and length[i] > 1:
            place[i] = n_kept
            n_kept += length[i]
    rows, particle, identity = np.empty(n_kept, np.int64), np.empty(n_kept, np.int64), np.empty(n_kept, np.int64)
    for i in range(n):
        if piece[i] != i or length[i] < 2:
            continue
        if number[whole[i]] < 0:
            number[whole[i]] = n_whole
            n_whole += 1
        row = i
        for k in range(place[i], place[i] + length[i]):
            rows[k], particle[k], identity[k] = row, n_tracks, number[whole[i]]
            row = cut[row]
        n_tracks += 1
    return rows, particle, identity


@njit(nogil=True, cache=True)
def _starts(successor: I64) -> I64:
    """First row of the track that each row belongs to."""
    start = np.arange(len(successor))
    for i in range(len(successor)):
        if successor[i] >= 0:
            start[successor[i]] = start[i]
    return start
