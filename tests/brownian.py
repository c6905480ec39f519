"""Exact Brownian tracks for tests: no images, no code of the program under test but its tables."""

from __future__ import annotations

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.tables import Tracks

PIXEL_UM = 0.166
FRAME_S = 1.0 / 30.0
WATER_25 = 490.7  # D·d in µm²/s·nm


def acquisition(blur: float | None = 0.0, **changes) -> Acquisition:
    """Recording conditions with motion-blur coefficient `blur` (None: exposure unknown)."""
    values = {
        "pixel_size_um": PIXEL_UM,
        "frame_interval_s": FRAME_S,
        "exposure_s": None if blur is None else max(6.0 * blur * FRAME_S, 1e-9),
        "temperature_c": 25.0,
        "frame_shape": (480, 640),
        "n_frames": 900,
    }
    return Acquisition(**{**values, **changes})


def positions(rng, diffusion, n_spots: int, *, blur: float = 0.0, sigma_um=0.0) -> np.ndarray:
    """Observed positions in µm, shape (n_tracks, n_spots, 2), averaged exactly over a uniform exposure 6R·Δt.

    Over an exposure tE the mean position is half the displacement plus an independent normal of variance 2DtE/12.
    """
    diffusion = np.asarray(diffusion, float)[:, None, None]
    shape = (len(diffusion), n_spots, 2)
    exposure = 6.0 * blur * FRAME_S
    during = np.sqrt(2.0 * diffusion * exposure) * rng.normal(size=shape)
    after = np.sqrt(2.0 * diffusion * (FRAME_S - exposure)) * rng.normal(size=shape)
    start = np.cumsum(during + after, axis=1) - (during + after)
    mean = start + 0.5 * during + np.sqrt(2.0 * diffusion * exposure / 12.0) * rng.normal(size=shape)
    return mean + np.broadcast_to(np.asarray(sigma_um, float).reshape(-1, 1, 1), shape) * rng.normal(size=shape)


def to_tracks(path, first, *, error_um=np.nan, mass=100.0, keep=None, centre_um=(40.0, 53.0), flow=None) -> Tracks:
    """Tracks from positions in µm; `first` is the first frame of each, `keep` a mask of localizations."""
    n_tracks, n_spots, _ = path.shape
    frame = np.asarray(first)[:, None] + np.arange(n_spots)
    path = path + np.asarray(centre_um)
    if flow is not None:
        path = path + flow[frame]
    particle = np.repeat(np.arange(n_tracks)[:, None], n_spots, axis=1)
    wide = {
        "frame": frame,
        "y": path[..., 0] / PIXEL_UM,
        "x": path[..., 1] / PIXEL_UM,
        "mass": np.broadcast_to(np.reshape(mass, (-1, 1)), frame.shape),
        "y_err": np.broadcast_to(np.reshape(error_um, (-1, 1)), frame.shape) / PIXEL_UM,
        "particle": particle,
    }
    mask = np.ones(frame.shape, bool) if keep is None else keep
    flat = {name: value[mask] for name, value in wide.items()}
    one = np.ones(len(flat["y"]), np.float32)
    return Tracks(
        **{name: flat[name] for name in ("y", "x", "mass", "y_err")},
        frame=flat["frame"].astype(np.int32),
        x_err=flat["y_err"],
        background=one,
        noise=one,
        snr=10 * one,
        sigma=1.5 * one,
        flag=np.zeros(len(one), np.uint16),
        particle=flat["particle"],
        identity=flat["particle"],
    )


def simulated_tracks(rng, diffusion, n_spots: int, *, blur=0.0, sigma_um=0.0, n_frames: int = 900, **options) -> Tracks:
    """Tracks that begin at random times of a recording, with the true localization error in their error columns."""
    path = positions(rng, diffusion, n_spots, blur=blur, sigma_um=sigma_um)
    first = rng.integers(1, n_frames - n_spots, len(path))
    return to_tracks(path, first, error_um=np.where(np.asarray(sigma_um) > 0, sigma_um, np.nan), **options)
