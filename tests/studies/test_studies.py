"""What the studies consist of: every row is a configuration that parses."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tfssl import config
from tfssl.studies import study
from tfssl.studies.study import Scale, Variant

STUDIES = study.all_studies()
SCALES = [(name, scale) for name in STUDIES for scale in STUDIES[name].scales]
ROOT = Path("runs")


def gin_flags(node):
    """Files and params on a node's command line."""
    program, *arguments = node.command[2:]
    assert program == f"tfssl.cli.{node.name.split()[0]}"
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    return [[v for k, v in pairs if k == f"--gin_{kind}"] for kind in ("file", "param")]


def text_of(node):
    config.parse(*gin_flags(node))
    return config.text()


def nodes(name, scale):
    chosen = STUDIES[name].scales[scale]
    return study.nodes(chosen, chosen.seeds, ROOT)


def test_studies_are_found():
    assert set(STUDIES) >= {"quickstart", "kucer2021"}


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_rows_are_distinct_runs(name, scale):
    variants = STUDIES[name].scales[scale].variants
    names = [variant.name for variant in variants]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_.]+", variant) for variant in names)
    # A baseline is a row of its own table.
    assert {v.baseline for v in variants} <= {
        v.name for v in variants if v.baseline == v.name
    }


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_rows_parse_and_differ_in_more_than_name(name, scale, tmp_path):
    """Also the evaluations, which come after each training's saved configuration."""
    texts = set()
    chosen = STUDIES[name].scales[scale]
    for variant in chosen.variants:
        one = dataclasses.replace(chosen, variants=[variant])
        train, evaluate = study.nodes(one, 1, ROOT)
        text = text_of(train)
        assert f"NAME = '{variant.name}'" in text
        (tmp_path / "config.gin").write_text(text)
        files, params = gin_flags(evaluate)
        config.parse([tmp_path / "config.gin", *files], params)
        texts.add(text.replace(variant.name, ""))
    assert len(texts) == len(chosen.variants)


def test_full_grid():
    nodes_ = nodes("kucer2021", "full")
    # 5 epsilons x (1 + 2 tasks x 5 placements), 2 tasks x 2 placements x 4 weights; 3
    # seeds; a training and an evaluation each.
    assert len(nodes_) == (5 * 11 + 16) * 3 * 2
    assert len({node.log for node in nodes_}) == len(nodes_)
    names = {v.name for v in STUDIES["kucer2021"].scales["full"].variants}
    assert names >= {"at_l2_0.25", "at_l2_1.0_jigsaw_separate_0.5", "at_linf4"}
    assert names >= {"at_linf8_rotation_both_4.0", "at_linf8_jigsaw_update_clean_0.25"}


@pytest.mark.parametrize(
    ("row", "files", "params"),
    [
        ("at_linf8", ["terms/adversarial.gin"], []),
        (
            "at_linf8_rotation_both_0.5",
            ["terms/adversarial_ssl_both.gin", "objectives/rotation.gin"],
            ["SSL_WEIGHT=0.5"],
        ),
    ],
)
def test_small_rows_are_these_files(row, files, params):
    (node,) = (n for n in nodes("kucer2021", "small") if n.name == f"train {row}-seed0")
    config.parse(
        ["papers/kucer2021/base.gin", "attacks/pgd_linf.gin", *files]
        + ["papers/kucer2021/scale_small.gin"],
        [f"NAME='{row}'", "SEED=0", "EPSILON='8/255'", *params],
    )
    assert config.text() == text_of(node)
    assert node.command[-2:] == ["--run_dir", f"runs/{row}-seed0"]


FULL_ROWS = sorted((config.gin_dir() / "papers" / "kucer2021").glob("at_*.gin"))


@pytest.mark.parametrize("file", FULL_ROWS, ids=lambda file: file.stem)
def test_row_files_are_rows_of_the_full_study(file):
    config.parse([file])
    text = config.text()
    (row,) = re.findall(r"^NAME = '(.*)'$", text, re.MULTILINE)
    (node,) = (n for n in nodes("kucer2021", "full") if n.name == f"train {row}-seed0")
    assert text_of(node) == text


@pytest.fixture
def pair(tmp_path):
    """Makes the training and the evaluation of a study of one row."""

    def make(*params, root=tmp_path):
        variants = [Variant("at", "at", ["a.gin", "b.gin"], ["X=1"])]
        return study.nodes(Scale(variants, "e.gin", ["Y=[1]"]), 1, root, params)

    return make


def test_an_evaluation_needs_its_training(pair):
    train, evaluate = pair()
    assert evaluate.needs == [train.name]
    assert not train.needs
    assert train.log.parent == evaluate.log.parent
    assert train.log != evaluate.log


def test_finished_means_with_these_settings(pair, tmp_path):
    train, evaluate = pair()
    run_dir = train.log.parent
    (run_dir / "results").mkdir(parents=True)
    assert not train.is_finished()
    assert not evaluate.is_finished()

    # Started by another program, with the bindings in another order.
    command = ["bin/train", *train.command[3:]]
    (x,) = (i for i, part in enumerate(command) if part == "X=1")
    command[1:1] = [command.pop(x - 1), command.pop(x - 1)]
    assert command[1:] != train.command[3:]
    manifest = {"name": "at", "command": command}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    assert not train.is_finished()
    manifest["finished"] = 1.0
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    assert train.is_finished()
    assert not pair("EPOCHS=2")[0].is_finished()

    record = {"command": ["bin/evaluate", *evaluate.command[3:]]}
    (run_dir / "results" / "command.json").write_text(json.dumps(record))
    assert evaluate.is_finished()
    assert pair("EPOCHS=2")[1].is_finished()
    record["command"][2] = "other.gin"
    (run_dir / "results" / "command.json").write_text(json.dumps(record))
    assert not evaluate.is_finished()

    # The folder may be moved; what is damaged is not finished.
    root = tmp_path.with_name(f"{tmp_path.name}_moved")
    tmp_path.rename(root)
    assert pair(root=root)[0].is_finished()
    (root / "at-seed0" / "manifest.json").write_text("{")
    assert not pair(root=root)[0].is_finished()


def test_a_report_for_each_baseline(tmp_path, monkeypatch):
    asked = []

    def write(folders, out, baseline, preset):
        asked.append(([f.name for f in folders], out, baseline, preset))
        return f"tables of {baseline}"

    monkeypatch.setattr(study.report, "write", write)
    rows = [Variant(n, n[0], []) for n in ("a", "a_x", "b", "b_x")]
    text = study.write_report(Scale(rows, "e.gin"), 2, tmp_path)
    assert text == "tables of a\ntables of b"
    assert asked == [
        (
            [f"{row}-seed{seed}" for row in (one, f"{one}_x") for seed in range(2)],
            tmp_path / "report" / one,
            one,
            None,
        )
        for one in "ab"
    ]
    asked.clear()
    study.write_report(Scale(rows[:2], "e.gin"), 1, tmp_path, "chhipa2023")
    assert asked == [(["a-seed0", "a_x-seed0"], tmp_path / "report", "a", "chhipa2023")]


def test_a_variant_starts_from_the_model_of_another(tmp_path):
    scale = Scale(
        variants=[
            Variant("first", "first", ["a.gin"], evaluation="evaluation/probes.gin"),
            Variant("second", "second", ["b.gin"], start="first"),
        ],
        evaluation="evaluation/pgd20_linf.gin",
        evaluation_params=["x=1"],
    )
    first, probe, second, evaluate = study.nodes(scale, 1, tmp_path)
    assert second.needs == [first.name]
    model = tmp_path / "first-seed0" / "model.keras"
    assert f"PRETRAINED='{model}'" in second.command
    assert not any("PRETRAINED" in part for part in first.command)
    assert "evaluation/probes.gin" in probe.command
    assert "x=1" not in probe.command
    assert "evaluation/pgd20_linf.gin" in evaluate.command
    assert "x=1" in evaluate.command
