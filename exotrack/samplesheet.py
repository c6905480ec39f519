"""The study as a table: which video belongs to which batch, sample and role, and how it was recorded.

A sample sheet is a CSV file with one row per video. `read` checks all of it before any work and reports every
fault at once. What it states wins over sidecar files, containers and the protocol (see `exotrack.video`).
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

from exotrack.errors import InputError
from exotrack.physics import MEDIA
from exotrack.place import is_remote, place

Role = Literal["sample", "blank", "bead", "control"]
ROLES: Final = ("sample", "blank", "bead", "control")
POLARITIES: Final = ("auto", "bright", "dark")
REQUIRED: Final = ("video", "batch", "sample")


class Range(NamedTuple):
    """Values that a numeric column may take, and how to say so."""

    lo: float
    hi: float
    words: str


_POSITIVE = Range(math.ulp(0.0), math.inf, "a positive number")
NUMBERS: Final[dict[str, Range]] = {
    "pixel_size_um": _POSITIVE,
    "frame_interval_s": _POSITIVE,
    "fps": _POSITIVE,
    "exposure_s": _POSITIVE,
    "temperature_c": Range(-20.0, 110.0, "a number from -20 to 110"),
    "viscosity_mpa_s": _POSITIVE,
    "dilution": Range(1.0, math.inf, "a number of 1 or more (1000 for 1:1000)"),
    "depth_um": _POSITIVE,
    "reference_diameter_nm": _POSITIVE,
    "reference_per_ml": _POSITIVE,
}
"""Columns that hold numbers, each with the values it may take."""
FILES: Final = {
    "camera": "the .npz file of the camera's maps",
    "depth_table": "the CSV file that `exotrack calibrate` writes",
}
"""Columns that hold paths relative to the sheet, each with what is expected there."""
TEXTS: Final = (
    *("role", "polarity", "medium", "position", "channel", "camera", "depth_table"),
    *("donor", "cell_type", "isolation", "operator", "instrument"),
)
"""Columns that hold words, beside the required ones."""
RECORDING: Final = (
    *(name for name in NUMBERS if not name.startswith("reference_")),
    *("medium", "position", "channel", *FILES),
)
"""Columns that say how a video was recorded, and so can change its results."""


Fault = Callable[[str, str], None]
"""Notes a fault: takes the column and the remedy."""


@dataclass(frozen=True)
class Row:
    """One video of a study."""

    video_id: str
    """Name of its results: the file's name without its suffix, made safe for any file system and unique."""
    video: str
    """Absolute path, pattern of a file series, or URL."""
    batch: str
    sample: str
    role: Role
    polarity: str | None
    """"auto", "bright" or "dark" in place of the protocol's; None leaves the protocol's."""
    settings: Mapping[str, float | str]
    """How the video was recorded, as far as the sheet states it: the filled-in columns among `RECORDING`; files
    (`FILES`) have their absolute paths."""
    columns: Mapping[str, str]
    """All cells as written, unknown columns included, in the order of the sheet."""


@dataclass(frozen=True)
class SampleSheet:
    """All videos of a study, in the order of the sheet."""

    path: Path
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def read(path: str | Path) -> SampleSheet:
    """Read and check a sample sheet.

    Parameters
    ----------
    path : str or Path
        CSV file with a header; cells separated by commas, semicolons or tabs; UTF-8 (with or without a byte
        order mark), UTF-16 with one, or Windows-1252. In a sheet separated by semicolons or tabs a decimal
        comma is understood. Empty lines are skipped. Relative paths are relative to the sheet.

    Returns
    -------
    SampleSheet

    Raises
    ------
    InputError
        If the file cannot be read, a required column is missing, a header is repeated, there are no rows, or
        any row is wrong: all of them are listed, with line, column, value and remedy.
    """
    path = place(path)
    header, lines, decimal_comma = _cells(path)
    faults: list[str] = []
    rows = [_row(path, line, dict(zip(header, cells, strict=True)), decimal_comma, faults) for line, cells in lines]
    faults += _repeated([row.video for row in rows], [line for line, _ in lines])
    if faults:
        raise InputError(
            "\n".join([f"{path}: {len(faults)} fault(s) in the sample sheet:", *(f"  {f}" for f in faults)])
        )
    names = video_ids([row.columns["video"] for row in rows])
    return SampleSheet(path, tuple(replace(row, video_id=name) for row, name in zip(rows, names, strict=True)))


def video_ids(videos: Sequence[str]) -> list[str]:
    """Readable, unique, file-system-safe names for videos.

    A name is the file's own without its suffix, in ASCII. Where two would be equal (letter case aside), both
    get six characters of a hash of the path as the sheet writes it: no name depends on the order of the rows,
    nor on where the study lies.

    Examples
    --------
    >>> video_ids(["/data/a/Run 1.avi", "/data/b.ome.tif", "http://x/y.zarr"])
    ['Run_1', 'b', 'y']
    >>> video_ids(["/a/run.avi", "/b/run.avi"])
    ['run-44b0a1', 'run-6e24a8']
    """
    stems = [_stem(video) for video in videos]
    seen = Counter(stem.lower() for stem in stems)
    return [
        stem if seen[stem.lower()] == 1 else f"{stem}-{hashlib.sha256(video.encode()).hexdigest()[:6]}"
        for stem, video in zip(stems, videos, strict=True)
    ]


def _stem(video: str) -> str:
    name = re.split(r"[/\\]", video.split("?", 1)[0].rstrip("/\\"))[-1]
    name = re.sub(r"(?i)(\.ome)?\.(avi|mp4|mov|mkv|tiff?|npy|zarr|btf)$", "", name)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:80] or "video"
    # Names that Windows keeps for devices, with or without a suffix.
    return f"video_{safe}" if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", safe) else safe


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], bool]:
    """Header, numbered rows padded to its length, and whether numbers may have a decimal comma."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: the sample sheet cannot be read ({reason}); check the path") from None
    text = _decode(raw)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        numbered = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not readable as CSV: {error}") from None
    if not numbered:
        raise InputError(
            f"{path}: the sample sheet is empty; its first line names the columns: {', '.join(REQUIRED)}, …"
        )
    header = _header(path, numbered[0][1])
    lines = numbered[1:]
    if not lines:
        raise InputError(f"{path}: the sample sheet has a header and no rows; add one row per video")
    for number, row in lines:
        if any(row[len(header) :]):
            raise InputError(
                f"{path}: line {number} has {len(row)} cells, the header {len(header)}; "
                "put a cell that contains the separator in double quotes"
            )
    width = len(header)
    return header, [(n, [*row, *[""] * width][:width]) for n, row in lines], delimiter != ","


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _header(path: Path, cells: list[str]) -> list[str]:
    known = {*REQUIRED, *NUMBERS, *TEXTS}
    header = [cell.lower() if cell.lower() in known else cell for cell in cells]
    while header and not header[-1]:
        header.pop()
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: column {repeated[0]!r} appears more than once; keep one of them")
    if "" in header:
        raise InputError(f"{path}: column {header.index('') + 1} has no name; name or remove it")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(
            f"{path}: required column(s) {', '.join(missing)} missing; the header has: {', '.join(header)}. "
            f"Every sheet needs {', '.join(REQUIRED)}"
        )
    return header


def _row(path: Path, line: int, cells: dict[str, str], decimal_comma: bool, faults: list[str]) -> Row:
    """What one row says, still without its `video_id`; its faults are appended to `faults`."""

    def fault(column: str, remedy: str) -> None:
        faults.append(f"line {line}, {column} = {cells.get(column, '')!r}: {remedy}")

    numbers = _numbers(cells, decimal_comma, fault)
    for name in ("batch", "sample"):
        if not cells[name]:
            fault(name, "is empty; every video needs one")
    role = cells.get("role", "").lower() or "sample"
    if role not in ROLES:
        fault("role", f"unknown; choose one of {', '.join(ROLES)}")
    polarity = cells.get("polarity", "").lower()
    if polarity and polarity not in POLARITIES:
        fault("polarity", f"unknown; choose one of {', '.join(POLARITIES)}")
    medium = cells.get("medium", "").lower()
    if medium and medium not in MEDIA and "viscosity_mpa_s" not in numbers:
        fault("medium", f"its viscosity is unknown (known: {', '.join(MEDIA)}); fill in viscosity_mpa_s")
    words = {name: cells[name] for name in RECORDING if name not in NUMBERS and cells.get(name)}
    for name in FILES:
        if name in words:
            words[name] = _locate_file(path.parent, name, words[name], fault)
    if "depth_table" in words and "depth_um" in numbers:
        fault("depth_table", "depth_um is filled in too, and says the same; keep one of the two")
    return Row(
        video_id="",
        video=_locate(path.parent, cells["video"], fault),
        batch=cells["batch"],
        sample=cells["sample"],
        role=cast("Role", role),
        polarity=polarity or None,
        settings={**{name: value for name, value in numbers.items() if name in RECORDING}, **words},
        columns=cells,
    )


def _numbers(cells: dict[str, str], decimal_comma: bool, fault: Fault) -> dict[str, float]:
    """The numeric cells that are filled in, without those at fault."""
    numbers: dict[str, float] = {}
    for name, allowed in NUMBERS.items():
        text = cells.get(name, "")
        if not text:
            continue
        value = _number(text, decimal_comma)
        if value is None:
            fault(name, f"not a number; write {allowed.words} with a decimal point, or leave the cell empty")
        elif not allowed.lo <= value <= allowed.hi or math.isinf(value):
            fault(name, f"must be {allowed.words}")
        else:
            numbers[name] = value
    interval, fps, exposure = (numbers.get(name) for name in ("frame_interval_s", "fps", "exposure_s"))
    if interval is not None and fps is not None and not math.isclose(interval * fps, 1.0, rel_tol=5e-3):
        fault(
            "fps",
            f"contradicts frame_interval_s = {interval:g} ({1 / interval:g} frames/s); keep one of the two",
        )
    if interval is None and fps is not None:
        interval = 1 / fps
    if interval is not None and exposure is not None and exposure > interval * 1.001:
        fault(
            "exposure_s",
            f"is longer than the frame interval of {interval:g} s; correct one of the two (in seconds)",
        )
    return numbers


def _number(text: str, decimal_comma: bool) -> float | None:
    if decimal_comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) or "_" in text else value


def _locate(folder: Path, video: str, fault: Fault) -> str:
    """Absolute path of a video, its pattern, or its URL."""
    if not video:
        fault("video", "is empty; write the path of the video")
        return ""
    if "://" in video:
        return video
    if is_remote(folder):
        return str(folder / video)
    path = (folder / Path(video).expanduser()).resolve()
    if not path.exists() and not (glob.has_magic(video) and glob.glob(str(path))):
        fault("video", f"not found; looked for {path}")
    return str(path)


def _locate_file(folder: Path, column: str, file: str, fault: Fault) -> str:
    """Absolute path of a file that one of the columns `FILES` names."""
    if is_remote(folder) and not Path(file).is_absolute():
        fault(column, "cannot be read from a store; give the absolute path of a copy that all workers see")
        return file
    path = (Path() if is_remote(folder) else folder) / Path(file).expanduser()
    path = path.resolve()
    if not path.is_file():
        fault(column, f"not found; looked for {path}, {FILES[column]}")
    return str(path)


def _repeated(videos: Sequence[str], lines: Sequence[int]) -> list[str]:
    first: dict[str, int] = {}
    faults = []
    for video, line in zip(videos, lines, strict=True):
        if video and video in first:
            faults.append(f"line {line}, video = {video!r}: already in line {first[video]}; keep one of the two")
        first.setdefault(video, line)
    return faults
