"""Named populations: a mixture of log-normals fitted to the likelihoods of the tracks, as many as the data bear out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from exotrack.sizing.sample import Sample
from exotrack.sizing.summary import class_edges
from exotrack.tables import F32, F64, Estimate, Mask

MOST = 4
"""Most populations that are looked for."""
BIC_GAIN = 10.0
"""Fall of the BIC that another population must bring …"""
BIC_STABLE = 0.8
"""… in the sample, and in this share of the replicates."""

_REPLICATES = 40
_ITERATIONS, _WARM, _TRIAL = 300, 60, 30
_LEAST_SD = 0.02  # of ln d; narrower, a population could shrink onto a single track
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FEWEST = 50  # particles
_Z95 = 1.959964


@dataclass(frozen=True)
class Population:
    """One log-normal population, with 95 % intervals."""

    name: str
    """"P1", "P2", … by diameter."""
    median_nm: Estimate
    gsd: Estimate
    """Geometric standard deviation: exp of the s.d. of ln d."""
    fraction: Estimate
    """Share of the particles."""


@dataclass(frozen=True)
class _Mixture:
    """Weights, means and s.d. of ln d, each of shape (k,), ordered by mean."""

    weight: F64
    mean: F64
    sd: F64

    def flat(self) -> F64:
        return np.concatenate([self.weight, self.mean, self.sd])


def find_populations(
    sample: Sample,
    counts: F32,
    grid_nm: F64,
    *,
    number_exponent: float,
    limit_nm: float = 0.0,
    widening: float = 1.0,
    systematic: float = 0.0,
) -> tuple[Population, ...]:
    """Log-normal populations of a sample.

    Parameters
    ----------
    sample : Sample
        Tracks and their weights.
    counts : float32 array, shape (n_replicates, n_units)
        How often each particle counts in each bootstrap replicate; the first 40 are used.
    grid_nm : float64 array, shape (n_classes,)
        Logarithmic size grid.
    number_exponent : float
        Power of the diameter that turns shares of what was counted into shares of particles: ½ for arrivals.
    limit_nm : float
        Detection limit: populations whose median lies below it are left out, and fractions are those of what lies above
        it; 0 or NaN if there is none.
    widening : float
        Factor by which videos differ more than the replicates; see `exotrack.sizing.bootstrap`.
    systematic : float
        Relative standard uncertainty that all diameters share.

    Returns
    -------
    tuple of Population
        Ordered by diameter; empty with fewer than 50 particles.

    Notes
    -----
    Fitted by EM to the likelihoods, not to the diameters of single tracks, whose error would widen every population.
    K populations have 3K − 1 parameters; BIC = −2 ln L + (3K − 1) ln n with n particles, the pieces of one particle
    being one observation. Another population must lower the BIC by more than 10, in the sample and in 80 % of the
    replicates. Of 2,000 tracks of 15 displacements, 100 and 200 nm were two populations in 24 of 24 samples, 100 and
    150 nm one (with 40 displacements two), and 60, 100 and 200 nm three in 8 of 24 and else two.

    Intervals are 1.96 standard deviations of the replicates, of ln d for sizes.

    References
    ----------
    Schwarz, Ann. Stat. 6, 461 (1978), doi:10.1214/aos/1176344136.
    """
    if sample.n_units < _FEWEST:
        return ()
    fit = _Fit(sample, grid_nm)
    drawn = [fit.weights(c) for c in counts[:_REPLICATES]]
    whole = fit.weights(np.ones(sample.n_units, np.float32))
    best = fit.climb(fit.single(whole), whole, _ITERATIONS)
    replicates = [fit.climb(best, w, _WARM) for w in drawn]
    while len(best.weight) < MOST:
        more = fit.climb(fit.split(best, whole), whole, _ITERATIONS)
        if fit.bic(best, whole) - fit.bic(more, whole) <= BIC_GAIN:
            break
        others = [fit.climb(more, w, _WARM) for w in drawn]
        gains = [fit.bic(a, w) - fit.bic(b, w) for a, b, w in zip(replicates, others, drawn, strict=True)]
        if np.mean(np.array(gains) > BIC_GAIN) < BIC_STABLE:
            break
        best, replicates = more, others
    found, *resampled = (_number(mixture, number_exponent) for mixture in (best, *replicates))
    return _described(found, resampled, limit_nm, widening, systematic)


class _Fit:
    """EM of a mixture on likelihood rows.

    Two products with the rows per iteration, whatever the number of populations: with f the shares of the classes,
    g_j = Σ_i w_i L_ij / Σ_l f_l L_il says how much more of each class the tracks ask for.
    """

    def __init__(self, sample: Sample, grid_nm: F64) -> None:
        self.sample = sample
        self.rows = sample.rows.astype(np.float64)
        self.log_d = np.log(grid_nm)
        self.edges = np.log(class_edges(grid_nm))

    def weights(self, counts: F32) -> F64:
        """Weight of each row; the sum is the number of particles."""
        of_row = self.sample.row_weights(counts[self.sample.unit][None])[0]
        weights: F64 = of_row * (counts.sum() / of_row.sum())
        return weights

    def classes(self, mixture: _Mixture) -> F64:
        """Share of each class in each population, shape (k, n_classes)."""
        z = (self.edges - mixture.mean[:, None]) / mixture.sd[:, None]
        share = np.maximum(np.diff(special.ndtr(z), axis=1), 1e-300)
        shares: F64 = mixture.weight[:, None] * share / share.sum(axis=1, keepdims=True)
        return shares

    def bic(self, mixture: _Mixture, weights: F64) -> float:
        """Bayesian information criterion."""
        expected = np.maximum(self.rows @ self.classes(mixture).sum(axis=0), 1e-300)
        return float(-2.0 * weights @ np.log(expected) + (3 * len(mixture.weight) - 1) * np.log(weights.sum()))

    def climb(self, mixture: _Mixture, weights: F64, iterations: int) -> _Mixture:
        """EM from a mixture."""
        for _ in range(iterations):
            shares = self.classes(mixture)
            asked = (weights / np.maximum(self.rows @ shares.sum(axis=0), 1e-300)) @ self.rows
            held = shares * asked
            weight = np.maximum(held.sum(axis=1), 1e-12)
            mean = held @ self.log_d / weight
            variance = np.sum(held * (self.log_d - mean[:, None]) ** 2, axis=1) / weight
            after = _ordered(weight / weight.sum(), mean, np.sqrt(np.maximum(variance, _LEAST_SD**2)))
            moved = float(np.max(np.abs(after.flat() - mixture.flat())))
            mixture = after
            if moved < 1e-6:
                break
        return mixture

    def single(self, weights: F64) -> _Mixture:
        """One population over the most likely classes of the tracks."""
        place = self.log_d[self.rows.argmax(axis=1)]
        mean = np.average(place, weights=weights)
        sd = np.sqrt(np.average((place - mean) ** 2, weights=weights))
        return _Mixture(np.ones(1), np.array([mean]), np.array([max(float(sd), _LEAST_SD)]))

    def split(self, mixture: _Mixture, weights: F64) -> _Mixture:
        """The mixture with one more population, at the place from which a few iterations lead highest."""
        share = np.cumsum(self.classes(mixture).sum(axis=0))
        trials = []
        for q in _QUANTILES:
            at = float(np.interp(q, share / share[-1], self.log_d))
            k = int(np.argmin(np.abs(mixture.mean - at)))
            weight = np.append(mixture.weight, 0.3 * mixture.weight[k])
            weight[k] *= 0.7
            sd = np.append(mixture.sd, 0.5 * mixture.sd[k])
            start = _ordered(weight, np.append(mixture.mean, at), np.maximum(sd, _LEAST_SD))
            trials.append(self.climb(start, weights, _TRIAL))
        return min(trials, key=lambda trial: self.bic(trial, weights))


def _ordered(weight: F64, mean: F64, sd: F64) -> _Mixture:
    order = np.argsort(mean, kind="stable")
    return _Mixture(weight[order], mean[order], sd[order])


def _number(mixture: _Mixture, exponent: float) -> _Mixture:
    """By number of particles: a log-normal times a power of the diameter is a log-normal again."""
    weight = mixture.weight * np.exp(exponent * mixture.mean + 0.5 * (exponent * mixture.sd) ** 2)
    return _Mixture(weight / weight.sum(), mixture.mean + exponent * mixture.sd**2, mixture.sd)


def _above(mixture: _Mixture, kept: Mask, limit_nm: float) -> _Mixture:
    """The populations that are kept, each with its share of what lies above the limit."""
    weight = mixture.weight[kept]
    if limit_nm > 0:
        weight = weight * special.ndtr((mixture.mean[kept] - np.log(limit_nm)) / mixture.sd[kept])
    return _Mixture(weight / weight.sum(), mixture.mean[kept], mixture.sd[kept])


def _described(
    found: _Mixture, drawn: list[_Mixture], limit_nm: float, widening: float, systematic: float
) -> tuple[Population, ...]:
    kept = np.exp(found.mean) >= limit_nm if limit_nm > 0 else np.ones(len(found.mean), bool)
    if not kept.any():
        return ()
    found, drawn = _above(found, kept, limit_nm), [_above(m, kept, limit_nm) for m in drawn]
    error = {name: _Z95 * np.std([getattr(m, name) for m in drawn], axis=0) for name in ("weight", "mean", "sd")}
    place = np.hypot(widening * error["mean"], _Z95 * systematic)

    def exponential(value: float, half: float) -> Estimate:
        return Estimate(*(float(np.exp(value + side * half)) for side in (0.0, -1.0, 1.0)))

    def share(value: float, half: float) -> Estimate:
        return Estimate(float(value), float(max(value - half, 0.0)), float(min(value + half, 1.0)))

    return tuple(
        Population(
            name=f"P{k + 1}",
            median_nm=exponential(found.mean[k], place[k]),
            gsd=exponential(found.sd[k], error["sd"][k]),
            fraction=share(found.weight[k], error["weight"][k]),
        )
        for k in range(len(found.weight))
    )
