"""The whole path on small simulated studies: what is written, what may not change it, and what fails alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exotrack as et
from exotrack import lock, report, samplesheet, storage
from exotrack.errors import BackendError, InputError, RunError
from exotrack.pipeline import planning, pool, provenance, schedule, work
from exotrack.pipeline.calibrate import calibrate
from exotrack.sizing.summary import summary_names
from exotrack.tables import Estimate

QUICK = et.Protocol.from_dict({"size": {"bootstrap": 50}})
CSV = ("samples", "batches", "comparisons", "budget", "populations", "videos")
BYTES_OF = ("localizations.parquet", "tracks.parquet", "particles.parquet", "frame.png", "video.json", "complete.json")


@pytest.fixture(scope="session")
def results(study, tmp_path_factory):
    """The study, analysed."""
    return et.run(study, tmp_path_factory.mktemp("results") / "out", QUICK, workers=2)


@pytest.fixture
def no_report(monkeypatch):
    """The report has its own tests."""
    monkeypatch.setattr(report, "write", lambda _: None)


def sheet_of(folder: Path, *rows: str, header: str = "video,batch,sample,pixel_size_um,fps,exposure_s") -> Path:
    sheet = folder / "sheet.csv"
    sheet.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return sheet


def one_video(study: Path, out: Path, protocol: et.Protocol = QUICK, block_frames: int | None = None) -> Path:
    """Folder of the study's first video, made without scheduler, pooling and report."""
    sheet = samplesheet.read(study)
    (out / "videos").mkdir(parents=True)
    job = planning.plan_videos(sheet, out, protocol, backend="cpu", force=False, block_frames=block_frames)[0]
    begun = work.begin(job)
    outcome = work.finish(job, begun, *(work.find(job, begun, part, None) for part in job.parts))
    assert isinstance(outcome, work.Done), outcome
    return job.folder


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BYTES_OF}


# The result folder ---------------------------------------------------------------------------------------------------


def test_the_folder_is_complete(results, study):
    names = {p.relative_to(results.path).as_posix() for p in results.path.rglob("*") if p.is_file()}
    tables = {f"videos/v{i}/{name}" for i in range(4) for name in BYTES_OF}
    study_files = {
        "run.json",
        "complete.json",
        "protocol.toml",
        "samplesheet.csv",
        "distributions.parquet",
        "report.html",
        "report.pdf",
    }
    assert names == tables | study_files | {f"{name}.csv" for name in CSV}
    assert (results.path / "samplesheet.csv").read_bytes() == study.read_bytes()
    assert et.Protocol.from_toml(results.path / "protocol.toml") == QUICK


def test_rows_come_in_the_order_of_the_sheet(results):
    assert list(results.videos["video_id"]) == ["v0", "v1", "v2", "v3"]
    assert list(zip(results.samples["batch"], results.samples["sample"], strict=True)) == [
        ("B1", "S0"),
        ("B1", "S1"),
        ("B2", "S0"),
        ("B2", "S1"),
    ]
    assert list(results.batches["batch"]) == ["B1", "B2"]
    order = results.distributions[["level", "id"]].drop_duplicates().itertuples(index=False)
    assert [tuple(row) for row in order] == [
        *(("video", f"v{i}") for i in range(4)),
        *(("sample", name) for name in ("B1/S0", "B1/S1", "B2/S0", "B2/S1")),
        *(("batch", name) for name in ("B1", "B2")),
    ]


def test_the_truth_lies_in_the_intervals(results):
    d50 = results.batches.set_index("batch")[["d50_nm_lo", "d50_nm_hi"]]
    assert d50.loc["B1", "d50_nm_lo"] < 100 < d50.loc["B1", "d50_nm_hi"]
    assert d50.loc["B2", "d50_nm_lo"] < 150 < d50.loc["B2", "d50_nm_hi"]
    pair = results.comparisons.iloc[0]
    assert (pair["batch_a"], pair["batch_b"]) == ("B1", "B2")
    assert pair["wasserstein_nm_lo"] < 50 < pair["wasserstein_nm_hi"]


def test_every_metric_has_its_interval(results):
    for frame in (results.samples, results.batches):
        metrics = [name.removesuffix("_lo") for name in frame if name.endswith("_lo")]
        assert {"mean_nm", "mode_nm", "d10_nm", "d50_nm", "d90_nm", "span", "cv", "pdi", "concentration_per_ml"} <= {
            *metrics
        }
        for name in metrics:
            # There are no blanks, too few arrivals to count particles by number, and nothing to say below the limit.
            frame_of = frame[frame[name].notna()]
            assert len(frame_of) or name in ("fraction_below_50_nm", "blank_per_ml", "dls_z_average_nm", "dls_pdi"), (
                name
            )
            assert (frame_of[f"{name}_lo"] <= frame_of[name] * (1 + 1e-6)).all(), name
            assert (frame_of[name] <= frame_of[f"{name}_hi"] * (1 + 1e-6)).all(), name


def test_budget_and_populations_stand_beside_the_numbers(results):
    budget = pd.read_csv(results.path / "budget.csv")
    for _, batch in results.batches.iterrows():
        mine = budget[(budget["level"] == "batch") & (budget["batch"] == batch["batch"])].set_index("source")
        parts = mine["contribution_relative"].drop(["combined", "expanded"])
        assert mine.loc["combined", "contribution_relative"] == pytest.approx(np.sqrt((parts**2).sum()), rel=1e-5)
        assert mine.loc["expanded", "contribution_nm"] == pytest.approx(batch["d50_expanded_nm"], rel=1e-5)
        assert mine.loc["pixel_size", "sensitivity"] == -2
    populations = pd.read_csv(results.path / "populations.csv")
    shares = populations.groupby(["level", "batch", populations["sample"].fillna("")])["fraction"].sum()
    assert shares.to_numpy() == pytest.approx(1.0)


def test_what_is_checked_of_a_video_stands_in_its_record(results):
    record = results.video("v0")
    assert 0.5 < record["piccs"]["diffusion_ratio"] < 1.5
    assert record["counting"]["particles_per_frame"] == pytest.approx(25.0, rel=0.4)
    found = record["detection"]["probability"]
    assert found[0] < 0.3 < 0.8 < found[-1]
    assert record["ddm"]["frames"]["weighting"] == "frames"
    limit = results.samples["limit_nm"]
    assert limit[limit > 0].between(25.0, 90.0).all()
    assert np.count_nonzero(limit) >= 2


def test_every_number_has_its_column(results):
    acquisition = et.Acquisition(pixel_size_um=0.3, frame_interval_s=1 / 30)
    sizes = et.size_distribution(results.tracks("v0"), acquisition, QUICK)
    assert tuple(sizes.summary) == summary_names(QUICK.size.class_edges_nm)


def test_densities_integrate_to_one_and_lie_in_their_bands(results):
    for _, curve in results.distributions.groupby(["level", "id"], sort=False):
        assert np.trapezoid(curve["density_per_nm"], curve["diameter_nm"]) == pytest.approx(1.0, abs=0.05)
        assert (curve["lo"] <= curve["density_per_nm"]).all()
        assert (curve["density_per_nm"] <= curve["hi"]).all()
        assert curve["weighting"].nunique() == 1


def test_the_record_of_the_run(results):
    run = json.loads((results.path / "run.json").read_text())
    assert run["exotrack"] == et.__version__
    assert run["backend"] == "cpu"
    assert run["protocol_sha256"] == QUICK.sha256
    assert {"hash", "localize", "link", "measure", "write", "pool"} <= set(run["seconds"])
    assert list(run["inputs"]) == ["v0", "v1", "v2", "v3"]
    assert all(len(given["sha256"]) == 64 and given["bytes"] > 0 for given in run["inputs"].values())
    assert run["failures"] == {}


def test_the_record_of_a_video(results):
    record = results.video("v2")
    assert record["shape"] == [120, 128, 160]
    assert record["sheet"]["donor"] == "D2"
    assert record["acquisition"]["pixel_size_um"] == {"value": 0.3, "origin": "sample sheet"}
    assert record["counts"]["localizations"] == len(results.localizations("v2"))
    assert record["counts"]["tracks"] == len(np.unique(results.tracks("v2").particle))
    assert len(record["linking"]["flow_y_px"]) == 119
    assert record["preview"] == {"frame": 60, "file": "frame.png"}
    assert [flag["code"] for flag in record["quality"]].count("few_tracks") == 1


def test_columns_carry_units_and_tables_their_provenance(results):
    schema = pq.read_schema(results.path / "videos" / "v0" / "tracks.parquet")
    assert schema.field("y").metadata[b"unit"] == b"px"
    note = json.loads(schema.metadata[b"exotrack"])
    assert note["protocol_sha256"] == QUICK.sha256
    assert note["input_sha256"] == results.run["inputs"]["v0"]["sha256"]
    assert pq.read_schema(results.path / "distributions.parquet").field("density_per_nm").metadata[b"unit"] == b"1/nm"


def test_particles_of_all_videos_are_one_lazy_table(results):
    particles = results.particles()
    frame = particles.to_pandas()
    assert list(frame.columns[:4]) == ["video_id", "batch", "sample", "role"]
    assert len(particles) == len(frame)
    assert frame.groupby("video_id").size().to_dict() == {f"v{i}": len(results.particles(f"v{i}")) for i in range(4)}
    for name, column in results.particles("v2").items():
        np.testing.assert_array_equal(frame.loc[frame["video_id"] == "v2", name], column)
    assert len(results.table("tracks").filter(video_id=["v0", "v1"])) == sum(
        len(results.tracks(f"v{i}")) for i in (0, 1)
    )


def test_a_batch_is_read_without_opening_files_of_others(results, tmp_path):
    shutil.copytree(results.path, tmp_path / "out")
    for name in ("v2", "v3"):  # of B2
        (tmp_path / "out" / "videos" / name / "particles.parquet").write_bytes(b"no table")
    copy = et.open_results(tmp_path / "out")
    of_batch = copy.particles(batch="B1")
    assert set(of_batch.to_pandas(["video_id"])["video_id"]) == {"v0", "v1"}
    assert copy.particles().dataset.count_rows(filter=pc.field("batch") == "B1") == len(of_batch)
    with pytest.raises(InputError, match="batch = 'B9' is not in this study; known: B1, B2"):
        copy.particles(batch="B9")
    with pytest.raises(InputError, match="filter by one of video_id, batch, sample, role"):
        copy.particles().filter(donor="D1")
    with pytest.raises(InputError, match="table 'spots' is unknown"):
        copy.table("spots")


def test_duckdb_reads_the_study_as_one_table(results):
    particles = results.particles().dataset  # noqa: F841  # the query names it
    counted = dict(duckdb.sql("select batch, count(*) from particles group by batch").fetchall())
    files = f"{results.path}/videos/*/particles.parquet"
    counted_in_files = duckdb.sql(f"select count(*) from read_parquet('{files}')").fetchall()[0][0]
    assert counted == {batch: len(results.particles(batch=batch)) for batch in ("B1", "B2")}
    assert counted_in_files == sum(counted.values())


# What may not change a result ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_frames", [16, 64, 257])
def test_block_sizes_do_not_change_a_byte(study, results, tmp_path, block_frames):
    folder = one_video(study, tmp_path / "out", block_frames=block_frames)
    assert content(folder) == content(results.path / "videos" / "v0")


def test_parts_do_not_change_a_byte(study, tmp_path, monkeypatch):
    protocol = et.Protocol.from_dict({"localize": {"background_s": 1.0}, "size": {"bootstrap": 50}})
    whole = one_video(study, tmp_path / "whole", protocol)
    monkeypatch.setattr(planning, "PART_BYTES", 128 * 160 * 30)
    parts = one_video(study, tmp_path / "parts", protocol)
    jobs = planning.plan_videos(
        samplesheet.read(study), tmp_path, protocol, backend="cpu", force=False, block_frames=None
    )
    assert len(jobs[0].parts) > 1
    assert content(parts) == content(whole)


def test_local_processes_give_what_threads_give(study, results, tmp_path, no_report):
    local = et.run(study, tmp_path / "out", QUICK, scheduler="local", workers=2)
    assert local.run["scheduler"] == "local processes (2)"
    for i in range(4):
        assert content(local.path / "videos" / f"v{i}") == content(results.path / "videos" / f"v{i}")
    pd.testing.assert_frame_equal(local.batches, results.batches)


def test_two_runs_on_one_scheduler_share_nothing(study, results, tmp_path, no_report):
    from distributed import Client, LocalCluster

    made = {}
    both = threading.Barrier(2)

    def analyse(name: str, rows: list[str], client: Client) -> None:
        both.wait()
        made[name] = et.run(sheet_of(tmp_path / name, *rows), tmp_path / name / "out", QUICK, scheduler=client)

    for name, original in (("one", "v0"), ("two", "v2")):  # equal ids, different content
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.load(study.parent / f"{original}.npy"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        threads = [
            threading.Thread(target=analyse, args=(name, ["a.npy,B,S,0.3,30,0.02"], client)) for name in ("one", "two")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, original in (("one", "v0"), ("two", "v2")):
        assert made[name].run["inputs"]["a"]["sha256"] == results.run["inputs"][original]["sha256"]
        alone = et.run(tmp_path / name / "sheet.csv", tmp_path / name / "alone", QUICK)
        assert content(made[name].path / "videos" / "a") == content(alone.path / "videos" / "a")
        for file in ("distributions.parquet", "samples.csv", "batches.csv"):
            assert (made[name].path / file).read_bytes() == (alone.path / file).read_bytes()


def test_equal_sets_of_videos_are_pooled_once(study, results, tmp_path, no_report, monkeypatch):
    pooled = []
    real = pool.pool
    monkeypatch.setattr(pool, "pool", lambda rows, *a, **k: pooled.append(len(rows)) or real(rows, *a, **k))
    again = et.run(study, tmp_path / "out", QUICK, workers=2)
    assert sorted(pooled) == [1, 1, 1, 1, 2, 2]  # every sample is one video
    for name in ("distributions.parquet", "samples.csv", "batches.csv", "comparisons.csv"):
        assert (again.path / name).read_bytes() == (results.path / name).read_bytes()
    curves = {key: curve.drop(columns=["level", "id"]) for key, curve in again.distributions.groupby(["level", "id"])}
    np.testing.assert_array_equal(curves["video", "v1"], curves["sample", "B1/S1"])


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    frame_bytes=st.integers(1, 9),
    least=st.integers(1, 200),
)
def test_groups_of_windows_cover_the_video_once(lengths, frame_bytes, least):
    edges = np.cumsum([0, *lengths]).tolist()
    windows = list(itertools.pairwise(edges))
    parts = planning.group(windows, frame_bytes, least)
    assert parts[0][0] == 0
    assert parts[-1][1] == edges[-1]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert {edge for part in parts for edge in part} <= set(edges)
    assert len(parts) == 1 or all((stop - start) * frame_bytes >= least for start, stop in parts)


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_bad_video_fails_alone(study, tmp_path, no_report):
    frames = np.load(study.parent / "v0.npy")
    np.save(tmp_path / "good.npy", frames)
    np.save(tmp_path / "black.npy", np.zeros_like(frames[:20]))
    np.save(tmp_path / "white.npy", np.full_like(frames[:20], 255))
    np.save(tmp_path / "single.npy", frames[:1])
    np.save(tmp_path / "empty.npy", frames[:0])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-1000])
    (tmp_path / "corrupt.tif").write_bytes(b"II*\0 this is no image")
    names = ("black", "white", "single", "good", "empty", "cut")
    rows = [f"{name}.npy,B,S,0.3,30,0.02" for name in names] + ["corrupt.tif,B,S,0.3,30,0.02"]
    results = et.run(sheet_of(tmp_path, *rows), tmp_path / "out", QUICK)
    assert set(results.failures) == {"black", "white", "single", "empty", "cut", "corrupt"}
    assert "no particles" in results.failures["black"]["reason"]
    assert "no particles" in results.failures["white"]["reason"]
    assert "1 frame" in results.failures["single"]["reason"]
    for name, failure in results.failures.items():
        assert name in failure["reason"]
        assert "\n" not in failure["reason"]
        assert (results.path / "videos" / name / "error.txt").is_file()
    assert list(results.videos["video_id"]) == ["good"]
    batch = results.batches.iloc[0]
    assert (batch["n_videos"], batch["n_failed"]) == (1, 6)
    assert "6 video(s) failed" in batch["quality"]


def test_a_fault_of_ours_fails_alone_too(study, tmp_path, no_report, monkeypatch):
    real = work.link

    def link(spots, acquisition, protocol, *, backend):
        if acquisition.depth_um == 7.0:
            raise ZeroDivisionError("a bug")
        return real(spots, acquisition, protocol, backend=backend)

    monkeypatch.setattr(work, "link", link)
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy"))
    np.save(tmp_path / "b.npy", np.load(study.parent / "v1.npy"))
    sheet = sheet_of(
        tmp_path, "a.npy,B,S,0.3,30,7", "b.npy,B,S,0.3,30,10", header="video,batch,sample,pixel_size_um,fps,depth_um"
    )
    results = et.run(sheet, tmp_path / "out", QUICK)
    assert list(results.failures) == ["a"]
    assert "unexpected ZeroDivisionError: a bug" in results.failures["a"]["reason"]
    assert "Traceback" in (results.path / "videos" / "a" / "error.txt").read_text()


def test_all_failed_is_still_a_result(tmp_path, no_report):
    np.save(tmp_path / "a.npy", np.zeros((20, 64, 64), np.uint8))
    results = et.run(sheet_of(tmp_path, "a.npy,B,S,0.3,30,0.02"), tmp_path / "out", QUICK)
    assert list(results.failures) == ["a"]
    assert results.batches.loc[0, "n_failed"] == 1
    assert results.videos.empty
    assert results.comparisons.empty
    assert results.distributions.empty


def test_the_columns_do_not_depend_on_the_data(results, tmp_path, no_report):
    np.save(tmp_path / "a.npy", np.zeros((20, 64, 64), np.uint8))
    failed = et.run(sheet_of(tmp_path, "a.npy,B,S,0.3,30,0.02"), tmp_path / "failed", QUICK)
    noise = np.random.default_rng(1).normal(20, 2, (40, 64, 64)).round().astype(np.uint8)
    np.save(tmp_path / "a.npy", noise)
    header = "video,batch,sample,role,pixel_size_um,fps"
    blank = et.run(sheet_of(tmp_path, "a.npy,B,S,blank,0.3,30", header=header), tmp_path / "blank", QUICK)
    assert failed.batches.loc[0, ["d50_nm", "d50_nm_lo", "d50_nm_hi", "concentration_per_ml"]].isna().all()
    assert blank.samples.empty
    for name in ("samples.csv", "batches.csv", "comparisons.csv"):
        headers = {(each.path / name).read_text().splitlines()[0] for each in (results, failed, blank)}
        assert len(headers) == 1, name


@pytest.mark.parametrize("error", [InputError, BackendError])
def test_what_fails_after_work_began_is_no_input_error(small, monkeypatch, error):
    def fail(*_, **__):
        raise error("it cannot be pooled")

    monkeypatch.setattr(pool, "pool", fail)
    with pytest.raises(RunError, match=r"^it cannot be pooled$"):
        et.run(small, small.parent / "out", QUICK)
    assert storage.read_record(small.parent / "out" / "videos" / "a")
    assert not (small.parent / "out" / lock.LOCK).exists()


# One run at a time ---------------------------------------------------------------------------------------------------


def test_a_second_run_into_the_same_folder_is_refused(study, tmp_path, no_report):
    refused = []

    def try_again(what: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(InputError, match="another run") as error:
                et.run(study, tmp_path / "out", QUICK)
            refused.append(error)

    results = et.run(study, tmp_path / "out", QUICK, progress=try_again)
    assert refused
    assert not results.failures
    assert not (tmp_path / "out" / lock.LOCK).exists()


def test_an_interrupted_run_leaves_no_lock(study, tmp_path, no_report):
    def interrupt(*_):
        assert (tmp_path / "out" / lock.LOCK).is_file()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        et.run(study, tmp_path / "out", QUICK, progress=interrupt)
    assert not (tmp_path / "out" / lock.LOCK).exists()


def test_blanks_may_be_empty_and_are_not_pooled(study, tmp_path, no_report):
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy"))
    noise = np.random.default_rng(1).normal(20, 2, (40, 64, 64)).round().astype(np.uint8)
    np.save(tmp_path / "blank.npy", noise)
    sheet = sheet_of(
        tmp_path, "a.npy,B,S,sample,0.3,30", "blank.npy,B,buffer,blank,0.3,30",
        header="video,batch,sample,role,pixel_size_um,fps",
    )  # fmt: skip
    results = et.run(sheet, tmp_path / "out", QUICK)
    assert not results.failures
    assert list(results.samples["sample"]) == ["S"]
    assert results.batches.loc[0, "n_videos"] == 1
    assert "blank" in set(results.videos["video_id"])


def test_missing_metadata_is_listed_before_any_work(tmp_path):
    for name in ("a", "b", "c"):
        np.save(tmp_path / f"{name}.npy", np.zeros((5, 64, 64), np.uint8))
    sheet = sheet_of(
        tmp_path, "a.npy,B,S,,30,", "b.npy,B,S,0.3,30,", "c.npy,B,S,0.3,,",
    )  # fmt: skip
    with pytest.raises(InputError) as error:
        et.run(sheet, tmp_path / "out")
    text = str(error.value)
    assert "a.npy" in text
    assert "pixel_size_um" in text
    assert "c.npy" in text
    assert "frame_interval_s" in text
    assert "b.npy" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backend": "gpu"}, BackendError, "unknown"),
        ({"backend": "cuda"}, BackendError, "cannot run here"),
        ({"workers": 0}, InputError, "workers = 0"),
        ({"block_frames": 0}, InputError, "block_frames = 0"),
        ({"scheduler": "tcp://127.0.0.1:1"}, InputError, "no dask scheduler answers"),
        ({"scheduler": "nonsense"}, InputError, "nonsense"),
    ],
)
def test_wrong_options_start_nothing(study, tmp_path, options, error, words, monkeypatch):
    if options.get("backend") == "cuda":
        monkeypatch.setattr("exotrack.backends.why_no_cuda", lambda: "no device")
    monkeypatch.setattr(schedule, "CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(error, match=words):
        et.run(study, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class FakeClient:
    """A dask client whose workers answer as told."""

    scheduler = SimpleNamespace(address="tcp://fake:1")

    def __init__(self, answer):
        self.answer = answer

    def wait_for_workers(self, *_, **__):
        if self.answer is None:
            raise TimeoutError

    def run(self, *_, **__):
        return {"tcp://fake:2": self.answer}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "no worker has joined"),
        (ModuleNotFoundError("No module named 'exotrack'"), "cannot import exotrack"),
        ("0.0.1", r"have exotrack 0\.0\.1"),
    ],
)
def test_workers_that_could_never_answer_are_refused(study, tmp_path, answer, words):
    with pytest.raises(InputError, match=words):
        et.run(study, tmp_path / "out", scheduler=FakeClient(answer))
    assert not (tmp_path / "out").exists()


# Resuming ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_resumes_to_the_same_bytes(study, results, tmp_path, no_report, monkeypatch):
    def interrupt(what: str, frames: int, total: int) -> None:
        if frames >= 2.5 * 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        et.run(study, tmp_path / "out", QUICK, workers=1, progress=interrupt)
    kept = list((tmp_path / "out" / "videos").iterdir())
    assert len(kept) == 2
    assert all(storage.read_record(folder) for folder in kept)
    with pytest.raises(InputError, match="not finished"):
        et.open_results(tmp_path / "out")
    localized = []
    real = work.localize
    monkeypatch.setattr(work, "localize", lambda *a, **k: localized.append(1) or real(*a, **k))
    resumed = et.run(study, tmp_path / "out", QUICK, workers=1)
    assert len(localized) == 2
    # Neither the interruption nor the number of workers (two made `results`) shows in a single byte.
    for i in range(4):
        assert content(resumed.path / "videos" / f"v{i}") == content(results.path / "videos" / f"v{i}")
    for name in ("distributions.parquet", "samples.csv", "batches.csv", "comparisons.csv"):
        assert (resumed.path / name).read_bytes() == (results.path / name).read_bytes()


@pytest.fixture
def small(study, tmp_path, no_report):
    """A finished study of one video, and the frames it was made of."""
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy")[:60])
    sheet = sheet_of(tmp_path, "a.npy,B,S,0.3,30,0.02")
    et.run(sheet, tmp_path / "out", QUICK)
    return sheet


def count_localized(monkeypatch, *arguments, **options) -> int:
    localized = []
    real = work.localize
    with monkeypatch.context() as patch:
        patch.setattr(work, "localize", lambda *a, **k: localized.append(1) or real(*a, **k))
        et.run(*arguments, **options)
    return len(localized)


def test_what_decides_the_result_decides_what_is_kept(small, monkeypatch):
    out = small.parent / "out"
    assert count_localized(monkeypatch, small, out, QUICK) == 0
    assert count_localized(monkeypatch, small, out, QUICK, force=True) == 1
    changed = et.Protocol.from_dict({"size": {"bootstrap": 51}})
    assert count_localized(monkeypatch, small, out, changed) == 1
    sheet_of(small.parent, "a.npy,B,S,0.31,30,0.02")
    assert count_localized(monkeypatch, small, out, changed) == 1
    np.save(small.parent / "a.npy", np.load(small.parent / "a.npy")[:59])
    assert count_localized(monkeypatch, small, out, changed) == 1
    (small.parent / "a.json").write_text('{"temperature_c": 30}')  # a sidecar counts too
    assert count_localized(monkeypatch, small, out, changed) == 1
    (out / "videos" / "a" / "tracks.parquet").unlink()
    assert count_localized(monkeypatch, small, out, changed) == 1
    assert count_localized(monkeypatch, small, out, changed) == 0


@pytest.mark.parametrize("name", ["python", *provenance.DECIDING])
def test_another_version_of_a_library_decides_too(study, tmp_path, monkeypatch, name):
    sheet = samplesheet.read(study)
    job = planning.plan_videos(sheet, tmp_path, QUICK, backend="cpu", force=False, block_frames=None)[0]
    before = job.key("x")
    assert name in provenance.libraries("cpu")
    monkeypatch.setattr(planning, "libraries", lambda backend: {**provenance.libraries(backend), name: "0"})
    assert job.key("x") != before


def test_a_new_label_needs_no_new_analysis(small, monkeypatch):
    sheet_of(
        small.parent, "a.npy,Lot 7,S,0.3,30,0.02,3", header="video,batch,sample,pixel_size_um,fps,exposure_s,donor"
    )
    assert count_localized(monkeypatch, small, small.parent / "out", QUICK) == 0
    results = et.open_results(small.parent / "out")
    assert results.videos.loc[0, ["batch", "donor"]].tolist() == ["Lot 7", "3"]
    assert list(results.batches["batch"]) == ["Lot 7"]


def test_results_of_another_study_are_not_overwritten_by_accident(small):
    out = small.parent / "out"
    np.save(small.parent / "b.npy", np.load(small.parent / "a.npy"))
    sheet = sheet_of(small.parent, "b.npy,B,S,0.3,30,0.02")
    with pytest.raises(InputError, match=r"not in this sample sheet \(a\)"):
        et.run(sheet, out, QUICK)
    assert (out / "videos" / "a" / "tracks.parquet").is_file()
    results = et.run(sheet, out, QUICK, force=True)
    assert list(results.videos["video_id"]) == ["b"]
    assert not (out / "videos" / "a").exists()


# Small parts ---------------------------------------------------------------------------------------------------------


def test_polarity_of_the_sheet_wins(study, tmp_path):
    np.save(tmp_path / "a.npy", np.load(study.parent / "v0.npy")[:9])
    sheet = sheet_of(tmp_path, "a.npy,B,S,0.3,30,dark", header="video,batch,sample,pixel_size_um,fps,polarity")
    (job,) = planning.plan_videos(
        samplesheet.read(sheet), tmp_path, et.Protocol(), backend="cpu", force=False, block_frames=None
    )
    assert job.protocol.localize.polarity == "dark"
    assert job.key("x") != dataclasses.replace(job, protocol=et.Protocol()).key("x")


def test_a_ratio_of_estimates_keeps_its_interval():
    ratio = pool._ratio(Estimate(2.0, 1.0, 4.0), Estimate(6.0, 3.0, 12.0))
    half = np.exp(np.hypot(np.log(2), np.log(2)))
    assert ratio == pytest.approx((3.0, 3.0 / half, 3.0 * half))


def test_groups_leave_out_what_is_no_sample():
    def job(name, batch, sample, role):
        return SimpleNamespace(row=SimpleNamespace(video_id=name, batch=batch, sample=sample, role=role))

    jobs = [
        job("bead", "B1", "std", "bead"),
        job("b", "B2", "S", "sample"),
        job("a", "B1", "S", "sample"),
        job("c", "B2", "S", "sample"),
        job("blank", "B3", "x", "blank"),
    ]
    found = [(g.level, g.name, [j.row.video_id for j in g.jobs], g.n_failed) for g in pool.groups(jobs, {"c": {}})]
    assert found == [
        ("video", "bead", ["bead"], 0),
        ("video", "b", ["b"], 0),
        ("video", "a", ["a"], 0),
        ("video", "blank", ["blank"], 0),
        ("sample", "B2/S", ["b"], 1),
        ("sample", "B1/S", ["a"], 0),
        ("batch", "B2", ["b"], 1),
        ("batch", "B1", ["a"], 0),
    ]


def test_frames_are_stretched_to_pictures(tmp_path):
    from skimage.io import imread

    frame = np.random.default_rng(1).integers(100, 900, (32, 48)).astype(np.uint16)
    work._write_png(tmp_path / "a.png", frame)
    picture = imread(tmp_path / "a.png")
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)
    low, high = np.percentile(frame, (0.5, 99.8))
    np.testing.assert_array_equal(picture, np.rint(np.clip((frame - low) / (high - low), 0, 1) * 255))
    work._write_png(tmp_path / "b.png", np.full((8, 8), 7, np.uint8))
    assert imread(tmp_path / "b.png").max() == 0


def test_an_opened_folder_is_what_run_returned(results):
    again = et.open_results(results.path)
    assert again.run == results.run
    pd.testing.assert_frame_equal(again.batches, results.batches)
    assert storage.is_results(results.path)


# Calibration ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beads(tmp_path_factory, study):
    """A run in which the videos of 150 nm are beads of known concentration, diluted 10-fold."""
    folder = tmp_path_factory.mktemp("beads")
    lines = study.read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    known = 25.0 / (128 * 160 * 0.3**2 * 10.0) * 1e12
    for row in rows:
        bead = row["batch"] == "B2"
        row |= {"video": str(study.parent / row["video"]), "role": "bead" if bead else "sample", "dilution": "10"}
        row |= {"reference_diameter_nm": "150" if bead else "", "reference_per_ml": f"{10 * known}" if bead else ""}
        row["depth_um"] = ""
    pd.DataFrame(rows).to_csv(folder / "sheet.csv", index=False)
    return rows, known, et.run(folder / "sheet.csv", out=folder / "out", protocol=QUICK)


def test_calibrated_depth_gives_concentrations_of_other_samples(beads, tmp_path):
    """Two videos of 25 particles: counts have an s.d. of about 15 %."""
    rows, known, first = beads
    assert first.batches["concentration_per_ml"].isna().all()
    table = calibrate(first.path, tmp_path / "depth.csv", reference_error=0.02)
    (point,) = table.points
    assert point.diameter_nm == 150.0
    assert point.depth_um == pytest.approx(10.0, rel=0.4)
    assert point.relative_error > 0.02
    samples = pd.DataFrame([{**row, "depth_table": "depth.csv"} for row in rows if row["role"] == "sample"])
    samples.to_csv(tmp_path / "sheet.csv", index=False)
    second = et.run(tmp_path / "sheet.csv", out=tmp_path / "out", protocol=QUICK)
    batch = second.batches.iloc[0]
    assert batch["concentration_per_ml_lo"] < 10 * known < batch["concentration_per_ml_hi"]
    stated = second.video("v0")["acquisition"]["depth_table"]
    assert stated["origin"] == "sample sheet"
    assert stated["value"]["points"][0]["depth_um"] == pytest.approx(point.depth_um)
    assert "150 nm" in (second.path / "report.html").read_text(encoding="utf-8")


def test_what_cannot_calibrate_is_named(beads, results, tmp_path):
    _, _, first = beads
    with pytest.raises(InputError, match="no video has the role bead with reference_diameter_nm and reference_per_ml"):
        calibrate(results.path, tmp_path / "d.csv")
    with pytest.raises(InputError, match=r"reference_error = 1\.5"):
        calibrate(first.path, tmp_path / "d.csv", reference_error=1.5)
    with pytest.raises(InputError, match="its folder does not exist"):
        calibrate(first.path, tmp_path / "none" / "d.csv")
    assert not (tmp_path / "d.csv").exists()


def test_batches_of_different_weighting_are_not_compared_and_that_is_said(results):
    sizes = results.comparisons.iloc[0]
    assert np.isnan(sizes["quality"])
    same = SimpleNamespace(net=Estimate(1e8, 9e7, 2e8))
    pair = [
        (SimpleNamespace(name=name), SimpleNamespace(sizes=_Sizes(weighting), concentration=same))
        for name, weighting in (("A", "number"), ("B", "frames"))
    ]
    (row,) = pool._compared(pair)
    assert np.isnan(row["wasserstein_nm"])
    assert "A is weighted by number, B by frames" in row["quality"]
    assert row["concentration_ratio"] == pytest.approx(1.0)


class _Sizes:
    """A distribution of which only the weighting matters."""

    def __init__(self, weighting):
        self.weighting = weighting

    def __len__(self):
        return 1
