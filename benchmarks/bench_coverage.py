"""Whether 95 % intervals are 95 % intervals: whole simulated samples, from video to D50 and concentration.

Each sample is five videos of fresh particles: 250 frames of 200×256 pixels, 30 frames per second, 12 bits, 25 particles
in view, 100 nm at a signal-to-noise ratio of 30 and brightness as d³, so that all are seen. Its true pixel size,
temperature, viscosity, frame interval and depth differ from the stated ones by errors drawn from the standard
uncertainties that the protocol states; the analysis knows the stated values only. In the last case the videos of a
sample differ, by 4 % s.d. in size and 10 % in concentration. Every quantity is asked the same question: does its
interval hold the truth?
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from harness import main
from scipy import stats

import exotrack
from exotrack import physics
from exotrack.protocol import Protocol
from exotrack.simulate.specification import Component
from exotrack.simulate.truth import TrueSizes
from exotrack.sizing import concentration, pool, track_rows

SAMPLES, VIDEOS, SEED = 120, 5, 20261126
WIDE = {"diameter_nm": 120.0, "cv": float(np.sqrt(np.expm1(0.35**2)))}
CASES = {
    "100 nm, CV 5 %": ({"diameter_nm": 100.0, "cv": 0.05}, 0.0, 0.0),
    "log-normal 120 nm, σ 0.35": (WIDE, 0.0, 0.0),
    "the same, videos differ": (WIDE, 0.04, 0.1),
}
"""Name → component, and s.d. between videos of ln d and of ln c."""
PER_ML = 25.0 / (60.0 * 76.8 * 10.0) * 1e12
NUMBERS = ("d10_nm", "d50_nm", "d90_nm", "mean_nm", "cv", "span")


def sample(case: str, quick: bool, number: int) -> dict[str, tuple[float, float, float, float]]:
    """Per quantity of one sample: truth, estimate, and the ends of its interval."""
    protocol = Protocol()
    said = protocol.conditions
    rng = np.random.default_rng([SEED, list(CASES).index(case), number])
    error = rng.normal(size=5)
    component, sizes_differ, counts_differ = CASES[case]
    temperature = 25.0 + said.temperature_k * error[0]
    depth = 10.0 * (1.0 + said.depth_relative * error[4])
    rows = []
    for _ in range(2 if quick else VIDEOS):
        size, density = np.exp(rng.normal(size=2) * [sizes_differ, counts_differ])
        simulated, _ = exotrack.simulate(
            frame_shape=(200, 256),
            n_frames=60 if quick else 250,
            pixel_size_um=0.3 * (1.0 + said.pixel_size_relative * error[1]),
            frame_interval_s=(1.0 + said.frame_interval_relative * error[3]) / 30.0,
            temperature_c=temperature,
            viscosity_mpa_s=physics.water_viscosity_mpa_s(temperature) * (1.0 + said.viscosity_relative * error[2]),
            depth_um=depth,
            concentration_per_ml=PER_ML * density,
            sizes=[{**component, "diameter_nm": component["diameter_nm"] * size}],
            snr=30.0,
            brightness_exponent=3.0,
            bit_depth=12,
            seed=int(rng.integers(2**31)),
        )
        stated = exotrack.Acquisition(
            pixel_size_um=0.3,
            frame_interval_s=1.0 / 30.0,
            exposure_s=0.02,
            temperature_c=25.0,
            depth_um=10.0,
            frame_shape=(200, 256),
            n_frames=simulated.shape[0],
        )
        spots = exotrack.localize(simulated.frames, protocol, acquisition=stated)
        rows.append(track_rows(exotrack.link(spots, stated, protocol), stated, protocol))
    sizes, found = pool(rows, protocol), concentration(rows)
    truth = TrueSizes((Component(**component),))
    result = {name: (float(getattr(truth, name)), *sizes.summary[name]) for name in NUMBERS}
    result["concentration_per_ml"] = (PER_ML, *found.net)
    result["from arrivals, per mL"] = (PER_ML, *found.flux)
    return result


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case and quantity."""
    n = 1 if quick else SAMPLES
    table = []
    for case in list(CASES)[: 1 if quick else None]:
        one = partial(sample, case, quick)
        if quick:
            found = [one(0)]
        else:
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
                found = list(workers.map(one, range(n), chunksize=4))
        for name in found[0]:
            truth, value, lo, hi = np.array([f[name] for f in found]).T
            inside = int(np.sum((lo <= truth) & (truth <= hi)))
            wilson = stats.binomtest(inside, n).proportion_ci(method="wilson")
            table.append(
                {
                    "sample": case,
                    "quantity": name,
                    "samples": n,
                    "covered": inside / n,
                    "from": float(wilson.low),
                    "to": float(wilson.high),
                    "found / truth": float(np.mean(value / truth)),
                    "spread": float(np.std(value / truth)),
                    "half width": float(np.median(hi - lo) / 2.0 / truth[0]),
                    "too low": float(np.mean(hi < truth)),
                    "too high": float(np.mean(lo > truth)),
                }
            )
    return table


if __name__ == "__main__":
    main("coverage", measure)
