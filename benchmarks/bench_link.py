"""Linking: time, wrong links, missed links and bias of the mean squared step, beside trackpy, laptrack and btrack.

Brownian particles in a plane, seen in every frame; the density is given by x = πρ·4DΔt. All get the same gate, the one
that exotrack derived. trackpy is timed with the faster of its strategies "numba" and "auto". laptrack is measured where
it is installed, and btrack where BTRACK_PYTHON names a Python that has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import trackpy
from harness import main

import exotrack
from exotrack.protocol import Protocol
from exotrack.tables import Localizations

STEP = 2.0
"""s.d. of a step per axis, px."""
BORDER = 20.0
"""Width of the border of the field where steps do not count, px."""
MOST_SPOTS = 100_000
"""Spots in all up to which laptrack and btrack are measured: they take minutes for so many."""
BTRACK = "BTRACK_PYTHON"
"""Environment variable with the path of a Python that has btrack."""


class Case(NamedTuple):
    """A field of particles and how it is linked."""

    x: float
    spots: int
    frames: int
    memory: int
    """Frames that a particle may be missing."""


CASES = (
    Case(0.01, 1000, 100, 0),
    Case(0.03, 1000, 100, 0),
    Case(0.1, 1000, 100, 0),
    Case(0.2, 1000, 100, 0),
    Case(0.3, 1000, 100, 0),
    Case(0.1, 100, 1000, 0),
    Case(0.1, 1000, 500, 0),
    Case(0.1, 1000, 500, 1),
    Case(0.1, 10_000, 50, 0),
    Case(0.1, 100_000, 10, 0),
    Case(0.3, 100_000, 10, 0),
)


def field(x: float, spots: int, frames: int, seed: int) -> tuple[pd.DataFrame, int]:
    """Positions of Brownian particles in a periodic square of the density that x gives; rows by frame, y, x."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(spots * np.pi * 2.0 * STEP**2 / x))
    start = rng.uniform(0, side, (1, spots, 2))
    path = start + np.cumsum(rng.normal(0, STEP, (frames, spots, 2)), axis=0)
    t, k = np.meshgrid(np.arange(frames), np.arange(spots), indexing="ij")
    y, x_position = np.moveaxis(path % side, -1, 0)
    table = pd.DataFrame({"frame": t.ravel(), "y": y.ravel(), "x": x_position.ravel(), "truth": k.ravel()})
    return table.sort_values(["frame", "y", "x"], ignore_index=True), side


def quality(tracks: pd.DataFrame, spots: pd.DataFrame, side: int) -> dict[str, float]:
    """Share of wrong links, share of the true links missed, and bias of the mean squared step of the links.

    Only steps that begin inside count: at the border of the periodic field particles jump to the other side.
    """
    particle = spots[["frame", "y", "x"]].merge(tracks, on=["frame", "y", "x"], how="left")["particle"]
    known = spots.assign(particle=particle)
    links = _steps(known.dropna(), "particle", side)
    true = _steps(known, "truth", side)
    wrong = links["truth"] != links["truth_next"]
    return {
        "wrong": float(wrong.mean()),
        "missed": 1.0 - float((~wrong).sum() / len(true)),
        "bias of r²": float(links["square"].mean() / true["square"].mean()) - 1.0,
    }


def _steps(rows: pd.DataFrame, by: str, side: int) -> pd.DataFrame:
    """Steps from one frame to the next of rows with the same number in a column, well inside the field."""
    rows = rows.sort_values([by, "frame"])
    after = rows.shift(-1)
    inside = rows[["y", "x"]].ge(BORDER).all(axis=1) & rows[["y", "x"]].lt(side - BORDER).all(axis=1)
    step = (after[by] == rows[by]) & (after["frame"] == rows["frame"] + 1) & inside
    square = (after["y"] - rows["y"]) ** 2 + (after["x"] - rows["x"]) ** 2
    return rows.assign(truth_next=after["truth"], square=square)[step]


def timed(call: Callable[[], pd.DataFrame], spots: pd.DataFrame, side: int) -> dict[str, Any]:
    """CPU time per spot and quality of a tracker, from one call."""
    start = time.process_time()
    tracks = call()
    seconds = time.process_time() - start
    return {"µs/spot": 1e6 * seconds / len(spots), **quality(tracks, spots, side)}


def by_trackpy(spots: pd.DataFrame, side: int, gate: float, memory: int) -> dict[str, Any]:
    """The faster of those of two strategies that give a result, or the reason why there is none."""
    rows = []
    for strategy in ("numba", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = spots[["frame", "y", "x"]]
            try:
                trackpy.link(table[table["frame"] < 3], gate, memory=memory, link_strategy=strategy)  # compiles
                rows.append(
                    timed(
                        lambda t=table, s=strategy: trackpy.link(t, gate, memory=memory, link_strategy=s), spots, side
                    )
                )
            except trackpy.SubnetOversizeException:
                continue
    return min(rows, key=lambda row: row["µs/spot"]) if rows else failed("subnet oversize")


def by_laptrack(spots: pd.DataFrame, side: int, gate: float, memory: int) -> dict[str, Any]:
    """Squared distances as costs, as it comes."""
    from laptrack import LapTrack

    tracker = LapTrack(
        cutoff=gate**2,
        gap_closing_cutoff=2 * gate**2 if memory else False,
        gap_closing_max_frame_count=memory,
    )

    def call() -> pd.DataFrame:
        tracks = tracker.predict_dataframe(spots[["frame", "y", "x"]], ["y", "x"], only_coordinate_cols=False)[0]
        frame = tracks.index.get_level_values("frame") if "frame" in tracks.index.names else tracks["frame"]
        return pd.DataFrame(
            {
                "frame": np.asarray(frame),
                "y": tracks["y"].to_numpy(),
                "x": tracks["x"].to_numpy(),
                "particle": tracks["track_id"].to_numpy(),
            }
        )

    return timed(call, spots, side)


def by_btrack(spots: pd.DataFrame, side: int, gate: float, memory: int) -> tuple[str, dict[str, Any]]:
    """Name with version, and row, by another Python, which `peer_btrack.py` needs."""
    given = {"t": spots["frame"].tolist(), "y": spots["y"].tolist(), "x": spots["x"].tolist()}
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps({**given, "gate": gate, "memory": memory, "step": STEP}))
        script = Path(__file__).parent / "peer_btrack.py"
        subprocess.run([os.environ[BTRACK], script, request, answer], capture_output=True, check=True)
        version, seconds, chains = json.loads(answer.read_text())
    rows = np.concatenate([np.asarray(chain, np.int64) for chain in chains])
    particle = np.repeat(np.arange(len(chains)), [len(chain) for chain in chains])
    tracks = spots.loc[rows, ["frame", "y", "x"]].assign(particle=particle)
    row = {"µs/spot": 1e6 * seconds / len(spots), **quality(tracks, spots, side)}
    return f"btrack {version}", row


def failed(reason: str) -> dict[str, Any]:
    """A row without numbers."""
    return {"µs/spot": reason, "wrong": None, "missed": None, "bias of r²": None}


def rows_of(case: Case) -> list[dict[str, Any]]:
    """One row per tool."""
    spots, side = field(case.x, case.spots, case.frames, seed=3)
    acquisition = exotrack.Acquisition(
        pixel_size_um=0.1, frame_interval_s=0.02, temperature_c=25.0, frame_shape=(side, side), n_frames=case.frames
    )
    protocol = Protocol.from_dict({"link": {"isolation": 0.0, "gap_frames": case.memory, "smallest_diameter_nm": 50.0}})
    table = Localizations.from_pandas(spots.assign(frame=spots["frame"].astype(np.int32)))
    found = exotrack.link(table, acquisition, protocol)  # compiles
    ours = timed(
        lambda: exotrack.link(table, acquisition, protocol).to_pandas()[["frame", "y", "x", "particle"]], spots, side
    )
    assert found.linking is not None  # set by link
    gate = found.linking.gate_px
    results = {"exotrack": ours, "trackpy": by_trackpy(spots, side, gate, case.memory)}
    if importlib.util.find_spec("laptrack") and len(spots) <= MOST_SPOTS:
        results["laptrack"] = by_laptrack(spots, side, gate, case.memory)
    if BTRACK in os.environ and len(spots) <= MOST_SPOTS:
        name, row = by_btrack(spots, side, gate, case.memory)
        results[name] = row
    return [
        {
            **case._asdict(),
            "gate, px": gate,
            "tool": tool,
            **row,
            "× exotrack": row["µs/spot"] / ours["µs/spot"] if isinstance(row["µs/spot"], float) else None,
        }
        for tool, row in results.items()
    ]


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of all cases."""
    trackpy.quiet()
    cases = (Case(0.03, 100, 10, 0),) if quick else CASES
    return [row for case in cases for row in rows_of(case)]


if __name__ == "__main__":
    main("link", measure)
