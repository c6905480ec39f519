"""The smallest size that a video shows: from the probability of detection by brightness to that by diameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammainc, ndtr

from exotrack import backends
from exotrack.errors import InputError
from exotrack.tables import F32, F64

REFERENCE_NM: Final = 100.0
"""Diameter at which a fit states the signal."""
EXPONENT: Final = (5.0, 1.0)
"""Mean and s.d. of the prior of the exponent: 6 for small solid spheres, 4 for thin-shelled vesicles."""
SCATTER: Final = (-1.2, 0.5)
"""Mean and s.d. of the prior of the logarithm of the scatter between particles of one size: 0.2 to 0.5."""
LARGEST_SCATTER: Final = -0.5
"""Most that it may be, 0.6: else all particles may be the rare bright ones of a sample that is hardly seen."""
CEILING: Final = 2.0
"""Logarithm of the ceiling over the bright end of the tracks below which a prior (s.d. 1) holds it back."""
OUTLIERS: Final = 0.02
"""Share of tracks whose signal has nothing to do with their size, spread evenly over the whole range."""
LEAST_SEEN: Final = 0.1
"""Share of a size that is taken to be seen at least, for the same reason."""
FEWEST: Final = 5
"""Tracks below which nothing is said."""
MOST: Final = 1000
"""Tracks that are enough, taken evenly; more would only take time."""
ITERATIONS: Final = 50
"""EM iterations for the sizes of the tracks; 150 move the limit by less than 2 %."""
CLASSES: Final = 60
"""Classes of size, about, in which brightness is fitted."""
STEP: Final = 0.05
_RELATIVE: Final = np.arange(-120.0, 81.0) * STEP
"""Logarithm of a signal over that of a particle of its size in focus."""

Detect = Callable[[F64], F64]
"""Probability that a localization of a signal is found: `Detection.at` of exotrack.localize.injection."""


@dataclass(frozen=True)
class Brightness:
    """Integrated signal of the particles of one sample as a function of their size.

    Examples
    --------
    >>> brightness = Brightness(mass_100nm=300.0, exponent=4.0, ceiling=1e9, scatter=0.2, depth=0.05)
    >>> brightness.mass(np.array([50.0, 100.0, 200.0])).round(2).tolist()
    [18.75, 300.0, 4799.98]
    """

    mass_100nm: float
    """Signal of 100 nm in focus without compression, in the units of the masses."""
    exponent: float
    """Power of the diameter with which the signal grows where it is not compressed."""
    ceiling: float
    """Signal that no particle exceeds: compression by saturation, or by the size of the particles."""
    scatter: float
    """s.d. of the logarithm of the signal between particles of one size."""
    depth: float
    """Scale of the loss of light by depth, in units of the logarithm: near 0 for an even light sheet, above 1 for a
    Gaussian one."""

    def mass(self, diameter_nm: F64) -> F64:
        """Signal in focus of diameters in nm: m/(1 + m/ceiling) with m = mass_100nm·(d/100)^exponent."""
        free = math.log(self.mass_100nm) + self.exponent * np.log(np.asarray(diameter_nm) / REFERENCE_NM)
        return np.asarray(np.exp(free - np.logaddexp(0.0, free - math.log(self.ceiling))))


@dataclass(frozen=True)
class Limit:
    """Which sizes a video shows."""

    diameter_nm: F64
    """Size classes, shape (n_classes,)."""
    probability: F64
    """Probability that a particle in focus is found in a frame, by size; NaN where nothing is known."""
    limit_nm: float
    """Smallest diameter from which on at least half are found; 0 where that holds for all classes, NaN where it holds
    for none or nothing is known."""
    brightness: Brightness | None
    """What the sample's own tracks say; None with too few tracks."""


def detection_limit(detect: Detect, likelihood: F32, diameter_nm: F64, mass: F64, *, backend: str = "auto") -> Limit:
    """Probability of detection by size, and the smallest size of which at least half is found.

    Parameters
    ----------
    detect : callable
        Probability of detection at integrated signals, non-decreasing, in the units of `mass`.
    likelihood : float32 array, shape (n_tracks, n_classes)
        Likelihood of each track in each class, each row with maximum 1.
    diameter_nm : float64 array, shape (n_classes,)
        Size classes, increasing.
    mass : float64 array, shape (n_tracks,)
        Mean integrated signal of each track; tracks where it is not a positive number are left out.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    Limit
        Nothing is known from fewer than 5 tracks.

    Raises
    ------
    InputError
        Shapes that do not agree.

    Notes
    -----
    A particle counts as in focus where it gets at least half the light of the focal plane, and the probability is the
    mean over these depths. The limit was compared with the diameter at which the true recall of simulated particles is
    one half (log-normal, median 100 nm, CV 0.4, signal as d⁴ to d⁶). In nine videos that had no part in the development
    (three with an even sheet, one of them compressed, five with a Gaussian one, 210 to 298 tracks; one with 18 tracks)
    the error was +1, +11, −10; +17, +3, +8, −3, +2; and −7 %: 8 % r.m.s. With 208 to 710 tracks it was 4 % r.m.s. in
    the videos on which priors and bounds were chosen, which flatters it. The probability itself is off by up to 0.35
    where it is steep. Where no particle is near the limit, as with beads, the prior of the exponent carries it.
    """
    if likelihood.shape != (len(mass), len(diameter_nm)):
        raise InputError(
            f"likelihood has the shape {likelihood.shape}; for {len(mass)} masses and {len(diameter_nm)} classes it is "
            f"({len(mass)}, {len(diameter_nm)})"
        )
    known = np.flatnonzero(np.isfinite(mass) & (mass > 0))
    if len(known) < FEWEST:
        return Limit(diameter_nm, np.full(len(diameter_nm), np.nan), math.nan, None)
    picked = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST)).round().astype(np.int64))]
    brightness = fit_brightness(detect, likelihood[picked], diameter_nm, mass[picked], backend=backend)
    probability = _by_size(detect, brightness, diameter_nm)
    return Limit(diameter_nm, probability, _half(probability, diameter_nm), brightness)


def fit_brightness(
    detect: Detect, likelihood: F32, diameter_nm: F64, mass: F64, *, backend: str = "auto"
) -> Brightness:
    """Signal against size from the tracks of a sample, by maximum likelihood. Parameters as for `detection_limit`.

    Notes
    -----
    The diameter of a single track is far too uncertain to regress on: the slope would be flattened. Each track enters
    with its posterior over all classes, the prior being the distribution of all tracks (EM). At a given size the
    signals are those in focus times a loss by depth, whose logarithm is gamma distributed with shape ½ (that is what a
    Gaussian sheet makes of particles at random depths; scale 0 is an even sheet), times log-normal scatter. Signals
    that are not seen are missing: the density of those seen is that of all times the probability of detection, divided
    by its mean. So neither the faint end, of which only the bright ones are seen, nor the bright end, of which also
    those far from focus are, tilts the line.
    """
    evidence = _evidence(detect, likelihood, diameter_nm, mass, backend)
    starts = [(depth, ceiling) for depth in (-3.0, 0.0) for ceiling in (evidence.bright_end + 3.0, evidence.bright_end)]
    middle = float(np.median(evidence.log_mass))
    best = min((_descend(evidence, np.array([middle, 4.5, -1.0, *start])) for start in starts), key=lambda b: b[0])
    return _brightness(best[1])


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What the fit is made from."""

    detect: Detect
    log_mass: F64
    """Shape (n_tracks,)."""
    posterior: F64
    """Of each track over the classes that any of them may be in, shape (n_tracks, n_classes)."""
    diameter_nm: F64
    bright_end: float
    """Logarithm of the signal that 5 % of the tracks exceed."""


def _evidence(detect: Detect, likelihood: F32, diameter_nm: F64, mass: F64, backend: str) -> _Evidence:
    n_tracks, n_classes = likelihood.shape
    even = np.full((1, n_classes), 1.0 / n_classes)
    share = backends.load(backend).deconvolve(likelihood, np.ones((1, n_tracks)), even, iterations=ITERATIONS)[0]
    posterior = likelihood * share
    posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-30)
    first = np.arange(0, n_classes, max(n_classes // CLASSES, 1))
    centre = np.exp(np.add.reduceat(np.log(diameter_nm), first) / np.diff(first, append=n_classes))
    coarse = np.add.reduceat(posterior, first, axis=1)
    possible = coarse.sum(axis=0) > 0.01
    log_mass = np.log(np.asarray(mass, np.float64))
    return _Evidence(detect, log_mass, coarse[:, possible], centre[possible], float(np.quantile(log_mass, 0.95)))


def _brightness(parameters: F64) -> Brightness:
    level, exponent, scatter, depth, ceiling = parameters
    return Brightness(
        mass_100nm=math.exp(level),
        exponent=float(exponent),
        ceiling=math.exp(ceiling),
        scatter=math.exp(scatter),
        depth=math.exp(depth),
    )


def _descend(evidence: _Evidence, start: F64) -> tuple[float, F64]:
    """Least misfit from a start, and where it is."""
    simplex = start + np.vstack([np.zeros(5), np.diag([0.3, 0.7, 0.5, 0.7, 0.7])])
    options = {"initial_simplex": simplex, "maxiter": 400, "xatol": 0.01, "fatol": 0.02}
    low, high = np.array([-30.0, 0.5, -3.0, -4.0, -30.0]), np.array([60.0, 10.0, LARGEST_SCATTER, 2.0, 90.0])
    bounds = list(zip(low, high, strict=True))
    result = minimize(_misfit, start, args=(evidence,), method="Nelder-Mead", bounds=bounds, options=options)
    return float(result.fun), np.asarray(result.x)


def _misfit(parameters: F64, evidence: _Evidence) -> float:
    """Negative logarithm of likelihood and priors."""
    brightness = _brightness(parameters)
    density = _scattered(_loss(brightness.depth), brightness.scatter) / STEP
    density = (1.0 - OUTLIERS) * density + OUTLIERS / (len(density) * STEP)
    expected = np.log(brightness.mass(evidence.diameter_nm))
    seen = evidence.detect(np.exp(_RELATIVE + expected[:, None])) @ density * STEP
    of_class = np.interp(evidence.log_mass[:, None] - expected, _RELATIVE, density) / np.maximum(seen, LEAST_SEEN)
    likelihood = (evidence.posterior * of_class).sum(axis=1)
    mean, sd = EXPONENT
    prior = ((brightness.exponent - mean) / sd) ** 2 + max(evidence.bright_end + CEILING - parameters[4], 0.0) ** 2
    mean, sd = SCATTER
    prior += ((parameters[2] - mean) / sd) ** 2
    return float(0.5 * prior - np.log(np.maximum(likelihood, 1e-12)).sum())


def _loss(depth: float) -> F64:
    """Shares of the relative signals that depth makes: −ln is gamma distributed with shape ½."""
    edges = np.append(_RELATIVE, _RELATIVE[-1] + STEP) - 0.5 * STEP
    return np.diff(1.0 - gammainc(0.5, np.maximum(-edges, 0.0) / depth))


def _scattered(shares: F64, scatter: float) -> F64:
    """The same with normal scatter of the logarithm."""
    half = min(math.ceil(4.0 * scatter / STEP), len(shares) // 2)
    kernel = np.diff(ndtr((np.arange(-half, half + 2) - 0.5) * STEP / scatter))
    return np.convolve(shares, kernel / kernel.sum(), mode="same")


def _by_size(detect: Detect, brightness: Brightness, diameter_nm: F64) -> F64:
    """Mean probability of detection over the depths that get at least half of the light."""
    shares = np.where(math.log(0.5) - 0.5 * STEP <= _RELATIVE, _loss(brightness.depth), 0.0)
    shares = _scattered(shares / shares.sum(), brightness.scatter)
    masses = np.exp(np.log(brightness.mass(diameter_nm))[:, None] + _RELATIVE)
    return np.asarray(detect(masses) @ shares)


def _half(probability: F64, diameter_nm: F64) -> float:
    """Diameter from which on at least half are found."""
    below = np.flatnonzero(probability < 0.5)
    if not len(below):
        return 0.0
    k = int(below[-1])
    if k == len(probability) - 1:
        return math.nan
    return float(np.exp(np.interp(0.5, probability[k : k + 2], np.log(diameter_nm[k : k + 2]))))
