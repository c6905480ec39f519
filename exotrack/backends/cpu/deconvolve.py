"""Nonparametric maximum likelihood by expectation–maximization, for many weightings of the same tracks at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from exotrack.tables import F32, F64

_FLOOR = np.float32(1e-30)  # a track that no class explains must not divide by zero
_UNRELATED = np.float32(1e-20)  # what is smaller is 0: denormal numbers would slow the products fourfold
_NEGLIGIBLE = 1e-7  # share below which a class is left out of further iterations …
_PRUNE_EVERY = 10  # … looked at this often


def deconvolve(rows: F32, weights: F64, start: F64, *, iterations: int) -> F64:
    """Distributions over the classes after a number of EM iterations from `start`.

    One iteration multiplies each share by the weighted mean of the responsibilities,

    f_k ← f_k Σ_i w_i L_ik / Σ_j f_j L_ij,  Σ_i w_i = 1,

    for all weightings together: two matrix products, ``F *= (W / (F Lᵀ)) L``. Few iterations regularize. Classes that
    hold less than 10⁻⁷ in every weighting are dropped on the way; they cannot come back to more than that.

    Parameters
    ----------
    rows : float32 array, shape (n_tracks, n_classes)
        Likelihood L of each track in each class, each row with maximum 1.
    weights : float64 array, shape (n_weightings, n_tracks)
        Weight of each track, ≥ 0; every row is normalized to sum 1.
    start : float64 array, shape (n_weightings, n_classes)
        Shares to start from.
    iterations : int
        Number of iterations; 0 returns `start`.

    Returns
    -------
    float64 array, shape (n_weightings, n_classes)
        Shares; each row sums to 1.

    Raises
    ------
    ValueError
        If the shapes do not agree or a weighting sums to zero.

    References
    ----------
    Dempster, Laird & Rubin, J. R. Stat. Soc. B 39, 1 (1977), doi:10.1111/j.2517-6161.1977.tb01600.x.
    """
    weight = normalized(rows, weights, start)
    # One thread: the products are small, so that threads of BLAS wait for each other (up to 20 times longer beside
    # other work), and the result does not depend on their number.
    with threadpool_limits(limits=1, user_api="blas"):
        shares: F64 = iterate(np, rows, weight, start, iterations)
        return shares


def normalized(rows: F32, weights: F64, start: F64) -> F32:
    """Weightings that sum to 1; raises as `deconvolve` says."""
    total = weights.sum(axis=1, keepdims=True)
    if start.shape != (len(weights), rows.shape[1]) or weights.shape[1] != len(rows) or not np.all(total > 0):
        raise ValueError(
            f"rows {rows.shape}, weights {weights.shape} and start {start.shape} differ, or a weighting sums to zero"
        )
    weight: F32 = (weights / total).astype(np.float32)
    return weight


def iterate(arrays: Any, rows: Any, weight: Any, start: Any, iterations: int) -> Any:
    """The iterations of `deconvolve` with arrays of a module: NumPy, or CuPy on a device."""
    shares = arrays.zeros_like(start)
    active = arrays.arange(rows.shape[1])
    likelihoods = arrays.where(rows < _UNRELATED, arrays.float32(0.0), rows)
    current = start.astype(np.float32)
    for iteration in range(iterations):
        if iteration % _PRUNE_EVERY == 0:
            current[current < _UNRELATED] = 0.0
            keep = current.max(axis=0) > _NEGLIGIBLE
            if int(keep.sum()) < 0.8 * len(keep):
                active = active[keep]
                likelihoods = arrays.ascontiguousarray(likelihoods[:, keep])
                current = arrays.ascontiguousarray(current[:, keep])
        expected = current @ likelihoods.T
        arrays.maximum(expected, _FLOOR, out=expected)
        arrays.divide(weight, expected, out=expected)
        current *= expected @ likelihoods
    shares[:, active] = current
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
