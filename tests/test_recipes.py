"""The recipes of docs/ are run: with stand-ins for `sbatch` and `scancel`, for dask-cuda and for Kubernetes.

dask-jobqueue is the real one. Of dask-kubernetes, 250 MB with what it brings, the specification is checked where it is
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import dask
import pytest

import exotrack as et

DOCS = Path(__file__).parents[1] / "docs"
PROTOCOL = """
[size]
bootstrap = 50
[check]
detection_limit = false
ddm = false
piccs = false
"""

SBATCH = """#!/bin/bash
# Runs the job at once, in a process group of its own. It is no other node: what other tests have compiled serves here.
id=$$
grep -v NUMBA_CACHE_DIR "$1" > "$JOBS/$id.sh"
setsid bash "$JOBS/$id.sh" > "$JOBS/../$id.log" 2>&1 &
echo $! > "$JOBS/../$id.pid"
echo "Submitted batch job $id"
"""
SCANCEL = """#!/bin/bash
echo "$1" >> "$JOBS/../cancelled"
kill -TERM -- "-$(cat "$JOBS/../$1.pid")"
"""
DASK_CUDA = '''
"""As much of dask-cuda 26.10 as docs/gpus.py uses: a process per device."""
import json
from distributed import LocalCluster

class LocalCUDACluster(LocalCluster):
    def __init__(self, CUDA_VISIBLE_DEVICES=None, threads_per_worker=1, local_directory=None):
        devices = CUDA_VISIBLE_DEVICES.split(",")
        super().__init__(
            n_workers=len(devices), threads_per_worker=threads_per_worker, local_directory=local_directory,
            processes=True, dashboard_address="127.0.0.1:0",
        )
        found = {"workers": len(devices), "threads": threads_per_worker, "failures": self.scheduler.allowed_failures}
        with open("cluster.json", "w") as file:
            json.dump(found, file)
'''
DASK_KUBERNETES = '''
"""As much of dask-kubernetes 2026.3 as docs/kube.py uses: processes instead of pods."""
import json
from distributed import LocalCluster

def make_cluster_spec(name, image, n_workers, resources, env, worker_command, idle_timeout):
    def pod(kind):
        return {"spec": {"containers": [{"name": kind, "image": image, "env": env, "resources": resources}]}}
    worker = {**pod("worker"), "replicas": n_workers}
    worker["spec"]["containers"][0]["args"] = worker_command
    spec = {"idleTimeout": idle_timeout, "worker": worker, "scheduler": pod("scheduler")}
    return {"metadata": {"name": name}, "spec": spec}

class KubeCluster(LocalCluster):
    def __init__(self, custom_cluster_spec, namespace):
        with open("cluster.json", "w") as file:
            json.dump(custom_cluster_spec, file)
        super().__init__(
            n_workers=custom_cluster_spec["spec"]["worker"]["replicas"], threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        )
'''


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "protocol.toml"
    path.write_text(PROTOCOL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sheet(study, tmp_path_factory) -> Path:
    """The first two videos of the small study."""
    path = tmp_path_factory.mktemp("sheet") / "samplesheet.csv"
    header, *rows = study.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, *(f"{study.parent}/{row}" for row in rows[:2])]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def threads(sheet, protocol, tmp_path_factory) -> Path:
    """Their result folder, made on threads of this process."""
    out = tmp_path_factory.mktemp("threads") / "out"
    return et.run(sheet, out, et.Protocol.from_toml(protocol), backend="cpu", workers=2).path


def run_recipe(name: str, folder: Path, *arguments: str | Path, **environment: str) -> Path:
    """Run a script of docs/ in a folder, as a user would; returns its result folder."""
    # Nothing that runs here may find a GPU: results are compared byte by byte.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment}
    command = [sys.executable, DOCS / name, *arguments, "--out", folder / "out"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "out"


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_results(found: Path, expected: Path) -> None:
    names = ["batches.csv", "samples.csv", "distributions.parquet", *(f"videos/v{i}/tracks.parquet" for i in range(2))]
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def commands(folder: Path, **scripts: str) -> str:
    """A PATH on which the scripts come first."""
    (folder / "bin").mkdir()
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


# SLURM ---------------------------------------------------------------------------------------------------------------

needs_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid to make process groups")


@needs_setsid
def test_slurm_gives_the_same_bytes_and_leaves_no_job(sheet, protocol, threads, tmp_path):
    (tmp_path / "jobs").mkdir()
    path = commands(tmp_path, sbatch=SBATCH, scancel=SCANCEL)
    arguments = ("--jobs", "2", "--memory", "2GB", "--interface", "lo", "--backend", "cpu", "--protocol", protocol)
    out = run_recipe("slurm.py", tmp_path, sheet, *arguments, PATH=path, JOBS=str(tmp_path / "jobs"))
    assert_same_results(out, threads)
    assert json.loads((out / "run.json").read_text())["scheduler"].startswith("dask scheduler tcp://127.0.0.1:")
    jobs = {path.stem for path in (tmp_path / "jobs").iterdir()}
    assert len(jobs) == 2
    assert set((tmp_path / "cancelled").read_text().split()) == jobs


@pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning")
def test_slurm_jobs_are_one_thread_with_limits_of_memory_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load("slurm")
    options = argparse.Namespace(
        hours=4, memory="4GB", partition="compute", account="lab", interface=None, sbatch=["--gres=gpu:1"], logs="logs"
    )
    usual = {"distributed.scheduler.allowed-failures": 3}  # the recipe sets it for good, and this process goes on
    with dask.config.set(usual), recipe.make_cluster(options) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler.allowed_failures == 1
    directives = dict(re.findall(r"^#SBATCH (-{1,2}[\w-]+)[ =](\S+)$", script, flags=re.MULTILINE))
    assert directives["--cpus-per-task"] == "1"
    assert (directives["-t"], directives["-p"], directives["-A"]) == ("04:00:00", "compute", "lab")
    assert directives["--gres"] == "gpu:1"
    (worker,) = (line for line in script.splitlines() if "distributed.cli.dask_worker" in line)
    given = dict(re.findall(r"(--[\w-]+) ([^-\s]\S*)", worker))
    assert given["--nthreads"] == "1"
    assert "--nworkers" not in given
    # dask's own limit comes before SLURM's, and the last worker leaves before the walltime is over.
    assert dask.utils.parse_bytes(given["--memory-limit"]) <= dask.utils.parse_bytes(directives["--mem"] + "iB")
    latest = sum(dask.utils.parse_timedelta(given[name]) for name in ("--lifetime", "--lifetime-stagger"))
    assert 0.9 * 4 * 3600 < latest < 4 * 3600 - 600
    exported = [line for line in script.splitlines() if line.startswith("export ")]
    assert {"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"} <= set(" ".join(exported).split())
    shell = subprocess.run(
        ["bash", "-c", "\n".join([*exported, "echo $NUMBA_CACHE_DIR"])],
        env={"PATH": os.environ["PATH"], "USER": "me", "TMPDIR": "/scratch/my job"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout == "/scratch/my job/numba-me\n"


# GPUs of one machine -------------------------------------------------------------------------------------------------


def test_gpus_have_one_process_with_one_thread_each(sheet, protocol, threads, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "dask_cuda.py").write_text(DASK_CUDA, encoding="utf-8")
    arguments = ("--gpus", "0,1", "--backend", "cpu", "--protocol", protocol)
    out = run_recipe("gpus.py", tmp_path, sheet, *arguments, PYTHONPATH=python_path(tmp_path / "modules"))
    assert json.loads((tmp_path / "cluster.json").read_text()) == {"workers": 2, "threads": 1, "failures": 1}
    assert_same_results(out, threads)


def python_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


# Kubernetes ----------------------------------------------------------------------------------------------------------


def test_pods_have_what_a_worker_needs(sheet, protocol, threads, tmp_path):
    (tmp_path / "modules" / "dask_kubernetes").mkdir(parents=True)
    (tmp_path / "modules" / "dask_kubernetes" / "__init__.py").touch()
    (tmp_path / "modules" / "dask_kubernetes" / "operator.py").write_text(DASK_KUBERNETES, encoding="utf-8")
    arguments = ("--image", "lab/exotrack:1", "--workers", "2", "--gpu", "--claim", "videos", "--mount", "/data")
    rest = ("--backend", "cpu", "--protocol", protocol)
    out = run_recipe("kube.py", tmp_path, sheet, *arguments, *rest, PYTHONPATH=python_path(tmp_path / "modules"))
    assert_same_results(out, threads)
    check_pods(json.loads((tmp_path / "cluster.json").read_text()))


def check_pods(cluster: dict) -> None:
    """Image, limits, environment and volume of a cluster made with the arguments above."""
    pod = cluster["spec"]["worker"]["spec"]
    (worker,), (scheduler,) = pod["containers"], cluster["spec"]["scheduler"]["spec"]["containers"]
    assert worker["image"] == scheduler["image"] == "lab/exotrack:1"
    assert worker["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "1"}
    assert scheduler["resources"]["limits"] == {"memory": "4Gi"}, "the scheduler needs no GPU"
    given = dict(zip(worker["args"], worker["args"][1:], strict=False))
    assert given["--nthreads"] == "1"
    assert dask.utils.parse_bytes(given["--memory-limit"]) == 4 * 2**30
    env = scheduler["env"] if isinstance(scheduler["env"], dict) else {v["name"]: v["value"] for v in scheduler["env"]}
    assert dask.config.get("distributed.scheduler.allowed-failures", config=dask.config.collect_env(env)) == 1
    assert env["OMP_NUM_THREADS"] == "1"
    (volume,), (mount,) = pod["volumes"], worker["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": "/data"}
    assert volume["persistentVolumeClaim"] == {"claimName": "videos"}


def test_the_operator_knows_every_field_of_the_specification():
    pytest.importorskip("dask_kubernetes")
    from jsonschema import Draft202012Validator
    from kubernetes.client import ApiClient
    from yaml import safe_load

    recipe = load("kube")
    options = argparse.Namespace(
        name="exotrack", image="lab/exotrack:1", workers=2, memory="4Gi", gpu=True, claim="videos", mount="/data"
    )
    cluster = recipe.make_spec(options)
    check_pods(cluster)
    folder = Path(sys.modules["dask_kubernetes"].__file__).parent / "operator" / "customresources"
    definitions = safe_load((folder / "templates.yaml").read_text())["definitions"]

    def resolved(part):
        """The schema with its own references followed; the pods, of Kubernetes' schema, are checked below."""
        if isinstance(part, dict) and "$ref" in part:
            return resolved(definitions.get(part["$ref"].rsplit("/", 1)[1], {"type": "object"}))
        return {key: resolved(value) for key, value in part.items()} if isinstance(part, dict) else part

    Draft202012Validator(resolved(definitions["dask.k8s.api.v1.DaskCluster"])).validate(cluster)
    assert set(cluster["spec"]) <= set(definitions["dask.k8s.api.v1.DaskCluster"]["properties"]["spec"]["properties"])
    api = ApiClient()
    for given, kind in (
        (cluster["spec"]["worker"]["spec"], "V1PodSpec"),
        (cluster["spec"]["scheduler"]["spec"], "V1PodSpec"),
        (cluster["spec"]["scheduler"]["service"], "V1ServiceSpec"),
    ):
        known = api.deserialize(json.dumps(given), kind, "application/json")
        assert api.sanitize_for_serialization(known) == given  # what Kubernetes does not know would be missing


# The text ------------------------------------------------------------------------------------------------------------


def test_the_text_names_options_that_there_are():
    text = (DOCS / "clusters.md").read_text(encoding="utf-8")
    own = subprocess.run(
        [sys.executable, "-m", "exotrack", "run", "--help"],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = re.findall(r"^python docs/(\w+\.py) (.*)$", text.replace("\\\n", " "), flags=re.MULTILINE)
    assert {name for name, _ in lines} == {"slurm.py", "gpus.py", "kube.py"}
    for name, arguments in lines:
        script = (DOCS / name).read_text(encoding="utf-8")
        for option in re.findall(r"(?<=\s)--[a-z][\w-]*", " " + arguments):
            assert f'"{option}"' in script or option in own, f"{name} {option}"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (DOCS / target).exists(), target
