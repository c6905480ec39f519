"""Diffusion coefficient of single short tracks: bias and spread of four estimates beside the Cramér–Rao bound.

Exact two-dimensional Brownian tracks (no images) of 10 and 20 displacements, four localization errors σ²/(DΔt), with
an instantaneous and an open shutter (R = 0, 1/6). "ML" is what `measure` reports, with the localization variance known
as a video tells it; "CVE" needs neither σ² nor R; "CVE, σ² known" is (⟨Δ²⟩ − 2σ²)/(2(1 − 2R)Δt); "MSD" is the
least-squares line through the optimal number of points. All s.d. are relative to D. The bound is that of an unbiased
estimate of D with σ² known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from harness import main

import exotrack
from exotrack.physics import diffusion_crlb
from exotrack.tables import Tracks

D, FRAME_S, PIXEL_UM = 4.9, 1.0 / 30.0, 0.166
WIDE = exotrack.Protocol.from_dict(
    {
        "link": {"flow": "none"},
        "size": {"diameter_min_nm": 5.0, "diameter_max_nm": 50000.0, "grid_points": 1000},
    }
)


def tracks_of(n_tracks: int, n_steps: int, noise_ratio: float, blur: float) -> Tracks:
    """Gap-free tracks with the covariance of blurred Brownian motion, and the true error in their error columns."""
    rng = np.random.default_rng(n_steps)
    beside = np.eye(n_steps, k=1) + np.eye(n_steps, k=-1)
    covariance = (2 - 4 * blur + 2 * noise_ratio) * np.eye(n_steps) + (2 * blur - noise_ratio) * beside
    unit = rng.normal(size=(n_tracks, 2, n_steps)) @ np.linalg.cholesky(covariance).T
    place = np.zeros((n_tracks, 2, n_steps + 1))
    place[..., 1:] = np.cumsum(unit, axis=2) * np.sqrt(D * FRAME_S) / PIXEL_UM
    error = np.sqrt(noise_ratio * D * FRAME_S) / PIXEL_UM
    return Tracks.from_pandas(
        pd.DataFrame(
            {
                "frame": np.tile(np.arange(n_steps + 1), n_tracks),
                "particle": np.repeat(np.arange(n_tracks), n_steps + 1),
                "y": place[:, 0].ravel(),
                "x": place[:, 1].ravel(),
                "y_err": error,
                "x_err": error,
            }
        )
    )


def row(n_tracks: int, n_steps: int, noise_ratio: float, blur: float) -> dict[str, Any]:
    """All estimates of the same tracks."""
    conditions = exotrack.Acquisition(
        pixel_size_um=PIXEL_UM, frame_interval_s=FRAME_S, exposure_s=max(6.0 * blur * FRAME_S, 1e-9)
    )
    tracks = tracks_of(n_tracks, n_steps, noise_ratio, blur)
    particles = exotrack.measure(tracks, conditions, WIDE)
    step = np.diff(np.stack([tracks.y, tracks.x]).reshape(2, n_tracks, -1) * PIXEL_UM, axis=2)
    known = (np.mean(step**2, axis=(0, 2)) / (D * FRAME_S) - 2 * noise_ratio) / (2 * (1 - 2 * blur))
    ml, cve, msd = (v / D for v in (particles.D_um2_s, particles.D_cve_um2_s, particles.D_msd_um2_s))
    bound = diffusion_crlb(n_steps, noise_ratio, blur)
    truth = conditions.stokes_einstein_um2_s_nm / D
    inside = (particles.diameter_lo_nm <= truth) & (truth <= particles.diameter_hi_nm)
    return {
        "N": n_steps,
        "σ²/DΔt": noise_ratio,
        "R": round(blur, 3),
        "bound": bound,
        "ML bias": float(ml.mean() - 1),
        "ML s.d.": float(ml.std()),
        "ML s.d./bound": float(ml.std() / bound),
        "in 95 % interval": float(inside.mean()),
        "CVE bias": float(cve.mean() - 1),
        "CVE s.d.": float(cve.std()),
        "CVE ≤ 0": float(np.mean(cve <= 0)),
        "CVE, σ² known, s.d.": float(known.std()),
        "MSD bias": float(msd.mean() - 1),
        "MSD s.d.": float(msd.std()),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every combination of length, localization error and shutter."""
    n_tracks = 200 if quick else 30000
    return [
        row(n_tracks, n_steps, noise_ratio, blur)
        for n_steps in (10, 20)
        for noise_ratio in (0.05, 0.3, 1.0, 3.0)
        for blur in (0.0, 1.0 / 6.0)
    ]


if __name__ == "__main__":
    main("diffusion", measure)
