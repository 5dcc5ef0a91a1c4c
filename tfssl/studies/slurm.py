"""Writes a graph of nodes as job arrays of SLURM, for `bash submit.sh`.

In the folder are then

    submit.sh       the sbatch commands: an array each, and which ones wait for which
    run.sh          what every job runs: one line of the file that it is given
    <array>.txt     of the job with index i, line i: its log and its command, in words
                    as bash reads them

A node that needs one other node has that one's index, in another array, so that
`aftercorr` lets it start as soon as that one job has ended well; one that needs several
waits for the whole of their arrays (`afterok`).
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from tfssl.studies.node import Node

_LARGEST = 1000  # Index of an array, by SLURM's default.

_RUN = r"""#!/bin/bash
#SBATCH --nodes=1
#SBATCH --ntasks=1
{resources}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# A job of an array: runs line $SLURM_ARRAY_TASK_ID of the file that it is given.
#
# Two minutes before its time is over, or when it is preempted, the run is told to keep
# what it has and to end, and the job goes back into the queue, where it goes on.
set -u
cd -- {folder} || exit 1
line=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" -- "$1")
if [ -z "$line" ]; then
  echo "error: $1 has no line $SLURM_ARRAY_TASK_ID" >&2
  exit 1
fi
eval "words=($line)"
log=${{words[0]}}
command=("${{words[@]:1}}")

asked= child=
trap 'asked=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1 TERM
cores=${{SLURM_CPUS_PER_TASK:-1}}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$cores}}"
export TF_NUM_INTRAOP_THREADS="${{TF_NUM_INTRAOP_THREADS:-$cores}}"
mkdir -p -- "$(dirname -- "$log")"
printf '$ %s\n' "${{command[*]}}" >>"$log"
"${{command[@]}}" </dev/null >>"$log" 2>&1 &
child=$!
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do  # A signal has ended the waiting, not the run.
  code=0
  wait "$child" || code=$?
done

restarts=${{SLURM_RESTART_COUNT:-0}}
if [ "$code" -ne 0 ] && {{ [ -n "$asked" ] || [ "$code" -eq 75 ]; }} &&
  [ "$restarts" -lt "${{MAX_RESTARTS:-100}}" ]; then
  echo "interrupted (exit code $code), back into the queue"
  # Ends this job.
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && sleep 60
fi
[ "$code" -eq 0 ] || echo "error: exit code $code, see $log" >&2
exit "$code"
"""

_SUBMIT = r"""#!/bin/bash
# Submits the arrays. What is given to this script is given to each sbatch, after what
# is said here: bash submit.sh --partition=gpu --time=12:00:00
set -euo pipefail
"""


@dataclasses.dataclass(frozen=True)
class Array:
    """A job array.

    Attributes:
      name: Of its file, and of the jobs.
      needs: Names of the arrays that it waits for.
      by_index: Whether a job waits only for the one that has its index.
      nodes: By index, from 1.
    """

    name: str
    needs: tuple[str, ...]
    by_index: bool
    nodes: dict[int, Node] = dataclasses.field(default_factory=dict)


def arrays(nodes: Sequence[Node]) -> list[Array]:
    """The arrays of what is not finished, each behind those that it needs.

    Args:
      nodes: Each behind those that it needs; the first word of a name says its kind,
        and an array is of one kind.
    """
    found: dict[tuple, Array] = {}
    places: dict[str, tuple[Array, int]] = {}
    for node in nodes:
        if node.is_finished():
            continue
        kind = node.name.split()[0]
        needs = [places[name] for name in node.needs if name in places]
        names = tuple(dict.fromkeys(array.name for array, _ in needs))
        one = len(needs) == 1
        wanted = needs[0][1] if one else None
        # The first array of its kind with such needs in which its place is free.
        number = 0
        while (kind, names, one, number) in found:
            array = found[kind, names, one, number]
            index = wanted or len(array.nodes) + 1
            if index not in array.nodes and index <= _LARGEST:
                break
            number += 1
        else:
            array = Array(f"{len(found) + 1}_{kind}", names, one)
            found[kind, names, one, number] = array
            index = wanted or 1
        array.nodes[index] = node
        places[node.name] = array, index
    return list(found.values())


def write(
    nodes: Sequence[Node],
    folder: Path,
    slots: int | None = None,
    cpus: int = 4,
    gpus: int = 1,
) -> list[Array]:
    """Writes the arrays and the scripts.

    Args:
      nodes: See `arrays`.
      folder: Where to; what an earlier call wrote there is replaced.
      slots: The most jobs of an array at a time; None: as SLURM decides.
      cpus, gpus: Of each job.

    Returns:
      The arrays; nothing is written if there are none.
    """
    found = arrays(nodes)
    if not found:
        return found
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*_*.txt"):
        old.unlink()
    resources = f"#SBATCH --cpus-per-task={cpus}\n"
    resources += f"#SBATCH --gres=gpu:{gpus}\n" if gpus else ""
    here = shlex.quote(str(Path.cwd()))
    run = folder / "run.sh"
    run.write_text(_RUN.format(resources=resources, folder=here))
    submit = _SUBMIT
    for array in found:
        lines = [""] * max(array.nodes)
        for index, node in array.nodes.items():
            lines[index - 1] = " ".join(map(_word, [str(node.log), *node.command]))
        path = folder / f"{array.name}.txt"
        path.write_text("\n".join(lines) + "\n")
        submit += _sbatch(array, run, path, slots)
    submit += f'echo "{len(found)} arrays submitted"\n'
    (folder / "submit.sh").write_text(submit)
    return found


def _sbatch(array: Array, run: Path, path: Path, slots: int | None) -> str:
    """Lines of submit.sh, which keep the array's number for those that need it."""
    indices = _ranges(sorted(array.nodes)) + (f"%{slots}" if slots else "")
    options = [f"--job-name={array.name}", f"--array={indices}"]
    output = shlex.quote(str(run.parent / "%x-%A_%a.out"))
    if array.needs:
        kind = "aftercorr" if array.by_index else "afterok"
        ids = ":".join(f"${{{_variable(name)}%%;*}}" for name in array.needs)
        # What can never start is not to wait for ever.
        options += [f'--dependency="{kind}:{ids}"', "--kill-on-invalid-dep=yes"]
    return (
        f"{_variable(array.name)}=$(sbatch --parsable {' '.join(options)} \\\n"
        f'  --output={output} "$@" \\\n'
        f"  {shlex.quote(str(run))} {shlex.quote(str(path))})\n"
    )


def _variable(name: str) -> str:
    return f"array_{name}"


def _ranges(indices: Sequence[int]) -> str:
    """Ascending numbers as SLURM writes them: '1-3,7'."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)


def _word(text: str) -> str:
    """A word for bash, on one line."""
    if "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"
