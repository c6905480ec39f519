"""Size distributions from the same exact Brownian tracks: exotrack beside histograms and an older deconvolution.

2,000 tracks with geometric lengths (15 displacements on average, 4 at least), localization variance 0.1 DΔt, exposure
0.6 of the frame interval, water at 25 °C, 30 frames per second, in five videos. Each distribution is compared with the
diameters that were drawn, by the Wasserstein distance in nm, the mean of 12 samples:

- exotrack: `size_distribution` with tracks counted alike, as the peers count them.
- histogram, ML: of exotrack's most likely diameter of each track.
- histogram, trackpy: of the diameter from trackpy's `imsd`, lags 1 and 2, a line with free intercept.
- gamma EM: after Walker (2012): the mean squared displacement of each track, freed of the mean noise and blur, is gamma
  distributed for each size; EM of these for 1000 iterations, "to convergence".

Covered is the share of 95 % intervals of D50 of exotrack that hold the truth, over 48 samples; modes found are those of
exotrack and of the gamma EM, smoothed alike. The last rows are times: likelihood rows of 10⁵ tracks on 200 sizes, and
500 replicates of a bootstrap over videos, wall time.
"""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import trackpy
from harness import main, wall_seconds
from scipy import stats

import exotrack
from exotrack import backends
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, pool, track_rows
from exotrack.sizing.bootstrap import between_videos, replicate_counts
from exotrack.sizing.deconvolution import best_iterations, replicate_shares
from exotrack.sizing.sample import sample_of
from exotrack.sizing.summary import class_edges, density_per_nm
from exotrack.tables import Tracks

FRAME_S, PIXEL_UM, BLUR, NOISE = 1.0 / 30.0, 0.166, 0.1, 0.1
ACQUISITION = exotrack.Acquisition(
    pixel_size_um=PIXEL_UM, frame_interval_s=FRAME_S, exposure_s=0.6 * FRAME_S, n_frames=900, frame_shape=(480, 640)
)
CONSTANT = ACQUISITION.stokes_einstein_um2_s_nm
TRUTHS = {
    "100 nm, CV 3 %": lambda rng, n: 100.0 * (1.0 + 0.03 * rng.normal(size=n)),
    "100 + 200 nm": lambda rng, n: np.where(rng.random(n) < 0.5, 100.0, 200.0) * (1.0 + 0.03 * rng.normal(size=n)),
    "100 + 150 nm": lambda rng, n: np.where(rng.random(n) < 0.5, 100.0, 150.0) * (1.0 + 0.03 * rng.normal(size=n)),
    "log-normal 120 nm, σ 0.35": lambda rng, n: 120.0 * np.exp(0.35 * rng.normal(size=n)),
}
MEDIANS = {"100 nm, CV 3 %": 100.0, "log-normal 120 nm, σ 0.35": 120.0}
PROTOCOL = Protocol.from_dict(
    {
        "size": {"weighting": "tracks", "bootstrap": 100},
        "conditions": dict.fromkeys(("pixel_size_relative", "viscosity_relative", "frame_interval_relative"), 0.0),
    }
)


def brownian(rng: np.random.Generator, diameter: np.ndarray, steps: np.ndarray) -> Tracks:
    """Tracks whose positions are exact means over the exposure, with white localization error."""
    diffusion = CONSTANT / diameter
    spots, track = steps + 1, np.repeat(np.arange(len(steps)), steps + 1)
    first = np.cumsum(spots) - spots
    scale, exposure = np.sqrt(2.0 * diffusion[track])[:, None], 0.6 * FRAME_S
    during, after, rest = rng.normal(size=(3, len(track), 2))
    during, after = scale * np.sqrt(exposure) * during, scale * np.sqrt(FRAME_S - exposure) * after
    walk = np.cumsum(during + after, axis=0) - (during + after)
    walk -= walk[first][track]
    error = np.sqrt(NOISE * diffusion[track] * FRAME_S)[:, None]
    places = walk + 0.5 * during + scale * np.sqrt(exposure / 12.0) * rest + error * rng.normal(size=walk.shape)
    places += np.array([20.0, 30.0]) + 30.0 * rng.random((len(steps), 2))[track]
    one = np.ones(len(track), np.float32)
    begin = rng.integers(1, 900 - steps.max() - 1, len(steps))
    return Tracks(
        frame=(begin[track] + np.arange(len(track)) - first[track]).astype(np.int32),
        y=places[:, 0] / PIXEL_UM,
        x=places[:, 1] / PIXEL_UM,
        mass=100.0 * one,
        background=one,
        noise=one,
        snr=10.0 * one,
        sigma=1.5 * one,
        y_err=(error[:, 0] / PIXEL_UM).astype(np.float32),
        x_err=(error[:, 0] / PIXEL_UM).astype(np.float32),
        flag=np.zeros(len(track), np.uint16),
        particle=track,
        identity=track,
    )


def videos(truth: str, seed: int, n: int) -> tuple[list[Tracks], np.ndarray]:
    """The tracks of the five videos of a sample, and the diameters of all."""
    rng = np.random.default_rng([11, list(TRUTHS).index(truth), seed])
    diameter = TRUTHS[truth](rng, n)
    steps = 3 + rng.geometric(1.0 / 12.0, n)
    parts = np.array_split(np.arange(n), 5)
    return [brownian(rng, diameter[part], steps[part]) for part in parts], diameter


def by_trackpy(tracks: Tracks) -> np.ndarray:
    """Diameter of each track from trackpy's mean squared displacements at lags 1 and 2; NaN where D is not positive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        msd = trackpy.imsd(tracks.to_pandas(), PIXEL_UM, 1.0 / FRAME_S, max_lagtime=2)
    diffusion = (msd.iloc[1] - msd.iloc[0]).to_numpy() / (4.0 * FRAME_S)
    return np.where(diffusion > 0, CONSTANT / np.where(diffusion > 0, diffusion, 1.0), np.nan)


def by_gamma(tracks: list[Tracks], grid: np.ndarray) -> np.ndarray:
    """Shares from EM on gamma likelihoods of mean squared displacements, to convergence."""
    rows = []
    for t in tracks:
        inside = np.diff(t.particle) == 0
        step = PIXEL_UM**2 * (np.diff(t.y) ** 2 + np.diff(t.x) ** 2)[inside]
        of = t.particle[1:][inside]
        n = np.bincount(of)
        mean = np.bincount(of, step) / n / (4.0 * FRAME_S)
        ratio = 1.0 - 2.0 * BLUR + NOISE  # what blur and noise make of D, here in proportion to it
        expected = CONSTANT / grid * ratio
        log_rows = n[:, None] * (-np.log(expected) - mean[:, None] / expected)
        rows.append(np.exp(log_rows - log_rows.max(axis=1, keepdims=True)).astype(np.float32))
    start, likelihood = np.full((1, len(grid)), 1.0 / len(grid)), np.concatenate(rows)
    return backends.load("cpu").deconvolve(likelihood, np.ones((1, len(likelihood))), start, iterations=1000)[0]


def modes(share: np.ndarray, grid: np.ndarray) -> int:
    """Peaks of the density smoothed by 0.1 in ln d that fall by a fifth on both sides."""
    step = np.log(grid[1] / grid[0])
    kernel = np.exp(-0.5 * (np.arange(-40, 41) * step / 0.1) ** 2)
    smooth = np.convolve(np.pad(density_per_nm(share, grid), 40), kernel, "valid")
    found, low, high = 0, 0.0, 0.0
    for value in [*smooth, 0.0]:
        if high == 0.0 and value > 1.25 * low + 1e-3 * smooth.max():
            high = value
        elif high and value < 0.8 * high:
            found, low, high = found + 1, value, 0.0
        high, low = (max(high, value) if high else 0.0), (min(low, value) if not high else low)
    return found


def sample(truth: str, n: int, peers: bool, seed: int) -> dict[str, float]:
    """Wasserstein distances, modes and coverage of one sample."""
    tracks, diameter = videos(truth, seed, n)
    rows = [track_rows(t, ACQUISITION, PROTOCOL) for t in tracks]
    found = pool(rows, PROTOCOL)
    grid, share = found.diameter_nm, found.density_per_nm * np.diff(class_edges(found.diameter_nm))
    lo, hi = found.summary["d50_nm"][1:]
    result = {"exotrack": stats.wasserstein_distance(grid, diameter, share), "modes, exotrack": modes(share, grid)}
    result["covered"] = float(lo <= MEDIANS.get(truth, np.nan) <= hi)
    if peers:
        single = np.concatenate([exotrack.measure(t, ACQUISITION, PROTOCOL).diameter_nm for t in tracks])
        of_trackpy = np.concatenate([by_trackpy(t) for t in tracks])
        of_trackpy = np.clip(of_trackpy[np.isfinite(of_trackpy)], grid[0], grid[-1])
        gamma = by_gamma(tracks, grid)
        result |= {
            "histogram, ML": stats.wasserstein_distance(diameter, single),
            "histogram, trackpy": stats.wasserstein_distance(diameter, of_trackpy),
            "gamma EM": stats.wasserstein_distance(grid, diameter, gamma),
            "modes, gamma EM": modes(gamma, grid),
        }
    return result


def distributions(quick: bool) -> list[dict[str, Any]]:
    """One row per truth."""
    table = []
    for truth in list(TRUTHS)[: 1 if quick else None]:
        n, seeds, compared = (200, 1, 1) if quick else (2000, 48 if truth in MEDIANS else 12, 12)
        jobs = [partial(sample, truth, n, seed < compared, seed) for seed in range(seeds)]
        if quick:
            found = [job() for job in jobs]
        else:
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
                found = [f.result() for f in [workers.submit(job) for job in jobs]]
        names = ("exotrack", "histogram, ML", "histogram, trackpy", "gamma EM")
        mean = {name: float(np.mean([f[name] for f in found[:compared]])) for name in names}
        counts = {
            name: "/".join(str(int(f[name])) for f in found[:compared])
            for name in ("modes, exotrack", "modes, gamma EM")
        }
        covered = float(np.mean([f["covered"] for f in found])) if truth in MEDIANS else None
        table.append({"truth or task": truth, **mean, **counts, "D50 covered": covered, "s": None})
    return table


def times(quick: bool) -> list[dict[str, Any]]:
    """Likelihood rows and bootstraps."""
    rng, grid, engine = np.random.default_rng(3), np.geomspace(20.0, 1000.0, 200), backends.load("cpu")
    result = []
    for n in (300,) if quick else (100_000, 2000):
        diameter, steps = 120.0 * np.exp(0.35 * rng.normal(size=n)), 3 + rng.geometric(1.0 / 12.0, n)
        tracks = brownian(rng, diameter, steps)
        offsets = np.append(0, np.cumsum(steps + 1))
        inside = np.ones(len(tracks) - 1, bool)
        inside[offsets[1:-1] - 1] = False
        step_y, step_x = (PIXEL_UM * np.diff(place)[inside] for place in (tracks.y, tracks.x))
        variance = (PIXEL_UM * tracks.y_err.astype(np.float64)) ** 2
        model = (step_y, step_x, np.ones(len(step_y), np.int32), variance, variance, np.full(n, BLUR), offsets)
        likelihood = partial(engine.likelihood, *model, diffusion_um2_s=CONSTANT / grid, frame_interval_s=FRAME_S)
        rows = np.exp(likelihood())
        result.append((f"likelihood of {n:,} tracks × 200 sizes", wall_seconds(likelihood, 1 if quick else 3)))
        parts = [as_rows(rows[i::10], steps[i::10], grid) for i in range(10)]
        result.append((f"500 bootstraps of {n:,} tracks", bootstrap_seconds(parts, 50 if quick else 500)))
    empty = dict.fromkeys(("exotrack", "histogram, ML", "histogram, trackpy", "gamma EM"))
    more = {"modes, exotrack": None, "modes, gamma EM": None, "D50 covered": None}
    return [{"truth or task": task, **empty, **more, "s": seconds} for task, seconds in result]


def as_rows(likelihood: np.ndarray, steps: np.ndarray, grid: np.ndarray) -> TrackRows:
    """Likelihood rows as those of a video."""
    n = len(steps)
    plain = {name: np.ones(n, bool) for name in ("start_seen",)} | {"from_beginning": np.zeros(n, bool)}
    return TrackRows(
        diameter_nm=grid,
        likelihood=likelihood,
        particle=np.arange(n),
        identity=np.arange(n),
        n_frames=steps + 1,
        identity_share=np.ones(n),
        **plain,
        n_steps_median=float(np.median(steps)),
        pooled_nm=120.0,
        pooled_relative_error=0.01,
        budget=(),
        mislink_nm=1.0,
        frame_share=np.full(len(grid), 1.0 / len(grid)),
        detected=None,
        mass=np.ones(n),
        count=None,
    )


def bootstrap_seconds(parts: list[TrackRows], replicates: int) -> float:
    """Wall time of cross-validation and all replicates over ten videos."""
    engine, grid = backends.load("cpu"), parts[0].diameter_nm
    start = time.perf_counter()
    tracks, _, _ = sample_of(parts, "tracks")
    rng = np.random.default_rng(1)
    counts = replicate_counts(tracks, between_videos(tracks, grid), rng, replicates)
    counts = np.vstack([np.ones(tracks.n_units), counts])
    replicate_shares(tracks, engine, counts, best_iterations(tracks, engine, rng, 5, counts))
    return time.perf_counter() - start


def measure(quick: bool) -> list[dict[str, Any]]:
    """Accuracy, then times."""
    return distributions(quick) + times(quick)


if __name__ == "__main__":
    main("sizing", measure)
