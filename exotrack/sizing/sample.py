"""The tracks of several videos as one sample: which of them count, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exotrack.sizing.rows import TrackRows
from exotrack.tables import F32, F64, I64

_LEAST_STARTS = 100
_MOST_FROM_BEGINNING = 0.5
_ALIKE_FROM = 1000  # tracks from which on rows that nobody can tell apart are averaged
_CURVATURE_STEP = 0.2
_SLIGHT = 1e-6


@dataclass(frozen=True, eq=False)
class Sample:
    """Pooled tracks with one weight each."""

    rows: F32
    """Likelihood rows, shape (n_rows, n_classes)."""
    row: I64
    """Row of each track, shape (n_tracks,)."""
    weight: F64
    video: I64
    unit: I64
    """Particle, numbered through all videos."""

    @property
    def n_videos(self) -> int:
        """Videos that hold tracks."""
        return int(self.video.max()) + 1

    @property
    def n_units(self) -> int:
        """Particles."""
        return int(self.unit.max()) + 1

    @property
    def video_of_unit(self) -> I64:
        """Video of each particle."""
        video = np.zeros(self.n_units, np.int64)
        video[self.unit] = self.video
        return video

    def row_weights(self, of_track: npt.NDArray[np.floating[Any]]) -> F64:
        """Weights of the rows from weights of the tracks, which are multiplied by those of the sample.

        Parameters
        ----------
        of_track : float array, shape (n, n_tracks)
        """
        if len(self.row) == len(self.rows):
            return of_track * self.weight
        n = len(self.rows)
        return np.array([np.bincount(self.row, w * self.weight, n) for w in of_track]).reshape(len(of_track), n)


def sample_of(videos: Sequence[TrackRows], weighting: str) -> tuple[Sample, str, str]:
    """Pool the tracks that count under a weighting; "number" becomes "frames" where too few particles arrive.

    Parameters
    ----------
    videos : sequence of TrackRows
        With at least one track.
    weighting : str
        "number", "frames" or "tracks".

    Returns
    -------
    Sample, str, str
        The tracks of positive weight, how they are weighted in fact, and why not as asked for; empty if they are.
    """
    reason = _no_exchange(videos) if weighting == "number" else ""
    if reason:
        weighting = "frames"
    if weighting == "number":
        weights = [r.identity_share * r.start_seen for r in videos]
    elif weighting == "frames":
        weights = [r.n_frames.astype(np.float64) for r in videos]
    else:
        weights = [r.identity_share for r in videos]
    weight = np.concatenate(weights)
    used = weight > 0
    video = np.repeat(np.arange(len(videos)), [len(r) for r in videos])[used]
    identity = np.concatenate([r.identity for r in videos])[used]
    _, video = np.unique(video, return_inverse=True)
    _, unit = np.unique(np.stack([video, identity]), axis=1, return_inverse=True)
    rows, row = _merged(np.concatenate([r.likelihood for r in videos])[used])
    return Sample(rows, row, weight[used], video, unit.reshape(-1)), weighting, reason


def _no_exchange(videos: Sequence[TrackRows]) -> str:
    """Why the arrivals do not stand for all particles; empty where they do."""
    starts = sum(float(r.identity_share[r.start_seen].sum()) for r in videos)
    seen = sum(int(r.n_frames.sum()) for r in videos)
    old = sum(int(r.n_frames[r.from_beginning].sum()) for r in videos)
    if starts < _LEAST_STARTS:
        return f"only {starts:.0f} particles arrive during the recording"
    if old > _MOST_FROM_BEGINNING * seen:
        return f"{old / seen:.0%} of what is seen was there from the beginning"
    return ""


def _merged(likelihood: F32) -> tuple[F32, I64]:
    """Rows of large samples, averaged over tracks that agree in place and width of the maximum; and the row of each.

    Maxima agree to a class (2 % of the diameter with the default grid), curvatures to a fifth, where a single track is
    uncertain by 10 to 50 %. Of 2,000 to 30,000 tracks, D10, D50 and the CV of a log-normal moved by less than 0.3 %,
    and the CV of particles of one size from 3.3 to 3.1 %.
    """
    n, classes = likelihood.shape
    if n < _ALIKE_FROM:
        return likelihood, np.arange(n)
    best = np.clip(likelihood.argmax(axis=1), 1, classes - 2)
    i = np.arange(n)
    left, middle, right = (np.log(np.maximum(likelihood[i, best + k].astype(np.float64), 1e-30)) for k in (-1, 0, 1))
    curvature = np.maximum(2.0 * middle - left - right, _SLIGHT)
    shift = np.clip(0.5 * (right - left) / curvature, -1.0, 1.0)
    place = np.rint(best + shift).astype(np.int64)
    width = np.floor(np.log(curvature) / _CURVATURE_STEP).astype(np.int64)
    key = place * 4096 + (width - width.min())
    order = np.argsort(key, kind="stable")
    _, first, row = np.unique(key[order], return_index=True, return_inverse=True)
    of_track = np.empty(n, np.int64)
    of_track[order] = row
    size = np.diff(np.append(first, n))
    rows = np.add.reduceat(likelihood[order], first, axis=0) / size[:, None].astype(np.float32)
    return rows.astype(np.float32), of_track
