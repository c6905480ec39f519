"""From links between spots to numbered tracks."""

from __future__ import annotations

import numpy as np

from exotrack.tables import I64


def track_starts(successor: I64) -> I64:
    """First row of the track that each row belongs to, by pointer jumping.

    Parameters
    ----------
    successor : int64 (n,)
        Row that follows each row in its track, -1 at the end. No row follows two.

    Returns
    -------
    int64 (n,)
    """
    start = np.arange(len(successor))
    linked = np.flatnonzero(successor >= 0)
    start[successor[linked]] = linked
    while True:
        further = start[start]
        if np.array_equal(further, start):
            return start
        start = further


def number_tracks(uncut: I64, cut: I64) -> tuple[I64, I64, I64]:
    """Rows of tracks with two spots or more, in order, with their numbers.

    Parameters
    ----------
    uncut, cut : int64 (n,)
        Successor of each row before and after tracks were cut.

    Returns
    -------
    rows : int64 (n_kept,)
        Rows by track, then in the order given.
    particle, identity : int64 (n_kept,)
        Number of the cut and of the uncut track of each of these rows, from 0 in the order of their first rows.
    """
    start = track_starts(cut)
    length = np.bincount(start, minlength=len(cut))
    rows = np.flatnonzero(length[start] > 1)
    rows = rows[np.argsort(start[rows], kind="stable")]
    particle = np.unique(start[rows], return_inverse=True)[1]
    identity = np.unique(track_starts(uncut)[rows], return_inverse=True)[1]
    return rows, particle.astype(np.int64), identity.astype(np.int64)
