"""Summaries of NanoSight: real exports, and small ones of the same shape with every fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exotrack.errors import InputError
from exotrack.vendor import read_nanosight_summary

REAL = Path(__file__).parents[2] / "shared" / "data" / "nanosight_summaries"
SMALL = """NTA Experiment Summary File,,
Created with NTA 3.4 Build 3.4.003,,
[Experiment Details],,
Remarks,"a, b and c",
Filename:,one,two,
[Conditions],,
Temperature/C,22.0,23.0,
Viscosity/cP,0.95,0.93,
Shutter/ms,22.25,22.25,
Frame rate/fps,25,25,
[Results],,,Average,Standard Error
Dilution factor (concentrations adjusted for this factor),1.00e+04,Not recorded,,
Concentration (Particles / ml),6e8,2e8,4e8,2e8
[Size Data],,
Weighting,Number,
Filename,one,two,Average,Standard Error
Mean,100.5,2.0,51,49
Mode,100.5,2.5,51,49
SD,0.8,0.5,0.6,0.1
D10,99.9,1.1,,
D50,100.5,1.9,,
D90,101.1,2.8,,
Graph Data,
Bin centre (nm),Concentration (particles / ml),Concentration (particles / ml),Average,Standard Error
99.5,2e8,0,1e8,1
100.5,2e8,1e8,1e8,1
101.5,2e8,1e8,1e8,1
,,,,
Percentile,Size (nm),Size (nm)
0,99,100
"""


@pytest.mark.parametrize(("file", "n"), [("beads.csv", 12), ("beads2.csv", 5)])
@pytest.mark.skipif(not REAL.exists(), reason="the real summaries are kept beside the project, not in it")
def test_numbers_of_real_summaries_follow_from_their_bins(file, n):
    """Mean and SD within 0.1 nm, concentration within 0.5 % of what the instrument states."""
    summary = read_nanosight_summary(REAL / file)
    assert len(summary.videos) == n
    assert summary.version.startswith("NTA 3.")
    for video in summary.videos:
        assert len(video.diameter_nm) == 1000
        assert video.mean_nm == pytest.approx(video.stated["mean_nm"], abs=0.1)
        assert video.sd_nm == pytest.approx(video.stated["sd_nm"], abs=0.1)
        assert video.concentration_per_ml == pytest.approx(video.stated["concentration_per_ml"], rel=5e-3)
        assert video.quantile_nm(0.5) == pytest.approx(video.stated["d50_nm"], abs=1.1)  # NTA 3.2 states a border
        assert video.diameter_nm[video.per_ml.argmax()] == pytest.approx(video.stated["mode_nm"], abs=1.0)
        assert 21.0 < video.temperature_c < 23.0
        assert video.exposure_s < video.frame_interval_s == pytest.approx(1 / 24.9825)


def test_a_small_summary_is_read_whole(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(SMALL.replace("\n", "\r\n").replace("a, b", "a nm², b").encode("cp1252"))
    one, two = read_nanosight_summary(path).videos
    assert (one.name, one.dilution, one.exposure_s) == ("one", 1e4, pytest.approx(0.02225))
    assert np.isnan(two.dilution)
    assert (one.mean_nm, one.concentration_per_ml) == (pytest.approx(100.5), pytest.approx(6e8))
    assert one.sd_nm == pytest.approx(np.sqrt(2 / 3))
    assert one.quantile_nm(0.5) == pytest.approx(100.5)
    assert two.share.tolist() == [0.0, 0.5, 0.5]
    assert two.stated["d90_nm"] == 2.8


def test_single_summaries_and_those_without_averages_are_read(tmp_path):
    path = tmp_path / "s.csv"
    single = SMALL.replace("NTA Experiment", "NTA Single Analysis").replace(",Average,Standard Error", "")
    path.write_text(single, encoding="utf-8")
    assert len(read_nanosight_summary(path).videos) == 2


def test_a_video_without_particles_has_no_mean(tmp_path):
    path = tmp_path / "s.csv"
    text = SMALL.replace(",1e8,1e8,1\n", ",0,1e8,1\n").replace(",6e8,2e8,4e8", ",6e8,0,3e8")
    path.write_text(text, encoding="utf-8")
    empty = read_nanosight_summary(path).videos[1]
    assert empty.concentration_per_ml == 0.0
    assert np.isnan(empty.mean_nm)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,number\n1,2\n", "no NanoSight summary"),
        ("", "no NanoSight summary"),
        ("x" * 200_000, "no NanoSight summary"),
        (SMALL.replace("Filename:,one,two,", "Filename:,,,"), "names no video"),
        (SMALL.replace("Filename:,one,two,", "Filename:,,two,"), "no name in column 2"),
        (SMALL[: SMALL.index("[Size Data]")], r"no line '\[Size Data\]'"),
        (SMALL[: SMALL.index("Bin centre")], "no line 'Bin centre"),
        (SMALL[: SMALL.index("99.5,2e8")], "no size bins"),
        (SMALL[: SMALL.index("101.5,2e8")], r"'one' add up to 4e\+08 .* states 6e\+08"),
        (SMALL.replace("101.5,2e8", "101.5,oops"), r"'one' add up to 4e\+08 .* states 6e\+08"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "other.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"other\.csv: .*{message}"):
        read_nanosight_summary(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: .*check the path"):
        read_nanosight_summary(tmp_path / "none.csv")
