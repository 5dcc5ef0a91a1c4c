"""Scripts for SLURM, run by bash without SLURM."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfssl.studies import slurm, study
from tfssl.studies.node import Node

# Takes its words down; then, if told so, waits to be told to end.
PROGRAM = """
import json, os, signal, sys, time
print(json.dumps(sys.argv[1:]), os.environ["OMP_NUM_THREADS"], flush=True)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waits", flush=True)
    time.sleep(60)
sys.exit(int(sys.argv[1] == "fail"))
"""
WORDS = ["a b", "NAME='x'", '$HOME `x` \\ "', "it's\ntwo lines\\n", "%s", "-n", ""]


@pytest.fixture
def node(tmp_path):
    def make(name, *needs, words=(), finished=False):
        return Node(
            name,
            [sys.executable, "-c", PROGRAM, *words],
            tmp_path / "the runs" / name / "it's.log",
            lambda: finished,
            needs,
        )

    return make


def places(arrays):
    return [
        (a.name, a.needs, a.by_index, {i: n.name for i, n in a.nodes.items()})
        for a in arrays
    ]


def test_jobs_wait_for_the_one_they_need(node):
    graph = [
        node("train a", finished=True),
        node("evaluate a", "train a"),
        node("train b"),
        node("evaluate b", "train b"),
        node("train c"),
        node("train c2", "train c"),
        node("evaluate c2", "train c2"),
        node("train c3", "train c"),
        node("evaluate c3", "train c3"),
    ]
    assert places(slurm.arrays(graph)) == [
        ("1_evaluate", (), False, {1: "evaluate a"}),
        ("2_train", (), False, {1: "train b", 2: "train c"}),
        ("3_evaluate", ("2_train",), True, {1: "evaluate b"}),
        ("4_train", ("2_train",), True, {2: "train c2"}),
        ("5_evaluate", ("4_train",), True, {2: "evaluate c2"}),
        # Two jobs of one array cannot have one index.
        ("6_train", ("2_train",), True, {2: "train c3"}),
        ("7_evaluate", ("6_train",), True, {2: "evaluate c3"}),
    ]


def test_one_that_needs_several_waits_for_their_arrays(node):
    graph = [node("a 1"), node("b 1", "a 1"), node("c 1", "a 1", "b 1")]
    assert places(slurm.arrays(graph))[-1] == ("3_c", ("1_a", "2_b"), False, {1: "c 1"})


def test_arrays_are_not_too_large(node):
    graph = [node(f"train {i}") for i in range(1500)]
    graph += [node(f"evaluate {i}", f"train {i}") for i in range(1500)]
    sizes = [(a.needs, len(a.nodes), max(a.nodes)) for a in slurm.arrays(graph)]
    assert sizes == [
        ((), 1000, 1000),
        ((), 500, 500),
        (("1_train",), 1000, 1000),
        (("2_train",), 500, 500),
    ]


def test_each_shipped_study_fits():
    for one in study.all_studies().values():
        for scale in one.scales.values():
            nodes = study.nodes(scale, 3, Path("runs"))
            arrays = slurm.arrays(nodes)
            assert sum(len(array.nodes) for array in arrays) == len(nodes)
            where = {n.name: (a.name, i) for a in arrays for i, n in a.nodes.items()}
            assert len(where) == len(nodes)
            for array in arrays:
                for index, node in array.nodes.items():
                    needed = [where[name] for name in node.needs]
                    assert needed == [(name, index) for name in array.needs]


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def job(folder, file, index, **kwargs):
    """A job as SLURM starts it: a copy of run.sh, in another place."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")},
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_CPUS_PER_TASK": "3",
    }
    return subprocess.Popen(
        ["bash", "-c", (folder / "run.sh").read_text(), "job", str(folder / file)],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_jobs_run_their_line(node, tmp_path):
    folder = tmp_path / "a folder"
    graph = [
        node("train a", words=WORDS),
        node("train b", words=["fail"]),
        node("evaluate b", "train b", words=["b"]),
    ]
    slurm.write(graph, folder, cpus=3, gpus=0)
    run = (folder / "run.sh").read_text()
    assert "--cpus-per-task=3" in run
    assert "gres" not in run

    done = job(folder, "1_train.txt", 1)
    out, err = done.communicate()
    assert (done.returncode, out, err) == (0, "", "")
    header, said = graph[0].log.read_text().split("\n[", 1)
    assert header.startswith(f"$ {sys.executable} -c ")
    words, _, threads = f"[{said}".rpartition(" ")
    assert json.loads(words) == WORDS
    assert threads.strip() == "3"

    done = job(folder, "1_train.txt", 2)
    assert f"exit code 1, see {graph[1].log}" in done.communicate()[1]
    assert done.returncode == 1
    done = job(folder, "2_evaluate.txt", 1)
    assert "has no line 1" in done.communicate()[1]
    assert done.returncode == 1
    assert job(folder, "2_evaluate.txt", 2).wait() == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_whose_time_is_over_is_put_back(node, tmp_path, number):
    one = node("train a", words=["wait"])
    slurm.write([one], tmp_path, cpus=1)
    script(tmp_path, "scontrol", f'echo "$@" >{tmp_path}/asked; exit 1')
    process = job(tmp_path, "1_train.txt", 1)
    deadline = time.monotonic() + 20
    while not one.log.exists() or "\nwaits\n" not in one.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)  # To bash alone, as --signal=B: says.
    process.communicate()
    assert process.returncode == 75
    assert (tmp_path / "asked").read_text() == "requeue 77_1\n"


def test_submitting(node, tmp_path):
    folder = tmp_path / "it's here"
    graph = [node("train a", finished=True), node("train b"), node("train c")]
    graph += [node("evaluate c", "train c"), node("other d", "train b", "evaluate c")]
    slurm.write(graph, folder, slots=32, cpus=8, gpus=1)
    assert "#SBATCH --gres=gpu:1\n" in (folder / "run.sh").read_text()
    for name in ("run.sh", "submit.sh"):
        subprocess.run(["bash", "-n", folder / name], check=True)
    # SLURM names the cluster after the number where there are several.
    script(
        tmp_path,
        "sbatch",
        f"""
        for word in "$@"; do printf '%s|' "$word"; done >>{tmp_path}/asked
        echo >>{tmp_path}/asked
        echo "$(wc -l <{tmp_path}/asked);here"
        """,
    )
    subprocess.run(
        ["bash", folder / "submit.sh", "--time=1:00", "--comment=a b"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    asked = [
        dict(re.findall(r"--([\w-]+)=([^|]*)", line))
        | {"words": line.split("|")[-3:-1]}
        for line in (tmp_path / "asked").read_text().splitlines()
    ]
    assert [each["array"] for each in asked] == ["1-2%32", "2%32", "1%32"]
    assert [each.get("dependency") for each in asked] == [
        *(None, "aftercorr:1", "afterok:1:2")
    ]
    assert all(each["time"] == "1:00" and each["comment"] == "a b" for each in asked)
    assert asked[1]["words"] == [str(folder / n) for n in ("run.sh", "2_evaluate.txt")]
    assert asked[1]["kill-on-invalid-dep"] == "yes"

    # Finished nodes leave no lines behind.
    slurm.write(graph[:2], folder)
    assert [p.name for p in folder.glob("*.txt")] == ["1_train.txt"]
