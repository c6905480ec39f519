"""The report is built from folders made here, with invented numbers; no video and no analysis is involved."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import imagecodecs
import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrack import report
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.report import charts, formatting, interactive, printed
from exotrack.report.document import PALETTE, build, diameter_limits
from exotrack.report.read import Curve, Facts, read
from exotrack.tables import Estimate, ParticleFlag

HOSTILE = '<script>alert("x")</script> $x^2$ #eval("1") [*_`@a\\ "quoted" %{x}'
GRID = np.geomspace(20, 3000, 240)


# --- a made-up result folder -----------------------------------------------------------------------------------------


def log_normal(median: float, s: float) -> np.ndarray:
    return np.exp(-0.5 * (np.log(GRID / median) / s) ** 2) / (GRID * s * math.sqrt(2 * math.pi))


def distribution(
    level: str, name: str, density: np.ndarray, weighting: str = "number", limit_nm: float = 0.0
) -> pa.Table:
    n = len(GRID)
    return pa.table(
        {
            "level": [level] * n,
            "id": [name] * n,
            "diameter_nm": GRID,
            "density_per_nm": density,
            "lo": 0.8 * density,
            "hi": 1.2 * density,
            "weighting": [weighting] * n,
            "limit_nm": [limit_nm] * n,
        }
    )


def with_interval(name: str, value: float, lo: float, hi: float) -> dict[str, object]:
    return {name: value, f"{name}_lo": lo, f"{name}_hi": hi}


def group_row(batch: str, d50: float, *, sample: str | None = None, **more: object) -> dict[str, object]:
    row: dict[str, object] = {"batch": batch} | ({} if sample is None else {"sample": sample})
    row |= {"n_videos": 3, "n_failed": 0, "n_particles": 1234, "n_tracks": 2345, "weighting": "number"}
    values = {
        "mean_nm": (1.02 * d50, 0.03 * d50),
        "mode_nm": (0.98 * d50, 0.02 * d50),
        "d10_nm": (0.8 * d50, 0.03 * d50),
        "d50_nm": (d50, 0.025 * d50),
        "d90_nm": (1.3 * d50, 0.06 * d50),
        "span": (0.5, 0.04),
        "cv": (0.21, 0.02),
        "pdi": (0.0441, 0.008),
        "concentration_per_ml": (3.21e10, 3.1e9),
        "fraction_below_50_nm": (0.012, 0.004),
        "fraction_50_150_nm": (0.905, 0.02),
        "fraction_150_200_nm": (0.06, 0.01),
        "fraction_above_200_nm": (0.023, 0.006),
    }
    for name, (value, half) in values.items():
        row |= with_interval(name, value, value - half, value + half)
    return row | {"quality": ""} | more


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["batch"])
        writer.writeheader()
        writer.writerows(rows)


def frame_of(spots: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    picture = 40 + 6 * rng.standard_normal(shape)
    for spot_y, spot_x in spots:
        picture += 140 * np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / (2 * 1.6**2))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_video(
    folder: Path, video_id: str, batch: str, sample: str, *, shape: tuple[int, int] = (48, 96), n_spots: int = 8
) -> None:
    rng = np.random.default_rng(sum(map(ord, video_id)))
    here = folder / "videos" / video_id
    here.mkdir(parents=True)
    spots = rng.uniform(4, np.array(shape) - 5, (n_spots, 2))
    (here / "frame.png").write_bytes(imagecodecs.png_encode(frame_of(spots, shape, rng)))
    frame = np.repeat([7, 8], n_spots).astype(np.int32)
    y, x = np.tile(spots[:, 0], 2), np.tile(spots[:, 1], 2)
    snr = rng.uniform(5, 30, 2 * n_spots).astype(np.float32)
    pq.write_table(pa.table({"frame": frame, "y": y, "x": x, "snr": snr}), here / "localizations.parquet")
    tracked = np.arange(len(y)) % 4 != 0
    tracks = {"frame": frame, "y": y, "x": x, "particle": np.arange(len(y)) % n_spots}
    pq.write_table(pa.table(tracks).filter(pa.array(tracked)), here / "tracks.parquet")
    n = 400
    lengths = (2 / rng.uniform(0.01, 1, n) ** 0.8).astype(np.int32)
    flag = np.where(rng.uniform(size=n) < 0.02, int(ParticleFlag.STUCK), 0).astype(np.uint16)
    particles = {"n_frames": lengths, "n_steps": lengths - 1, "snr": rng.uniform(5, 30, n).astype(np.float32)}
    particles |= {"diameter_nm": rng.normal(100.0, 25.0, n).clip(20.0), "flag": flag}
    pq.write_table(pa.table(particles), here / "particles.parquet")
    t = np.arange(150)
    facts = {
        "video_id": video_id,
        "video": f"/data/{video_id}.avi",
        "batch": batch,
        "sample": sample,
        "role": "sample",
        "sheet": {"operator": "A. Nobody", "donor": "D-17", "freezer": "shelf 3", "pixel_size_um": 0.166},
        "shape": [150, *shape],
        "dtype": "uint8",
        "container": {"format": "avi", "codec": "rawvideo", "pixel_format": "gray"},
        "acquisition": {
            "pixel_size_um": {"value": 0.166, "origin": "sample sheet"},
            "frame_interval_s": {"value": 1 / 30, "origin": "container"},
            "exposure_s": {"value": None, "origin": ""},
            "temperature_c": {"value": 25.0, "origin": "protocol default"},
            "viscosity_mpa_s": {"value": 0.89, "origin": "medium at the temperature"},
            "medium": {"value": "water", "origin": "protocol default"},
            "dilution": {"value": 1000.0, "origin": "sample sheet"},
        },
        "spot_model": {"polarity": "bright", "sigma_px": 1.6, "threshold": 4.7, "noise_dn": 6.1},
        "counts": {
            "frames": 150,
            "localizations": 12345,
            "spots_per_frame": 82.3,
            "tracks": 1400,
            "tracks_used": 901,
            "particles": 1333,
        },
        "linking": {
            "n_links": 9876,
            "gate_px": 8.4,
            "mislink_index": 0.024,
            "mislink_index_of_class": {"fraction_below_50_nm": 0.061, "fraction_50_150_nm": 0.022},
            "n_shrunk": 0,
            "flow_y_px_mean": -0.012,
            "flow_x_px_mean": 0.431,
            "flow_y_px": (0.05 * np.sin(t / 9)).tolist(),
            "flow_x_px": (0.43 + 0.05 * np.cos(t / 7)).tolist(),
        },
        "motion": {
            "localization_error_px": 0.081,
            "error_scale": 1.04,
            "D_median_um2_s": 4.71,
            "diameter_median_nm": 104.2,
            "anisotropy": 1.01,
        },
        "noise_dn": 6.1,
        "saturated_share": 0.00012,
        "quality": [
            {
                "code": "exposure_unknown",
                "level": "info",
                "message": "The exposure is not stated; the estimate does not depend on it.",
            },
            {
                "code": "temperature_assumed",
                "level": "warning",
                "message": "The temperature is the default of the protocol, with its uncertainty.",
            },
        ],
        "preview": {"frame": 7, "file": "frame.png"},
        "warnings": [],
    }
    (here / "video.json").write_text(json.dumps(facts), encoding="utf-8")


def write_run(folder: Path, done: list[str], failed: dict[str, str]) -> None:
    names = [*done, *failed]
    run = {
        "exotrack": "9.8.7",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.2",
        "packages": {"numpy": "2.4.0", "numba": "0.68.0"},
        "machine": {"cpu": "imaginary", "cores": 2},
        "backend": "cpu",
        "device": "2 cores",
        "scheduler": "threads",
        "started_utc": "2031-02-03T04:00:00+00:00",
        "finished_utc": "2031-02-03T04:05:59+00:00",
        "protocol_sha256": "ab" * 32,
        "seconds": {"localize": 12.34, "link": 1.2},
        "inputs": {n: {"video": f"/data/{n}.avi", "sha256": f"{i:064x}", "bytes": 1.24e9} for i, n in enumerate(names)},
        "failures": {n: {"video": f"/data/{n}.avi", "reason": reason} for n, reason in failed.items()},
        "warnings": ["2 videos share one temperature"],
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def write_folder(
    folder: Path,
    batches: dict[str, float],
    *,
    n_videos: int = 2,
    failed: dict[str, str] | None = None,
    shape: tuple[int, int] = (48, 96),
    n_spots: int = 8,
) -> Path:
    """A complete result folder: per batch two samples, each with `n_videos` videos."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.toml").write_text(Protocol.from_dict({"size": {"bootstrap": 500}}).to_toml(), encoding="utf-8")
    rows_b, rows_s, curves, done = [], [], [], []
    for i, (batch, d50) in enumerate(batches.items()):
        rows_b.append(group_row(batch, d50, quality="few videos; short tracks" if i == 0 else ""))
        curves.append(distribution("batch", batch, log_normal(d50, 0.2)))
        for s, shift in (("S1", 0.97), ("S2", 1.03)):
            rows_s.append(group_row(batch, shift * d50, sample=s))
            curves.append(distribution("sample", f"{batch}/{s}", log_normal(shift * d50, 0.22)))
            for v in range(n_videos):
                video_id = f"video_{i}_{s}_{v}"
                write_video(folder, video_id, batch, s, shape=shape, n_spots=n_spots)
                curves.append(distribution("video", video_id, log_normal((shift + 0.01 * v) * d50, 0.25)))
                done.append(video_id)
    write_csv(folder / "batches.csv", rows_b)
    write_csv(folder / "samples.csv", rows_s)
    if curves:
        pq.write_table(pa.concat_tables(curves), folder / "distributions.parquet")
    names = list(batches)
    pairs = [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    write_csv(
        folder / "comparisons.csv",
        [
            {
                "batch_a": a,
                "batch_b": b,
                "wasserstein_null_nm": 4.1,
                "concentration_ratio": "",
            }
            | with_interval("wasserstein_nm", 23.4, 20.1, 26.9)
            | with_interval("d50_ratio", 0.815, 0.78, 0.85)
            for a, b in pairs
        ],
    )
    write_run(folder, done, failed or {})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("results")
    return write_folder(where, {"A-2031": 101.3, HOSTILE: 124.0}, failed={"broken": "truncated after 12 frames"})


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return report.write(folder, pdf=False)[0].read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)
            self.scripts.append("")

    def handle_endtag(self, tag):
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data):
        if self._within:
            self.scripts[-1] += data
        else:
            self.words += data.replace(formatting.SPACE, " ") + " "


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (Estimate(101.28, 98.93, 104.04), "nm", "101.3 (98.9–104.0) nm"),
        (Estimate(101.28, 92.0, 110.0), "nm", "101 (92–110) nm"),
        (Estimate(1234.0, 1100.0, 1380.0), "nm", "1230 (1100–1380) nm"),
        (Estimate(0.0441, 0.036, 0.052), "", "0.044 (0.036–0.052)"),
        (Estimate(0.123, 0.108, 0.14), "%", "12.3 (10.8–14.0) %"),
        (Estimate(3.214e10, 2.9e10, 3.53e10), "per mL", "3.21 (2.90–3.53) × 10¹⁰ per mL"),
        (Estimate(0.00012, 0.0001, 0.00014), "", "1.20 (1.00–1.40) × 10⁻⁴"),
        (Estimate(101.28, math.nan, math.nan), "nm", "101 nm"),
        (Estimate(5.0, 5.0, 5.0), "nm", "5 nm"),
        (Estimate(-0.001, -0.3, 0.3), "", "0.00 (−0.30–0.30)"),
        (Estimate(math.nan, 1.0, 2.0), "nm", "not stated"),
    ],
)
def test_estimates_are_rounded_to_their_uncertainty(value, unit, expected):
    assert formatting.estimate(value, unit).replace(formatting.SPACE, " ") == expected


@given(st.floats(1e-6, 1e6))
def test_an_uncertainty_keeps_one_or_two_digits(half_width):
    rounded = round(half_width, formatting.decimals(half_width))
    # Rounding to one digit at 3.55 or to two at 1.00 errs by at most half a unit of that digit.
    assert abs(rounded - half_width) <= 0.15 * half_width
    assert len(f"{rounded:.6e}".split("e")[0].replace(".", "").rstrip("0")) <= 2


@pytest.mark.parametrize("half_width", [0.0, -1.0, math.nan, math.inf])
def test_no_uncertainty_supports_no_digit(half_width):
    with pytest.raises(ValueError, match="supports no digit"):
        formatting.decimals(half_width)


def test_times_are_shown_in_utc():
    assert formatting.utc("2031-02-03T04:05:59+02:00") == "2031-02-03 02:05 UTC"
    assert formatting.utc("2031-02-03T04:05:59") == "2031-02-03 04:05 UTC"
    assert formatting.utc("soon") == "soon"
    assert formatting.utc(None) == "not stated"


def test_counts_and_sizes_are_grouped():
    assert formatting.count(1234567) == f"1{formatting.SPACE}234{formatting.SPACE}567"
    assert formatting.size_of_file(1.24e9) == f"1.24{formatting.SPACE}GB"
    assert formatting.size_of_file(None) == "not stated"


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e5))
def test_ticks_are_few_round_and_within_the_axis(lo, width):
    axis = charts.Axis(lo, lo + width, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 6
    assert all(lo - 1e-6 * width <= t <= lo + width * (1 + 1e-6) for t in ticks)
    assert axis.at(lo) == 0
    assert axis.at(lo + width) == pytest.approx(100)


# --- content ---------------------------------------------------------------------------------------------------------


def test_every_result_is_in_the_page(page, folder):
    for fact in (
        "8 of 9 videos were analysed; 1 failed.",
        "2031-02-03 04:05 UTC",
        "exotrack 9.8.7",
        "ab" * 32,
        "2 videos share one temperature",
        "101.3 (98.8–103.8) nm",
        "3.21 (2.90–3.52) × 10¹⁰ per mL",
        "number-weighted",
        "few videos",
        "short tracks",
        "23.4 (20.1–26.9) nm",
        "4.1 nm",
        "Different.",
        "truncated after 12 frames",
        "exposure unknown",
        "The exposure is not stated; the estimate does not depend on it.",
        "The temperature is the default of the protocol, with its uncertainty.",
        "0.024 (1.2 % wrong)",
        "below 50 nm: 0.061; 50–150 nm: 0.022",
        "x +0.43, y −0.01 px",
        "12 345",
        "0.0333333 s",
        "protocol default",
        "assumed",
        "sample sheet",
        "1000-fold",
        "size.bootstrap",
        "changed",
        "A. Nobody",
        "shelf 3",
        "1.24 GB",
        f"{8:064x}",
        "0123456789abcdef0123456789abcdef01234567",
        "Acceptance criteria",
        "not stated (column laser_nm)",
        "50–150 nm",
        "90.5 (88.5–92.5) %",
    ):
        assert re.sub(r"\s+", " ", fact) in re.sub(r"\s+", " ", page.words), fact
    for video in json.loads((folder / "run.json").read_text())["inputs"]:
        assert video in page.words


def test_every_batch_and_video_has_its_pictures(page, html):
    plots = [attrs["data-figure"] for tag, attrs in page.tags if tag == "div" and "data-figure" in attrs]
    assert plots == ["overview", "batch-1", "batch-2"]
    assert html.count("<image ") == 8
    # Per video: sizes, track lengths, flow.
    assert html.count('aria-label="% per nm against diameter, nm"') == 8
    assert html.count('aria-label="tracks against track length, frames"') == 8
    assert html.count('aria-label="px per frame against frame"') == 8


def test_circles_lie_on_the_spots_of_the_frame_and_tell_tracks_from_single_spots(folder):
    card = build(read(folder)).videos[0]
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', card.frame.svg)
    spots = pq.read_table(folder / "videos" / card.video_id / "localizations.parquet").to_pandas()
    here = spots[spots["frame"] == 7]
    found = np.array([(float(cy), float(cx)) for cx, cy in circles])
    np.testing.assert_allclose(found, here[["y", "x"]].to_numpy() + 0.5, atol=0.006)
    tracks = pq.read_table(folder / "videos" / card.video_id / "tracks.parquet").to_pandas()
    assert card.frame.svg.count("in no track") == len(here) - (tracks["frame"] == 7).sum() > 0
    assert "Frame 7" in card.frame.caption
    assert "its 8 spots" in card.frame.caption


def test_a_crowded_frame_gets_its_brightest_spots_and_says_so(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1, n_spots=500)
    card = build(read(tmp_path)).videos[0]
    assert card.frame.svg.count("<circle") == 400
    assert "Only the 400 with the highest signal are circled." in card.frame.caption


def test_a_wide_frame_is_reduced(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1, shape=(60, 1600))
    card = build(read(tmp_path)).videos[0]
    picture = re.search(r"base64,([^\"]+)", card.frame.svg)
    decoded = imagecodecs.jpeg8_decode(base64.b64decode(picture.group(1)))
    assert decoded.shape == (24, 640)
    assert 'viewBox="0 0 1600 60"' in card.frame.svg


def test_plotly_accepts_the_figures_and_they_hold_the_curves(folder):
    study = read(folder)
    figures = interactive.figures(study, build(study), diameter_limits(study))
    assert list(figures) == ["overview", "batch-1", "batch-2"]
    for figure in figures.values():
        go.Figure(figure)  # raises for a property that Plotly does not know
        assert "number-weighted" in figure["layout"]["yaxis"]["title"]["text"]
    line = next(t for t in figures["batch-1"]["data"] if t.get("name") == "batch A-2031")
    np.testing.assert_allclose(line["y"], 100 * log_normal(101.3, 0.2), rtol=1e-4, atol=1e-12)
    samples = [t for t in figures["batch-1"]["data"] if t.get("legendgroup") == "samples"]
    assert [t["showlegend"] for t in samples] == [True, False]
    assert "sample S2" in samples[1]["hovertemplate"]


def test_the_axis_spans_the_particles_and_not_the_grid(folder):
    lo, hi = diameter_limits(read(folder))
    assert 40 < lo < 70
    assert 180 < hi < 280


@pytest.mark.parametrize(
    ("distance", "null", "verdict"),
    [
        ((23.4, 20.1, 26.9), "4.1", "Different"),
        ((3.0, 2.0, 4.5), "4.1", "No difference seen"),
        ((5.0, 3.0, 8.0), "4.1", "Undecided"),
        ((5.0, 3.0, 8.0), "", "Not judged"),
    ],
)
def test_a_distance_is_read_against_the_level_of_chance(tmp_path, distance, null, verdict):
    write_folder(tmp_path, {"A": 100.0, "B": 101.0}, n_videos=0)
    names = ("wasserstein_nm", "wasserstein_nm_lo", "wasserstein_nm_hi")
    row = dict(zip(names, distance, strict=True)) | {"wasserstein_null_nm": null, "batch_a": "A", "batch_b": "B"}
    write_csv(tmp_path / "comparisons.csv", [row])
    assert build(read(tmp_path)).comparisons[0].verdict == verdict


def test_budget_populations_and_limit_stand_with_the_batch(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1)
    place = {"level": "batch", "batch": "B", "sample": ""}
    budget = [
        place | {"source": "pixel_size", "standard_uncertainty": 0.005, "unit": "relative", "sensitivity": -2},
        place | {"source": "temperature", "standard_uncertainty": 0.3, "unit": "K", "sensitivity": 0.0261},
        place | {"source": "expanded", "standard_uncertainty": "", "unit": "", "sensitivity": ""},
    ]
    shares = (0.01, 0.00783, 0.0254)
    rows = [b | {"contribution_relative": s, "contribution_nm": 100 * s} for b, s in zip(budget, shares, strict=True)]
    write_csv(tmp_path / "budget.csv", rows)
    median, gsd = with_interval("median_nm", 101.0, 98.0, 104.0), with_interval("gsd", 1.2, 1.15, 1.25)
    population = place | {"population": "P1"} | median | gsd | with_interval("fraction", 0.6, 0.5, 0.7)
    write_csv(tmp_path / "populations.csv", [population])
    row = group_row("B", 100.0, limit_nm=52.3, n_modes=2, mode_stability=0.9, d50_expanded_nm=2.54, lod_per_ml=1e8)
    write_csv(tmp_path / "batches.csv", [row])
    (part,) = build(read(tmp_path)).batches

    def plain(text: str) -> str:
        return text.replace(formatting.SPACE, " ")

    assert [(r.source, plain(r.uncertainty), plain(r.sensitivity)) for r in part.budget[:2]] == [
        ("Pixel size (enters twice)", "0.5 %", "−2 %/%"),
        ("Temperature, with the viscosity that follows", "0.3 K", "2.6 %/K"),
    ]
    assert plain(part.budget[2].contribution) == "2.5 % (2.5 nm)"
    assert [r.total for r in part.budget] == [False, False, True]
    assert [plain(cell) for cell in part.populations[0]] == [
        "P1",
        "101.0 (98.0–104.0) nm",
        "1.20 (1.15–1.25)",
        "60 (50–70) %",
    ]
    assert part.weighting == "number-weighted, ≥ 52 nm"
    lines = {line.label: plain(line.value) for line in part.lines}
    assert lines["Detection limit"] == "≥ 52.3 nm"
    assert lines["Modes"] == "2 (90 %)"
    assert lines["Limit of detection"] == "1 × 10⁸ per mL"
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Uncertainty budget of D50" in page
    assert "Pixel size (enters twice)" in page


def test_plots_say_from_which_size_on_they_hold(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1)
    curve = distribution("batch", "B", log_normal(100.0, 0.2), limit_nm=61.0)
    pq.write_table(curve, tmp_path / "distributions.parquet")
    study = read(tmp_path)
    figure = interactive.figures(study, build(study), diameter_limits(study))["batch-1"]
    assert study.batches[0].curve.limit_nm == 61.0
    overview = interactive.figures(study, build(study), diameter_limits(study))["overview"]
    assert "number-weighted, ≥ 61 nm" in overview["layout"]["yaxis"]["title"]["text"]
    assert figure["data"]


def test_beads_and_blanks_stand_in_the_record(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1)
    for name, role in (("video_0_S1_0", "bead"), ("video_0_S2_0", "blank")):
        path = tmp_path / "videos" / name / "video.json"
        facts = json.loads(path.read_text()) | {"role": role}
        facts["sheet"]["reference_diameter_nm"] = 97.0
        path.write_text(json.dumps(facts))
    record = {item.item: item.value for item in build(read(tmp_path)).record}
    assert record["Reference beads"].replace(formatting.SPACE, " ") == "video_0_S1_0: median 97 nm"
    assert record["Blank of the diluent"] == "video_0_S2_0: 82.3 spots per frame"
    assert record["Certified diameter of the beads, nm"] == "97.0"
    assert record["Laser wavelength, nm"] is None


def test_colours_of_batches_are_dark_enough_for_white_paper():
    def channel(value: int) -> float:
        c = value / 255
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    for colour in PALETTE:
        r, g, b = (channel(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        # WCAG 2: contrast of graphical objects against their background is at least 3.
        assert 1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) >= 3.0, colour


# --- safety and self-containment -------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(page, html):
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if name in attrs:
                assert attrs[name].startswith(("#", "data:image/jpeg;base64,")), (tag, attrs)
        assert tag not in ("link", "iframe", "object", "embed", "form")
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "@import" not in html.split("</style>")[0]
    assert "url(" not in html.split("</style>")[0]


def test_names_from_the_sheet_are_text_and_never_code(page):
    assert HOSTILE in page.words
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    # The data of the plots, Plotly, and the page's own script: nothing that a name brought in.
    assert len(scripts) == 3
    assert scripts[0] == {"type": "application/json", "id": "figures"}
    figures = json.loads(page.scripts[1])
    assert "<script" not in json.dumps(figures)
    assert any("&lt;script&gt;" in trace.get("name", "") for trace in figures["overview"]["data"])


def test_the_page_says_nothing_it_cannot_know(page):
    assert "Part 11" not in page.words
    assert "compliant" not in page.words
    assert "Electronic signature" in page.words


def test_a_preview_outside_the_folder_is_not_read(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1)
    path = tmp_path / "videos" / "video_0_S1_0" / "video.json"
    facts = json.loads(path.read_text())
    facts["preview"]["file"] = "../video_0_S2_0/frame.png"
    path.write_text(json.dumps(facts))
    cards = {card.video_id: card for card in build(read(tmp_path)).videos}
    assert cards["video_0_S1_0"].frame is None
    assert cards["video_0_S2_0"].frame is not None


# --- PDF -------------------------------------------------------------------------------------------------------------


def test_the_pdf_has_pages_and_takes_hostile_names_as_text(folder):
    content = report.write(folder, html=False)[1].read_bytes()
    assert content.startswith(b"%PDF-")
    pages = [int(n) for n in re.findall(rb"/Type\s*/Pages\b.*?/Count\s+(\d+)", content, re.DOTALL)]
    assert max(pages) >= 5


def test_printed_figures_name_the_weighting_and_take_any_name(folder):
    study = read(folder)
    figures = printed.figures(study, build(study), diameter_limits(study))
    assert list(figures) == ["overview", "batch-1", "batch-2"]
    assert all(svg.count("<path") > 5 for svg in figures.values())


def test_the_same_folder_gives_the_same_bytes(folder):
    first = [path.read_bytes() for path in report.write(folder)]
    # A fresh process: another hash seed, other identities of objects.
    code = f"from pathlib import Path; from exotrack import report; report.write(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [(folder / name).read_bytes() for name in ("report.html", "report.pdf")] == first


# --- what is missing -------------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run\.json"):
        report.write(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("run.json", "{"), ("run.json", "[]"), ("protocol.toml", "a = ")])
def test_a_damaged_file_is_named(tmp_path, name, content):
    write_run(tmp_path, [], {})
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(name)):
        report.write(tmp_path)


def test_a_study_in_which_all_videos_failed(tmp_path):
    write_run(tmp_path, [], {"one": "no frames", "two": "all frames are black"})
    html, pdf = report.write(tmp_path)
    words = Page(html.read_text(encoding="utf-8")).words
    assert "None of the 2 videos could be analysed." in words
    assert "no frames" in words
    assert "all frames are black" in words
    assert "There are no results for any batch." in words
    assert "the settings are not stated" in words
    # Without a plot the five megabytes of Plotly stay out.
    assert html.stat().st_size < 100_000
    assert pdf.read_bytes().startswith(b"%PDF-")


def test_an_empty_run_and_bare_videos_are_reported_with_their_gaps(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "videos" / "bare").mkdir(parents=True)
    (tmp_path / "videos" / "bare" / "video.json").write_text("{}")
    html, pdf = report.write(tmp_path)
    words = Page(html.read_text(encoding="utf-8")).words
    assert "The video was analysed." in words
    assert "bare" in words
    assert words.count("not stated") > 30
    assert pdf.read_bytes().startswith(b"%PDF-")


def test_every_field_of_a_video_may_be_absent(folder, tmp_path):
    study = read(folder)
    facts = study.videos[0].facts.values
    source = folder / "videos" / study.videos[0].video_id
    here = tmp_path / "videos" / "v"
    here.mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    for name in ("frame.png", "localizations.parquet", "tracks.parquet", "particles.parquet"):
        (here / name).write_bytes((source / name).read_bytes())
    for name in facts:
        for kept in ({k: v for k, v in facts.items() if k != name}, {**facts, name: None}):
            (here / "video.json").write_text(json.dumps(kept))
            assert build(read(tmp_path)).videos[0].video_id == "v"


def test_damaged_tables_and_pictures_are_left_out_with_a_log_line(folder, tmp_path, caplog):
    write_folder(tmp_path, {"B": 100.0}, n_videos=1)
    here = tmp_path / "videos" / "video_0_S1_0"
    for name in ("frame.png", "localizations.parquet", "particles.parquet"):
        (here / name).write_bytes(b"not what the name says")
    card = next(card for card in build(read(tmp_path)).videos if card.video_id == here.name)
    assert card.frame is None
    assert len(card.figures) == 2
    assert "frame.png" in caplog.text
    assert "particles.parquet" in caplog.text


def test_an_interval_that_is_absent_is_not_invented(tmp_path):
    write_folder(tmp_path, {"B": 100.0}, n_videos=0)
    row = {key: "" if key.endswith(("_lo", "_hi")) else value for key, value in group_row("B", 100.0).items()}
    write_csv(tmp_path / "batches.csv", [row | {"concentration_per_ml": "", "weighting": "frames"}])
    batch = build(read(tmp_path)).batches[0]
    lines = {line.label: line.value.replace(formatting.SPACE, " ") for line in batch.lines}
    assert lines["D50 (median)"] == "100 nm"
    assert lines["Concentration"] == "not stated"
    assert batch.weighting == "weighted by frames"
    assert "Bright particles" in batch.weighting_meaning


def test_facts_of_the_wrong_type_are_absent():
    facts = Facts({"a": {"b": "text", "c": True, "d": [1, "x", None]}, "e": [1]})
    assert facts.number("a", "b") is None
    assert facts.number("a", "c") is None
    assert facts.number("e", "b") is None
    assert facts.items("a") == []
    assert facts.section("e").values == {}
    np.testing.assert_array_equal(facts.numbers("a", "d"), [1, np.nan, np.nan])


def test_a_curve_without_finite_band_is_still_drawn():
    nan = np.full(len(GRID), np.nan)
    svg = charts.size_curve(Curve(GRID, log_normal(100, 0.2), nan, nan, "number"), (40.0, 250.0))
    assert "nan" not in svg
    assert svg.count("<polyline") == 1
