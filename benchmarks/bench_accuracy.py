"""From simulated video to diffusion coefficient: what is found, how precisely, and whether D is right.

8-bit video of 640×480 pixels, 100 nm particles in water at 25 °C, 30 frames per second, exposure 20 ms, 60 particles
per frame. The Cramér–Rao bound of each true position is that of its own motion-blurred image, known in shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_localize import score
from harness import main

import exotrack

CASES = {
    "5": {"snr": 5.0},
    "10": {"snr": 10.0},
    "20": {"snr": 20.0},
    "5 to 30": {"snr": 12.0, "brightness_cv": 0.5},
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per signal-to-noise ratio, and one for a spread of them."""
    rows = []
    for label, settings in list(CASES.items())[: 1 if quick else None]:
        video, truth = exotrack.simulate(
            n_frames=60 if quick else 600, seed=11, sizes=[{"diameter_nm": 100.0, "cv": 0.0}], **settings
        )
        spots = exotrack.localize(video)
        tracks = exotrack.link(spots, video.acquisition)
        sizes = exotrack.size_distribution(tracks, video.acquisition)
        true_d = video.acquisition.stokes_einstein_um2_s_nm / 100.0
        particles = exotrack.measure(tracks, video.acquisition)
        used = particles.n_steps >= 4
        # The harmonic mean of diameters, weighted by steps, is the ensemble's diffusion coefficient.
        ensemble = float(np.average(particles.D_um2_s[used], weights=particles.n_steps[used]))
        rows.append(
            {
                "SNR": label,
                **score(spots.frame, spots.y, spots.x, truth, video.shape[1:]),
                "tracks": int(used.sum()),
                "ensemble D / true": ensemble / true_d,
                "mode, nm": sizes.summary["mode_nm"].value,
                "D50, nm": sizes.summary["d50_nm"].value,
                "CV": sizes.summary["cv"].value,
            }
        )
    return rows


if __name__ == "__main__":
    main("accuracy", measure)
