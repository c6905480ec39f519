"""Modes of a size distribution: how many there are, where, what they hold, and whether they are stable."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from exotrack.sizing.summary import smoothed_density
from exotrack.tables import F64, I64

DIP = 0.2
"""Modes are apart if the density between them falls by this share of the lower one."""
LEAST_SHARE = 0.02
"""Share of the particles that a mode holds at least."""


@dataclass(frozen=True)
class Modes:
    """The modes of a distribution, smallest first."""

    diameter_nm: tuple[float, ...]
    """Where the density per nm is highest."""
    fraction: tuple[float, ...]
    """Share of the particles between the dips on both sides."""
    stability: float
    """Share of the replicates with as many modes; NaN without replicates."""


def find_modes(share: F64, replicates: F64, diameter_nm: F64, width: float) -> Modes:
    """Modes of a distribution and their stability under the bootstrap.

    Parameters
    ----------
    share : float64 array, shape (n_classes,)
        Shares per class.
    replicates : float64 array, shape (n_replicates, n_classes)
        Bootstrap replicates of them.
    diameter_nm : float64 array, shape (n_classes,)
        Logarithmic grid.
    width : float
        s.d. in ln d over which the density is smoothed: what lies nearer cannot be resolved.

    Examples
    --------
    >>> grid = np.geomspace(50.0, 500.0, 120)
    >>> share = sum(np.exp(-0.5 * (np.log(grid / d) / 0.08) ** 2) for d in (100.0, 200.0))
    >>> modes = find_modes(share / share.sum(), share[None] / share.sum(), grid, 0.05)
    >>> [round(d) for d in modes.diameter_nm], [round(f, 2) for f in modes.fraction], modes.stability
    ([98, 198], [0.5, 0.5], 1.0)
    """
    smooth = smoothed_density(np.vstack([share, replicates]), diameter_nm, width)
    peaks, dips = _peaks(share, smooth[0])
    counts = [len(_peaks(*pair)[0]) for pair in zip(replicates, smooth[1:], strict=True)]
    held = np.add.reduceat(share, dips[:-1]) / share.sum() if len(peaks) else np.empty(0)
    return Modes(
        diameter_nm=tuple(float(d) for d in diameter_nm[peaks]),
        fraction=tuple(float(f) for f in held),
        stability=float(np.mean(np.array(counts) == len(peaks))) if len(counts) else float("nan"),
    )


def _peaks(share: F64, smooth: F64) -> tuple[I64, I64]:
    """Classes of the peaks, and the borders between them: the lowest class of each dip, with both ends."""
    tops = np.flatnonzero((smooth >= np.append(0.0, smooth[:-1])) & (smooth > np.append(smooth[1:], 0.0)))
    peaks = [int(k) for k in tops if smooth[k] > 0]
    borders = [_lowest(smooth, a, b) for a, b in pairwise(peaks)]
    while True:
        edges = [0, *borders, len(share)]
        faint = [i for i in range(len(borders)) if smooth[borders[i]] > (1.0 - DIP) * min(smooth[peaks[i : i + 2]])]
        small = [i for i in range(len(peaks)) if share[edges[i] : edges[i + 1]].sum() < LEAST_SHARE * share.sum()]
        if faint:  # the shallowest first
            i = max(faint, key=lambda j: smooth[borders[j]] / min(smooth[peaks[j : j + 2]]))
            lower = i if smooth[peaks[i]] < smooth[peaks[i + 1]] else i + 1
        elif small and len(peaks) > 1:
            lower = min(small, key=lambda j: float(smooth[peaks[j]]))
        else:
            return np.array(peaks, np.int64), np.array(edges, np.int64)
        del peaks[lower]
        borders = [_lowest(smooth, a, b) for a, b in pairwise(peaks)]


def _lowest(smooth: F64, first: int, last: int) -> int:
    return first + int(np.argmin(smooth[first : last + 1]))
