"""Run a study on the GPUs of one machine: one process with one thread for each.

    pip install dask-cuda
    python docs/gpus.py samplesheet.csv --out results

Options that are not listed below go to `exotrack run`.
"""

import argparse
import subprocess
import sys
import tempfile

import dask
from dask_cuda import LocalCUDACluster
from distributed import Client


def main() -> int:
    """Start a process per GPU, run `exotrack run` on them, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--gpus", help="such as 0,2 or UUIDs; all that CUDA_VISIBLE_DEVICES names if not given")
    parser.add_argument("--backend", default="cuda", help="cpu to try the recipe (default: %(default)s)")
    options, run = parser.parse_known_args()
    # A video that brings its worker down is given one more, then it is put aside.
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    # A second thread would wait for the same GPU, with memory of its own. No RMM: exotrack fits its blocks into what
    # CuPy's own pool leaves free.
    with LocalCUDACluster(
        CUDA_VISIBLE_DEVICES=options.gpus, threads_per_worker=1, local_directory=tempfile.gettempdir()
    ) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(1)
        command = [sys.executable, "-m", "exotrack", "run", *run, "--backend", options.backend]
        return subprocess.call([*command, "--scheduler", cluster.scheduler_address])


if __name__ == "__main__":  # the processes that dask starts import this file
    sys.exit(main())
