"""Tracks with velocities of their own: the covariances of their motion about them, and what the flow then costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exotrack.displacements.flow import Flow, estimate_flow, no_flow
from exotrack.displacements.noise import Steps
from exotrack.tables import F64, I64, Mask

_ROUNDS = 5  # of flow and velocities in turns: with 8 tracks in view D is 19 % off after 1, 1 % after 2, 0.6 % after 5
_MOST_STEPS = 257  # a longer track loses less than 1 % of one displacement to its mean


def without_mean_velocity(
    step_y: F64, step_x: F64, gap: I64, track: I64, n_tracks: int, used: Mask
) -> tuple[F64, F64, F64]:
    """Displacements minus the mean velocity of their track, and what that makes of their covariances.

    Let A be the variance of a displacement over one frame and B its covariance with the next one. Of displacements
    minus gap × mean velocity, the sums of squares and of products of neighbours have the expectation M·(A, B): the
    averages alone would make D too small by 58, 30, 15 and 8 % at 5, 10, 20 and 40 displacements, the solution of
    M is unbiased.

    Parameters
    ----------
    step_y, step_x : float64 array, shape (n_displacements,)
        All displacements in µm, ordered by track, then time.
    gap : int64 array, same shape
        Frames that each spans, in units of the frames between the displacements that A and B belong to.
    track : int64 array, same shape
        Its track.
    n_tracks : int
        Tracks.
    used : bool array, same shape
        Displacements that enter the sums; the mean velocity is that of all.

    Returns
    -------
    y, x : float64 array, shape (n_displacements,)
        Displacements without the mean velocity.
    matrix : float64 array, shape (n_tracks, 2, 2)
        M of one axis: first the sum of squares, then that of products of used neighbours. Singular for a track of
        fewer than three displacements.

    Examples
    --------
    >>> one = np.ones(3, np.int64)
    >>> _, _, matrix = without_mean_velocity(1.0 * one, 2.0 * one, one, 0 * one, 1, one > 0)
    >>> matrix[0].round(3).tolist()
    [[2.0, -1.333], [-0.667, 0.889]]
    """
    duration = np.bincount(track, gap, n_tracks)
    share = gap / duration[track]
    y = step_y - share * np.bincount(track, step_y, n_tracks)[track]
    x = step_x - share * np.bincount(track, step_x, n_tracks)[track]
    same = track[1:] == track[:-1]
    neighbours = np.zeros(len(gap))
    neighbours[1:] += same
    neighbours[:-1] += same
    # The variance of a displacement over g frames is gA + 2(g − 1)B, its covariance with the sum of all gA + cB, the
    # variance of that sum TA + 2(T − 1)B.
    c = 2.0 * (gap - 1) + neighbours
    of_sum = 2.0 * (duration[track] - 1)
    square = gap * (1.0 - share), 2.0 * (gap - 1) - 2.0 * share * c + share**2 * of_sum
    former, later = share[:-1], share[1:]
    product = -gap[1:] * former, 1.0 - later * c[:-1] - former * c[1:] + former * later * of_sum[1:]
    both = same & used[1:] & used[:-1]
    matrix = np.empty((n_tracks, 2, 2))
    for i in range(2):
        matrix[:, 0, i] = np.bincount(track[used], square[i][used], n_tracks)
        matrix[:, 1, i] = np.bincount(track[1:][both], product[i][both], n_tracks)
    return y, x, matrix


@dataclass(frozen=True)
class StepsAboutMean(Steps):
    """Displacements without the mean velocity of their track, whose products are those of the motion about it."""

    matrix: F64
    """M of each track, as in `without_mean_velocity`."""
    duration: I64
    """Frames (strides) from the first to the last localization of each track."""

    def products(self, lag: int) -> tuple[F64, F64]:
        """Per track: sum of products over both axes and their number, as without a velocity.

        The number at lags 0 and 1 is the information that the track's velocity leaves about B: 2.2 of 5 displacements,
        7 of 10. At longer lags every product is too small by (A + 2B)/T for a track of T frames, which is added.
        """
        if lag > 1:
            (a, n), (b, _), (total, pairs) = self.products(0), self.products(1), super().products(lag)
            lost = 2.0 * (a + 2.0 * b) / np.where(n > 0.0, n, np.inf) / np.maximum(self.duration, 1)
            return total + 0.5 * pairs * lost, pairs
        square, product = super().products(0)[0], super().products(1)[0]
        (aa, ab), (ba, bb) = self.matrix.transpose(1, 2, 0)
        aa = np.where(aa > 0.0, aa, 1.0)  # one displacement: all sums are 0
        left = bb - ab * ba / aa
        total = (bb * square - ab * product) / aa if lag == 0 else product - ba * square / aa
        usable = left > 1e-9
        return np.where(usable, total, 0.0), np.where(usable, 2.0 * left, 0.0)


def steps_about_mean(steps: Steps, step_y: F64, step_x: F64, gap: I64, track: I64, used: Mask) -> StepsAboutMean:
    """`steps`, which are the `used` ones among all displacements, without the mean velocity of their tracks."""
    y, x, matrix = without_mean_velocity(step_y, step_x, gap, track, steps.n_tracks, used)
    duration = np.bincount(track, gap, steps.n_tracks).astype(np.int64)
    return StepsAboutMean(**vars(steps) | {"y": y[used], "x": x[used]}, matrix=matrix, duration=duration)


def estimate_flow_beside_velocities(y: F64, x: F64, frame: I64, track: I64, weight: F64, n_frames: int) -> Flow:
    """As `estimate_flow`, where every track may have a constant velocity of its own besides.

    Flow and velocities are fitted in turns to what the other leaves. Without that, tracks that come and go with their
    velocities shake the mean over the tracks in view: with 8 of them, 20 displacements each, and velocities of 0.5 and
    1 step (s.d. of both per axis) in a flow that changes over 17 frames, D is 9 and 17 % too large instead of 3 %,
    which is what that flow costs without velocities.
    """
    n = np.maximum(np.bincount(track), 1)
    flow = no_flow(n_frames)
    for _ in range(_ROUNDS if len(y) else 0):
        own_y = (np.bincount(track, y - flow.y_um[frame]) / n)[track]
        own_x = (np.bincount(track, x - flow.x_um[frame]) / n)[track]
        # What all velocities share is flow.
        own_y -= np.average(own_y, weights=weight)
        own_x -= np.average(own_x, weights=weight)
        flow = estimate_flow(y - own_y, x - own_x, frame, track, weight, n_frames)
    n_tracks = int(np.count_nonzero(np.bincount(track)))
    return FlowBesideVelocities(**vars(flow), n_steps=max(round(len(y) / max(n_tracks, 1)), 1))


@dataclass(frozen=True)
class FlowBesideVelocities(Flow):
    """A flow whose subtraction takes nothing that is constant over a track, for that counts as the track's velocity."""

    n_steps: int
    """Displacements of a typical track."""

    def lost_diffusion(self, noise_ratio: float, blur: float) -> float:
        """As `Flow.lost_diffusion`, on the frequencies of a track of `n_steps` but zero."""
        n = min(self.n_steps, _MOST_STEPS)
        angle = 2.0 * np.pi * np.arange(1, n) / n
        by_diffusion = 2.0 * (1.0 - 2.0 * blur) + 4.0 * blur * np.cos(angle)
        relative = by_diffusion / (by_diffusion + noise_ratio * 2.0 * (1.0 - np.cos(angle)))
        lags = np.arange(1 - n, n)
        lost = self._tapered @ np.cos(np.outer(lags, angle))
        return self.own_share * float(np.sum(relative * lost) / np.sum(relative**2)) if n > 1 else 0.0

    @cached_property
    def _tapered(self) -> F64:
        n = min(self.n_steps, _MOST_STEPS)
        return np.array([(1.0 - abs(lag) / n) * Flow._response(self, lag) for lag in range(1 - n, n)])

    def _response(self, lag: int) -> float:
        return Flow._response(self, lag) - float(self._tapered.sum()) / min(self.n_steps, _MOST_STEPS)
