"""What a video tells about itself: polarity, widths of the spots, still background, noise, gain, saturation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exotrack.backends.contract import Backend
from exotrack.camera import Camera
from exotrack.localize import trouble
from exotrack.localize.detector import SURE, Detector, Found
from exotrack.localize.matched import MatchedFilter
from exotrack.localize.noise import (
    WindowState,
    in_electrons,
    least_noise,
    sample,
    spread,
    typical_noise,
    window_state,
)
from exotrack.localize.scene import large_objects, stage_drift_px
from exotrack.protocol import LocalizeSection
from exotrack.tables import F64, Array, SpotFlag, SpotModel

GAIN_SAMPLES = 12
"""Frames of a window from whose spots the growth of the noise with the signal is estimated."""
SCALE_SAMPLES = 5
"""Frames of the first window from which the polarity and the width are estimated, at every scale."""
SCALES = (0.8, 1.1, 1.5, 2.1, 3.0, 4.2, 6.0)
"""Widths tried before the refinement of the width, px."""
LOOK_SCALES = (1.1, 3.0, 6.0)
"""Widths at which bright and dark spots are compared, px."""
TRIPLET = 4
"""Distance of the pixels whose differences give the skewness of the noise, px."""
STILL_FRAMES = 100
"""Fewest frames that can tell a still background from particles that have not moved yet."""
CLASSES = 20
"""Classes of signal in which the variance is measured."""
BENT = 4.0
"""Standard errors from which the variance counts as bent against the signal."""
MEDIAN_OF_SQUARE = 0.4549
"""Median of the square of a standard normal number."""
WIDER = 1.7
"""Ratio of one width to the next where a video shows spots out of focus."""
WIDER_SHARE = 0.03
"""Share of the sure spots that must stand out more at a further width for it to be used."""
WIDER_GAIN = 1.15
"""Factor by which they must stand out more."""


def calibrate(
    frames: Array,
    settings: LocalizeSection,
    reach_px: float,
    *,
    backend: Backend,
    bit_depth: int | None = None,
    camera: Camera | None = None,
) -> SpotModel:
    """Learn a video's spot model from its first window.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
        The raw frames of the first window.
    settings : LocalizeSection
        A polarity or width given there is taken as it is.
    reach_px : float
        Distance within which a particle is looked for in the next frame, px.
    backend : module
        A loaded backend.
    bit_depth : int, optional
        Significant bits per pixel; that of the dtype if not given.
    camera : Camera, optional
        Its calibration, if known: what is learned is in electrons then.

    Returns
    -------
    SpotModel
        Where the frames hold no spot, the width is 1.3 px and a warning says so.
    """
    warnings: list[str] = []
    raw = sample(frames, GAIN_SAMPLES)
    clipped = min(saturation_level(frames.dtype, bit_depth), _reached_limit(raw))
    limit = clipped if camera is None else _in_electrons(clipped, camera)
    floor = least_noise(frames.dtype, camera)
    look = _Look(in_electrons(sample(frames, SCALE_SAMPLES), camera), floor, limit, backend)
    polarity = settings.polarity
    if polarity == "auto":
        polarity = "bright" if look.most(LOOK_SCALES, 1.0)[0] >= look.most(LOOK_SCALES, -1.0)[0] else "dark"
    sign = 1.0 if polarity == "bright" else -1.0
    further: tuple[float, ...] = ()
    if settings.psf_sigma_px == "auto":
        found = look.spot_width(sign)
        if found is None:
            warnings.append("no spot stands out in the first seconds: a width of 1.3 px was assumed")
        sigma = found or 1.3
        further = look.further_widths(sigma, sign)
    else:
        sigma = float(settings.psf_sigma_px)
    height, width = frames.shape[1:]
    model = SpotModel(
        polarity=polarity,
        sigma_px=sigma,
        threshold=MatchedFilter.for_sigma(sigma).threshold(settings.false_alarms_per_frame, height * width),
        still_background=False,
        noise_dn=0.0,
        gain_dn=0.0,
        saturated_share=float(np.mean(raw >= clipped)) if math.isfinite(clipped) else 0.0,
        saturation_dn=limit,
        further_sigmas_px=further,
        pedestal_dn=look.pedestal,
    )
    still = _look_at_still(frames, model, settings.background_frames, backend)
    model = replace(model, still_background=still.usable)
    state = window_state(frames, model, settings, reach_px, backend=backend, camera=camera)
    gain = _gain(in_electrons(raw, camera), state, model, backend)
    if gain is None:
        gain = camera.excess if camera is not None else 0.0
    noise = float(np.median(np.sqrt(state.variance)))
    raw_noise = noise if camera is None else noise * float(np.median(camera.gain))
    return replace(
        model,
        noise_dn=noise,
        gain_dn=gain,
        skew_dn=_skew(state, backend),
        stage_drift_px=still.drift_px,
        large_objects=len(still.objects_px),
        warnings=(*warnings, *trouble.warnings(frames, raw, model, raw_noise, still.drift_px, still.objects_px)),
    )


def _in_electrons(level: float, camera: Camera) -> float:
    """Photoelectrons from which a pixel may be clipped at a grey level: all but 1 % of the pixels clip above it."""
    if not math.isfinite(level):
        return level
    return float(np.quantile(camera.electrons(np.full(camera.shape, level, np.float32)), 0.01))


def saturation_level(dtype: Any, bit_depth: int | None) -> float:
    """Grey level at which a pixel counts as clipped: 98.5 % of the range of 8 bits (254 and 255), the top of others."""
    if not np.issubdtype(dtype, np.integer):
        return math.inf
    top = 2.0 ** (bit_depth or 8 * np.dtype(dtype).itemsize) - 1.0
    return top - 1.0 if top == 255.0 else top


def _reached_limit(samples: Array) -> float:
    """Upper end of 10, 12 or 14 bits where many pixels are just there: such data often come in 16 bits."""
    top = float(samples.max())
    if top not in (1023.0, 4095.0, 16383.0):
        return math.inf
    return top if float(np.mean(samples == samples.max())) > 1e-4 else math.inf


class _Look:
    """A first look at a few frames, without any background, with the same noise assumed everywhere."""

    def __init__(self, frames: Array, floor: float, limit: float, backend: Backend) -> None:
        self.frames, self.floor, self.limit, self.backend = frames, floor, limit, backend
        whole_levels = np.issubdtype(frames.dtype, np.integer)
        self.pedestal = 0.0 if whole_levels else float(np.median(frames[:, ::4, ::4]))
        self.largest = min(frames.shape[1:]) / 10
        """Widest spot that the frames can show, px."""
        self._noise: dict[float, float] = {}

    def noise(self, detector: Detector) -> float:
        """s.d. of the noise per pixel at a width, measured once: it is the same for bright and for dark spots."""
        matched = detector.matched
        if matched.sigma not in self._noise:
            filtered = detector.filtered(self.frames[:3])
            self._noise[matched.sigma] = typical_noise(filtered, matched, self.frames.shape[1:], self.floor)
        return self._noise[matched.sigma]

    def spots(self, sigma: float, sign: float, noise: float | None = None) -> tuple[Detector, float, Found]:
        """The detector for a width, the s.d. of the noise per pixel (measured if not given), and the sure spots."""
        detector = Detector(MatchedFilter.for_sigma(sigma), sign, self.pedestal, self.backend)
        noise = noise or self.noise(detector)
        gain = detector.matched.noise_gain(*self.frames.shape[1:])
        return detector, noise, detector.sure(self.frames, np.zeros(gain.shape, np.float32), np.float32(noise) * gain)

    def most(self, scales: tuple[float, ...], sign: float) -> tuple[float, float]:
        """Largest sum of squared signal-to-noise ratios of the sure spots: how much there is to see, and its scale."""
        usable = [s for s in scales if s < self.largest] or [scales[0]]
        strength = [float((self.spots(s, sign)[2][3].astype(np.float64) ** 2).sum()) for s in usable]
        best = int(np.argmax(strength))
        return strength[best], usable[best]

    def spot_width(self, sign: float) -> float | None:
        """Median fitted width of the sure, solitary spots, starting from the scale at which most is to be seen."""
        strength, sigma = self.most(SCALES, sign)
        if strength == 0.0:
            return None
        nothing = np.zeros(self.frames.shape[1:], np.float32)
        for _ in range(3):
            detector, noise, (frame, y, x, _) = self.spots(sigma, sign)
            values, flag = self.backend.refine(
                self.frames, nothing, np.full(nothing.shape, noise**2, np.float32), frame, y, x, sign=sign,
                sigma=sigma, gain=0.0, half=detector.matched.fit_half, saturation=self.limit, free_width=True,
            )  # fmt: skip
            clean = flag == 0
            if clean.sum() < 5:
                clean = (flag & SpotFlag.SEED_ONLY) == 0
            if clean.sum() < 3:
                break
            # A filter up to 1.8 times too wide costs little, one that is too narrow much: the median of all depths
            # serves.
            before, sigma = sigma, float(np.clip(np.median(values[5][clean]), 0.5, self.largest / 1.2))
            if abs(sigma / before - 1.0) < 0.02:
                break
        return sigma

    def further_widths(self, sigma: float, sign: float) -> tuple[float, ...]:
        """Widths beyond the typical one at which some of the spots stand out much more: particles out of focus."""
        _, noise, finest = self.spots(sigma, sign)
        further: list[float] = []
        for power in (1, 2):
            wider = sigma * WIDER**power
            if wider > self.largest or not len(finest[0]):
                break
            _, _, (frame, y, x, snr) = self.spots(wider, sign, noise)
            more = sum(
                float(at_snr) > WIDER_GAIN * _highest_near(finest, t, at_y, at_x, 2.0 * wider)
                for t, at_y, at_x, at_snr in zip(frame, y, x, snr, strict=True)
            )
            if more > WIDER_SHARE * len(finest[0]):
                further.append(wider)
        return tuple(further)


def _highest_near(spots: Found, frame: int, y: float, x: float, reach: float) -> float:
    """Highest signal-to-noise ratio of the spots within reach; that of a barely sure spot where there is none."""
    near = (spots[0] == frame) & ((spots[1] - y) ** 2 + (spots[2] - x) ** 2 < reach * reach)
    return float(spots[3][near].max(initial=SURE))


@dataclass(frozen=True)
class _Still:
    """What does not move in the first window, and whether it may be subtracted."""

    usable: bool
    """Whether the temporal mean holds what is still, rather than particles too slow to have left."""
    drift_px: float
    """Distance by which still structure moves from one half of the window to the other; NaN without structure."""
    objects_px: list[float]
    """Equivalent diameters of still objects much larger than a spot."""


def _look_at_still(frames: Array, model: SpotModel, count: int, backend: Backend) -> _Still:
    """Compare the still backgrounds of the two halves of a window.

    They must show the same: their filtered difference is compared with what noise explains. Slow particles sit
    elsewhere in the second half and make it many times larger.
    """
    if len(frames) < STILL_FRAMES:
        return _Still(False, math.nan, [])
    detector = Detector.of(model, model.sigma_px, backend)
    matched = detector.matched
    middle = len(frames) // 2
    halves = np.stack(
        [
            backend.still_background(part, spread(len(part), count), rows=(0, part.shape[1]))
            for part in (frames[:middle], frames[middle:])
        ]
    )
    filtered = detector.filtered(halves)
    single = detector.filtered(sample(frames, 2))
    gain = matched.noise_gain(*frames.shape[1:])
    noise = max(1.4826 * float(np.median(np.abs(single - filtered[0]) / gain)), least_noise(frames.dtype))
    # Where spots remain, they show in the tail: compare the outermost per mille with the noise of single frames.
    usable = bool(np.quantile(np.abs(filtered[1] - filtered[0]) / gain, 0.999) < 3.0 * noise)
    noise_of_mean = noise / math.sqrt(min(count, middle))
    return _Still(
        usable,
        stage_drift_px(filtered[0] / gain, filtered[1] / gain, noise_of_mean) * matched.step,
        large_objects(halves[0], matched, model.sign, noise_of_mean),
    )


def _skew(state: WindowState, backend: Backend) -> float:
    """Third over second cumulant of the noise in quiet places, DN: for photons alone the camera's DN per electron."""
    second, third, _ = backend.noise_cumulants(
        state.cleared, state.quiet, step=state.scales[0].detector.matched.step, spacing=TRIPLET
    )
    return third / second if second > 0.0 else 0.0


def _gain(samples: Array, state: WindowState, model: SpotModel, backend: Backend) -> float | None:
    """Growth of the noise variance with the signal, from the residuals of fitted spots; None where there are too few.

    The variance is regressed on the signal m and on m²; the square takes up whatever the shape of the spots does not
    explain, the linear term is the gain (twice the gain for the excess noise of an EMCCD).
    """
    first = state.scales[0]
    half = first.detector.matched.fit_half
    frame, y, x, _ = first.detector.sure(samples, first.level, 1.0 / first.inverse_noise)
    gain: float | None = 0.0
    for _ in range(2):  # with the first answer the fits and their leverages are those of the real noise
        values, flag = backend.refine(
            samples, state.background, state.variance, frame, y, x, sign=model.sign, sigma=model.sigma_px, gain=gain,
            half=half, saturation=model.saturation_dn, free_width=True,
        )  # fmt: skip
        clean = flag == 0
        squares, signal = backend.residuals(
            samples, state.background, frame[clean], np.ascontiguousarray(values[:, clean]),
            sign=model.sign, gain=gain, half=half, most=2000,
        )  # fmt: skip
        gain = growth_of_noise(squares, signal)
        if gain is None:
            break
    return gain


def growth_of_noise(squares: F64, signal: F64) -> float | None:
    """Slope of the noise variance against the signal, not below zero; None for too few pixels.

    Medians of squares in classes of signal, since overlapping spots leave a few huge residuals behind, are fitted by
    a line; by a parabola where its bend is significant, which is what shapes that are not Gaussian leave.
    """
    if len(squares) < 200:
        return None
    borders = np.linspace(0.0, float(np.quantile(signal, 0.998)), CLASSES + 1)
    place = np.clip(np.searchsorted(borders, signal) - 1, 0, CLASSES - 1)
    rows = [np.flatnonzero(place == k) for k in range(CLASSES)]
    rows = [r for r in rows if len(r) >= 50]
    if len(rows) < 4:
        return None
    level = np.array([signal[r].mean() for r in rows])
    variance = np.array([np.median(squares[r]) / MEDIAN_OF_SQUARE for r in rows])
    # The relative standard error of a variance from the median of n squares.
    error = np.maximum(variance, 1e-9) * 2.33 / np.sqrt([len(r) for r in rows])
    design = np.stack([np.ones(len(rows)), level, level**2], axis=1)
    for terms in (3, 2):
        scaled = design[:, :terms] / error[:, None]
        coefficients, *_ = np.linalg.lstsq(scaled, variance / error, rcond=None)
        if terms == 3:
            bend_error = math.sqrt(float(np.linalg.pinv(scaled.T @ scaled)[2, 2]))
            if abs(coefficients[2]) > BENT * bend_error:
                break
    return float(max(coefficients[1], 0.0))
