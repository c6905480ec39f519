"""From localizations to displacements: flow, stride and noise of one video, in the order they need each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from exotrack.acquisition import Acquisition
from exotrack.displacements.flow import Flow, estimate_flow, no_flow
from exotrack.displacements.noise import Noise, Steps, measure_noise, uncorrelated_stride
from exotrack.displacements.shear import shear_of
from exotrack.displacements.stuck import stuck_tracks
from exotrack.displacements.velocity import estimate_flow_beside_velocities, steps_about_mean, without_mean_velocity
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.tables import F64, I32, I64, Mask, SpotFlag, Tracks

_ERROR_RANGE = 5.0  # a Fisher error this many times off the median is a failed fit, not information


@dataclass(frozen=True, eq=False)
class Displacements:
    """Displacements of the tracks of one video with at least two localizations, in compressed rows.

    Localizations of track i are ``offsets[i]:offsets[i + 1]``; its displacements are
    ``offsets[i] − i : offsets[i + 1] − i − 1``. Where camera or codec carry images over, a track of the video stands
    here as up to `stride` tracks of the same particle, one after the other: every stride-th localization each.
    """

    particle: I64
    """Track, as in Tracks; increasing."""
    identity: I64
    """The uncut track that each track is a piece of."""
    offsets: I64
    """First localization of each track, shape (n_tracks + 1,)."""
    first_frame: I32
    n_frames: I32
    """Localizations per track."""
    span: I32
    """Frames from the first to the last localization of the whole identity, both included."""
    mass: F64
    """Mean integrated signal of each track, DN; NaN where unknown."""
    start_margin_um: F64
    """Distance of the identity's first localization from the nearest border, µm; −1 where its start was not seen."""
    stuck: Mask
    """Whether the track does not move beyond its localization error."""
    step_y_um: F64
    """Displacement along y without the flow, µm."""
    step_x_um: F64
    """The same along x."""
    gap: I32
    """Frames that each displacement spans."""
    noise: Noise
    """Localization variance per localization and blur per track."""
    flow: Flow
    """What was subtracted."""
    stride: int
    """Every how many frames are used: 1 unless camera or codec carry images over into the next frames."""
    D_um2_s: float
    """Diffusion coefficient pooled over all displacements, from covariances, corrected; NaN without displacements."""
    D_err_um2_s: float
    """Standard error of that from the spread between tracks."""
    diffusion_scale: float
    """True diffusion coefficient over the one that the likelihood finds: what the subtraction of the flow takes."""
    anisotropy: float
    """Pooled D along y over that along x; 1 is right, 5 % off is astigmatism, vibration or a sheared flow."""
    localization_error_px: float
    """Median s.d. of a position per axis, px, as found in the covariances."""

    @property
    def n_steps(self) -> I32:
        """Displacements per track; a track that stands here as several may have none in some."""
        steps: I32 = self.n_frames - np.int32(1)
        return steps

    @property
    def covariance_model(self) -> tuple[F64, F64, I32, F64, F64, F64, I64]:
        """What `likelihood` and `innovations` of a backend take first: displacements and their covariance model."""
        noise = self.noise
        steps = self.step_y_um, self.step_x_um, self.gap
        return (*steps, noise.variance_y, noise.variance_x, noise.blur, self.offsets)

    def __len__(self) -> int:
        return len(self.particle)


def displacements(tracks: Tracks, acquisition: Acquisition, protocol: Protocol | None = None) -> Displacements:
    """Prepare the displacements of one video for every estimate that uses them.

    In order: tracks that do not move are told from those that do; the collective flow is estimated from the moving
    ones and subtracted (``protocol.link.flow = "none"`` leaves it), and so is its change over the field that linking
    found (``"affine"``); where camera or codec carry images over,
    displacements over several frames take the place of those over one (`uncorrelated_stride`); pooled covariances
    give the localization variance per brightness class, and the blur where the exposure is unknown.

    Parameters
    ----------
    tracks : Tracks
        Ordered by particle, then frame; from `exotrack.link` or from trackpy.
    acquisition : Acquisition
        Pixel size, frame interval, exposure, frame shape and cuts.
    protocol : Protocol, optional
        Defaults to all defaults.

    Returns
    -------
    Displacements
        Tracks of one localization are left out; without tracks all arrays are empty and the numbers NaN or neutral.

    Raises
    ------
    InputError
        Tracks out of order, or with two localizations in one frame.

    Notes
    -----
    A particle that adheres keeps its position up to independent errors, so that half its mean squared displacement
    equals the variance of its position (von Neumann's ratio 1); a Brownian path of N steps has about 3/N. A track of
    thirty or more displacements with a ratio above 0.8 is stuck, alone or with all pieces of its identity. The test
    uses raw positions and no assumed error. So is a track that linking found at rest while the liquid flows.
    """
    settings = protocol or Protocol()
    turn = np.diff(tracks.particle)
    if np.any(turn < 0) or np.any(np.diff(tracks.frame)[turn == 0] <= 0):
        raise InputError("tracks must be ordered by particle, then frame, with one localization per frame")
    rows, offsets = _rows_of_tracks(tracks)
    frame = tracks.frame[rows].astype(np.int64)
    n_frames = max(acquisition.n_frames or 0, int(frame.max(initial=-1)) + 1)
    y = tracks.y[rows] * acquisition.pixel_size_um
    x = tracks.x[rows] * acquisition.pixel_size_um
    sheared = settings.link.flow == "affine"
    shear = shear_of(tracks.linking, acquisition.pixel_size_um, n_frames) if sheared else None
    step_y, step_x, gap, source, of_step = _differences(y, x, frame, offsets)
    identity = tracks.identity[rows][offsets[:-1]]
    resting = (tracks.flag[rows] & SpotFlag.RESTING) != 0
    stuck = stuck_tracks(y, x, step_y**2 + step_x**2, offsets, identity, resting)
    at = frame[source]
    if shear is not None:
        step_y, step_x = shear.taken_off(step_y, step_x, y[source], x[source], at, gap)

    single = (gap == 1) & ~stuck[of_step]
    own_velocity = settings.diffusion.velocity == "track"
    still_y, still_x = step_y, step_x
    if own_velocity:
        still_y, still_x, _ = without_mean_velocity(step_y, step_x, gap, of_step, len(stuck), single)
    weight = _track_weights(still_y, still_x, of_step, single, len(stuck))
    if settings.link.flow == "none":
        flow = no_flow(n_frames)
    else:
        estimate = estimate_flow_beside_velocities if own_velocity else estimate_flow
        flow = estimate(step_y[single], step_x[single], at[single], of_step[single], weight[of_step[single]], n_frames)
    step_y, step_x = step_y - _flow_between(flow.y_um, at, gap), step_x - _flow_between(flow.x_um, at, gap)
    steps = Steps(step_y[single], step_x[single], at[single], of_step[single], len(stuck))
    if own_velocity:
        steps = steps_about_mean(steps, step_y, step_x, gap, of_step, single)
    stride = uncorrelated_stride(steps, weight, flow)

    first = offsets[:-1]
    span, margin = _identity_starts(identity, frame, y, x, offsets, acquisition)
    particle, mass = tracks.particle[rows][first], _track_means(tracks.mass[rows].astype(np.float64), offsets)
    known_blur, lost, whole = (
        (None if acquisition.exposure_s is None else acquisition.blur),
        flow,
        np.arange(len(first)),
    )
    if stride > 1:
        known_blur, lost = None, no_flow(n_frames)  # its own share in a flow is small beside a whole stride
        order, offsets, whole = _interleaved(frame, offsets, stride)
        rows, frame, y, x = rows[order], frame[order], y[order], x[order]
        step_y, step_x, gap, source, of_step = _differences(y, x, frame, offsets)
        at = frame[source]
        if shear is not None:
            step_y, step_x = shear.taken_off(step_y, step_x, y[source], x[source], at, gap)
        step_y, step_x = step_y - _flow_between(flow.y_um, at, gap), step_x - _flow_between(flow.x_um, at, gap)
        single = (gap == stride) & ~stuck[whole][of_step]
        turn = (at - frame[offsets[:-1]][of_step]) // stride
        steps = Steps(step_y[single], step_x[single], turn[single], of_step[single], len(whole))
        if own_velocity:
            steps = steps_about_mean(steps, step_y, step_x, gap // stride, of_step, single)

    noise = measure_noise(
        steps,
        _fisher_variance(tracks.y_err[rows], acquisition.pixel_size_um),
        _fisher_variance(tracks.x_err[rows], acquisition.pixel_size_um),
        mass[whole],
        offsets,
        lost,
        blur=known_blur,
        stride=stride,
    )
    interval = stride * acquisition.frame_interval_s
    short_y, short_x, short_error = _pooled_short(
        steps, np.unique(identity[whole], return_inverse=True)[1], lost, interval
    )
    pooled = 0.5 * (short_y + short_x)
    error = float(np.median(np.concatenate([noise.variance_y, noise.variance_x]))) if len(rows) else float("nan")
    noise_ratio = error / (pooled * interval) if pooled > 0 else 0.0
    blur = float(np.median(noise.blur)) / stride if len(stuck) else 0.0
    left = 1.0 - flow.lost_diffusion(noise_ratio, blur) if flow.own_share else 1.0
    return Displacements(
        particle=particle[whole],
        identity=identity[whole],
        offsets=offsets,
        first_frame=frame[offsets[:-1]].astype(np.int32),
        n_frames=np.diff(offsets).astype(np.int32),
        span=span[whole],
        mass=mass[whole],
        start_margin_um=margin[whole],
        stuck=stuck[whole],
        step_y_um=step_y,
        step_x_um=step_x,
        gap=gap.astype(np.int32),
        noise=noise,
        flow=flow,
        stride=stride,
        D_um2_s=pooled,
        D_err_um2_s=short_error,
        diffusion_scale=1.0 / max(left, 0.1),
        anisotropy=short_y / short_x if short_x > 0 else float("nan"),
        localization_error_px=float(np.sqrt(error)) / acquisition.pixel_size_um,
    )


def _differences(y: F64, x: F64, frame: I64, offsets: I64) -> tuple[F64, F64, I64, I64, I64]:
    """Displacements of each track along y and x, the frames each spans, the row it begins in, and its track."""
    inside = np.ones(max(len(frame) - 1, 0), bool)
    inside[offsets[1:-1] - 1] = False  # differences from one track to the next are no displacements
    of_step = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets) - 1)
    return np.diff(y)[inside], np.diff(x)[inside], np.diff(frame)[inside], np.flatnonzero(inside), of_step


def _interleaved(frame: I64, offsets: I64, stride: int) -> tuple[I64, I64, I64]:
    """Split each track by its frames modulo the stride: new order of rows, new offsets, and the track of each part."""
    length = np.diff(offsets)
    track = np.repeat(np.arange(len(length)), length)
    part = track * stride + (frame - frame[offsets[:-1]][track]) % stride
    order = np.argsort(part, kind="stable")
    parts, first = np.unique(part[order], return_index=True)
    return order, np.append(first, len(frame)), parts // stride


def _rows_of_tracks(tracks: Tracks) -> tuple[I64, I64]:
    """Rows of tracks with two localizations or more, and where each track starts among them."""
    starts = np.flatnonzero(np.diff(tracks.particle, prepend=tracks.particle[:1] - 1))
    length = np.diff(starts, append=len(tracks))
    rows = np.flatnonzero(np.repeat(length >= 2, length))
    return rows, np.concatenate([[0], np.cumsum(length[length >= 2])]).astype(np.int64)


def _track_means(value: F64, offsets: I64) -> F64:
    if len(offsets) == 1:
        return np.empty(0)
    means: F64 = np.add.reduceat(value, offsets[:-1]) / np.diff(offsets)
    return means


def _track_weights(step_y: F64, step_x: F64, track: I64, single: Mask, n_tracks: int) -> F64:
    """Inverse mean squared displacement per track about the common mean; shrunk, so that few steps cannot dominate.

    Fast particles and tracks with a wrong link then count little in means over tracks.
    """
    if not np.any(single):
        return np.zeros(n_tracks)
    square = (step_y - np.median(step_y[single])) ** 2 + (step_x - np.median(step_x[single])) ** 2
    count = np.bincount(track[single], minlength=n_tracks)
    mean = np.bincount(track[single], square[single], n_tracks) / np.maximum(count, 1)
    typical = float(np.median(mean[count > 0]))
    weight = (count > 0) * (count + 4.0) / (mean * count + typical * 4.0 + 1e-300)
    relative: F64 = weight / weight.max()
    return relative


def _flow_between(flow: F64, at: I64, gap: I64) -> F64:
    """Flow summed over the frames that each displacement spans."""
    path = np.concatenate([[0.0], np.cumsum(flow)])
    moved: F64 = path[at + gap] - path[at]
    return moved


def _pooled_short(steps: Steps, unit: I64, flow: Flow, interval_s: float) -> tuple[float, float, float]:
    """Covariance-based D along y and x from all displacements, and the standard error of their mean over particles.

    `unit` names the particle that each track of the steps is a part of. D comes out low by about a per cent in fields
    a hundred steps wide, since large displacements leave the frame more often.
    """
    result = []
    influence = np.zeros(steps.n_tracks)
    for axis in (steps.y, steps.x):
        one = replace(steps, y=axis, x=np.zeros_like(axis))
        (square, n0), (product, n1) = one.products(0), one.products(1)
        if not n0.any() or not n1.any():
            return float("nan"), float("nan"), float("nan")
        # The other axis is zero, but counted: twice the mean.
        c0, c1 = 2.0 * square.sum() / n0.sum(), 2.0 * product.sum() / n1.sum()
        influence += 0.5 * (2.0 * square - c0 * n0) / n0.sum() + (2.0 * product - c1 * n1) / n1.sum()
        c0, c1 = c0 + flow.lost_covariance(0, c0, c1), c1 + flow.lost_covariance(1, c0, c1)
        result.append(float(0.5 * c0 + c1) / interval_s)
    error = float(np.sqrt(np.sum((0.5 * np.bincount(unit, influence)) ** 2))) / interval_s
    return result[0], result[1], error


def _fisher_variance(error_px: npt.NDArray[np.float32], pixel_size_um: float) -> F64:
    """Variance in µm² of positions; NaN for errors that are none, and those far off the median drawn in."""
    error = error_px.astype(np.float64) * pixel_size_um
    error[~(np.isfinite(error) & (error > 0))] = np.nan
    if np.all(np.isnan(error)):
        return error
    typical = np.nanmedian(error)
    variance: F64 = np.clip(error, typical / _ERROR_RANGE, typical * _ERROR_RANGE) ** 2
    return variance


def _identity_starts(
    identity: I64, frame: I64, y: F64, x: F64, offsets: I64, acquisition: Acquisition
) -> tuple[I32, F64]:
    """Per track: frames spanned by its identity, and how far inside the frame that identity was first seen."""
    if len(identity) == 0:
        return np.empty(0, np.int32), np.empty(0)
    _, inverse = np.unique(identity, return_inverse=True)
    begin, end = frame[offsets[:-1]], frame[offsets[1:] - 1]
    first = np.full(inverse.max() + 1, np.iinfo(np.int64).max)
    last = np.full(inverse.max() + 1, -1)
    np.minimum.at(first, inverse, begin)
    np.maximum.at(last, inverse, end)
    if acquisition.frame_shape is not None:
        height, width = ((n - 1) * acquisition.pixel_size_um for n in acquisition.frame_shape)
        low_y, low_x = 0.0, 0.0
    else:
        low_y, height, low_x, width = y.min(), y.max(), x.min(), x.max()
    ys, xs = y[offsets[:-1]], x[offsets[:-1]]
    inside = np.minimum(np.minimum(ys - low_y, height - ys), np.minimum(xs - low_x, width - xs))
    margin = np.full(len(first), -1.0)
    leads = begin == first[inverse]
    margin[inverse[leads]] = np.maximum(inside[leads], 0.0)
    margin[np.isin(first, (0, *acquisition.cuts))] = -1.0  # already there when recording began
    return (last - first + 1)[inverse].astype(np.int32), margin[inverse]
