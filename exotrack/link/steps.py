"""How far particles move from frame to frame: a mixture of diffusion coefficients, learned before anything is linked.

Linking wants to know the distribution of steps, and steps are known only once spots are linked. The way out is to
count *all* distances from spots of one frame to spots of the next. Chance neighbours contribute as many as the spots
of one and the same frame have among themselves; what exceeds that are the steps of the particles. (The idea of
particle image correlation spectroscopy: Semrau & Schmidt, Biophys. J. 92, 613 (2007),
doi:10.1529/biophysj.106.092577.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exotrack.link.frames import sample
from exotrack.link.material import Material
from exotrack.tables import F64, I64

N_COMPONENTS = 25
"""Diffusion coefficients in the mixture, equally spaced in their logarithm …"""
SPAN = 1000.0
"""… over this ratio of the largest to the smallest: neighbours differ by a third, less than one step can tell."""

SLOWEST = 0.1
"""Least mean squared step, relative to the mean of all, that weighs a displacement."""
BINS = 64
"""Bins of distance, quadratically spaced, that the mixture is fitted to."""
NEIGHBOURS = 100.0
"""Neighbours at which their measured number is trusted as much as a uniform distribution."""
ITERATIONS = 5000
"""Iterations of the fit: it narrows slowly, and after 300 the gate of uniform particles is still a fifth too wide."""
MOST_SPOTS = 60_000
"""Spots whose neighbours are counted, spread over the video: they give the steps to half a percent."""
CHANCE_COUNT = 20.0
"""Chance neighbours in a bin at which their measured number is trusted as much as a uniform distribution."""
SURVIVAL = (0.5, 0.99)
"""Limits of the share of spots with a partner in the next frame: neither end can be told from few spots."""


@dataclass(frozen=True)
class Steps:
    """Distribution of displacements after subtraction of the flow, and how often there is one.

    The displacement of a particle with diffusion coefficient D over g frame intervals Δt has the density
    exp(−r²/v)/(πv) with v = 4DΔt(g − 2R) and the motion blur R. D is the apparent one: it counts the localization
    error as motion, for the errors stated with positions may be far off before many tracks have been compared.
    """

    diffusion_px2: F64
    """D·Δt of each component, px², increasing."""
    weights: F64
    """Share of the steps that each component makes."""
    blur: float
    """R."""
    survival: float
    """Share of spots with a partner in the next frame."""
    density: float
    """Spots per px² around a spot, in its frame."""

    def variances(self, intervals: int = 1) -> F64:
        """Mean squared displacement v of each component over a number of frame intervals, px²."""
        return 4.0 * self.diffusion_px2 * (intervals - 2.0 * self.blur)

    def reach(self, miss_probability: float, intervals: int = 1) -> float:
        """Distance, px, that the fastest component exceeds in `miss_probability` of its steps."""
        return float(np.sqrt(-np.log(miss_probability) * self.variances(intervals)[-1]))

    def gate(self, miss_probability: float, intervals: int = 1) -> float:
        """Smallest distance, px, that less than `miss_probability` of all steps exceed."""
        v = self.variances(intervals)
        lower, upper = 0.0, self.reach(miss_probability, intervals)
        for _ in range(60):
            middle = 0.5 * (lower + upper)
            if self.weights @ np.exp(-(middle**2) / v) < miss_probability:
                upper = middle
            else:
                lower = middle
        return upper

    def minus_log_density(self, distance: F64, intervals: int = 1) -> F64:
        """−ln of the density of a displacement, per px²; distances in px, any shape."""
        v = self.variances(intervals)
        exponent = np.log(self.weights / (np.pi * v)) - np.asarray(distance)[..., None] ** 2 / v
        return np.asarray(-np.logaddexp.reduce(exponent, axis=-1))

    def precision(self, distance: F64) -> F64:
        """Mean of 1/v over the components that a one-interval step of this length, px, may come from, px⁻².

        No component counts as slower than `SLOWEST` of the mean: spots at rest would outweigh all others.
        """
        v = np.maximum(self.variances(), SLOWEST * self.mean_square)
        exponent = np.log(self.weights / v) - distance[:, None] ** 2 / v
        share = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return np.asarray(share @ (1.0 / v) / share.sum(axis=1))

    @property
    def unmatched(self) -> float:
        """−ln of the odds of a link against a spot that vanishes and one that appears, without its step density."""
        vanishing = 1.0 - self.survival
        odds = vanishing * vanishing * self.density / self.survival
        return float(-np.log(max(odds, np.finfo(float).tiny)))

    @property
    def mean_square(self) -> float:
        """Mean squared displacement over one interval, px²."""
        return float(self.weights @ self.variances())


def any_steps(largest_px2: float, blur: float, density: float) -> Steps:
    """Steps of which nothing is known but the largest D·Δt, px²: all components alike, nineteen partners in twenty."""
    diffusion = largest_px2 * np.geomspace(1.0 / SPAN, 1.0, N_COMPONENTS)
    return Steps(diffusion, np.full(N_COMPONENTS, 1.0 / N_COMPONENTS), blur, 0.95, density)


@dataclass(frozen=True)
class Neighbours:
    """Spots around each other in one frame.

    Counted within frames, the neighbours of a spot that are no image of it follow from uneven illumination, the border
    of the field, and the distance that two spots must keep to be told apart; a uniform density would mistake each of
    these for steps. Where few are counted they are taken as uniform.
    """

    counts: I64
    """Pairs in each bin of distance, each pair twice, shape (BINS,)."""
    uniform: F64
    """The same for uniform spots."""
    n_pairs: int
    """Pairs at any distance, each twice."""
    mean_density: float
    """Spots per px² of the field in the frame of a spot, the mean over all spots."""
    edges: F64
    """Borders of the bins, px."""

    @property
    def chance(self) -> F64:
        """Probability of each bin for a spot of another frame that is no image of the first."""
        expected = self.uniform * (self.counts.sum() / self.uniform.sum())
        counted = expected * (self.counts + CHANCE_COUNT) / (expected + CHANCE_COUNT)
        return np.asarray(counted / max(self.n_pairs, 1))

    def density(self, reach: float) -> float:
        """Spots per px² around a spot, in the part of the field where there are any.

        Those from half of `reach` to `reach`, px, are counted: nearer ones may have been found as one.
        """
        ring = (self.edges[1:] > 0.5 * reach) & (self.edges[:-1] < reach)
        counted, by_chance = self.counts[ring].sum(), self.uniform[ring].sum() * self.n_pairs
        return self.mean_density * float((counted + NEIGHBOURS) / (by_chance + NEIGHBOURS))


def count_neighbours(material: Material, reach: float) -> Neighbours:
    """Count the spots around each other up to a distance, px."""
    itself = material.frames.pairs(0)[1]
    itself = itself[sample(itself, MOST_SPOTS)]
    spots = _rows(itself)[:, 0]
    height, width = material.extent
    return Neighbours(
        counts=_count(material, material.y, material.x, itself, reach),
        uniform=_uniform_neighbours(_edges(reach), material.extent) / (height * width) ** 2,
        n_pairs=int(np.sum(spots * (spots - 1))),
        mean_density=float(np.sum(spots**2) / max(spots.sum(), 1)) / (height * width),
        edges=_edges(reach),
    )


def learn_steps(prior: Steps, around: Neighbours, material: Material, at: tuple[F64, F64], reach: float) -> Steps:
    """Steps in this video, from the distances between all spots of consecutive frames.

    Parameters
    ----------
    prior : Steps
        What is known beforehand; it weighs as much as one step.
    around : Neighbours
        From `count_neighbours`, with the same `reach`.
    material : Material
        The spots.
    at : (float64, float64)
        Where each row is expected in the next frame, px.
    reach : float
        Largest distance to look at, px: the gate of the fastest particle.

    Returns
    -------
    Steps
        `prior` where there are no two consecutive frames with spots.
    """
    pairs = material.frames.pairs(1)[1]
    if len(pairs) == 0:
        return prior
    pairs = pairs[sample(pairs, MOST_SPOTS)]
    n_spots = 0.5 * _rows(pairs).sum()  # sources and targets alike, so that time has no direction
    n_pairs = int(np.sum(_rows(pairs)[:, 0] * _rows(pairs)[:, 1]))
    counts = _count(material, *at, pairs, reach)
    # Spots too close to be told apart take turns in dense video: one vanishes, its neighbour appears. Frames by
    # themselves do not show such pairs, and without a place of their own they would pass for fast particles.
    edges = _edges(reach)
    uniform = _uniform_neighbours(edges, material.extent)
    shares = np.vstack([_step_shares(edges, prior.variances()), uniform / uniform.sum()])
    amounts = material.engine.unmix(counts, around.chance, n_pairs, shares, n_spots, iterations=ITERATIONS)[:-1]
    partners = float(amounts.sum())
    return replace(
        prior,
        weights=(amounts + prior.weights) / (partners + 1.0),
        survival=float(np.clip(partners / n_spots, *SURVIVAL)),
    )


def _count(material: Material, at_y: F64, at_x: F64, pairs: I64, reach: float) -> I64:
    """Distances between the spots of pairs of frames, and where the sources are expected, in bins."""
    y, x, engine = material.y, material.x, material.engine
    parts = material.each(lambda part: engine.distance_histogram(y, x, at_y, at_x, part, reach=reach, bins=BINS), pairs)
    return np.asarray(np.sum(parts, axis=0))


def _edges(reach: float) -> F64:
    """Borders of the bins of distance, px."""
    return np.asarray(reach * np.linspace(0.0, 1.0, BINS + 1) ** 2)


def _rows(pairs: I64) -> I64:
    """Number of sources and targets of each pair of frames, shape (n_pairs, 2)."""
    return pairs[:, 1::2] - pairs[:, 0::2]


def _step_shares(edges: F64, variances: F64) -> F64:
    """Share of the steps of each component that ends in each bin of distance, shape (components, bins)."""
    beyond = np.exp(-(edges**2) / variances[:, None])
    return beyond[:, :-1] - beyond[:, 1:]


def _uniform_neighbours(edges: F64, extent: tuple[float, float]) -> F64:
    """Chance neighbours in each bin for uniform spots in a rectangle, up to a factor: the border has fewer."""
    height, width = extent
    r = np.minimum(edges, min(height, width))
    reached = np.pi * height * width * r**2 - 4.0 / 3.0 * (height + width) * r**3 + 0.5 * r**4
    return np.diff(reached)
