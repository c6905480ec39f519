"""False alarms in pure noise: the number found over the number asked for, by kind of noise and background."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import main

import exotrack

SHAPE = (480, 640)


def noise(kind: str, slope: bool, n: int) -> np.ndarray:
    """Frames without spots; sloped, the background rises threefold across the frame."""
    rng = np.random.default_rng(5)
    rise = np.linspace(0.5, 1.5, SHAPE[1]) if slope else np.ones(SHAPE[1])
    size = (n, *SHAPE)
    if kind == "Gaussian, 16 bits":
        return rng.normal(1000.0 * rise, 30.0, size).round().astype(np.uint16)
    if kind == "Poisson, mean 12":
        return rng.poisson(12.0 * rise, size).astype(np.uint8)
    if kind == "Poisson, mean 3":
        return rng.poisson(3.0 * rise, size).astype(np.uint8)
    return rng.normal(20.0 * rise, 0.8, size).round().astype(np.uint8)


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per kind of noise, background and number asked for."""
    rows = []
    for kind in ("Gaussian, 16 bits", "Poisson, mean 12", "Poisson, mean 3", "8 bits, s.d. 0.8"):
        for slope in (False, True):
            frames = noise(kind, slope, 4 if quick else 400)
            for asked in (10.0,) if quick else (0.5, 10.0):
                settings = {"false_alarms_per_frame": asked, "polarity": "bright", "psf_sigma_px": 1.3}
                spots = exotrack.localize(
                    frames,
                    exotrack.Protocol.from_dict({"localize": settings}),
                    acquisition=exotrack.Acquisition(pixel_size_um=0.3, frame_interval_s=1 / 30),
                )
                found = len(spots) / len(frames)
                rows.append(
                    {
                        "noise": kind,
                        "background": "sloped" if slope else "flat",
                        "asked per frame": asked,
                        "found per frame": found,
                        "found/asked": found / asked,
                    }
                )
    return rows


if __name__ == "__main__":
    main("false_alarms", measure)
