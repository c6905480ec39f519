"""Shares of the size classes under many weightings of the same tracks: stopped by cross-validation, freed of strays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from threadpoolctl import threadpool_limits

from exotrack.backends.contract import Backend
from exotrack.sizing.sample import Sample
from exotrack.tables import F32, F64, I64

ITERATIONS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of EM iterations that compete in the cross-validation."""

_LEAST_UNITS = 20  # below this a cross-validation has nothing to decide with
_FALLBACK_ITERATIONS = 50
_PAST_MAXIMUM = 2
_CHUNK = 32  # weightings that are iterated together, whatever the number of threads
_LEAST_PARTICLES = 3.0
_EMPTY = 1e-4


def best_iterations(sample: Sample, engine: Backend, rng: np.random.Generator, folds: int, counts: F32) -> I64:
    """Number of iterations with the largest held-out log-likelihood, for each replicate of the particles.

    The choice decides how narrow the distribution is. Each replicate makes its own, from the held-out likelihoods of
    its particles, so that the uncertainty of the choice is part of the intervals of the widths.

    Parameters
    ----------
    sample : Sample
        Tracks and their weights; the folds are over videos, or over particles where there are fewer videos than folds.
    engine : module
        A loaded backend.
    rng : numpy.random.Generator
        Draws the folds.
    folds : int
        Number of folds.
    counts : float32 array, shape (n_replicates, n_units)
        How often each particle counts in each replicate.

    Returns
    -------
    int64 array, shape (n_replicates,)
        Of `ITERATIONS`; 50 where there are fewer than 20 particles.
    """
    group = sample.video if sample.n_videos >= folds else sample.unit
    n_groups = int(group.max()) + 1
    if n_groups < _LEAST_UNITS and sample.n_videos < folds:
        return np.full(len(counts), _FALLBACK_ITERATIONS)
    fold = rng.permutation(np.arange(n_groups) % folds)[group]
    held_out = fold == np.arange(folds)[:, None]
    weights = sample.row_weights(np.where(held_out, 0.0, 1.0))
    shares = np.full((folds, sample.rows.shape[1]), 1.0 / sample.rows.shape[1])
    scores: list[F64] = []
    done = 0
    for iterations in ITERATIONS:
        shares = engine.deconvolve(sample.rows, weights, shares, iterations=iterations - done)
        done = iterations
        predicted = (sample.rows @ shares.T.astype(np.float32))[sample.row, fold]
        score = sample.weight * np.log(np.maximum(predicted, 1e-30))
        of_unit = np.bincount(sample.unit, score, counts.shape[1])
        scores.append(np.concatenate([counts[i : i + _CHUNK] @ of_unit for i in range(0, len(counts), _CHUNK)]))
        if len(scores) > _PAST_MAXIMUM and np.all(np.argmax(scores, axis=0) < len(scores) - _PAST_MAXIMUM):
            break  # no replicate has its maximum near the end: it does not come back
    best: I64 = np.array(ITERATIONS, np.int64)[np.argmax(scores, axis=0)]
    return best


def replicate_shares(sample: Sample, engine: Backend, counts: F32, iterations: I64) -> F64:
    """Shares of the classes for each replicate of the particles, as tracks are counted, without strays.

    Parameters
    ----------
    sample : Sample
    engine : module
        A loaded backend.
    counts : float32 array, shape (n_replicates, n_units)
    iterations : int64 array, shape (n_replicates,)

    Returns
    -------
    float64 array, shape (n_replicates, n_classes)
        The same whatever the number of threads.
    """
    shares = np.empty((len(counts), sample.rows.shape[1]))
    chunks = [
        (int(n), members[first : first + _CHUNK])
        for n in np.unique(iterations)[::-1]  # the longest first
        for members in [np.flatnonzero(iterations == n)]
        for first in range(0, len(members), _CHUNK)
    ]

    def fill(chunk: tuple[int, I64]) -> None:
        n, members = chunk
        start = np.full((len(members), shares.shape[1]), 1.0 / shares.shape[1])
        weights = sample.row_weights(counts[members][:, sample.unit])
        shares[members] = engine.deconvolve(sample.rows, weights, start, iterations=n)

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(_cores()) as threads:
        list(threads.map(fill, chunks))
    return without_strays(shares, _LEAST_PARTICLES / sample.n_units)


def without_strays(shares: F64, least: float) -> F64:
    """Distributions without separate peaks that hold less than a given share; the rest is scaled to a sum of one.

    One short track that happens to move little supports a peak of its own at many times the diameter, where the number
    weighting and every moment give it a weight that no single particle can bear: with 500 tracks of 20 steps of one
    size, the coefficient of variation was 0.97 instead of 0.03. Peaks are separate where less than 10⁻⁴ of the highest
    class lies between them; the largest is always kept.

    Examples
    --------
    >>> without_strays(np.array([[0.0, 0.5, 0.496, 0.0, 0.004]]), 0.005).round(3).tolist()
    [[0.0, 0.502, 0.498, 0.0, 0.0]]
    """
    kept = shares.copy()
    for row in kept:
        border = np.flatnonzero(np.diff(row > _EMPTY * row.max(), prepend=False, append=False))
        runs = [(int(a), int(b)) for a, b in pairwise(border)][::2]
        _drop_small(row, runs, least)
    kept /= kept.sum(axis=1, keepdims=True)
    return kept


def _drop_small(row: F64, runs: Sequence[tuple[int, int]], least: float) -> None:
    """Set to zero what does not belong to a run that is large enough."""
    held = [float(row[a:b].sum()) for a, b in runs]
    keep = np.zeros(len(row), bool)
    for (a, b), share in zip(runs, held, strict=True):
        if share >= least or share == max(held):
            keep[a:b] = True
    row[~keep] = 0.0


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
