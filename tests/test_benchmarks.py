"""Benchmarks run at toy size, so that they cannot rot. Nothing is timed here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from conftest import use_cuda

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("bench_*.py")))
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_benchmark_runs(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    if name == "bench_cuda":
        use_cuda(monkeypatch)
    rows = importlib.import_module(name).measure(True)
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    importlib.import_module("harness").table(rows)
    for module in [m for m in sys.modules if m == "harness" or m.startswith("bench_")]:
        del sys.modules[module]
