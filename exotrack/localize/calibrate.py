"""What a video tells about itself: polarity, width of the spots, still background, noise, gain, saturation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from exotrack.localize.matched import ROUNDING_NOISE, TILE, MatchedFilter, pixel_noise
from exotrack.localize.scene import large_objects, stage_drift_px
from exotrack.protocol import LocalizeSection
from exotrack.tables import F32, F64, I32, Array, SpotFlag, SpotModel

SAMPLES = 12
"""Frames of a window from which the noise and the gain are estimated."""
SCALE_SAMPLES = 5
"""Frames of the first window from which the polarity and the width are estimated, at every scale."""
SCALES = (0.8, 1.1, 1.5, 2.1, 3.0, 4.2, 6.0)
"""Widths tried before the refinement of the width, px."""
STILL_FRAMES = 100
"""Fewest frames that can tell a still background from particles that have not moved yet."""
STAGE_DRIFT = 0.5
"""Distance over half a window beyond which the stage is said to drift, px."""
MEDIAN_OF_SQUARE = 0.4549
"""Median of the square of a standard normal number."""
SURE = 6.0
"""Signal-to-noise ratio above which a maximum is a spot beyond doubt, at any scale."""


@dataclass(frozen=True)
class WindowState:
    """Background and noise of one window of the time grid."""

    background: F32
    """Still background, DN; zeros where none is subtracted."""
    filtered_noise: F32
    """s.d. of the noise after the matched filter, DN."""
    pixel_noise: F32
    """s.d. of the noise per pixel that explains it, DN."""


def sample(frames: Array, count: int) -> Array:
    """About `count` frames, evenly spread."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(np.int64))]


def window_state(
    frames: Array, model: SpotModel, matched: MatchedFilter, settings: LocalizeSection, backend: Any
) -> WindowState:
    """Background and noise of a window, from frames sampled evenly in it."""
    background = np.zeros(frames.shape[1:], np.float32)
    if model.still_background and len(frames) >= 3:
        background = backend.still_background(sample(frames, settings.background_frames))
    filtered = backend.matched_filter(
        sample(frames, SAMPLES),
        background,
        matched.taps,
        box_half=matched.box_half,
        sign=_sign(model.polarity),
    )
    noise = pixel_noise(filtered, matched)
    # A still bright speck is subtracted, but its shot noise stays.
    speck = np.maximum(background - uniform_filter(background, size=TILE, mode="nearest"), 0.0)
    noise = np.sqrt(noise**2 + model.gain_dn * speck)
    return WindowState(background, noise * matched.noise_gain(*noise.shape), noise)


def calibrate(frames: Array, settings: LocalizeSection, *, backend: Any, bit_depth: int | None = None) -> SpotModel:
    """Learn a video's spot model from its first window.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
        The frames of the first window.
    settings : LocalizeSection
        A polarity or width given there is taken as it is.
    backend : module
        A loaded backend.
    bit_depth : int, optional
        Significant bits per pixel; that of the dtype if not given.

    Returns
    -------
    SpotModel
        Where the frames hold no spot, the width is 1.3 px and a warning says so.
    """
    warnings: list[str] = []
    samples = sample(frames, SAMPLES)
    few = sample(frames, SCALE_SAMPLES)
    polarity = settings.polarity
    if polarity == "auto":
        strength = {sign: max(_strength(few, s, sign, backend) for s in (1.1, 3.0)) for sign in (1.0, -1.0)}
        polarity = "bright" if strength[1.0] >= strength[-1.0] else "dark"
    sign = _sign(polarity)
    if settings.psf_sigma_px == "auto":
        sigma = _spot_width(few, sign, backend)
        if sigma is None:
            sigma = 1.3
            warnings.append("no spot stands out in the first seconds: a width of 1.3 px was assumed")
    else:
        sigma = float(settings.psf_sigma_px)
    matched = MatchedFilter.for_sigma(sigma)
    still = _look_at_still(frames, matched, sign, settings.background_frames, backend)
    height, width = frames.shape[1:]
    model = SpotModel(
        polarity=polarity,
        sigma_px=sigma,
        threshold=matched.threshold(settings.false_alarms_per_frame, height * width),
        still_background=still.usable,
        noise_dn=0.0,
        gain_dn=0.0,
        saturated_share=0.0,
    )
    state = window_state(frames, model, matched, settings, backend)
    noise = float(np.median(state.pixel_noise))
    limit = min(saturation_level(frames.dtype, bit_depth), _reached_limit(samples))
    saturated = float(np.mean(samples >= limit)) if math.isfinite(limit) else 0.0
    if noise <= 1.01 * ROUNDING_NOISE and np.issubdtype(frames.dtype, np.integer):
        warnings.append(
            "the noise is below one grey level: the camera's gain is too low to see it, faint spots are lost"
        )
    if saturated > 1e-3:
        warnings.append(
            f"{saturated:.1%} of the pixels are saturated: masses are too small, shorten the exposure or lower the gain"
        )
    if still.drift_px > STAGE_DRIFT:
        warnings.append(f"what is still moves by {still.drift_px:.1f} px within the first seconds: the stage drifts")
    if still.objects_px:
        warnings.append(
            f"{len(still.objects_px)} still object(s) of up to {still.objects_px[0]:.0f} px are no particles: "
            "look for bubbles, fibres and glare"
        )
    dark = float(np.mean(samples == 0)) if np.issubdtype(frames.dtype, np.integer) else 0.0
    if dark > 0.05:
        warnings.append(
            f"{dark:.0%} of the pixels are clipped at black: noise is cut off there, and more false spots are found "
            "than asked for; raise the camera's offset"
        )
    if float(samples.max()) == float(samples.min()):
        warnings.append("the first seconds are uniform: every pixel has the same value")
    return SpotModel(
        polarity=polarity,
        sigma_px=sigma,
        threshold=model.threshold,
        still_background=still.usable,
        noise_dn=noise,
        gain_dn=_gain(samples, state, model, matched, limit, backend),
        saturated_share=saturated,
        saturation_dn=limit,
        stage_drift_px=still.drift_px,
        large_objects=len(still.objects_px),
        warnings=tuple(warnings),
    )


def saturation_level(dtype: Any, bit_depth: int | None) -> float:
    """Grey level at which a pixel counts as clipped: 98.5 % of the range of 8 bits (254 and 255), the top of others."""
    if not np.issubdtype(dtype, np.integer):
        return math.inf
    top = 2.0 ** (bit_depth or 8 * np.dtype(dtype).itemsize) - 1.0
    return top - 1.0 if top == 255.0 else top


def _reached_limit(samples: Array) -> float:
    """Upper end of 10, 12 or 14 bits where many pixels are just there: such data often come in 16 bits."""
    top = float(samples.max())
    many = float(np.mean(samples == samples.max())) > 1e-4
    return top if many and top in (1023.0, 4095.0, 16383.0) else math.inf


def _sign(polarity: str) -> float:
    return 1.0 if polarity == "bright" else -1.0


def _detections(
    samples: Array, matched: MatchedFilter, sign: float, backend: Any
) -> tuple[F32, tuple[I32, F32, F32, F32]]:
    """Pixel noise, the same everywhere, and sure spots of the samples."""
    nothing = np.zeros(samples.shape[1:], np.float32)
    filtered = backend.matched_filter(samples, nothing, matched.taps, box_half=matched.box_half, sign=sign)
    gain = matched.noise_gain(samples.shape[1], samples.shape[2])
    # Every third pixel along both axes: neighbours are correlated and add little.
    typical = 1.4826 * float(np.median((np.abs(filtered) / gain)[:, ::3, ::3]))
    noise = np.full(nothing.shape, max(typical, ROUNDING_NOISE), np.float32)
    found = backend.detect(
        samples, nothing, 1.0 / (noise * gain), matched.taps,
        box_half=matched.box_half, sign=sign, threshold=SURE, peak_half=matched.peak_half,
    )  # fmt: skip
    return noise, found


def _strength(samples: Array, sigma: float, sign: float, backend: Any) -> float:
    """Sum of squared signal-to-noise ratios of the sure spots: how much there is to see at a scale."""
    _, (_, _, _, snr) = _detections(samples, MatchedFilter.for_sigma(sigma), sign, backend)
    return float((snr.astype(np.float64) ** 2).sum())


def _spot_width(samples: Array, sign: float, backend: Any) -> float | None:
    """Median fitted width of the sure, solitary spots, starting from the scale at which most is to be seen."""
    smallest = min(samples.shape[1:])
    strengths = [_strength(samples, s, sign, backend) for s in SCALES if 10 * s < smallest]
    if not strengths or max(strengths) == 0.0:
        return None
    sigma = SCALES[int(np.argmax(strengths))]
    nothing = np.zeros(samples.shape[1:], np.float32)
    for _ in range(3):
        matched = MatchedFilter.for_sigma(sigma)
        noise, (frame, y, x, _) = _detections(samples, matched, sign, backend)
        values, flag = backend.refine(
            samples, nothing, noise, frame, y, x,
            sign=sign, sigma=sigma, gain=0.0, half=matched.fit_half, saturation=saturation_level(samples.dtype, None),
        )  # fmt: skip
        clean = flag == 0
        if clean.sum() < 5:
            clean = (flag & SpotFlag.SEED_ONLY) == 0
        if clean.sum() < 3:
            break
        # A filter up to 1.8 times too wide costs little, one that is too narrow much: the median of all depths serves.
        sigma = float(np.clip(np.median(values[5][clean]), 0.5, smallest / 12))
    return sigma


@dataclass(frozen=True)
class _Still:
    """What does not move in the first window, and whether it may be subtracted."""

    usable: bool
    """Whether the temporal mean holds what is still, rather than particles too slow to have left."""
    drift_px: float
    """Distance by which still structure moves from one half of the window to the other; NaN without structure."""
    objects_px: list[float]
    """Equivalent diameters of still objects much larger than a spot."""


def _look_at_still(frames: Array, matched: MatchedFilter, sign: float, count: int, backend: Any) -> _Still:
    """Compare the still backgrounds of the two halves of a window.

    They must show the same: their filtered difference is compared with what noise explains. Slow particles sit
    elsewhere in the second half and make it many times larger.
    """
    if len(frames) < STILL_FRAMES:
        return _Still(False, math.nan, [])
    middle = len(frames) // 2
    halves = np.stack([backend.still_background(sample(part, count)) for part in (frames[:middle], frames[middle:])])
    nothing = np.zeros(frames.shape[1:], np.float32)
    filtered = backend.matched_filter(halves, nothing, matched.taps, box_half=matched.box_half, sign=sign)
    single = backend.matched_filter(sample(frames, 2), halves[0], matched.taps, box_half=matched.box_half, sign=sign)
    gain = matched.noise_gain(frames.shape[1], frames.shape[2])
    noise = max(1.4826 * float(np.median(np.abs(single) / gain)), ROUNDING_NOISE)
    # Where spots remain, they show in the tail: compare the outermost per mille with the noise of single frames.
    usable = bool(np.quantile(np.abs(filtered[1] - filtered[0]) / gain, 0.999) < 3.0 * noise)
    return _Still(
        usable,
        stage_drift_px(filtered[0] / gain, filtered[1] / gain, noise / math.sqrt(min(count, middle))),
        large_objects(halves[0], matched, sign, noise / math.sqrt(min(count, middle))),
    )


def _gain(
    samples: Array, state: WindowState, model: SpotModel, matched: MatchedFilter, limit: float, backend: Any
) -> float:
    """Growth of the noise variance with the signal, from the residuals of fitted spots; 0 where there are too few.

    The variance is regressed on the signal m and on m²; the square takes up whatever the shape of the spots does not
    explain, the linear term is the gain.
    """
    frame, y, x, _ = backend.detect(
        samples, state.background, (1.0 / state.filtered_noise).astype(np.float32), matched.taps,
        box_half=matched.box_half, sign=_sign(model.polarity), threshold=SURE, peak_half=matched.peak_half,
    )  # fmt: skip
    values, flag = backend.refine(
        samples, state.background, state.pixel_noise, frame, y, x, sign=_sign(model.polarity), sigma=model.sigma_px,
        gain=0.0, half=matched.fit_half, saturation=limit,
    )  # fmt: skip
    excess, signal = _residual_variance(samples, state, _sign(model.polarity), frame, values, flag, matched.fit_half)
    if len(excess) < 200:
        return 0.0
    # Medians of squares in classes of signal: overlapping spots leave a few huge residuals behind.
    order = np.array_split(np.argsort(signal, kind="stable"), 10)
    level = np.array([signal[rows].mean() for rows in order])
    variance = np.array([np.median(excess[rows]) / MEDIAN_OF_SQUARE for rows in order])
    weight = 1.0 / np.maximum(variance, ROUNDING_NOISE**2)
    design = np.stack([np.ones(10), level, level**2], axis=1) * weight[:, None]
    (_, linear, _), *_ = np.linalg.lstsq(design, variance * weight, rcond=None)
    return float(max(linear, 0.0))


def _residual_variance(
    samples: Array, state: WindowState, sign: float, frame: I32, values: F64, flag: Array, half: int
) -> tuple[F64, F64]:
    """Squared residual and fitted signal at the pixels of clean spots."""
    height, width = samples.shape[1:]
    squares: list[F64] = [np.empty(0)]
    signal: list[F64] = [np.empty(0)]
    offsets = np.arange(-half, half + 1)
    for k in np.flatnonzero(flag == 0)[:2000]:
        cy, cx, mass, offset, _, sigma = values[:6, k]
        ys, xs = round(cy) + offsets, round(cx) + offsets
        if ys[0] < 0 or xs[0] < 0 or ys[-1] >= height or xs[-1] >= width:
            continue
        profile = [np.exp(-0.5 * ((axis - c) / sigma) ** 2) for axis, c in ((ys, cy), (xs, cx))]
        model = mass / (2.0 * np.pi * sigma**2) * np.outer(*profile)
        block = np.ix_(ys, xs)
        data = sign * (samples[frame[k]][block].astype(np.float64) - state.background[block]) - offset
        # The five fitted parameters take up about their share of the residuals.
        squares.append(((data - model) ** 2 / (1.0 - 5.0 / model.size)).ravel())
        signal.append(model.ravel())
    return np.concatenate(squares), np.concatenate(signal)
