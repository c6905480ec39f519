"""Localization: time on one core, recall, precision and position error, beside trackpy, scikit-image and picasso.

The same frames for all, the same process, CPU time with all of its threads, without compilation. Each peer gets the
size that suits the spots and the threshold that gives it the best sum of recall and precision on these very frames:
more than a user could know. Peers see the first frames only, since they need long for all; these are what all are
scored on.

- trackpy `batch` with Numba, and scikit-image `blob_log` at the one scale that suits the spots (it gives whole pixels):
  simulated nanoparticles.
- picasso `localize_frames`, maximum likelihood, a Gaussian with two widths ("gaussmle") or one ("gaussmle-spherical"):
  single molecules. It gets the camera with its read noise. A box of 9 px would make it half as slow again and no more
  precise. Left out where it is not installed.

exotrack runs with the spot model given, which is the headline and what the peers are compared with. At one signal per
case it also runs whole, learning the model, and by wall time with one and two threads. `times floor` is the time over
that of reading the frames from memory, `times peer` that of the peer over exotrack's, `times 1 thread` the gain of two.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import molecules
import numpy as np
import pandas as pd
import trackpy
from harness import cpu_seconds, main, read_seconds, wall_seconds
from scipy.ndimage import gaussian_laplace
from scipy.spatial import cKDTree
from skimage.feature import blob_log

import exotrack
from exotrack.localize import localize

CASES = {
    "640×480 uint8, 60 spots": {"frame_shape": (480, 640), "particles_per_frame": 60.0},
    "1280×1024 uint8, 120 spots": {"frame_shape": (1024, 1280), "particles_per_frame": 120.0},
}
BLOB_SIGMA = 1.4
"""s.d. of a simulated nanoparticle's spot with its motion blur, px."""
BOX = 7
"""Box of picasso, px."""
REACH = 3.0
"""Distance within which a spot is a particle, px."""


@dataclass(frozen=True)
class Scene:
    """Frames to localize and what is true of them."""

    case: str
    signal: str
    frames: np.ndarray
    acquisition: exotrack.Acquisition
    truth: Any


@dataclass(frozen=True)
class Run:
    """A tool ready to be timed on the frames of a scene, and what it finds there."""

    tool: str
    call: Callable[[], Any]
    spots: int
    quality: dict[str, float]


def score(frame: np.ndarray, y: np.ndarray, x: np.ndarray, truth: Any, shape: tuple[int, int]) -> dict[str, float]:
    """Share of in-focus particles found, share of spots that are particles, and the error per axis of what is found.

    The error is given as its median over the Cramér–Rao bound of each particle, and as root mean square.
    """
    found = particles = right = 0
    errors, ratios = [], []
    positions = truth.positions
    for t in range(int(frame.max()) + 1):
        seen, spots = positions.frame == t, frame == t
        places = np.stack([positions.y[seen], positions.x[seen]], axis=1)
        at = np.stack([y[spots], x[spots]], axis=1)
        inside = positions.in_focus[seen] & (places > 0).all(axis=1) & (places < np.array(shape) - 1).all(axis=1)
        distance, nearest = cKDTree(at).query(places)
        hit = inside & (distance < REACH)
        found, particles = found + int(hit.sum()), particles + int(inside.sum())
        right += int((cKDTree(places).query(at)[0] < REACH).sum())
        bound = np.stack([positions.y_crlb_px[seen], positions.x_crlb_px[seen]], axis=1)
        errors.append(at[nearest[hit]] - places[hit])
        ratios.append(np.abs(errors[-1]) / bound[hit])
    # The median of |error| is 0.6745 s.d. for a normal error.
    return {
        "recall": found / particles,
        "precision": right / len(y),
        "error/bound": float(np.median(np.concatenate(ratios))) / 0.6745,
        "rms, px": float(np.sqrt(np.mean(np.concatenate(errors) ** 2))),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of the table: every tool on every scene that it is made for."""
    trackpy.quiet()
    few = 2 if quick else 20
    floor = read_seconds(2**20 if quick else 2**28)
    rows = []
    for case, settings in list(CASES.items())[: 1 if quick else None]:
        for snr in (10.0,) if quick else (5.0, 10.0, 20.0):
            video, truth = exotrack.simulate(n_frames=4 if quick else 300, snr=snr, seed=7, **settings)
            scene = Scene(case, f"SNR {snr:g}", video.frames, video.acquisition, truth)
            rows += compare(scene, [trackpy_runs, blob_runs], floor, few, whole=snr == 10.0)
    side, spots = (128, 12) if quick else (512, 200)
    frames, truth = molecules.simulate(4 if quick else 300, side, spots, seed=7)
    acquisition = exotrack.Acquisition(pixel_size_um=0.1, frame_interval_s=0.02)
    light = "{:g} to {:g} photons".format(*molecules.PHOTONS)
    scene = Scene(f"{side}×{side} uint16, {spots} molecules", light, frames, acquisition, truth)
    peers = [picasso_runs] if importlib.util.find_spec("picasso") else []
    return rows + compare(scene, peers, floor, few, whole=True)


def compare(
    scene: Scene, peers: list[Callable[[Scene], Iterable[Run]]], floor: float, few: int, whole: bool
) -> list[dict[str, Any]]:
    """Rows of one scene; peers get its first frames, and `whole` adds exotrack by wall time and learning its model."""
    repeats = 1 if len(scene.frames) < 10 else 3

    def row(run: Run, clock: Callable[..., float], frames: np.ndarray) -> dict[str, Any]:
        seconds = clock(run.call, repeats) / len(frames)
        return {
            "case": scene.case,
            "signal": scene.signal,
            "tool": run.tool,
            "ms/frame": 1e3 * seconds,
            "frames/s": 1.0 / seconds,
            "Mpx/s": 1e-6 * frames[0].size / seconds,
            "spots/s": run.spots / len(frames) / seconds,
            "times floor": seconds / (floor * frames[0].nbytes),
            "times peer": None,
            "times 1 thread": None,
            **run.quality,
        }

    given, *others = exotrack_runs(scene, few)
    rows = [row(given, cpu_seconds, scene.frames)]
    if whole:
        learning, one, two = others
        rows += [row(learning, cpu_seconds, scene.frames)]
        rows += [row(run, wall_seconds, scene.frames) for run in (one, two)]
        rows[-1]["times 1 thread"] = rows[-2]["ms/frame"] / rows[-1]["ms/frame"]
    first = replace(scene, frames=scene.frames[:few])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for run in (run for peer in peers for run in peer(first)):
            rows.append(row(run, cpu_seconds, first.frames))
            rows[-1]["times peer"] = rows[-1]["ms/frame"] / rows[0]["ms/frame"]
    return rows


def exotrack_runs(scene: Scene, few: int) -> list[Run]:
    """exotrack with the spot model given, learning it, and given it with one and with two threads."""
    whole = partial(localize, scene.frames, acquisition=scene.acquisition)
    spots = whole()
    first = spots.take(spots.frame < few)
    quality = score(first.frame, first.y, first.x, scene.truth, scene.frames.shape[1:])
    given = partial(whole, model=spots.model)
    calls = {
        "exotrack": partial(given, threads=1),
        "exotrack, learning its model": partial(whole, threads=1),
        "exotrack, wall, 1 thread": partial(given, threads=1),
        "exotrack, wall, 2 threads": partial(given, threads=2),
    }
    return [Run(tool, call, len(spots), quality) for tool, call in calls.items()]


def trackpy_runs(scene: Scene) -> Iterable[Run]:
    """trackpy at the minimum mass that suits the frames best."""
    locate = partial(trackpy.batch, scene.frames, 7, engine="numba", processes=1)
    everything = locate(minmass=0)
    minmass, spots, quality = best(
        scene, thresholds(everything["mass"], scene), lambda mass: everything[everything["mass"] > mass]
    )
    yield Run("trackpy", partial(locate, minmass=minmass), spots, quality)


def blob_runs(scene: Scene) -> Iterable[Run]:
    """scikit-image's Laplacian of Gaussian at the threshold that suits the frames best."""

    def locate(threshold: float) -> pd.DataFrame:
        found = [
            blob_log(frame, min_sigma=BLOB_SIGMA, max_sigma=BLOB_SIGMA, num_sigma=1, threshold=threshold)
            for frame in scene.frames
        ]
        frame = np.repeat(np.arange(len(found)), [len(blobs) for blobs in found])
        y, x, _ = np.concatenate(found).T
        return pd.DataFrame({"frame": frame, "y": y, "x": x})

    # blob_log scales integer frames to a range of one.
    filtered = BLOB_SIGMA**2 * gaussian_laplace(scene.frames[0] / np.iinfo(scene.frames.dtype).max, BLOB_SIGMA)
    noise = 1.4826 * np.median(np.abs(filtered - np.median(filtered)))
    threshold, spots, quality = best(scene, noise * np.geomspace(4.0, 12.0, 8), locate)
    yield Run("blob_log", partial(locate, threshold), spots, quality)


def picasso_runs(scene: Scene) -> Iterable[Run]:
    """picasso at the minimum net gradient that suits the frames best."""
    from picasso import localize as picasso

    shape = scene.frames.shape[1:]
    camera = {"Baseline": molecules.OFFSET, "Sensitivity": 1.0 / molecules.GAIN, "Gain": 1, "Pixelsize": 100}
    noise = {
        "offset": np.full(shape, molecules.OFFSET),
        "variance": np.full(shape, (molecules.GAIN * molecules.READ_NOISE) ** 2),
    }
    candidates, _ = picasso.identify(scene.frames, 0.0, BOX, threaded=False)
    gradients = thresholds(candidates["net_gradient"], scene)
    for method in ("gaussmle", "gaussmle-spherical"):

        def locate(gradient: float, method: str = method) -> pd.DataFrame:
            return picasso.localize_frames(
                scene.frames, None, {"Min. Net Gradient": gradient, "Box Size": BOX}, camera_info=camera,
                fitting_method=method, camera_calibration=noise, threaded=False,
            )  # fmt: skip

        everything = locate(gradients[-1])
        gradient, spots, quality = best(
            scene, gradients, lambda least, spots=everything: spots[spots["net_gradient"] > least]
        )
        yield Run(f"picasso, {method}", partial(locate, gradient), spots, quality)


def thresholds(strength: pd.Series, scene: Scene) -> list[float]:
    """Strengths above which 0.7 to 2 times as many spots lie as there are particles, the highest first."""
    strongest = np.sort(strength)[::-1]
    particles = int(np.sum(scene.truth.positions.frame < len(scene.frames)))
    ranks = (np.linspace(0.7, 2.0, 40) * particles).astype(int)
    return [float(strongest[rank]) for rank in np.minimum(ranks, len(strongest) - 1)]


def best(
    scene: Scene, candidates: Iterable[float], locate: Callable[[float], pd.DataFrame]
) -> tuple[float, int, dict[str, float]]:
    """Threshold with the best sum of recall and precision, the number of spots it gives, and their score."""
    results = []
    for threshold in candidates:
        spots = locate(threshold)
        if len(spots):
            places = (spots[column].to_numpy() for column in ("frame", "y", "x"))
            results.append((threshold, len(spots), score(*places, scene.truth, scene.frames.shape[1:])))
    return max(results, key=lambda result: result[2]["recall"] + result[2]["precision"])


if __name__ == "__main__":
    main("localize", measure)
