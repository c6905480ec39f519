"""A complete study on simulated video: two batches with known truth, and how close the results come to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from exotrack import pipeline, storage
from exotrack.simulate import Study, write
from exotrack.tables import Estimate

STUDY: Final[dict[str, Any]] = {
    "simulation": {"frame_shape": [360, 480], "n_frames": 300, "particles_per_frame": 40.0, "depth_um": 10.0},
    "sample": [
        {
            "batch": "narrow",
            "n_videos": 4,
            "sizes": [{"diameter_nm": 100.0, "cv": 0.04}],
            "seed": 1,
        },
        {
            "batch": "mixture",
            "n_videos": 4,
            "sizes": [
                {"diameter_nm": 80.0, "cv": 0.04, "fraction": 0.7},
                {"diameter_nm": 140.0, "cv": 0.04, "fraction": 0.3},
            ],
            "reference_diameter_nm": 80.0,
            "seed": 2,
        },
    ],
}
"""100 nm alone, and 70 % of 80 nm with 30 % of 140 nm; four videos each."""

ENDS: Final = ("", "_lo", "_hi")
COMPARED: Final = {"d50_nm": "D50, nm", "mode_nm": "mode, nm", "concentration_per_ml": "concentration, per mL"}


@dataclass(frozen=True)
class Row:
    """One result beside its truth."""

    batch: str
    quantity: str
    truth: float
    found: Estimate
    """NaN where it was not found."""

    @property
    def inside(self) -> bool:
        """Whether the interval contains the truth."""
        return self.found.lo <= self.truth <= self.found.hi


@dataclass(frozen=True)
class Outcome:
    """What the demonstration shows."""

    results: storage.Results
    rows: tuple[Row, ...]


def run(out: Path, *, progress: Callable[[str, int, int], None] | None = None) -> Outcome:
    """Simulate the study (once per folder), analyse it, and compare.

    Parameters
    ----------
    out : Path
        Folder that gets `study/` (videos, truth, sample sheet) and `results/`.
    progress : callable, optional
        As for `exotrack.pipeline.run`.

    Raises
    ------
    InputError
        If a folder cannot be written, or `out/results` is something else than a result folder.
    """

    def simulated(done: int, total: int) -> None:
        if progress is not None:
            progress("simulated frames", done, total)

    sheet = out / "study" / "samplesheet.csv"
    if not sheet.exists():
        write(Study.from_dict(STUDY), sheet.parent, progress=simulated)
    results = pipeline.run(sheet, out / "results", progress=progress)
    truth = pd.read_csv(sheet.parent / "truth" / "samples.csv").set_index("batch").to_dict("index")
    found = results.batches.set_index("batch").to_dict("index")
    rows = tuple(
        Row(str(batch), words, float(true[name]), Estimate(*(float(found[batch][f"{name}{end}"]) for end in ENDS)))
        for batch, true in truth.items()
        for name, words in COMPARED.items()
    )
    return Outcome(results, rows)
