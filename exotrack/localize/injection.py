"""How bright a particle must be to be found: synthetic spots of known brightness are added to the user's own video."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.spatial import cKDTree
from scipy.special import ndtr

from exotrack.acquisition import Acquisition
from exotrack.camera import Camera
from exotrack.errors import InputError
from exotrack.localize.matched import MatchedFilter
from exotrack.localize.stream import FrameSource, localize, plan_windows
from exotrack.protocol import Protocol
from exotrack.tables import F64, I64, Array, Localizations, SpotModel

BRIGHTNESSES: Final = (0.4, 0.55, 0.65, 0.75, 0.85, 0.95, 1.05, 1.2, 1.4, 1.8, 2.6, 5.0)
"""Levels, relative to the signal at which a spot of the typical width just reaches the threshold."""
LIFE: Final = 12
"""Frames for which a particle stays: long against the frame before and after, short enough for many particles."""
ROOM: Final = 4.0
"""Least mean area that each injected particle has for itself, in squares of the least distance between two of them."""
WANTED: Final = 12000
"""Injected spots that are enough: 1000 of 83 particles per level."""
MOST_PASSES: Final = 16
"""Most times that the same frames are used, each time with other particles."""
TRIES: Final = 8
"""Places tried for a particle before it is left out."""
CUT: Final = 3.5
"""Widths of a spot beyond which no light is added: 0.05 % of it along an axis."""
BRIGHT: Final = 1.5
"""Filtered signal, relative to the threshold, from which the fitted widths of real spots are right."""
FEWEST: Final = 30
"""Bright spots from which their median width is trusted."""
NEAR: Final = 1.5
"""Distance, in widths, from an injected place within which a spot counts as found."""


@dataclass(frozen=True)
class Detection:
    """Probability that a particle of some brightness is found in a frame of one video.

    Examples
    --------
    >>> half, many = np.array([0.0, 1.0]), np.array([9, 9])
    >>> detection = Detection(mass=np.array([10.0, 1000.0]), probability=half, error=half, n=many)
    >>> detection.at(np.array([5.0, 100.0, 5000.0])).round(3).tolist(), round(detection.mass_half)
    ([0.0, 0.5, 1.0], 100)
    """

    mass: F64
    """Integrated signal in the units of `Localizations.mass`, increasing, shape (n_levels,)."""
    probability: F64
    """Share found at each level, chance hits taken off; never decreasing, shape (n_levels,)."""
    error: F64
    """Standard error of each share before it was made monotone, shape (n_levels,)."""
    n: I64
    """Injected spots per level, shape (n_levels,)."""

    def at(self, mass: Array) -> F64:
        """Probability at any signal: linear in its logarithm; 0 below the levels and for NaN, constant above."""
        signal = np.where(np.asarray(mass) > 0, mass, 0.5 * self.mass[0])
        return np.asarray(np.interp(np.log(signal), np.log(self.mass), self.probability, left=0.0))

    @property
    def mass_half(self) -> float:
        """Signal from which at least half are found; NaN where that is never so."""
        above = np.flatnonzero(self.probability >= 0.5)
        if not len(above):
            return math.nan
        ends = slice(max(int(above[0]) - 1, 0), int(above[0]) + 1)
        return float(np.exp(np.interp(0.5, self.probability[ends], np.log(self.mass[ends]))))


def injected_detection(
    video: FrameSource,
    protocol: Protocol | None = None,
    *,
    model: SpotModel,
    diffusion_um2_s: float,
    spots: Localizations | None = None,
    flow_px: tuple[float, float] = (0.0, 0.0),
    camera: Camera | None = None,
    backend: str = "auto",
    seed: int = 1,
) -> Detection:
    """Measure how the probability of detection depends on brightness, by injection into the first window of a video.

    Parameters
    ----------
    video : FrameSource
        As `localize` takes it; only the first window of its time grid is read.
    protocol : Protocol, optional
        Settings; the defaults if not given.
    model : SpotModel
        What `calibrate` learned of this video.
    diffusion_um2_s : float
        Diffusion coefficient of the injected particles: typical of the sample.
    spots : Localizations, optional
        What `localize` found in the video, for the width of a typical spot; searched for in the first window if not
        given.
    flow_px : tuple of float
        Displacement along y and x that all particles share, px per frame.
    camera : Camera, optional
        As for `localize`; signals are in electrons then.
    backend : str
        "auto", "cpu" or "cuda".
    seed : int
        Same video and seed, same result.

    Returns
    -------
    Detection

    Raises
    ------
    InputError
        A diffusion coefficient that is negative or not finite, or frames that `localize` refuses.

    Notes
    -----
    Each particle is a Gaussian of the typical width, integrated over the pixels. It moves by Brownian steps for 12
    frames and makes room for another one: the detector, which goes on with a faint peak where a particle was found a
    frame before or after, sees what a real one would show. Injected particles keep the side of the filter's square
    from each other, 12 widths or so, and have four times the square of that distance as room on the average; their
    distance from real particles is left to chance, for crowding is part of the truth. Added light brings noise,
    `SpotModel.gain_dn` times the signal; dark spots take light away and no noise with it. The result is rounded and
    clipped to the dtype; rounding twice adds 1/12 to the variance of a pixel.

    A spot within 1.5 widths of an injected place counts as found. By chance one of ρ other spots per px² lies there
    with the probability c = 1 − exp(−ρπr²): a share f of hits means that (f − c)/(1 − c) were found. Frames that
    `localize` leaves out count as missed.

    On five simulated videos that had no part in the development (1 particle in 5,000 to 680 px², 8 and 12 bits, bright
    and dark, uneven light, adhered particles) it differed from the true recall by 3 points on the average and 8 at
    most, at 32 levels between 0.05 and 0.95; 24 of them agreed within 5 points. The mean difference was 0.5 points.

    The curve is that of spots in focus. Its errors are those of whole particles, since the localizations of one are no
    independent trials.
    """
    if not (math.isfinite(diffusion_um2_s) and diffusion_um2_s >= 0):
        raise InputError(f"diffusion_um2_s = {diffusion_um2_s!r}: give a number of 0 or more, in µm²/s")
    protocol = protocol or Protocol()
    acquisition = video.acquisition
    stop = plan_windows(video.shape, video.dtype.itemsize, acquisition.frame_interval_s, protocol)[0][1]
    step_px = math.sqrt(2.0 * diffusion_um2_s * acquisition.frame_interval_s) / acquisition.pixel_size_um
    rng = np.random.default_rng(seed)
    camera = camera or getattr(video, "camera", None)
    search = partial(localize, protocol=protocol, camera=camera, backend=backend, model=model, start=0, stop=stop)
    width = _typical_width(search(video) if spots is None else spots, model)
    n_pixels, reach = stop * video.shape[1] * video.shape[2], NEAR * model.sigma_px
    tallies: list[_Tally] = []
    while len(tallies) < MOST_PASSES and sum(int(t.n.sum()) for t in tallies) < WANTED:
        injected = _draw(rng, (stop, *video.shape[1:]), model, step_px, flow_px)
        tap = _Injected(video, injected, model, width, camera, int(rng.integers(2**32)))
        tallies.append(_tally(search(tap), injected, reach, n_pixels))
    return _curve(threshold_mass(model) * np.array(BRIGHTNESSES), tallies, reach)


def threshold_mass(model: SpotModel) -> float:
    """Integrated signal with which a spot of the typical width, centred on a pixel, just reaches the threshold, DN."""
    matched = MatchedFilter.for_sigma(model.sigma_px)
    line = np.concatenate([matched.taps[:0:-1], matched.taps]).astype(np.float64)
    kernel = matched.kernel()
    noise = model.noise_dn * float(np.sqrt((kernel**2).sum()))
    seen = float((line**2).sum()) ** 2 - float(line.sum()) ** 2 / kernel.size
    return model.threshold * noise / seen


def _typical_width(found: Localizations, model: SpotModel) -> float:
    """Median width of the bright, clean spots of a video, px; that of the model where there are few.

    Where most spots are near the threshold, the model's width is that of the sharpest, up to 5 % too small on simulated
    videos, and injected spots would be as much too easy to find. Chosen by what the filter sees of them, neither sharp
    nor blurred ones are preferred: the width is right to 1 %.
    """
    typical = model.sigma_px**2
    response = found.mass * 2.0 * typical / (found.sigma.astype(np.float64) ** 2 + typical)
    bright = (found.flag == 0) & (response > BRIGHT * threshold_mass(model))
    return float(np.median(found.sigma[bright])) if bright.sum() >= FEWEST else model.sigma_px


@dataclass(frozen=True)
class _Spots:
    """Injected spots, by generation, particle and frame."""

    frame: I64
    y: F64
    x: F64
    particle: I64
    level: I64
    """Index in `BRIGHTNESSES`, the same for all spots of a particle."""


def _draw(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    model: SpotModel,
    step_px: float,
    flow_px: tuple[float, float],
) -> _Spots:
    """Particles for frames of a shape (n, height, width), one generation of them after the other."""
    n_frames, height, width = shape
    apart = _apart(model)
    count = max(1, min(int(height * width / (ROOM * apart**2)), math.ceil(WANTED / n_frames)))
    frames, places, particles = [], [], []
    total = 0
    for first in range(0, n_frames, LIFE):
        length = min(LIFE, n_frames - first)
        paths = _generation(rng, count, length, (height, width), apart, step_px, flow_px)
        frames.append(np.tile(np.arange(first, first + length), len(paths)))
        places.append(paths.reshape(-1, 2))
        particles.append(np.repeat(np.arange(total, total + len(paths)), length))
        total += len(paths)
    y, x = np.concatenate(places).T
    particle = np.concatenate(particles)
    level = rng.permutation(max(total, len(BRIGHTNESSES)))[:total] % len(BRIGHTNESSES)
    return _Spots(np.concatenate(frames), y, x, particle, level[particle])


def _apart(model: SpotModel) -> float:
    """Least distance of injected particles, px: none sends light into the square whose mean is taken off at another."""
    return 2.0 * MatchedFilter.for_sigma(model.sigma_px).box_half + 1.0


def _generation(
    rng: np.random.Generator,
    count: int,
    length: int,
    shape: tuple[int, int],
    apart: float,
    step_px: float,
    flow_px: tuple[float, float],
) -> F64:
    """Paths of up to `count` particles that stay apart, shape (n, length, 2); those that leave come in opposite."""
    kept = np.empty((0, length, 2))
    for _ in range(TRIES * count):
        steps = step_px * rng.standard_normal((length, 2)) + flow_px
        steps[0] = rng.random(2) * shape
        path = np.mod(np.cumsum(steps, axis=0), shape) - 0.5
        if not len(kept) or np.linalg.norm(kept - path, axis=2).min() >= apart:
            kept = np.concatenate([kept, path[None]])
        if len(kept) == count:
            break
    return kept


class _Injected:
    """A video with particles added to its frames as they stream by."""

    def __init__(
        self, source: FrameSource, spots: _Spots, model: SpotModel, width: float, camera: Camera | None, seed: int
    ) -> None:
        self._source, self._spots, self._model, self._width = source, spots, model, width
        self._camera, self._seed = camera, seed
        self._mass = threshold_mass(model) * np.array(BRIGHTNESSES)[spots.level]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._source.dtype

    @property
    def acquisition(self) -> Acquisition:
        return self._source.acquisition

    def blocks(self, block_frames: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Array]]:
        for first, frames in self._source.blocks(block_frames, start, stop):
            seen = np.array(frames)
            for number, frame in enumerate(seen, start=first):
                self._add(frame, number)
            yield first, seen

    def _add(self, frame: Array, number: int) -> None:
        """Add the light of a frame's particles, in place; the noise is the same however the video is cut."""
        here = np.flatnonzero(self._spots.frame == number)
        row, column, light = _light(self._spots.y[here], self._spots.x[here], self._mass[here], self._width)
        noise = np.random.default_rng((self._seed, number)).standard_normal(light.shape)
        inside = (row >= 0) & (row < frame.shape[0]) & (column >= 0) & (column < frame.shape[1])
        row, column = row[inside], column[inside]
        change = self._model.sign * light[inside] + np.sqrt(self._model.gain_dn * light[inside]) * noise[inside]
        if self._camera is not None:
            change *= self._camera.gain[row, column]
        value = frame[row, column] + change
        if np.issubdtype(frame.dtype, np.integer):
            value = np.clip(np.rint(value), 0, np.iinfo(frame.dtype).max)
        frame[row, column] = value.astype(frame.dtype)


def _light(y: F64, x: F64, mass: F64, sigma: float) -> tuple[I64, I64, F64]:
    """Row, column and light of the pixels around spots, each of shape (n, side, side)."""
    half = math.ceil(CUT * sigma)
    around = np.arange(-half, half + 1)
    row, column = (np.rint(at)[:, None].astype(np.int64) + around for at in (y, x))
    share_y, share_x = (
        ndtr((pixel + 0.5 - at[:, None]) / sigma) - ndtr((pixel - 0.5 - at[:, None]) / sigma)
        for pixel, at in ((row, y), (column, x))
    )
    light = mass[:, None, None] * share_y[:, :, None] * share_x[:, None, :]
    rows, columns = np.broadcast_arrays(row[:, :, None], column[:, None, :])
    return rows, columns, light


@dataclass(frozen=True)
class _Tally:
    """What became of the injected particles of one pass."""

    level: I64
    """Of each particle, shape (n_particles,)."""
    n: I64
    """Spots of each particle."""
    hits: I64
    """How many of them have a spot nearby."""
    others: float
    """Further spots per px²."""


def _tally(found: Localizations, spots: _Spots, reach: float, n_pixels: int) -> _Tally:
    """Count the hits of each particle."""
    far = 4.0 * reach  # frames are laid that far apart along a third axis
    tree = cKDTree(np.stack([far * found.frame, found.y, found.x], axis=1))
    distance, nearest = tree.query(np.stack([far * spots.frame, spots.y, spots.x], axis=1), distance_upper_bound=reach)
    hit = np.isfinite(distance)
    first = np.flatnonzero(np.diff(spots.particle, prepend=-1))
    return _Tally(
        level=spots.level[first],
        n=np.bincount(spots.particle),
        hits=np.bincount(spots.particle, hit),
        others=(len(found) - len(np.unique(nearest[hit]))) / n_pixels,
    )


def _curve(mass: F64, tallies: list[_Tally], reach: float) -> Detection:
    """Share found at each level, from all passes."""
    level, n, hits = (np.concatenate([getattr(t, name) for t in tallies]) for name in ("level", "n", "hits"))
    by_chance = 1.0 - math.exp(-math.pi * reach**2 * float(np.mean([t.others for t in tallies])))
    total = np.bincount(level, n, len(mass))
    seen = np.maximum(total, 1.0)
    share = np.bincount(level, hits, len(mass)) / seen
    # Between particles, but not below what independent trials have; half a hit and half a miss keep 0 and 1 uncertain.
    scatter = np.sqrt(np.bincount(level, (hits - share[level] * n) ** 2, len(mass))) / seen
    careful = (share * total + 0.5) / (total + 1.0)
    error = np.maximum(scatter, np.sqrt(careful * (1.0 - careful) / (total + 1.0))) / (1.0 - by_chance)
    probability = np.clip((share - by_chance) / (1.0 - by_chance), 0.0, 1.0)
    monotone = isotonic_regression(probability, weights=seen).x
    return Detection(mass, np.asarray(monotone, np.float64), error, total.astype(np.int64))
