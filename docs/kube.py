"""Run a study on pods of a Kubernetes cluster that has dask's operator.

    pip install dask-kubernetes
    python docs/kube.py s3://bucket/samplesheet.csv --out s3://bucket/results --image registry/exotrack:1 --workers 20

Options that are not listed below go to `exotrack run`.
"""

import argparse
import subprocess
import sys
from typing import Any

from dask_kubernetes.operator import KubeCluster, make_cluster_spec
from distributed import Client


def make_spec(options: argparse.Namespace) -> dict[str, Any]:
    """The `DaskCluster` resource: one process with one thread per pod."""
    spec: dict[str, Any] = make_cluster_spec(
        name=options.name,
        image=options.image,
        n_workers=options.workers,
        resources={"requests": {"cpu": "1", "memory": options.memory}, "limits": {"memory": options.memory}},
        # A video that brings its worker down is given one more, then it is put aside. Compiled code is cached on the
        # disk of the pod, which need not run as the owner of exotrack's folder.
        env={
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "NUMBA_CACHE_DIR": "/tmp/numba",
            "CUPY_CACHE_DIR": "/tmp/cupy",
        },
        # Without a CPU limit dask would take a node's cores for its own, and as small a share of the memory.
        worker_command=["dask", "worker", "--nthreads", "1", "--memory-limit", options.memory],
        idle_timeout=600,  # s; pods do not outlive a client that was killed
    )
    pod = spec["spec"]["worker"]["spec"]
    (worker,) = pod["containers"]
    if options.gpu:
        worker["resources"] = {**worker["resources"], "limits": {"memory": options.memory, "nvidia.com/gpu": "1"}}
    if options.claim:
        pod["volumes"] = [{"name": "study", "persistentVolumeClaim": {"claimName": options.claim}}]
        worker["volumeMounts"] = [{"name": "study", "mountPath": options.mount}]
    return spec


def main() -> int:
    """Start pods, run `exotrack run` on them, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--image", required=True, help="image with this version of exotrack")
    parser.add_argument("--workers", type=int, default=4, help="pods, of one core each (default: %(default)s)")
    parser.add_argument("--memory", default="4Gi", help="memory of a pod (default: %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="one GPU for each pod")
    parser.add_argument("--claim", help="volume claim (ReadWriteMany) with videos and results; not needed for s3://")
    parser.add_argument("--mount", default="/study", help="where it is mounted, here too (default: %(default)s)")
    parser.add_argument("--name", default="exotrack", help="name of the cluster (default: %(default)s)")
    parser.add_argument("--namespace", help="that of the current context if not given")
    options, run = parser.parse_known_args()
    with KubeCluster(custom_cluster_spec=make_spec(options), namespace=options.namespace) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(1)  # nodes may have to start; exotrack itself waits ten seconds
        return subprocess.call(
            [sys.executable, "-m", "exotrack", "run", *run, "--scheduler", cluster.scheduler_address]
        )


if __name__ == "__main__":
    sys.exit(main())
