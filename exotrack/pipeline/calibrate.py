"""From the bead videos of a finished study to the depths that concentrations are computed with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exotrack import storage
from exotrack.depth import DepthTable
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.sizing import track_rows
from exotrack.sizing.calibration import BeadVideo, calibrate_depth
from exotrack.storage import Results, open_results
from exotrack.video.metadata import acquisition

REFERENCES = ("reference_diameter_nm", "reference_per_ml")


def calibrate(folder: str | Path, out: str | Path, *, reference_error: float = 0.05) -> DepthTable:
    """Effective depths from the bead videos of a result folder, written as a table that sample sheets can name.

    Parameters
    ----------
    folder : str or Path
        Result folder of a study whose sheet has rows of the role bead with reference_diameter_nm and
        reference_per_ml, the concentration before the dilution. All must be recorded with the same settings.
    out : str or Path
        CSV file to write; name it in the column depth_table.
    reference_error : float
        Relative standard uncertainty of the stated concentrations.

    Returns
    -------
    DepthTable

    Raises
    ------
    InputError
        If the folder is no finished result folder, holds no bead videos with both references, or one of them cannot
        be used.
    """
    if not 0 <= reference_error < 1:
        raise InputError(f"reference_error = {reference_error:g}: a relative standard uncertainty, from 0 to below 1")
    if not Path(out).absolute().parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist; create it, or choose another place")
    results = open_results(folder)
    protocol = Protocol.from_toml(results.path / "protocol.toml")
    beads = list(_beads(results, protocol))
    if not beads:
        raise InputError(
            f"{folder}: no video has the role bead with {' and '.join(REFERENCES)} filled in; add them to the sample "
            "sheet and run the study again"
        )
    table = calibrate_depth(beads, reference_error, protocol.link.gap_frames)
    storage.write_bytes(Path(out), table.to_csv().encode())
    return table


def _beads(results: Results, protocol: Protocol) -> Iterator[BeadVideo]:
    """The bead videos with known size and concentration, in the order of the sheet."""
    for name in results.video_ids:
        record = results.video(name)
        cells = record.get("sheet", {})
        if record.get("role") != "bead" or not cells.get("reference_per_ml"):
            continue  # beads of known size alone check the size
        if not cells.get("reference_diameter_nm"):
            raise InputError(f"{name}: reference_diameter_nm is empty in the sample sheet; fill it in, and run again")
        diameter, per_ml = (float(str(cells[column]).replace(",", ".")) for column in REFERENCES)
        recorded = acquisition(record["video"], _stated(record), tuple(record["shape"]))
        rows = track_rows(results.tracks(name), recorded, protocol)
        step = np.sqrt(2.0 * recorded.stokes_einstein_um2_s_nm / diameter * recorded.frame_interval_s)
        yield BeadVideo(name, rows, float(step), diameter, per_ml)


def _stated(record: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What is known about a recording, without its depth: that is what is looked for."""
    stated = record["acquisition"].items()
    return {name: (entry["value"], entry["origin"]) for name, entry in stated if not name.startswith("depth_")}
