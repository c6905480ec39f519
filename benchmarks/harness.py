"""What all benchmarks share: the machine's description, CPU time of a call, a JSON file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "exotrack",
    "numpy",
    "numba",
    "scipy",
    "trackpy",
    "laptrack",
    "scikit-image",
    "picassosr",
    "zarr",
    "numcodecs",
    "zarrs",
    "dask",
)


def environment() -> dict[str, Any]:
    """Machine, Python, package versions and commit: what a figure needs to be compared."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "commit": commit.stdout.strip() or None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def installed(package: str) -> str | None:
    """Version of a package; None where a peer is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    """Least CPU time of the process over some calls after a first one that compiles and warms up, s."""
    return _least(time.process_time, call, repeats)


def wall_seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    """Least wall time over some calls after a first one that compiles and warms up, s."""
    return _least(time.perf_counter, call, repeats)


def _least(clock: Callable[[], float], call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def read_seconds(size: int) -> float:
    """Time per byte to read memory once on one core, s; the size in bytes is to be beyond all caches."""
    memory = np.ones(size, np.uint8).view(np.uint64)
    return min(cpu_seconds(memory.sum), cpu_seconds(memory.max)) / size


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table, floats to three significant digits; None is an empty cell."""
    head = list(rows[0])

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(shown(row[key]) for key in head) + " |" for row in rows])


def main(name: str, measure: Callable[[bool], list[dict[str, Any]]]) -> None:
    """Run a benchmark from the command line: print its table, and with --save keep it as JSON."""
    parser = argparse.ArgumentParser(description=f"benchmark: {name}")
    parser.add_argument("--quick", action="store_true", help="toy size: checks that it runs, measures nothing")
    parser.add_argument("--save", action="store_true", help=f"write {name}.json into {RESULTS.name}/")
    arguments = parser.parse_args()
    rows = measure(arguments.quick)
    print(table(rows))
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        record = {"benchmark": name, "environment": environment(), "rows": rows}
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
