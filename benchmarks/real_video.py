"""Detections on the real video of 1 µm latex spheres: share of spots in tracks of ten frames or more, and a picture.

    python benchmarks/real_video.py VIDEO.tif [--picture PNG]

trackpy gets the diameter and search range that suit the spheres and, one after the other, the minimum masses of its
own tutorial and those that give as many spots as exotrack finds. exotrack gets nothing.
"""

from __future__ import annotations

import argparse
import warnings

import matplotlib.pyplot as plt
import numpy as np
import trackpy
from harness import table

import exotrack

LONG = 10


def main() -> None:
    """Print the table; draw frame 60 with both tools' detections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    video = exotrack.open_video(arguments.video, pixel_size_um=1 / 2.85, fps=24, temperature_c=20)
    frames = video.read(0, len(video))
    spots = exotrack.localize(video)
    tracks = exotrack.link(spots, video.acquisition)
    length = np.bincount(tracks.identity)
    rows = [row("exotrack", len(spots), length, len(video))]
    trackpy.quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = trackpy.batch(frames, 11, invert=True, engine="numba", processes=1)
        masses = np.sort(everything["mass"])[::-1]
        for minmass in (100.0, 200.0, float(masses[min(len(spots), len(masses) - 1)])):
            kept = everything[everything["mass"] > minmass]
            linked = trackpy.link(kept, 5, memory=1)
            rows.append(
                row(f"trackpy, minmass {minmass:.0f}", len(kept), linked.groupby("particle").size(), len(video))
            )
    print(table(rows))
    if arguments.picture:
        draw(arguments.picture, frames[60], spots, everything[(everything["frame"] == 60) & (everything["mass"] > 100)])


def row(tool: str, n_spots: int, length: np.ndarray, n_frames: int) -> dict[str, object]:
    """Spots per frame, and how many of them belong to long tracks."""
    long = length[length >= LONG]
    return {
        "tool": tool,
        "spots per frame": n_spots / n_frames,
        "share in tracks ≥ 10": float(long.sum() / n_spots),
        "tracks ≥ 10": int((length >= LONG).sum()),
    }


def draw(path: str, frame: np.ndarray, spots: exotrack.tables.Localizations, peer: object) -> None:
    """Both tools' detections on one frame."""
    here = spots.frame == 60
    figure, axes = plt.subplots(1, 2, figsize=(22, 9), layout="constrained")
    for axis, y, x, name in (
        (axes[0], spots.y[here], spots.x[here], "exotrack"),
        (axes[1], peer["y"], peer["x"], "trackpy, minmass 100"),
    ):
        axis.imshow(frame, cmap="gray")
        axis.scatter(x, y, s=60, facecolors="none", edgecolors="r", linewidths=0.8)
        axis.set_title(f"{name}: {len(y)}")
        axis.set_axis_off()
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    main()
