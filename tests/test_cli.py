"""The command line: exit codes, one clear message per fault, quick start-up, and names that are what they say."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import exotrack
from exotrack import cli, lock, storage
from exotrack.cli import logs, terminal
from exotrack.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("demo", "run", "simulate", "convert", "inspect", "report", "compare", "devices")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process: exit code, stdout, stderr."""

    monkeypatch.setattr(cli.supervise, "is_child", lambda: True)  # `run` starts a process of its own otherwise

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["exotrack", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def results(study, tmp_path_factory) -> Path:
    """Result folder of the study."""
    out = tmp_path_factory.mktemp("cli") / "out"
    exotrack.run(study, out, exotrack.Protocol.from_dict({"size": {"bootstrap": 50}}))
    return out


def sheet_with(folder: Path, *rows: str) -> Path:
    sheet = folder / "sheet.csv"
    sheet.write_text("\n".join(["video,batch,sample,pixel_size_um,fps", *rows]) + "\n", encoding="utf-8")
    return sheet


# Help, usage, start-up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_one_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert out.count("Example:") == 1
    assert f"exotrack {command}" in out


def test_version(call):
    assert call("--version")[:2] == (0, f"exotrack {exotrack.__version__}\n")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert declared.get("version", exotrack.__version__) == exotrack.__version__


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run"], ["run", "a.csv"], ["run", "a.csv", "--out", "b", "--backend", "gpu"], ["run", "--bogus"]],
)
def test_wrong_usage_is_2(call, arguments):
    code, _, err = call(*arguments)
    assert code == 2
    assert "Usage" in err


def test_help_does_not_wait_for_heavy_libraries():
    heavy = ("numba", "numpy", "pandas", "plotly", "skimage", "dask", "scipy", "av")
    lines = [
        "import sys, exotrack.cli",
        "sys.argv = ['exotrack', '--help']",
        "try: exotrack.cli.main()",
        "except SystemExit: pass",
        f"print('LOADED', [m for m in {heavy!r} if m in sys.modules])",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("LOADED []")


@pytest.mark.parametrize(
    "lines",
    [
        ["import exotrack as et, exotrack.localize, exotrack.link, exotrack.simulate"],
        ["from exotrack.link import link", "from exotrack.localize import plan_windows", "import exotrack as et"],
        ["import exotrack as et", "et.localize", "import exotrack.localize.stream", "import exotrack.simulate.study"],
    ],
)
def test_stages_are_functions_in_every_order_of_import(lines):
    check = [
        "from types import FunctionType, ModuleType",
        "from exotrack.localize import plan_windows as windows",
        "assert isinstance(windows, FunctionType)",
        "for name in ('localize', 'link', 'simulate', 'measure', 'run', 'open_video', 'open_results'):",
        "    assert isinstance(getattr(et, name), FunctionType), name",
        "assert isinstance(et.tables, ModuleType)",
        "assert set(et.__all__) <= set(dir(et))",
        "import sys; assert 'cupy' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join([*lines, *check])], cwd=ROOT, check=True, timeout=120)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lcoalize'"):
        exotrack.lcoalize  # noqa: B018


# Bad input: one clear message, exit code 2, nothing started ----------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a.npy,B,S,-0.3,30"], ["line 2", "pixel_size_um = '-0.3'", "positive"]),
        (["a.npy,B,S,wide,30"], ["line 2", "pixel_size_um = 'wide'", "not a number"]),
        (["gone.npy,B,S,0.3,30"], ["line 2", "gone.npy", "not found"]),
        (["a.npy,B,S,0.3,30", "./a.npy,B,S,0.3,30"], ["line 3", "already in line 2"]),
        (["a.npy,B,S,,30"], ["a.npy", "pixel_size_um"]),
        (["a.npy,B,S,0.3,"], ["a.npy", "frame_interval_s"]),
    ],
)
def test_bad_rows(call, tmp_path, rows, words):
    np.save(tmp_path / "a.npy", np.zeros((9, 64, 64), np.uint8))
    code, _, err = call("run", sheet_with(tmp_path, *rows), "--out", tmp_path / "out")
    assert code == 2
    for word in words:
        assert word in err
    assert not (tmp_path / "out").exists()


def test_a_missing_column(call, tmp_path):
    (tmp_path / "sheet.csv").write_text("video,sample\na.npy,S\n")
    code, _, err = call("run", tmp_path / "sheet.csv", "--out", tmp_path / "out")
    assert code == 2
    assert "required column(s) batch missing" in err


def test_an_unknown_protocol_key(call, study, tmp_path):
    (tmp_path / "p.toml").write_text("[size]\nboostrap = 5\n")
    code, _, err = call("run", study, "--out", tmp_path / "out", "--protocol", tmp_path / "p.toml")
    assert code == 2
    assert "size.boostrap = 5: unknown setting" in err


def test_cuda_without_a_device(call, study, tmp_path, monkeypatch):
    monkeypatch.setattr("exotrack.backends.why_no_cuda", lambda: "there is no device")
    code, _, err = call("run", study, "--out", tmp_path / "out", "--backend", "cuda")
    assert code == 2
    assert "'cuda' cannot run here" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours(call, study, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, err = call("run", study, "--out", tmp_path)
    assert code == 2
    assert "not a result folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", [["report"], ["compare", "--reference", "B1"]])
def test_commands_on_a_folder_without_results(call, tmp_path, command):
    code, _, err = call(*command, tmp_path)
    assert code == 2
    assert "not a result folder" in err


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_an_unreadable_video(call, tmp_path, content):
    video = tmp_path / "a.avi"
    if content is not None:
        video.write_bytes(content)
    for command in (["inspect", video, "--out", tmp_path / "a.png"], ["convert", video, "--out", tmp_path / "a.zarr"]):
        code, _, err = call(*command)
        assert code == 2
        assert "a.avi" in err
    assert not (tmp_path / "a.png").exists()
    assert not (tmp_path / "a.zarr").exists()


# Work ----------------------------------------------------------------------------------------------------------------


def test_a_failed_video_is_named_and_the_code_is_1(call, study, tmp_path):
    np.save(tmp_path / "good.npy", np.load(study.parent / "v0.npy")[:60])
    np.save(tmp_path / "single.npy", np.zeros((1, 64, 64), np.uint8))
    sheet = sheet_with(tmp_path, "single.npy,B,S,0.3,30", "good.npy,B,S,0.3,30")
    code, out, err = call("--log-file", tmp_path / "log.txt", "run", sheet, "--out", tmp_path / "out")
    assert code == 1
    assert err.count("single failed: ") == 1
    assert "1 frame" in err
    assert "1 of 2 videos failed" in err
    assert "good" not in err
    assert "D50, nm" in out
    assert (tmp_path / "out" / "report.html").is_file()
    entries = [json.loads(line) for line in (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()]
    assert any(e["level"] == "WARNING" and "single failed" in e["message"] for e in entries)


def test_all_videos_fail(call, tmp_path):
    np.save(tmp_path / "black.npy", np.zeros((20, 64, 64), np.uint8))
    np.save(tmp_path / "single.npy", np.zeros((1, 64, 64), np.uint8))
    sheet = sheet_with(tmp_path, "black.npy,B,S,0.3,30", "single.npy,C,S,0.3,30")
    code, out, err = call("run", sheet, "--out", tmp_path / "out")
    assert code == 1
    assert "2 of 2 videos failed" in err
    assert "unexpected" not in err
    assert "D50, nm" in out
    for name in ("report.html", "report.pdf", "samples.csv", "batches.csv", "comparisons.csv"):
        assert (tmp_path / "out" / name).is_file()


def test_what_fails_after_work_began_is_1(call, study, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise InputError("it cannot be pooled")

    monkeypatch.setattr("exotrack.pipeline.pool.write", fail)
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy")[:20])
    code, _, err = call("run", sheet_with(tmp_path, "a.npy,B,S,0.3,30"), "--out", tmp_path / "out")
    assert code == 1
    assert err.splitlines()[-1] == "error: it cannot be pooled"


def test_a_folder_that_another_run_writes_is_2(call, study, tmp_path):
    with lock.locked(tmp_path / "out"):
        code, _, err = call("run", study, "--out", tmp_path / "out")
        assert code == 2
        assert "another run (pid " in err
        assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]


def test_compare_reads_both_ways(call, results):
    code, out, _ = call("compare", results, "--reference", "B1")
    assert code == 0
    assert "B2" in out
    pair = storage.open_results(results).comparisons.iloc[0]
    assert f"{pair['d50_ratio']:.3g} (" in out
    code, out, _ = call("compare", results, "--reference", "B2")
    assert f"{1 / pair['d50_ratio']:.3g} (" in out
    assert pair["d50_ratio"] == pytest.approx(1.5, abs=0.1)
    code, _, err = call("compare", results, "--reference", "B9")
    assert code == 2
    assert "known: B1, B2" in err


def test_the_report_is_rebuilt(call, results):
    for name in ("report.html", "report.pdf"):
        (results / name).unlink()
    assert call("report", results)[0] == 0
    assert (results / "report.html").stat().st_size > 1000
    assert (results / "report.pdf").read_bytes().startswith(b"%PDF")


def test_inspect_draws_and_tells(call, study, tmp_path):
    from skimage.io import imread

    video = study.parent / "v0.npy"
    code, out, _ = call("inspect", video, "--frame", 100, "--out", tmp_path / "a.png")
    assert code == 0
    assert "120 frames of 160×128 px" in out
    assert "pixel_size_um" in out
    assert "NOT STATED" in out
    assert "bright spots in frame 100" in out
    picture = imread(tmp_path / "a.png")[..., :3].astype(int)
    assert picture.shape[:2] == (960, 1200)
    assert (np.ptp(picture, axis=2) > 100).sum() > 1000  # coloured circles on grey
    code, _, err = call("inspect", video, "--frame", 120, "--out", tmp_path / "b.png")
    assert code == 2
    assert "frames 0 to 119" in err


def test_simulate_then_convert(call, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text('[simulation]\nframe_shape = [48, 64]\nn_frames = 10\n[[sample]]\nbatch = "A"\n')
    code, out, _ = call("simulate", spec, "--out", tmp_path / "study")
    assert code == 0
    assert "samplesheet.csv" in out
    (video,) = (tmp_path / "study" / "videos").iterdir()
    code, out, _ = call("convert", video, "--out", tmp_path / "v.zarr")
    assert code == 0
    assert "10 frames of 64×48 px, verified" in out
    np.testing.assert_array_equal(
        exotrack.open_video(tmp_path / "v.zarr").read(0, 10), exotrack.open_video(video).read(0, 10)
    )
    assert call("simulate", tmp_path / "none.toml", "--out", tmp_path / "x")[0] == 2


def test_demo(call, tmp_path, monkeypatch):
    from exotrack import demo

    small = {**demo.STUDY["simulation"], "frame_shape": [96, 128], "n_frames": 60, "particles_per_frame": 12.0}
    samples = [{**sample, "n_videos": 1} for sample in demo.STUDY["sample"]]
    monkeypatch.setattr(demo, "STUDY", {"simulation": small, "sample": samples})
    for _ in range(2):  # the second one keeps videos and results
        code, out, _ = call("demo", "--out", tmp_path / "demo")
        assert code == 0
        assert "Result against truth" in out
        for word in ("narrow", "mixture", "D50, nm", "mode, nm", "concentration", "report.html"):
            assert word in out


def test_devices(call):
    code, out, _ = call("devices")
    assert code == 0
    for word in ("cpu", "cuda", "numba", "rawvideo", "dask"):
        assert word in out


# What happens to the unexpected --------------------------------------------------------------------------------------


def test_an_interruption_is_130_and_says_how_to_resume(call, study, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("exotrack.pipeline.run", interrupt)
    code, _, err = call("run", study, "--out", tmp_path / "out")
    assert code == 130
    assert "run the same command again to resume" in err


def test_a_fault_of_ours_is_one_line_and_a_log(call, study, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a bug\nover two lines")

    monkeypatch.setattr("exotrack.pipeline.run", fail)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    code, _, err = call("run", study, "--out", tmp_path / "out")
    assert code == 1
    assert "unexpected ZeroDivisionError: a bug over two lines" in err
    (log,) = tmp_path.glob("exotrack-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    monkeypatch.setenv("EXOTRACK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["exotrack", "run", str(study), "--out", str(tmp_path / "out")])
    with pytest.raises(ZeroDivisionError):
        cli.main()


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_without_a_terminal_is_a_few_lines(caplog):
    with caplog.at_level("INFO", logger="exotrack"), terminal.progress() as show:
        for done in range(0, 1001, 10):
            show("frames", done, 1000)
    assert [record.getMessage() for record in caplog.records] == ["frames 0 of 1000", "frames 1000 of 1000"]


def test_progress_tells_rates_and_the_time_left(caplog):
    clock = Clock()
    meter = terminal.Meter(clock)
    with caplog.at_level("INFO", logger="exotrack"):
        for second in range(22):  # 20 frames and 10 MB a second; 5000 of the frames are from an earlier run
            clock.now = 100.0 + second
            beside = meter.report("frames", 5000 + 20 * second, 5600)
            meter.report("MB", 2500 + 10 * second, 2800)
    assert beside == "20/s, 10 MB/s, 9 s left"
    assert [record.getMessage() for record in caplog.records] == [
        "frames 5000 of 5600",
        "frames 5200 of 5600, 20/s, 10 MB/s, 20 s left",
        "frames 5400 of 5600, 20/s, 10 MB/s, 10 s left",
    ]
    fields = {
        name: getattr(caplog.records[-1], name) for name in ("what", "done", "total", "per_s", "mb_per_s", "left_s")
    }
    assert fields == {"what": "frames", "done": 5400, "total": 5600, "per_s": 20.0, "mb_per_s": 10.0, "left_s": 10.0}


def test_a_rate_is_of_the_last_half_minute():
    rate = terminal.Rate()
    assert rate.per_s is None
    rate.report(0.0, 1000)
    rate.report(0.1, 1010)
    assert rate.per_s is None  # too soon to say
    for second in range(1, 61):
        rate.report(float(second), 1000 + 100 * second)
    assert rate.per_s == 100.0
    for second in range(61, 91):
        rate.report(float(second), 7000 + 10 * (second - 60))
    assert rate.per_s == 10.0
    assert rate.left_s(7600) == 30.0
    slow = terminal.Rate()  # whole videos, as a cluster reports them, may be further apart than that
    for minute in range(4):
        slow.report(60.0 * minute, 600 * minute)
    assert slow.per_s == 10.0


def test_a_log_file_has_json_lines(call, study, tmp_path):
    """The option stands before the command or after it; later runs append."""
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy")[:60])
    sheet = sheet_with(tmp_path, "a.npy,B,S,0.3,30")
    log = tmp_path / "log.jsonl"
    assert call("--log-file", log, "run", sheet, "--out", tmp_path / "out")[0] == 0
    first = log.read_text(encoding="utf-8").splitlines()
    assert call("run", sheet, "--out", tmp_path / "out", "--force", "--log-file", log)[0] == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[: len(first)] == first
    assert len(lines) > 1.5 * len(first)
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        assert {"time", "level", "logger", "message"} <= set(entry)
        assert datetime.fromisoformat(entry["time"]).utcoffset() == timedelta(0)
        assert re.fullmatch(r".*:\d\d\.\d{3}Z", entry["time"])
    (frames,) = [e for e in entries[: len(first)] if e.get("what") == "frames" and e["done"] == e["total"]]
    assert frames["logger"] == "exotrack.progress"
    assert frames["total"] == 60
    with pytest.raises(SystemExit):  # a folder
        cli.app(["run", str(sheet), "--out", str(tmp_path / "out"), "--log-file", str(tmp_path)])


def test_a_log_file_holds_tracebacks_on_one_line(tmp_path):
    logs.start(tmp_path / "log.jsonl")
    try:
        raise ValueError("over\ntwo lines")
    except ValueError:
        logging.getLogger("exotrack.test").exception("it failed", extra={"where": tmp_path})
    logs.start(None)
    (line,) = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["message"] == "it failed"
    assert "Traceback" in entry["exception"]
    assert "ValueError: over\ntwo lines" in entry["exception"]
    assert entry["where"] == str(tmp_path)


def test_a_terminal_shows_what_the_pipeline_says_but_no_lines_of_progress(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logs.start(tmp_path / "log.jsonl")
    logging.getLogger("exotrack.pipeline.schedule").info("dask dashboard: %s", "http://here")
    logging.getLogger("exotrack.localize.pieces").info("frames 0 to 9 in halves")
    logging.getLogger("exotrack.localize.pieces").warning("frames 0 to 9 once more")
    with terminal.progress() as show:
        show("frames", 5, 10)
    logs.start(None)
    err = capsys.readouterr().err
    assert "dask dashboard: http://here" in err
    assert "once more" in err
    assert "halves" not in err
    assert "frames 5 of 10" not in err
    assert "frames 5 of 10" in (tmp_path / "log.jsonl").read_text(encoding="utf-8")


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(call, study, tmp_path, monkeypatch):
    monkeypatch.setattr("exotrack.pipeline.run", None)
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy"))
    (tmp_path / "damaged.avi").write_bytes(b"no video")
    sheet = sheet_with(tmp_path, "a.npy,B,S,0.3,30", "damaged.avi,B,S,0.3,30")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    code, out, _ = call("run", sheet, "--out", tmp_path / "new" / "out", "--dry-run", "--workers", "2")
    assert code == 0
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    for row in (["videos", "2"], ["frames", "120"], ["workers", "2"], ["videos that cannot be read", "1"]):
        assert re.search(rf"^ {row[0]} +{row[1]} *$", out, re.MULTILINE), row
    assert re.search(r"raw pixels +2 MB", out)
    assert "cannot be read: " in out
    assert "damaged.avi" in out
    assert "estimate" in out
    assert call("run", sheet, "--out", tmp_path / "out", "--dry-run", "--workers", "0")[0] == 2
    assert call("run", tmp_path / "none.csv", "--out", tmp_path / "out", "--dry-run")[0] == 2


def test_a_dry_run_on_finished_results(call, study, results):
    before = sorted((p, p.stat().st_mtime_ns) for p in results.rglob("*"))
    protocol = results / "protocol.toml"
    code, out, _ = call("run", study, "--out", results, "--protocol", protocol, "--dry-run")
    assert code == 0
    assert "4 more are kept" in out
    assert sorted((p, p.stat().st_mtime_ns) for p in results.rglob("*")) == before
    code, out, _ = call("run", study, "--out", results, "--scheduler", "tcp://host:8786", "--force", "--dry-run")
    assert code == 0
    assert "those of the cluster" in out


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with terminal.progress() as show:
        show("frames", 5, 10)
        show("frames", 10, 10)
    assert capsys.readouterr().out == ""
