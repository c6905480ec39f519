"""Sample sheet: what is read, what is refused, and that a refusal names every fault at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrack.errors import InputError
from exotrack.samplesheet import read, video_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.avi", "b.avi", "c.avi", "Größe 1.avi"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.avi").write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "sheet.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def fault(folder: Path, text: str | bytes) -> str:
    with pytest.raises(InputError) as error:
        read(write(folder, text))
    return str(error.value)


def test_a_plain_sheet(folder):
    sheet = read(
        write(
            folder, "video,batch,sample,role,pixel_size_um,fps,mood\na.avi,B1,S1,bead,0.166,30,calm\nb.avi,B1,S2,,,,\n"
        )
    )
    first, second = sheet.rows
    assert (first.video_id, first.batch, first.sample, first.role) == ("a", "B1", "S1", "bead")
    assert first.video == str((folder / "a.avi").resolve())
    assert first.settings == {"pixel_size_um": 0.166, "fps": 30.0}
    assert first.columns["mood"] == "calm"  # unknown columns are carried
    assert second.role == "sample"
    assert second.settings == {}


@pytest.mark.parametrize(
    "encode",
    [
        lambda t: t.encode(),
        lambda t: t.encode("utf-8-sig"),
        lambda t: t.encode("cp1252"),
        lambda t: t.encode("utf-16"),
        lambda t: t.replace("\n", "\r\n").encode(),
        lambda t: t.replace(",", ";").encode(),
        lambda t: t.replace(",", "\t").encode(),
        lambda t: t.replace(",", ";").replace("0.166", "0,166").encode("cp1252"),
        lambda t: ("\n" + t + "\n,,,\n").encode(),
        lambda t: "\n".join(line + ",," for line in t.splitlines()).encode(),
    ],
    ids=["utf8", "bom", "cp1252", "utf16", "crlf", "semicolon", "tab", "decimal-comma", "blank-lines", "trailing"],
)
def test_spreadsheet_exports(folder, encode):
    sheet = read(write(folder, encode("Video,Batch,sample,pixel_size_um\nGröße 1.avi,B1,S1,0.166\n")))
    (row,) = sheet
    assert row.columns["video"] == "Größe 1.avi"
    assert row.video_id == "Groe_1"
    assert row.settings == {"pixel_size_um": 0.166}


def test_folders_patterns_and_urls_are_videos(folder):
    (folder / "run_1.avi").write_bytes(b"x")
    sheet = read(write(folder, "video,batch,sample\nsub,B,S\nrun_?.avi,B,S\nhttps://host/x/v.ome.zarr?k=1,B,S\n"))
    assert [row.video_id for row in sheet] == ["sub", "run", "v"]
    assert sheet.rows[2].video == "https://host/x/v.ome.zarr?k=1"


@pytest.mark.parametrize(
    ("cells", "column", "words"),
    [
        ("nowhere.avi,B,S,,,,,,", "video", "not found"),
        (",B,S,,,,,,", "video", "is empty"),
        ("a.avi,,S,,,,,,", "batch", "is empty"),
        ("a.avi,B,,,,,,,", "sample", "is empty"),
        ("a.avi,B,S,patient,,,,,", "role", "choose one of sample, blank, bead, control"),
        ("a.avi,B,S,,-0.1,,,,", "pixel_size_um", "a positive number"),
        ("a.avi,B,S,,0,,,,", "pixel_size_um", "a positive number"),
        ("a.avi,B,S,,nan,,,,", "pixel_size_um", "not a number"),
        ("a.avi,B,S,,inf,,,,", "pixel_size_um", "a positive number"),
        ("a.avi,B,S,,0.1 um,,,,", "pixel_size_um", "not a number"),
        ("a.avi,B,S,,,30,0.04,,", "fps", "contradicts frame_interval_s"),
        ("a.avi,B,S,,,30,,33,", "exposure_s", "longer than the frame interval"),
        ("a.avi,B,S,,,,0.04,0.05,", "exposure_s", "longer than the frame interval"),
        ("a.avi,B,S,,,,,,blood", "medium", "viscosity_mpa_s"),
    ],
)
def test_a_faulty_cell_is_named(folder, cells, column, words):
    text = fault(
        folder,
        f"video,batch,sample,role,pixel_size_um,fps,frame_interval_s,exposure_s,medium\nb.avi,B,S,,,,,,\n{cells}\n",
    )
    assert "1 fault(s)" in text
    assert f"line 3, {column} = " in text
    assert words in text
    assert "sheet.csv" in text


def test_all_faults_come_at_once(folder):
    text = fault(
        folder,
        "video,batch,sample,pixel_size_um,temperature_c,dilution,polarity\n"
        "a.avi,B,S,-1,25,10,bright\n"
        "sub/../a.avi,B,S,0.1,hot,0.5,grey\n"
        "gone.avi,,S,0.1,200,1,dark\n",
    )
    for piece in (
        "pixel_size_um = '-1'",
        "already in line 2",
        "'hot'",
        "dilution = '0.5'",
        "'grey'",
        "gone",
        "batch = ''",
        "'200'",
    ):
        assert piece in text
    assert "8 fault(s)" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("video,batch,sample\n", "no rows"),
        ("video,sample\na.avi,S\n", "required column(s) batch missing"),
        ("video,batch,sample,Batch\na.avi,B,S,B\n", "'batch' appears more than once"),
        ("video,batch,,sample\na.avi,B,,S\n", "column 3 has no name"),
        ("video,batch,sample\na.avi,B,S,extra\n", "line 2 has 4 cells"),
        ('video,batch,sample\n"a.avi,B,S\n', "not readable as CSV"),
    ],
)
def test_a_faulty_sheet(folder, text, words):
    assert words in fault(folder, text)


def test_a_missing_sheet(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.csv")


def test_equal_file_names_get_distinct_stable_ids(folder):
    rows = ["a.avi,B,S", "sub/a.avi,B,S", "b.avi,B,S"]
    forth = read(write(folder, "video,batch,sample\n" + "\n".join(rows)))
    back = read(write(folder, "video,batch,sample\n" + "\n".join(rows[::-1])))
    ids = [row.video_id for row in forth]
    assert len(set(ids)) == 3
    assert ids[2] == "b"
    assert ids == [row.video_id for row in back][::-1]


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_video_ids_are_safe_and_unique(names):
    ids = video_ids([f"/data/{i}/{name}" for i, name in enumerate(names)])
    assert len({i.lower() for i in ids}) == len(ids)
    for i in ids:
        assert i.isascii()
        assert i.strip("._-") == i or "-" in i
        assert not set(i) & set('/\\:*?"<>| \0')
        assert i.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
