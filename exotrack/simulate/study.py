"""Whole simulated studies: several samples and videos from one TOML file, written as an instrument would leave them."""

from __future__ import annotations

import csv
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from exotrack.errors import InputError
from exotrack.protocol import Section
from exotrack.samplesheet import Role
from exotrack.simulate.files import open_writer
from exotrack.simulate.specification import Simulation
from exotrack.simulate.truth import TrueParticles, TruePositions, TrueSizes
from exotrack.simulate.video import frames_iter
from exotrack.tables import Table

EXAMPLE = '[[sample]]\nbatch = "A"\nn_videos = 4\nsizes = [{ diameter_nm = 100, cv = 0.04 }]'
"""The shortest useful specification, shown where one is missing."""
RECORDING = (
    *("pixel_size_um", "frame_interval_s", "exposure_s", "temperature_c"),
    *("medium", "viscosity_mpa_s", "dilution", "depth_um"),
)
"""Settings that the sample sheet states, where any video has them."""
BLOCK_FRAMES = 64
"""Frames held at a time while a video is written."""


class Heading(Section):
    """Where the videos of a `[[sample]]` belong in the study; its other settings are those of `Simulation`."""

    batch: Annotated[str, Field(min_length=1)]
    """Batch of the sample."""
    sample: Annotated[str, Field(min_length=1)] | None = None
    """Name of the sample; left out, that of the batch."""
    role: Role = "sample"
    """What the videos are for, as in the sample sheet."""
    n_videos: Annotated[int, Field(ge=1, le=999)] = 1
    """Replicate videos, each of fresh particles with a seed of its own."""


@dataclass(frozen=True)
class StudySample:
    """One sample of a study and how its videos are made; `simulation.seed` is the seed of the sample."""

    batch: str
    sample: str
    role: Role
    n_videos: int
    simulation: Simulation


class StudyVideo(NamedTuple):
    """One video of a study, ready to be simulated."""

    name: str
    """File name without suffix."""
    sample: StudySample
    simulation: Simulation
    """With the seed of this video."""


@dataclass(frozen=True)
class Study:
    """Samples to be simulated, in order.

    Examples
    --------
    >>> study = Study.from_dict(
    ...     {
    ...         "simulation": {"n_frames": 100},
    ...         "sample": [{"batch": "A", "n_videos": 2}, {"batch": "B", "sizes": [{"diameter_nm": 80}]}],
    ...     }
    ... )
    >>> [video.name for video in study.videos()]
    ['A_A_01', 'A_A_02', 'B_B_01']
    """

    samples: tuple[StudySample, ...]

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a study: settings of all videos in `[simulation]`, one `[[sample]]` per sample with its own.

        Raises
        ------
        InputError
            If the file is missing or not TOML, and as `from_dict`.
        """
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: the specification cannot be read ({error.strerror}); check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a valid TOML file: {error}") from None
        return cls.from_dict(settings, source=str(path))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *, source: str = "specification") -> Self:
        """Build from the content of a TOML file; `source` names it in errors.

        Raises
        ------
        InputError
            No sample, an unknown table or setting, a value of the wrong type or range, a repeated sample.
        """
        unknown = [name for name in settings if name not in ("simulation", "sample")]
        if unknown:
            raise InputError(f"{source}: {unknown[0]}: unknown table; known here: [simulation], [[sample]]")
        shared, samples = settings.get("simulation", {}), settings.get("sample", [])
        if not isinstance(shared, dict):
            raise InputError(f"{source}: simulation = {shared!r}: must be a table; write [simulation]")
        if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
            raise InputError(f"{source}: sample: must be an array of tables; write [[sample]], e.g.\n{EXAMPLE}")
        if not samples:
            raise InputError(f"{source}: no sample to simulate; write at least one, e.g.\n{EXAMPLE}")
        common = Simulation.from_dict(shared, source=f"{source}: simulation")
        study = cls(tuple(_sample(s, common, f"{source}: sample {i}") for i, s in enumerate(samples, start=1)))
        repeated = [name for name, n in Counter(v.name for v in study.videos()).items() if n > 1]
        if repeated:
            raise InputError(
                f"{source}: two samples would both write the video {repeated[0]!r}; "
                "give each batch and sample one [[sample]] with n_videos, and a name of its own"
            )
        return study

    def videos(self) -> Iterator[StudyVideo]:
        """The videos in order; the seed of each follows from that of its sample, its place and its number."""
        for place, sample in enumerate(self.samples):
            for number in range(sample.n_videos):
                sequence = np.random.SeedSequence(sample.simulation.seed, spawn_key=(place, number))
                simulation = sample.simulation.but({"seed": int(sequence.generate_state(1)[0])})
                name = f"{_in_file_name(sample.batch)}_{_in_file_name(sample.sample)}_{number + 1:02d}"
                yield StudyVideo(name, sample, simulation)


def _sample(settings: dict[str, Any], common: Simulation, source: str) -> StudySample:
    heading = Heading.from_dict({k: v for k, v in settings.items() if k in Heading.model_fields}, source=source)
    own = {k: v for k, v in settings.items() if k not in Heading.model_fields}
    return StudySample(
        batch=heading.batch,
        sample=heading.sample or heading.batch,
        role=heading.role,
        n_videos=heading.n_videos,
        simulation=common.but(own, source=source),
    )


def _in_file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def write(
    study: Study | str | Path, out_dir: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Simulate a study into a folder: videos, truth and a sample sheet that `exotrack run` takes as it is.

    The folder then holds

    - `videos/NAME.avi` (uncompressed 8-bit grey) or `videos/NAME.tif` (12 and 16 bits),
    - `truth/NAME.positions.parquet`, `truth/NAME.particles.parquet` (columns of `TruePositions`, `TrueParticles`)
      and `truth/NAME.toml`, the settings of that video with its seed,
    - `truth/samples.csv`, the true size distribution and concentration of every sample,
    - `samplesheet.csv`, written last.

    Parameters
    ----------
    study : Study, str or Path
        The study, or the TOML file that describes it.
    out_dir : str or Path
        Folder to write into; made if missing.
    progress : callable, optional
        Called with the frames written so far and the frames of the whole study.

    Returns
    -------
    Path
        The sample sheet.

    Raises
    ------
    InputError
        A faulty specification, or a folder that already holds a sample sheet; nothing has been written then.
    """
    if not isinstance(study, Study):
        study = Study.from_toml(study)
    out = Path(out_dir)
    sheet = out / "samplesheet.csv"
    if sheet.exists():
        raise InputError(f"{sheet}: there is a study already; choose another folder, or remove this one first")
    for folder in ("videos", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    videos = list(study.videos())
    total = sum(video.simulation.n_frames for video in videos)
    done = 0
    for video in videos:
        for n_frames in _write_video(video, out):
            done += n_frames
            if progress is not None:
                progress(done, total)
    _write_csv(out / "truth" / "samples.csv", [_true_row(sample) for sample in study.samples])
    stated = [name for name in RECORDING if any(getattr(v.simulation, name) is not None for v in videos)]
    _write_csv(sheet, [_sheet_row(video, stated) for video in videos])
    return sheet


def _write_video(video: StudyVideo, out: Path) -> Iterator[int]:
    """Write one video and its truth; yields the number of frames of each block written."""
    spec, truth = video.simulation, out / "truth"
    shape = (spec.n_frames, *spec.frame_shape)
    with (
        _replacing(out / _video_path(video)) as path,
        open_writer(path, shape=shape, dtype=spec.dtype, frame_interval_s=spec.frame_interval_s) as frames,
        _table_writer(truth / f"{video.name}.positions.parquet", TruePositions) as positions,
        _table_writer(truth / f"{video.name}.particles.parquet", TrueParticles) as particles,
    ):
        for block in frames_iter(spec, block_frames=BLOCK_FRAMES):
            frames(block.frames)
            positions(block.positions)
            particles(block.particles)
            yield len(block.frames)
    (truth / f"{video.name}.toml").write_text(spec.to_toml(), encoding="utf-8")


def _video_path(video: StudyVideo) -> str:
    return f"videos/{video.name}{'.avi' if video.simulation.dtype == np.uint8 else '.tif'}"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside the final one, renamed to it when the block ends without an error."""
    beside = path.with_name(f".part-{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _table_writer(path: Path, kind: type[Table]) -> Iterator[Callable[[Table], None]]:
    with (
        _replacing(path) as beside,
        pq.ParquetWriter(beside, kind.empty().to_arrow().schema, compression="zstd") as writer,
    ):
        yield lambda table: writer.write_table(table.to_arrow())


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with _replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _sheet_row(video: StudyVideo, recording: list[str]) -> dict[str, Any]:
    sample = video.sample
    place = {"video": _video_path(video), "batch": sample.batch, "sample": sample.sample, "role": sample.role}
    return place | {name: getattr(video.simulation, name) for name in recording}


def _true_row(sample: StudySample) -> dict[str, Any]:
    sizes = TrueSizes(sample.simulation.sizes)
    return {
        "batch": sample.batch,
        "sample": sample.sample,
        "role": sample.role,
        "mean_nm": sizes.mean_nm,
        "mode_nm": sizes.mode_nm,
        "d10_nm": sizes.d10_nm,
        "d50_nm": sizes.d50_nm,
        "d90_nm": sizes.d90_nm,
        "span": sizes.span,
        "cv": sizes.cv,
        "concentration_per_ml": sample.simulation.concentration,
    }
