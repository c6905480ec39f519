"""The figure of the README: the batches of `exotrack demo` with their truth, and a real video of 1 µm latex spheres.

    python figure.py bulk_water_120frames.tif

The video is the green channel of the 120 frames of "bulk water" in soft-matter/trackpy-examples (BSD-3-Clause).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import exotrack
from exotrack import demo
from exotrack.simulate import Component, TrueSizes

mpl.use("Agg")
LATEX = "video,batch,sample,pixel_size_um,fps,temperature_c\n{path},latex,1 µm,{pixel},24,20\n"


def draw(video: Path, picture: Path) -> None:
    """Run the demo and the video, and draw both results."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        demo.run(out / "demo")
        simulated = exotrack.open_results(out / "demo" / "results")
        (out / "sheet.csv").write_text(LATEX.format(path=video.resolve(), pixel=1 / 2.85), encoding="utf-8")
        real = exotrack.run(out / "sheet.csv", out=out / "latex")
        for sample, colour in zip(demo.STUDY["sample"], ("tab:blue", "tab:orange"), strict=True):
            curve(left, simulated.distributions, sample["batch"], colour)
            truth = TrueSizes(tuple(Component(**c) for c in sample["sizes"]))
            d = np.linspace(50, 180, 600)
            left.plot(d, truth.density_per_nm(d), color=colour, ls="--", lw=1)
        curve(right, real.distributions, "latex", "tab:green")
        batch = real.batches.iloc[0]
    left.set(xlim=(50, 180), title="simulated: `exotrack demo` (dashed: truth)")
    title = "real: 1 µm latex, pooled {:.0f} nm ({:.0f} to {:.0f})"
    right.set(xlim=(300, 2200), title=title.format(*batch[["pooled_nm", "pooled_nm_lo", "pooled_nm_hi"]]))
    right.axvline(1000, color="k", ls="--", lw=1)
    for axes in (left, right):
        # A band of narrow solutions can be many times as high as the curves.
        axes.set_ylim(0, 1.6 * max(line.get_ydata().max() for line in axes.get_lines() if len(line.get_xdata()) > 2))
        axes.set(xlabel="hydrodynamic diameter (nm)", ylabel="density (1/nm)")
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=130)


def curve(axes: plt.Axes, distributions: pd.DataFrame, batch: str, colour: str) -> None:
    """The distribution of a batch with its band; the weighting is in the legend."""
    rows = distributions[(distributions["level"] == "batch") & (distributions["id"] == batch)]
    axes.fill_between(rows["diameter_nm"], rows["lo"], rows["hi"], color=colour, alpha=0.25, lw=0)
    axes.plot(
        rows["diameter_nm"], rows["density_per_nm"], color=colour, label=f"{batch}, by {rows['weighting'].iloc[0]}"
    )


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent / "results" / "figure.png")
