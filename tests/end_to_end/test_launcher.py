"""`runtime.launcher` with DVC for real: two network namespaces as hosts share each stage that they run."""

import json
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import copy_project, due, edit, runner
from tests.support.hosts import ADDRESSES, two_hosts

pytestmark = [pytest.mark.slow, pytest.mark.long]

LAUNCH = """#!/bin/sh
export GLOO_SOCKET_IFNAME=cable OMP_NUM_THREADS=1
unset SCM_STARTED
echo "$@" >> launched.txt
run() {{
  host=$1 address=$2 is_host=$3; shift 3
  exec ip netns exec "$host" {python} -m scm.pipeline.torchrun --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d \\
    --rdzv-endpoint={first}:29700 --rdzv-conf="is_host=$is_host" --local-addr="$address" "$@"
}}
run {hosts[0]} {first} 1 "$@" & one=$!
run {hosts[1]} {second} 0 "$@" & other=$!
wait $one && wait $other
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_dvc_runs_stages_on_two_hosts_whose_shares_differ(finished, tmp_path):
    """The digits in three shards: one host gets two of them. DVC records what both have made, as if here."""
    with two_hosts() as hosts:
        projects = [copy_project(finished, tmp_path / name) for name in ("here", "there")]
        for project in projects:
            edit(project, "data.shard_images", 700)
            edit(project, "teacher.images", 1024)
            edit(project, "teacher.lr.decay", "constant")
            edit(project, "ema.snapshots", 2)
            edit(project, "select.progress", 1)
            edit(project, "mlflow.enabled", False)
        here, there = projects
        script = LAUNCH.format(python=sys.executable, hosts=hosts, first=ADDRESSES[0], second=ADDRESSES[1])
        (there / "launch.sh").write_text(script, encoding="utf-8")
        edit(there, "runtime.launcher", "sh ./launch.sh")
        runner(here)("dvc", "repro", "encode")
        runner(there)("dvc", "repro", "encode")
        runner(there)("dvc", "repro", "--single-item", "train_teacher")
    launched = (there / "launched.txt").read_text().splitlines()
    assert launched == [f"-m stages.{name}" for name in ("prepare", "encode", "train_teacher")]
    for part in ("data/shards", "data/latents", "data/codec"):
        assert files(here / part) == files(there / part), part
    index = json.loads((there / "data/shards/index.json").read_text())
    counts = [shard["count"] for shard in index["shards"]]
    assert counts[:2] == [700, 700] and len(counts) == 3 and 0 < counts[2] < 700
    assert len(list((there / "models/teacher/snapshots").glob("*.safetensors"))) == 4
    assert not {"prepare", "encode", "train_teacher"} & set(due(there))
