"""Linking: time, wrong links and bias of the mean squared step, beside trackpy's `link` with Numba.

Brownian particles in a plane, seen in every frame; the density is given by x = πρ·4DΔt. Both get the same gate: the one
that exotrack derived, handed to trackpy as its search range.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import trackpy
from harness import cpu_seconds, main

import exotrack
from exotrack.protocol import Protocol
from exotrack.tables import Localizations

STEP = 2.0
"""s.d. of a step per axis, px."""


def field(x: float, spots: int, frames: int, seed: int) -> tuple[pd.DataFrame, int]:
    """Positions of Brownian particles in a periodic square of the density that x gives; rows ordered by frame."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(spots * np.pi * 2.0 * STEP**2 / x))
    start = rng.uniform(0, side, (1, spots, 2))
    path = start + np.cumsum(rng.normal(0, STEP, (frames, spots, 2)), axis=0)
    t, k = np.meshgrid(np.arange(frames), np.arange(spots), indexing="ij")
    y, x_position = np.moveaxis(path % side, -1, 0)
    return pd.DataFrame({"frame": t.ravel(), "y": y.ravel(), "x": x_position.ravel(), "truth": k.ravel()}), side


def quality(tracks: pd.DataFrame, spots: pd.DataFrame) -> dict[str, float]:
    """Share of wrong links, share of the possible links made, bias of the mean squared step of the links."""
    keyed = tracks.merge(spots, on=["frame", "y", "x"]).sort_values(["particle", "frame"])
    link = (keyed["particle"].diff() == 0) & (keyed["frame"].diff() == 1)
    wrong = keyed["truth"].diff() != 0
    step = np.stack([keyed["y"].diff()[link], keyed["x"].diff()[link]])
    square = float((step**2).sum(axis=0).mean())
    possible = spots["truth"].nunique() * (spots["frame"].nunique() - 1)
    return {
        "wrong": float(wrong[link].mean()),
        "made": float(link.sum() / possible),
        "bias of r²": square / (2.0 * STEP**2) - 1.0,
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Two rows per density."""
    trackpy.quiet()
    rows = []
    for x in (0.03,) if quick else (0.03, 0.1, 0.3):
        spots, side = field(x, 100 if quick else 1000, 10 if quick else 100, seed=3)
        acquisition = exotrack.Acquisition(
            pixel_size_um=0.1, frame_interval_s=0.02, temperature_c=25.0, frame_shape=(side, side)
        )
        protocol = Protocol.from_dict({"link": {"isolation": 0.0, "gap_frames": 0, "smallest_diameter_nm": 50.0}})
        table = Localizations.from_pandas(spots.assign(frame=spots["frame"].astype(np.int32)))
        tracks = exotrack.link(table, acquisition, protocol)
        seconds = cpu_seconds(lambda t=table, a=acquisition, p=protocol: exotrack.link(t, a, p))
        ours = {
            "µs/spot": 1e6 * seconds / len(spots),
            **quality(tracks.to_pandas()[["frame", "y", "x", "particle"]], spots),
        }
        gate = tracks.linking.gate_px if tracks.linking else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                linked = trackpy.link(spots[["frame", "y", "x"]], gate, memory=0, link_strategy="numba")
                seconds = cpu_seconds(
                    lambda s=spots, g=gate: trackpy.link(s[["frame", "y", "x"]], g, memory=0, link_strategy="numba"), 1
                )
                peer = {"µs/spot": 1e6 * seconds / len(spots), **quality(linked, spots)}
            except trackpy.SubnetOversizeException:
                peer = {"µs/spot": "subnet oversize", "wrong": "", "made": "", "bias of r²": ""}
        rows += [
            {"x": x, "gate, px": gate, "tool": tool, **row} for tool, row in (("exotrack", ours), ("trackpy", peer))
        ]
    return rows


if __name__ == "__main__":
    main("link", measure)
