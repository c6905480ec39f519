"""Background and noise of a window of frames: what a spot has to stand out of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve1d, median_filter, uniform_filter

from exotrack.backends.contract import Backend
from exotrack.camera import Camera
from exotrack.localize.detector import Detector
from exotrack.localize.matched import MatchedFilter
from exotrack.localize.tiles import TILE, Tiles
from exotrack.protocol import LocalizeSection
from exotrack.tables import F32, F64, I32, I64, Array, SpotFlag, SpotModel

SAMPLES = 5
"""Frames of a window from which the noise is measured."""
ROUNDING_NOISE = math.sqrt(1.0 / 12.0)
"""s.d. of rounding to whole grey levels, the least noise that an integer image can have, DN."""
LEAST = 1e-6
"""Least s.d. of the noise of frames of real numbers, DN: without any, there would be no scale."""
CLIP = 3.5
"""Noise s.d. beyond which a place is left out of the noise, together with its surroundings."""
CLIPPINGS = 3
"""Times that this is repeated; in sparse fields two suffice."""
CONTINUED = 0.002
"""Expected number of noise peaks within reach of a particle's last place that pass for its continuation."""


FAINTEST = 3.3
"""Signal-to-noise ratio below which no peak continues a particle, however near."""


@dataclass(frozen=True)
class Scale:
    """What `detect` needs to look for spots of one width in a window."""

    detector: Detector
    level: F32
    """Filtered still background, sign included, on the lattice, DN."""
    inverse_noise: F32
    """One over the s.d. of the filtered noise on the lattice, 1/DN."""
    threshold: F32
    """Signal-to-noise ratio of a spot that stands for itself, on the lattice."""
    limit: F32
    """Filtered signal from which a lattice point is looked at, DN."""
    faint: float
    """Signal-to-noise ratio, as a share of the threshold, of a peak that may continue a particle."""


@dataclass(frozen=True)
class WindowState:
    """Background and noise of one window of the time grid."""

    background: F32
    """Still background, DN; zeros where none is subtracted."""
    variance: F32
    """Variance of the noise per pixel where there is no spot, DN²."""
    scales: tuple[Scale, ...]
    """The spot model's width first, then its further widths."""
    cleared: Array
    """A few frames of the window without their bright spots, from which the noise was measured."""
    quiet: npt.NDArray[np.bool_]
    """Lattice points of these frames, at the first width, that are far from any spot."""


def spread(n_frames: int, count: int) -> I64:
    """Numbers of about `count` frames, evenly spread over `n_frames`."""
    return np.unique(np.linspace(0, n_frames - 1, min(count, n_frames)).round().astype(np.int64))


def sample(frames: Array, count: int) -> Array:
    """About `count` frames, evenly spread."""
    return frames if len(frames) <= count else frames[spread(len(frames), count)]


def window_state(
    frames: Array,
    model: SpotModel,
    settings: LocalizeSection,
    reach_px: float,
    *,
    backend: Backend,
    camera: Camera | None = None,
    executor: Executor | None = None,
) -> WindowState:
    """Background and noise of a window, from frames sampled evenly in it.

    Parameters
    ----------
    frames : array, shape (n, height, width)
        Raw frames.
    model : SpotModel
    settings : LocalizeSection
    reach_px : float
        Distance within which a particle is looked for in the next frame, px.
    backend : module
        A loaded backend.
    camera : Camera, optional
        Turns frames into electrons and adds the read noise of each pixel; all results are in electrons then.
    executor : Executor, optional
        Runs parts in parallel; it never changes a result.
    """
    shape = frames.shape[1:]
    n_pixels = shape[0] * shape[1]
    floor = least_noise(frames.dtype, camera)
    background = np.zeros(shape, np.float32)
    if model.still_background and len(frames) >= 3:
        picked = spread(len(frames), settings.background_frames)
        still = partial(backend.still_background, frames, picked)
        background = np.concatenate(in_parts(executor, lambda rows: still(rows=rows), pairwise(_bands(shape[0]))))
        background = in_electrons(background, camera)
        # A frame that is part of the background agrees with it more than others do: 3 % less noise.
        others = np.setdiff1d(np.arange(len(frames)), picked)
        few = frames[others[spread(len(others), SAMPLES)]] if len(others) >= SAMPLES else sample(frames, SAMPLES)
    else:
        few = sample(frames, SAMPLES)
    cleared, spots = _without_bright_spots(in_electrons(few, camera), background, model, floor, backend, executor)
    share = settings.false_alarms_per_frame / (1 + len(model.further_sigmas_px))
    scales: list[Scale] = []
    variance, quiet = np.empty(shape, np.float32), np.empty(0, np.bool_)
    for sigma in (model.sigma_px, *model.further_sigmas_px):
        detector = Detector.of(model, sigma, backend)
        matched = detector.matched
        level = _filtered_background(background, model, detector)
        filtered = np.concatenate(in_parts(executor, detector.filtered, _each(cleared)))
        filtered -= level
        tiles = Tiles.of(shape, matched)
        noise, far = pixel_noise(filtered, spots, matched, tiles, backend=backend, floor=floor, executor=executor)
        # A still bright speck is subtracted, but its shot noise stays. The filter halves the height of a speck.
        specks = 2.0 * model.gain_dn * np.maximum(level, 0.0) if model.still_background else np.float32(0.0)
        if not scales:
            quiet, variance = far, tiles.on_pixels(noise) ** 2
            if model.still_background and model.gain_dn > 0.0:
                variance += np.repeat(np.repeat(specks, matched.step, 0), matched.step, 1)[: shape[0], : shape[1]]
            if camera is not None:
                variance = _with_read_noise(variance, camera.read_variance)
        if camera is None:
            filtered_noise = np.sqrt(tiles.on_lattice(noise) ** 2 + specks) * matched.noise_gain(*shape)
        else:
            filtered_noise = np.sqrt(_filtered_variance(variance, matched))
        threshold = tiles.on_lattice(matched.threshold_at(share, n_pixels, model.sign * model.skew_dn / noise))
        limit = level + np.float32(matched.seen) * threshold * filtered_noise
        inverse = (1.0 / filtered_noise).astype(np.float32)
        faint = _faint(matched, share, n_pixels, reach_px)
        scales.append(Scale(detector, level, inverse, threshold, limit.astype(np.float32), faint))
    return WindowState(background, variance, tuple(scales), cleared, quiet)


def in_electrons(frames: Array, camera: Camera | None) -> Array:
    """Frames as they are without a camera, photoelectrons with one."""
    return frames if camera is None else camera.electrons(frames)


def least_noise(dtype: np.dtype[Any], camera: Camera | None = None) -> float:
    """Least s.d. per pixel that frames of a dtype can have, DN (photoelectrons with a camera), above zero."""
    if not np.issubdtype(dtype, np.integer):
        return LEAST
    return ROUNDING_NOISE if camera is None else ROUNDING_NOISE / float(np.median(camera.gain))


def in_parts(executor: Executor | None, function: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """Results for all parts, in order."""
    return list(map(function, parts) if executor is None else executor.map(function, parts))


def _bands(length: int) -> list[int]:
    """Borders of four bands of rows."""
    return [length * k // 4 for k in range(5)]


def _each(frames: Array) -> Iterable[Array]:
    """Stacks of one frame."""
    return (frames[i : i + 1] for i in range(len(frames)))


def _filtered_background(background: F32, model: SpotModel, detector: Detector) -> F32:
    """The filtered still background, positive for spots; zeros where none is subtracted, DN."""
    if not model.still_background:
        return np.zeros(detector.matched.lattice(*background.shape), np.float32)
    level: F32 = detector.filtered(background[None])[0]
    return level


def _without_bright_spots(
    frames: Array, background: F32, model: SpotModel, floor: float, backend: Backend, executor: Executor | None
) -> tuple[Array, tuple[I32, F64, F64]]:
    """Frames without the spots that stand out beyond doubt, and where these were: frame, y, x.

    Where bright spots are dense, the squares whose mean the filter subtracts are full of their light, and what looks
    quiet between them is not: the noise would come out several times too large.
    """
    detector = Detector.of(model, model.sigma_px, backend)
    matched = detector.matched
    level = _filtered_background(background, model, detector)
    # The first time, the median of all places: too large a noise, if anything, which only spares the fainter spots.
    noise = model.noise_dn or typical_noise(detector.filtered(frames[:3]) - level, matched, background.shape, floor)
    filtered_noise = np.float32(noise) * matched.noise_gain(*background.shape)
    variance = np.full(background.shape, noise**2, np.float32)

    def one(frame: Array) -> tuple[F32, F64]:
        at, y, x, _ = detector.sure(frame, level, filtered_noise)
        values, flag = backend.refine(
            frame, background, variance, at, y, x, sign=model.sign, sigma=model.sigma_px, gain=model.gain_dn,
            half=matched.fit_half, saturation=model.saturation_dn, free_width=True,
        )  # fmt: skip
        values = np.ascontiguousarray(values[:, (flag & SpotFlag.SEED_ONLY) == 0])
        return backend.without_spots(frame, np.zeros(values.shape[1], np.int32), values, sign=model.sign), values

    parts = in_parts(executor, one, _each(frames))
    number = np.repeat(np.arange(len(parts), dtype=np.int32), [values.shape[1] for _, values in parts])
    y, x = (np.concatenate([values[a] for _, values in parts]) for a in (0, 1))
    return np.concatenate([rest for rest, _ in parts]), (number, y, x)


def typical_noise(filtered: F32, matched: MatchedFilter, shape: tuple[int, ...], floor: float) -> float:
    """s.d. of the noise per pixel from the median of filtered frames as a whole, spots and all, DN."""
    spacing = max(3 // matched.step, 1)  # neighbours are correlated and add little
    deviation = np.abs(filtered[:, ::spacing, ::spacing]) / matched.noise_gain(*shape)[::spacing, ::spacing]
    return max(1.4826 * float(np.median(deviation)), floor)


def _faint(matched: MatchedFilter, share: float, n_pixels: int, reach_px: float) -> float:
    """Share of the threshold at which noise seldom offers a continuation within reach."""
    faint = matched.threshold(CONTINUED, max(round(math.pi * reach_px**2), 10))
    return min(max(faint, FAINTEST) / matched.threshold(share, n_pixels), 1.0)


def pixel_noise(
    filtered: F32,
    spots: tuple[I32, F64, F64],
    matched: MatchedFilter,
    tiles: Tiles,
    *,
    backend: Backend,
    floor: float,
    executor: Executor | None = None,
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """s.d. of the noise per pixel that explains filtered frames, from the median absolute deviation on tiles.

    The deviation is taken about zero, not about the median: the filter removes any offset. The surroundings of
    whatever stands out by 3.5 s.d. are left out in further passes, since spots that cover a fifth of a tile would
    make its noise a third too large. Noise follows the illumination and varies smoothly, a cluster of particles does
    not: a median over 5 × 5 tiles removes what dim particles add locally.

    Parameters
    ----------
    filtered : float32 array, shape (n, lattice height, lattice width)
        Output of the matched filter, positive for spots, DN.
    spots : tuple of arrays
        Frame, y and x of spots that were taken away [px]: their fits took some of the noise with them.
    matched : MatchedFilter
        The filter.
    tiles : Tiles
    backend : module
    floor : float
        Least noise, DN.
    executor : Executor, optional
        Runs rows of tiles in parallel.

    Returns
    -------
    noise : float64 array, shape (tiles along y, tiles along x), DN
    quiet : bool array of the shape of `filtered`
        Lattice points that are far from any spot.
    """
    gain = matched.noise_gain(tiles.shape[0], tiles.shape[1])
    inverse = (1.0 / gain).astype(np.float32)
    elsewhere = _far_from(spots, filtered.shape, matched)
    quiet = elsewhere.copy()
    borders = [tiles.ys[a : b + 1] for a, b in pairwise(_bands(len(tiles.ys) - 1)) if a < b]

    def measured() -> F64:
        bands = in_parts(executor, lambda ys: backend.tile_noise(filtered, inverse, quiet, ys, tiles.xs), borders)
        return _smooth(np.concatenate(bands), floor)

    noise = measured()
    radius = math.ceil(2.5 * matched.sigma / matched.step)
    for _ in range(CLIPPINGS):
        quiet[:] = elsewhere
        limit = np.float32(CLIP) * tiles.on_lattice(noise) * gain
        silence = partial(_quieten_frame, filtered, limit, radius, quiet, backend)
        in_parts(executor, silence, range(len(filtered)))
        noise = measured()
    return noise, quiet


def _quieten_frame(
    filtered: F32, limit: F32, radius: int, quiet: npt.NDArray[np.bool_], backend: Backend, i: int
) -> None:
    backend.quieten(filtered[i : i + 1], limit, radius, quiet[i : i + 1])


def _far_from(spots: tuple[I32, F64, F64], shape: tuple[int, ...], matched: MatchedFilter) -> npt.NDArray[np.bool_]:
    """Lattice points that are more than two widths from any of the spots."""
    far = np.ones(shape, np.bool_)
    frame, y, x = spots
    reach = math.ceil(2.0 * matched.sigma / matched.step)
    rows, columns = (np.rint(at / matched.step).astype(np.int64) for at in (y, x))
    for v in range(-reach, reach + 1):
        for u in range(-reach, reach + 1):
            far[frame, np.clip(rows + v, 0, shape[1] - 1), np.clip(columns + u, 0, shape[2] - 1)] = False
    return far


def _smooth(tiles: F64, floor: float) -> F64:
    return np.asarray(np.maximum(median_filter(tiles, size=5, mode="nearest"), floor))


def _with_read_noise(variance: F32, read: F32) -> F32:
    """Each pixel's own read noise in place of that of its surroundings."""
    photons = np.maximum(variance - uniform_filter(read, size=TILE, mode="nearest"), 0.0)
    return np.asarray(photons + read, np.float32)


def _filtered_variance(variance: F32, matched: MatchedFilter) -> F32:
    """Variance of the filtered frame on the lattice where each pixel has its own, DN²."""
    half, radius = matched.box_half, len(matched.taps) - 1
    gauss = np.pad(np.concatenate([matched.taps[:0:-1], matched.taps]), half - radius)
    box = np.full(2 * half + 1, 1.0 / (2 * half + 1), np.float32)
    total = np.zeros(variance.shape, np.float32)
    for one, other, factor in ((gauss, gauss, 1.0), (gauss, box, -2.0), (box, box, 1.0)):
        along_y = convolve1d(variance, one * other, axis=0, mode="nearest")
        total += np.float32(factor) * convolve1d(along_y, one * other, axis=1, mode="nearest")
    return total[:: matched.step, :: matched.step]
