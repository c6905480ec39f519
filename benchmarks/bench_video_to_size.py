"""From simulated video to size, number and concentration: the whole path on samples whose truth is known.

Every sample is several videos of fresh particles, 30 frames per second, exposure 20 ms, 0.3 µm per pixel, analysed with
the default protocol. Unless a case says otherwise the light sheet is a slab of 10 µm, and videos have 8 bits and 300
frames of 480×360 pixels with 40 particles in view, those of the sample at a signal-to-noise ratio of 12.

- One size: mode, D50 and CV of the number distribution, and the CV of a histogram of single tracks.
- 100 and 200 nm, 1:1: modes and log-normal populations. Log-normal: Wasserstein distance to the truth, three samples.
- 60 and 200 nm, 1:1, in a slab and equally bright, and with brightness as d⁶ in a Gaussian sheet (16 bits), so that
  large particles are seen over twice the depth: the ratio of their numbers, from the number conversion and from tracks
  and frames as they are counted.
- Concentration with a depth calibrated by beads of another size, over the truth of the sample, and in a dilution series
  over the particles that were in fact in the slab, of which there are more or fewer by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from harness import main
from scipy import stats

import exotrack
from exotrack.depth import DepthTable
from exotrack.heterogeneity import wasserstein_nm
from exotrack.protocol import Protocol
from exotrack.simulate.specification import Component
from exotrack.simulate.truth import TrueSizes
from exotrack.sizing import TrackRows, concentration, pool, track_rows
from exotrack.sizing.calibration import BeadVideo, calibrate_depth
from exotrack.sizing.summary import class_edges

USUAL = {"frame_shape": (360, 480), "n_frames": 300, "particles_per_frame": 40.0, "snr": 12.0}
QUICK = {"frame_shape": (128, 160), "n_frames": 60, "particles_per_frame": 15.0}
LARGE = {"frame_shape": (480, 640), "n_frames": 200, "particles_per_frame": 80.0, "snr": 12.0}
ALIKE = {"brightness_exponent": 0.0}
D6 = {
    "snr": 8.0,
    "brightness_exponent": 6.0,
    "profile": "gaussian",
    "bit_depth": 16,
    "particles_per_frame": 25.0,
}
SEED = 7


@dataclass(frozen=True)
class Made:
    """What is kept of a simulated video."""

    rows: TrackRows
    in_view: float
    """Particles in focus per frame."""


def video(job: tuple[dict[str, Any], int, DepthTable | None]) -> Made:
    """Likelihood rows of one simulated video."""
    settings, seed, depths = job
    simulated, truth = exotrack.simulate(**settings, seed=seed)
    acquisition = simulated.acquisition
    if depths is not None:
        acquisition = exotrack.Acquisition(**{**vars(acquisition), "depth_um": None, "depth_table": depths})
    spots = exotrack.localize(simulated)
    rows = track_rows(exotrack.link(spots, acquisition), acquisition)
    return Made(rows, float(truth.positions.in_focus.sum()) / simulated.shape[0])


class Bench:
    """Samples of videos, made side by side."""

    def __init__(self, workers: ProcessPoolExecutor | None) -> None:
        self.workers = workers

    def made(self, settings: dict[str, Any], n: int, seed: int, depths: DepthTable | None = None) -> list[Made]:
        """The videos of one sample."""
        jobs = [({**settings, **({} if self.workers else QUICK)}, 1000 * seed + i, depths) for i in range(n)]
        return list(map(video, jobs) if self.workers is None else self.workers.map(video, jobs))

    def sample(self, settings: dict[str, Any], n: int, seed: int, depths: DepthTable | None = None) -> list[TrackRows]:
        """Rows of the videos of one sample."""
        return [one.rows for one in self.made(settings, n, seed, depths)]


def row(case: str, quantity: str, truth: float, found: float, lo: float = np.nan, hi: float = np.nan) -> dict[str, Any]:
    """One figure beside its truth."""
    interval = {"from": lo, "to": hi} if np.isfinite(lo) else {"from": None, "to": None}
    return {"case": case, "quantity": quantity, "truth": truth, "found": found, **interval, "ratio": found / truth}


def share_of(sizes: exotrack.tables.SizeDistribution) -> np.ndarray:
    """Share per class of a distribution."""
    return sizes.density_per_nm * np.diff(class_edges(sizes.diameter_nm))


def weighted(weighting: str) -> Protocol:
    """The default protocol with another weighting."""
    return Protocol.from_dict({"size": {"weighting": weighting}})


def one_size(bench: Bench, diameter: float, n: int) -> list[dict[str, Any]]:
    """Mode, D50 and CV of particles of one size, true CV 3 %."""
    sizes = {"sizes": [{"diameter_nm": diameter, "cv": 0.03}], "reference_diameter_nm": diameter}
    rows = bench.sample({**USUAL, **sizes}, n, SEED + int(diameter))
    found, case = pool(rows), f"{diameter:g} nm, CV 3 %"
    single = np.concatenate([r.diameter_nm[r.likelihood.argmax(axis=1)] for r in rows])
    result = [row(case, name, diameter, *found.summary[name]) for name in ("mode_nm", "d50_nm", "pooled_nm")]
    result.append(row(case, "cv", 0.03, *found.summary["cv"]))
    result.append(row(case, "cv of a histogram of tracks", 0.03, float(np.std(single) / np.mean(single))))
    return result


def two_sizes(bench: Bench, n: int) -> list[dict[str, Any]]:
    """100 and 200 nm, 1:1: modes and populations as reported."""
    sizes = {"sizes": [{"diameter_nm": d, "cv": 0.03} for d in (100.0, 200.0)], "reference_diameter_nm": 100.0}
    found = pool(bench.sample({**USUAL, **sizes, "snr": 8.0}, n, SEED + 1))
    case, modes = "100 + 200 nm, 1:1", found.modes
    result = [row(case, "modes", 2.0, float(len(modes.diameter_nm)))]
    result.append(row(case, "replicates with as many modes", 1.0, modes.stability))
    result += [row(case, "mode, nm", t, d) for t, d in zip((100.0, 200.0), modes.diameter_nm, strict=False)]
    result.append(row(case, "fraction of the first mode", 0.5, modes.fraction[0]))
    result.append(row(case, "populations", 2.0, float(len(found.populations))))
    for truth, population in zip((100.0, 200.0), found.populations, strict=False):
        result.append(row(case, f"median of {population.name}, nm", truth, *population.median_nm))
        result.append(row(case, f"fraction of {population.name}", 0.5, *population.fraction))
    return result


def log_normal(bench: Bench, n: int) -> list[dict[str, Any]]:
    """Log-normal 120 nm, σ 0.35; 12 bits and d³, so that all are seen."""
    component = {"diameter_nm": 120.0, "cv": float(np.sqrt(np.expm1(0.35**2)))}
    seen = {"snr": 30.0, "brightness_exponent": 3.0, "bit_depth": 12}
    truth = TrueSizes((Component(**component),))
    result = []
    for seed in range(3 if bench.workers else 1):
        found = pool(bench.sample({**USUAL, "sizes": [component], **seen}, n, SEED + 20 + seed))
        edges = class_edges(found.diameter_nm)
        distance = float(wasserstein_nm(found.diameter_nm, share_of(found), np.diff(truth.cumulative(edges))))
        case = f"log-normal 120 nm, σ 0.35, {found.n_tracks} tracks"
        result.append(row(case, "Wasserstein distance over 6 nm", 1.0, distance / 6.0))
        result += [
            row(case, name, getattr(truth, name), *found.summary[name]) for name in ("d10_nm", "d50_nm", "d90_nm")
        ]
    return result


def small_and_large(bench: Bench, n: int, case: str, light: dict[str, Any]) -> list[dict[str, Any]]:
    """60 and 200 nm, 1:1: the ratio of their numbers by each weighting."""
    sizes = {"sizes": [{"diameter_nm": d, "cv": 0.03} for d in (60.0, 200.0)], "reference_diameter_nm": 60.0}
    rows = bench.sample({**USUAL, **sizes, **light}, n, SEED + 3)
    result = []
    for weighting in ("number", "tracks", "frames"):
        found = pool(rows, weighted(weighting))
        small = float(share_of(found)[found.diameter_nm < 110.0].sum())
        label = f"small over large, weighted by {found.weighting}"
        result.append(row(f"60 + 200 nm, 1:1, {case}", label, 1.0, small / max(1.0 - small, 1e-9)))
    return result


def counted(bench: Bench, n: int) -> list[dict[str, Any]]:
    """Concentration of 100 nm particles with a depth from beads of 200 nm, and a dilution series."""
    beads = {"sizes": [{"diameter_nm": 200.0, "cv": 0.03}], "reference_diameter_nm": 200.0}
    settings = {**LARGE, **(QUICK if bench.workers is None else {})}
    known = exotrack.simulate(**{**settings, "n_frames": 1, "particles_per_frame": 1.0})[1].concentration_per_ml
    each = known * settings["particles_per_frame"]
    acquisition = exotrack.Acquisition(pixel_size_um=0.3, frame_interval_s=1 / 30, temperature_c=25.0)
    step = float(np.sqrt(2.0 * acquisition.stokes_einstein_um2_s_nm / 200.0 / 30.0))
    of_beads = bench.sample({**LARGE, **beads}, n, SEED + 4)
    table = calibrate_depth([BeadVideo(f"{i}", r, step, 200.0, each) for i, r in enumerate(of_beads)], 0.0, 1)
    result = [row("slab of 10 µm", "depth from beads, µm", 10.0, table.points[0].depth_um)]
    found = concentration(bench.sample({**LARGE, "sizes": [{"diameter_nm": 100.0, "cv": 0.05}]}, n, SEED + 5, table))
    result.append(row("slab, calibrated", "concentration over truth", 1.0, *np.array(found.gross) / each))
    result.append(row("slab, no depth", "concentration over truth, arrivals", 1.0, *np.array(found.flux) / each))
    levels, series = (5.0, 10.0, 20.0, 50.0, 100.0), []
    volume = settings["frame_shape"][0] * settings["frame_shape"][1] * 0.3**2 * 10.0 * 1e-12
    for level in levels:
        sample = bench.made({**LARGE, "particles_per_frame": level}, max(n // 2, 2), SEED + 30 + int(level), table)
        there = float(np.mean([one.in_view for one in sample])) / volume
        series.append((there, concentration([one.rows for one in sample]).gross.value))
        label = f"{level:g} particles in view, over those there"
        result.append(row("dilution series", label, 1.0, series[-1][1] / series[-1][0]))
    slope = stats.linregress(*np.log(series).T).slope
    result.append(row("dilution series", "slope in log–log", 1.0, float(slope)))
    return result


def cases(bench: Bench, n: int, diameters: Sequence[float]) -> list[dict[str, Any]]:
    """All rows."""
    rows = [line for d in diameters for line in one_size(bench, d, n)]
    return (
        rows
        + two_sizes(bench, 2 * n)
        + log_normal(bench, 3 * n)
        + small_and_large(bench, 3 * n, "equally bright, slab", ALIKE)
        + small_and_large(bench, 3 * n, "brightness as d⁶, Gaussian sheet", D6)
        + counted(bench, 2 * n)
    )


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case and quantity."""
    if quick:
        return cases(Bench(None), 1, (100.0,))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        return cases(Bench(workers), 5, (50.0, 100.0, 200.0, 300.0))


if __name__ == "__main__":
    main("video_to_size", measure)
