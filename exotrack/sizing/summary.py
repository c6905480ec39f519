"""Numbers that describe a size distribution: mean, mode, percentiles, width and fractions, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from exotrack.tables import F64, Estimate

_Z95 = 1.959964
_TAIL = 0.0025
SIZE_VALUED = ("mean_nm", "mode_nm", "d10_nm", "d50_nm", "d90_nm")
"""Numbers that scale with the diameter, so that a common error of all diameters enters their intervals."""


def summary_names(edges_nm: Sequence[float]) -> tuple[str, ...]:
    """Names of the numbers in the summary of every distribution that has tracks, in their order."""
    return ("pooled_nm", *SIZE_VALUED, "span", "cv", "pdi", *fraction_ranges(edges_nm))


def class_edges(diameter_nm: F64) -> F64:
    """Borders of the classes of a logarithmic grid, shape (n_classes + 1,)."""
    half = 0.5 * np.log(diameter_nm[1] / diameter_nm[0])
    edges: F64 = np.exp(np.append(np.log(diameter_nm) - half, np.log(diameter_nm[-1]) + half))
    return edges


def density_per_nm(share: F64, diameter_nm: F64) -> F64:
    """Shares per class (last axis) as density per nm."""
    density: F64 = share / np.diff(class_edges(diameter_nm))
    return density


def quantile_nm(share: F64, diameter_nm: F64, probability: float) -> float:
    """Diameter below which a given share of the distribution lies, linear in ln d within a class."""
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    return float(np.exp(np.interp(probability, cumulative / cumulative[-1], np.log(class_edges(diameter_nm)))))


def fraction_between(share: F64, diameter_nm: F64, low_nm: float, high_nm: float) -> float:
    """Share of the distribution between two diameters."""
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    below = np.interp(np.log([low_nm, high_nm]), np.log(class_edges(diameter_nm)), cumulative / cumulative[-1])
    return float(below[1] - below[0])


def smoothed_density(shares: F64, diameter_nm: F64, width: float) -> F64:
    """Densities per nm of distributions (rows), smoothed along ln d by a normal kernel of s.d. `width`."""
    log_d = np.log(diameter_nm)
    step = log_d[1] - log_d[0]
    reach = int(np.ceil(4.0 * width / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    density = np.pad(density_per_nm(shares, diameter_nm), ((0, 0), (reach, reach)))
    return np.array([np.convolve(row, kernel, "valid") for row in density])


def mode_nm(share: F64, diameter_nm: F64, width: float) -> float:
    """Diameter of the highest density per nm after smoothing over `width` (s.d. in ln d).

    A maximum-likelihood distribution is a set of narrow peaks, whose heights are noise: they are smoothed over a
    distance that the deconvolution cannot resolve. Smoothing the density per nm on the ln d axis keeps the mode of a
    log-normal in place.
    """
    log_d = np.log(diameter_nm)
    step = log_d[1] - log_d[0]
    smooth = smoothed_density(share[None], diameter_nm, width)[0]
    k = int(np.clip(smooth.argmax(), 1, len(smooth) - 2))
    left, middle, right = np.log(np.maximum(smooth[k - 1 : k + 2], 1e-300))
    second = left + right - 2.0 * middle
    shift = 0.5 * (left - right) / second if second < 0 else 0.0
    return float(np.exp(log_d[k] + np.clip(shift, -1.0, 1.0) * step))


def describe(share: F64, diameter_nm: F64, edges_nm: Sequence[float], width: float) -> dict[str, float]:
    """All numbers of one distribution.

    Parameters
    ----------
    share : float64 array, shape (n_classes,)
        Shares per class.
    diameter_nm : float64 array, shape (n_classes,)
        Logarithmic grid.
    edges_nm : sequence of float
        Borders between the size classes that are reported, increasing.
    width : float
        Smoothing of the mode, s.d. in ln d.

    Returns
    -------
    dict
        mean_nm, mode_nm, d10_nm, d50_nm, d90_nm, span (D90 − D10)/D50, cv (s.d. over mean), pdi (cv²), and
        fraction_below_…, fraction_a_b_nm, fraction_above_…. Mean, cv and pdi are those of the central 99.5 % of the
        particles: a single short track can put a thousandth of the distribution at ten times the diameter, and would
        then decide them all; it makes the cv of a log-normal 2 % smaller.
    """
    central = _central(share)
    mean = float(central @ diameter_nm)
    variance = float(central @ (diameter_nm - mean) ** 2)
    d10, d50, d90 = (quantile_nm(share, diameter_nm, p) for p in (0.1, 0.5, 0.9))
    result = {
        "mean_nm": mean,
        "mode_nm": mode_nm(share, diameter_nm, width),
        "d10_nm": d10,
        "d50_nm": d50,
        "d90_nm": d90,
        "span": (d90 - d10) / d50,
        "cv": variance**0.5 / mean,
        "pdi": variance / mean**2,
    }
    for name, (low, high) in fraction_ranges(edges_nm).items():
        result[name] = fraction_between(share, diameter_nm, low, high)
    return result


def _central(share: F64) -> F64:
    """The distribution without its lowest and highest quarter per cent, scaled to a sum of one."""
    cumulative = np.concatenate([[0.0], np.cumsum(share)]) / share.sum()
    inside = np.diff(np.clip(cumulative, _TAIL, 1.0 - _TAIL))
    return np.asarray(inside / inside.sum(), np.float64)


def fraction_ranges(edges_nm: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Name of each fraction and its diameters in nm."""
    if not edges_nm:
        return {}
    ranges = {f"fraction_below_{edges_nm[0]:g}_nm": (1e-3, edges_nm[0])}
    for low, high in pairwise(edges_nm):
        ranges[f"fraction_{low:g}_{high:g}_nm"] = (low, high)
    ranges[f"fraction_above_{edges_nm[-1]:g}_nm"] = (edges_nm[-1], 1e9)
    return ranges


def summarize(
    share: F64, replicates: F64, diameter_nm: F64, edges_nm: Sequence[float], *, width: float, systematic: float
) -> dict[str, Estimate]:
    """Numbers of a distribution with 95 % intervals from its replicates and from a common error of all diameters.

    Parameters
    ----------
    share : float64 array, shape (n_classes,)
        Shares per class.
    replicates : float64 array, shape (n_replicates, n_classes)
        Bootstrap replicates of them.
    diameter_nm, edges_nm, width
        As in `describe`.
    systematic : float
        Relative standard uncertainty that all diameters share.

    Notes
    -----
    The two parts are added in quadrature: on ln d for sizes, on the fraction itself for fractions, where the second
    part is what moving all diameters by 1.96 standard uncertainties does.
    """
    value = describe(share, diameter_nm, edges_nm, width)
    drawn = [describe(r, diameter_nm, edges_nm, width) for r in replicates]
    ranges = fraction_ranges(edges_nm)
    result = {}
    for name, centre in value.items():
        lo, hi = np.quantile([r[name] for r in drawn], [0.025, 0.975])
        lo, hi = min(lo, centre), max(hi, centre)
        if name in SIZE_VALUED:
            shared = _Z95 * systematic
            lo = centre * np.exp(-np.hypot(np.log(centre / lo), shared))
            hi = centre * np.exp(np.hypot(np.log(hi / centre), shared))
        elif name in ranges:
            low, high = ranges[name]
            moved = [
                fraction_between(share, diameter_nm * np.exp(s * _Z95 * systematic), low, high) - centre
                for s in (-1.0, 1.0)
            ]
            lo = max(centre - np.hypot(centre - lo, min(*moved, 0.0)), 0.0)
            hi = min(centre + np.hypot(hi - centre, max(*moved, 0.0)), 1.0)
        result[name] = Estimate(centre, float(lo), float(hi))
    return result
