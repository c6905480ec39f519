"""Run a study on workers that SLURM starts.

    pip install dask-jobqueue
    python docs/slurm.py samplesheet.csv --out results --jobs 20 --partition compute

Options that are not listed below go to `exotrack run`. This process holds dask's scheduler: start it where `sbatch` is
known, and let it live as long as the run (tmux, or a small job of its own).
"""

import argparse
import subprocess
import sys

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client


def make_cluster(options: argparse.Namespace) -> SLURMCluster:
    """A cluster whose jobs are one process with one thread each: single cores start soonest, and end one by one."""
    # The scheduler lives here. A video that brings its worker down is given one more, then it is put aside.
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    return SLURMCluster(
        cores=1,
        processes=1,
        memory=options.memory,
        walltime=f"{options.hours:02d}:00:00",
        # A worker leaves in order before SLURM kills it, and not all leave at once: after 85 to 95 % of the walltime.
        worker_extra_args=["--lifetime", f"{54 * options.hours}m", "--lifetime-stagger", f"{3 * options.hours}m"],
        queue=options.partition,
        account=options.account,
        interface=options.interface,
        job_extra_directives=options.sbatch,
        log_directory=options.logs,
        local_directory='"${TMPDIR:-/tmp}"',
        job_script_prologue=[
            # dask sets these to 1 only where the site has not set them already.
            "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1",
            # Compiled code is cached per node: on a shared disk, nodes of different processors overwrite each other's.
            'export NUMBA_CACHE_DIR="${TMPDIR:-/tmp}/numba-$USER" CUPY_CACHE_DIR="${TMPDIR:-/tmp}/cupy-$USER"',
        ],
    )


def main() -> int:
    """Start jobs, run `exotrack run` on them, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--jobs", type=int, default=4, help="jobs, of one core each (default: %(default)s)")
    parser.add_argument("--least", type=int, help="jobs kept when there is little to do (default: all)")
    parser.add_argument("--hours", type=int, default=4, help="walltime of a job (default: %(default)s)")
    parser.add_argument("--memory", default="4GB", help="memory of a job (default: %(default)s)")
    parser.add_argument("--partition", help="the site's default if not given")
    parser.add_argument("--account", help="the user's default if not given")
    parser.add_argument("--interface", help="network that all nodes share, such as ib0")
    parser.add_argument("--sbatch", action="append", default=[], help="any directive, as in --sbatch=--gres=gpu:1")
    parser.add_argument("--logs", default="slurm-logs", help="folder for the jobs' output (default: %(default)s)")
    options, run = parser.parse_known_args()
    with make_cluster(options) as cluster:
        # `adapt`, unlike `scale`, puts new jobs in the place of those whose time is over.
        cluster.adapt(minimum_jobs=options.least or options.jobs, maximum_jobs=options.jobs)
        with Client(cluster) as client:
            client.wait_for_workers(1)  # the queue may take hours; exotrack itself waits ten seconds
        return subprocess.call(
            [sys.executable, "-m", "exotrack", "run", *run, "--scheduler", cluster.scheduler_address]
        )


if __name__ == "__main__":
    sys.exit(main())
