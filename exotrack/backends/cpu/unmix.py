"""Shares of known distributions in a histogram."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F64, I64


def unmix(counts: I64, chance: F64, n_pairs: int, shares: F64, n_spots: float, *, iterations: int) -> F64:
    """Number of pairs of each kind, by expectation maximization on Poisson counts.

    Each of the `n_pairs` pairs of spots is of one of these kinds or falls into a bin with probability `chance`.

    Parameters
    ----------
    counts : int64 (n_bins,)
        Pairs counted in each bin.
    chance : float64 (n_bins,)
        Probability of each bin for a pair of no kind.
    n_pairs : int
        Pairs in all, also beyond the bins.
    shares : float64 (n_kinds, n_bins)
        Probability of each bin for a pair of each kind.
    n_spots : float
        Pairs that are of a kind to begin with, alike for all kinds.
    iterations : int
        Number of iterations.

    Returns
    -------
    float64 (n_kinds,)
    """
    amounts = np.full(len(shares), n_spots / len(shares))
    _iterate(counts, chance, n_pairs, np.ascontiguousarray(shares.T), shares.sum(axis=1), amounts, iterations)
    return amounts


@njit(nogil=True, cache=True, error_model="numpy")
def _iterate(counts: I64, chance: F64, n_pairs: int, shares: F64, reached: F64, amounts: F64, iterations: int) -> None:
    n_bins, n_kinds = shares.shape
    factor = np.empty(n_kinds)
    for _ in range(iterations):
        rest = max(n_pairs - amounts.sum(), 0.0)
        factor[:] = 0.0
        for b in range(n_bins):
            expected = rest * chance[b]
            for k in range(n_kinds):
                expected += amounts[k] * shares[b, k]
            ratio = counts[b] / max(expected, 1e-300)
            for k in range(n_kinds):
                factor[k] += shares[b, k] * ratio
        for k in range(n_kinds):
            amounts[k] *= factor[k] / reached[k]
