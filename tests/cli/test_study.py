"""bin/study as its users start it; its trainings are shortened or replaced."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from tfssl.cli import study as program
from tfssl.studies.node import Node
from tfssl.types import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(capsys):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["study"])

    def call(*arguments, **values):
        with flagsaver.flagsaver(**values):
            program.main(arguments)
        return capsys.readouterr().out

    return call


def test_list_and_dry_run(call, tmp_path):
    listed = call(list=True)
    assert "quickstart" in listed
    assert "--scale tiny | small | full" in listed

    root = str(tmp_path / "runs")
    flags_ = {"seeds": 1, "run_dir": root, "gin_param": ["EPOCHS=7"]}
    shown = call("quickstart", dry_run=True, **flags_).splitlines()
    assert shown[-1] == "6 steps, 0 finished"
    assert [line.split()[4] for line in shown[:2]] == [
        "tfssl.cli.train",
        "tfssl.cli.evaluate",
    ]
    assert shown[0].startswith(f"to run   {sys.executable} -m ")
    assert " --gin_param EPOCHS=7 " in shown[0]
    assert "EPOCHS" not in shown[1]
    assert shown[0].endswith(f"--run_dir {root}/at_linf32-seed0")
    assert not Path(root).exists()


@pytest.mark.parametrize(
    ("arguments", "values", "message"),
    [
        ([], {}, "name one study: chhipa2023, kucer2021, pre"),
        (["quick"], {}, "no study quick: there is chhipa2023, kucer2021, pre"),
        (["kucer2021"], {"scale": "huge"}, "no scale .* tiny, small, full"),
        (["quickstart"], {"gin_file": ["a.gin"]}, "chooses its gin files"),
    ],
)
def test_mistakes_are_one_line(call, arguments, values, message):
    with pytest.raises(UserError, match=message) as error:
        call(*arguments, **values)
    assert "\n" not in str(error.value)


def test_failures_are_told_at_the_end(call, tmp_path, monkeypatch, capsys):
    def node(name, code, *needs):
        return Node(
            name,
            [
                sys.executable,
                "-c",
                f"print('said by {name}'); raise SystemExit({code})",
            ],
            tmp_path / f"{name}.log",
            functools.partial(bool, 0),
            needs,
        )

    fake = [node("one", 1), node("two", 0, "one"), node("three", 0)]
    monkeypatch.setattr(program.study, "nodes", lambda *_: fake)
    with pytest.raises(UserError, match="1 of 3 steps failed"):
        call("quickstart", run_dir=str(tmp_path / "runs"), slots=1)
    told = capsys.readouterr().err
    assert f"one failed; the end of {tmp_path / 'one.log'}:" in told
    assert "said by one" in told
    assert "two could not be run" in told
    assert "said by three" not in told


def test_it_starts_without_tensorflow():
    code = (
        "import sys; import tfssl.cli.study; from tfssl.studies import study;"
        "study.all_studies(); sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "kucer2021"])
def test_a_tiny_study_from_beginning_to_end(name, tmp_path):
    command = [sys.executable, ROOT / "bin" / "study", name, "--run_dir", tmp_path]
    command += ["--gin_param", "EPOCHS=2", "--seeds", "1"]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "accuracy minus that of at_linf32" in first.stdout
    assert {p.suffix for p in (tmp_path / "report").iterdir()} == {
        *(".csv", ".md", ".tex", ".png")
    }
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stdout == first.stdout
    assert "running" not in again.stderr
