"""How far two size distributions are apart, with an interval, and how far two samples of the same one would be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.errors import InputError
from exotrack.tables import F64, Estimate, Mask, SizeDistribution

_NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """Difference between two size distributions a and b."""

    wasserstein_nm: Estimate
    """Mean distance that the particles of one would have to be moved along the diameter axis to become the other."""
    wasserstein_null_nm: float
    """95 % level of that distance between two samples of the same material, each as uncertain as these two."""
    d50_ratio: Estimate
    """D50 of b over D50 of a."""


def compare(a: SizeDistribution, b: SizeDistribution) -> Comparison:
    """Compare two batches, samples or videos.

    Parameters
    ----------
    a, b : SizeDistribution
        On the same size grid, with replicates; usually b is judged against a.

    Returns
    -------
    Comparison
        NaN throughout if one of the two is empty.

    Raises
    ------
    InputError
        If the size grids differ, what is counted differs, or a distribution has no replicates because it was read back
        from a file.

    Notes
    -----
    Where the limits of detection differ, both are cut at the larger one. Replicates of a and b are paired. A
    distance cannot be negative, so that the replicates of a pair without any difference lie above zero: compare the
    distance with the null level, which is the 95th percentile of the distance between two replicates of the same
    distribution (the larger of a's and b's). Uncertainty that all diameters of both share (pixel size, temperature)
    is left out: on one instrument it cancels.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.geomspace(50.0, 200.0, 60)
    >>> flat = np.full((50, 60), 1 / 60)
    >>> density = flat[0] / np.gradient(grid)
    >>> same = SizeDistribution(grid, density, density, density, replicates=flat)
    >>> compare(same, same).wasserstein_nm.value
    0.0
    """
    if not (len(a) and len(b)):
        nothing = Estimate(_NAN, _NAN, _NAN)
        return Comparison(nothing, _NAN, nothing)
    if len(a) != len(b) or not np.allclose(a.diameter_nm, b.diameter_nm):
        raise InputError("the size grids of the two distributions differ: use the same protocol for both")
    if a.replicates is None or b.replicates is None:
        raise InputError("a distribution without replicates has no uncertainty: compare distributions as computed")
    if a.weighting != b.weighting:
        raise InputError(f"weighted by {a.weighting} and by {b.weighting}: compare distributions of one weighting")
    grid = a.diameter_nm
    seen = ~(grid < np.nanmax([a.limit_nm, b.limit_nm, 0.0]))
    share_a, share_b = _seen(_share(a)[None], seen), _seen(_share(b)[None], seen)
    if not (len(share_a) and len(share_b)):
        nothing = Estimate(_NAN, _NAN, _NAN)
        return Comparison(nothing, _NAN, nothing)
    share_a, share_b = share_a[0], share_b[0]
    all_a, all_b = _seen(a.replicates, seen), _seen(b.replicates, seen)
    n = min(len(all_a), len(all_b))
    if n == 0:
        nothing = Estimate(_NAN, _NAN, _NAN)
        return Comparison(nothing, _NAN, nothing)
    # Both bootstraps start from the same seed: one step apart, the replicates of a pair share no weights.
    drawn_a, drawn_b = all_a[:n], np.roll(all_b[:n], 1, axis=0)

    distance = float(wasserstein_nm(grid, share_a, share_b))
    lo, hi = np.quantile(wasserstein_nm(grid, drawn_a, drawn_b), [0.025, 0.975])
    null = max(
        float(np.quantile(wasserstein_nm(grid, drawn, np.roll(drawn, 1, axis=0)), 0.95)) for drawn in (drawn_a, drawn_b)
    )
    ratio = float(_median_nm(grid, share_b[None])[0] / _median_nm(grid, share_a[None])[0])
    ratio_lo, ratio_hi = np.quantile(_median_nm(grid, drawn_b) / _median_nm(grid, drawn_a), [0.025, 0.975])
    return Comparison(
        wasserstein_nm=Estimate(distance, min(float(lo), distance), max(float(hi), distance)),
        wasserstein_null_nm=null,
        d50_ratio=Estimate(ratio, min(float(ratio_lo), ratio), max(float(ratio_hi), ratio)),
    )


def wasserstein_nm(diameter_nm: F64, a: F64, b: F64) -> F64:
    """Wasserstein-1 distance in nm: the area between the cumulative distributions.

    Parameters
    ----------
    diameter_nm : float64 array, shape (n_classes,)
        Diameters, increasing.
    a, b : float64 array, shape (..., n_classes)
        Shares at these diameters; each is normalized to sum 1.

    Returns
    -------
    float64 array, shape (...)
        Distances, ≥ 0.

    Examples
    --------
    >>> float(wasserstein_nm(np.array([80.0, 100.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    20.0
    """
    difference = np.cumsum(a, axis=-1) / np.sum(a, axis=-1, keepdims=True)
    difference = difference - np.cumsum(b, axis=-1) / np.sum(b, axis=-1, keepdims=True)
    distance: F64 = np.abs(difference[..., :-1]) @ np.diff(diameter_nm)
    return distance


def _seen(shares: F64, seen: Mask) -> F64:
    """Distributions above a limit; those without any share there are left out."""
    kept = np.where(seen, shares, 0.0)
    return kept[kept.any(axis=1)]


def _share(distribution: SizeDistribution) -> F64:
    """Share per class of a density on a logarithmic grid: density × d, up to a factor."""
    share = distribution.density_per_nm * distribution.diameter_nm
    relative: F64 = share / share.sum()
    return relative


def _median_nm(diameter_nm: F64, share: F64) -> F64:
    """D50 per row, linear in ln d between the upper borders of the classes."""
    log_d = np.log(diameter_nm)
    edges = np.append(log_d - 0.5 * (log_d[1] - log_d[0]), log_d[-1] + 0.5 * (log_d[1] - log_d[0]))
    cumulative = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
    median: F64 = np.exp([np.interp(0.5, np.concatenate([[0.0], row]), edges) for row in cumulative])
    return median
