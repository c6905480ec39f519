"""Localization: time on one core, recall, precision and position error, beside trackpy's `locate` with Numba.

The same simulated frames for both, the same process, CPU time. trackpy gets the diameter that suits the spots and the
minimum mass that gives it the best sum of recall and precision on these very frames: more than a user could know.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import trackpy
from harness import cpu_seconds, main
from scipy.spatial import cKDTree

import exotrack
from exotrack.localize import calibrate, localize

CASES = {
    "640×480 uint8, 60 spots": {"frame_shape": (480, 640), "particles_per_frame": 60.0},
    "1280×1024 uint8, 120 spots": {"frame_shape": (1024, 1280), "particles_per_frame": 120.0},
}


def score(frame: np.ndarray, y: np.ndarray, x: np.ndarray, truth: Any, shape: tuple[int, int]) -> dict[str, float]:
    """Share of in-focus particles found, share of spots that are particles, median error over the Cramér–Rao bound."""
    found = particles = right = 0
    ratios = []
    positions = truth.positions
    for t in np.unique(frame):
        seen, spots = positions.frame == t, frame == t
        places = np.stack([positions.y[seen], positions.x[seen]], axis=1)
        at = np.stack([y[spots], x[spots]], axis=1)
        inside = positions.in_focus[seen] & (places > 0).all(axis=1) & (places < np.array(shape) - 1).all(axis=1)
        distance, nearest = cKDTree(at).query(places)
        hit = inside & (distance < 3.0)
        found, particles = found + int(hit.sum()), particles + int(inside.sum())
        right += int((cKDTree(places).query(at)[0] < 3.0).sum())
        bound = np.stack([positions.y_crlb_px[seen], positions.x_crlb_px[seen]], axis=1)
        ratios.append(np.abs(at[nearest[hit]] - places[hit]) / bound[hit])
    # The median of |error| is 0.6745 s.d. for a normal error.
    median = float(np.median(np.concatenate(ratios))) / 0.6745
    return {"recall": found / particles, "precision": right / len(y), "error/bound": median}


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of the table, two per case and signal-to-noise ratio."""
    rows = []
    trackpy.quiet()
    for name, case in list(CASES.items())[: 1 if quick else None]:
        for snr in (10.0,) if quick else (5.0, 10.0, 20.0):
            video, truth = exotrack.simulate(n_frames=4 if quick else 150, snr=snr, seed=7, **case)
            n, *shape = video.shape
            model = calibrate(video)
            spots = localize(video, model=model)
            seconds = cpu_seconds(lambda v=video, m=model: localize(v, model=m), repeats=1 if quick else 3) / n
            ours = {"ms/frame": 1e3 * seconds, **score(spots.frame, spots.y, spots.x, truth, tuple(shape))}
            peer = best_of_trackpy(video.frames, truth, tuple(shape), few=2 if quick else 10)
            rows.append(
                {
                    "case": name,
                    "SNR": snr,
                    "tool": "exotrack",
                    **ours,
                    "times trackpy": peer["ms/frame"] / ours["ms/frame"],
                }
            )
            rows.append({"case": name, "SNR": snr, "tool": "trackpy", **peer, "times trackpy": 1.0})
    return rows


def best_of_trackpy(frames: np.ndarray, truth: Any, shape: tuple[int, int], few: int) -> dict[str, float]:
    """CPU time and accuracy of trackpy at the minimum mass that suits these frames best."""
    frames = frames[:few]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = trackpy.batch(frames, 7, minmass=0, engine="numba", processes=1)
        best: dict[str, float] = {}
        mass = np.sort(everything["mass"])[::-1]
        true_number = np.mean([np.sum(truth.positions.frame == t) for t in range(few)]) * len(frames)
        for minmass in mass[np.minimum((np.linspace(0.7, 2.0, 40) * true_number).astype(int), len(mass) - 1)]:
            kept = everything[everything["mass"] > minmass]
            result = score(*(kept[c].to_numpy() for c in ("frame", "y", "x")), truth, shape)
            if not best or result["recall"] + result["precision"] > best["recall"] + best["precision"]:
                best = {"minmass": float(minmass), **result}
        minmass = best.pop("minmass")
        seconds = cpu_seconds(
            lambda: trackpy.batch(frames, 7, minmass=minmass, engine="numba", processes=1), repeats=1 if few < 5 else 3
        )
    return {"ms/frame": 1e3 * seconds / len(frames), **best}


if __name__ == "__main__":
    main("localize", measure)
