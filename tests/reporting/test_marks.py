"""Reasons to doubt a number go with it into everything that is written."""

import csv
import io

import pytest
from fake_cells import EPS, curve, one, write_cell, write_marks
from matplotlib import colors

from tfssl.reporting import differences, plots, report, rows, summaries, tables

GRID = (0.0, EPS)


@pytest.fixture
def runs(tmp_path):
    """Three seeds of `at`, of which one is marked; `ssl` marked as a whole; `ok`."""
    folder = tmp_path / "runs"
    for seed in range(3):
        curve(folder / f"at/{seed}", "at", seed, [0.9, 0.5], GRID)
    write_marks(folder / "at/1", ["pgd_linf"], noise_beats="3 of 200 with 5 % noise")
    for seed in range(2):
        curve(folder / f"ssl/{seed}", "ssl", seed, [0.8, 0.6], GRID)
        write_marks(
            folder / f"ssl/{seed}", ["pgd_linf"], _rough="a < b", noise_beats="2."
        )
    curve(folder / "ok", "ok", 0, [0.7, 0.4], GRID)
    return folder


def test_marks_are_of_what_they_are_about(tmp_path):
    write_cell(tmp_path, 0.0, 0.9, evaluator="clean", perturbation="none")
    write_cell(tmp_path, EPS, 0.5)
    write_cell(tmp_path, 3.0, 0.5, evaluator="weather", perturbation="fog")

    def marked(about):
        write_marks(tmp_path, about, doubt="why")
        found = rows.read([tmp_path])
        return set(found["evaluator"][found["marks"].map(len) > 0])

    # All attacks, and nothing that is not searched for.
    assert marked(["*"]) == {"pgd_linf"}
    assert marked(["pgd_linf", "other"]) == {"pgd_linf"}
    assert marked(["clean"]) == {"clean"}
    assert marked(["none", "linf", "pgd"]) == set()


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a": 1}', '{"a": {"about": [], "marks": 3}}']
)
def test_damaged_marks_are_told_and_ignored(tmp_path, text, caplog):
    write_cell(tmp_path, EPS, 0.5)
    write_marks(tmp_path, ["*"], doubt="why").write_text(text)
    assert not any(rows.read([tmp_path])["marks"])
    assert "marks.json, it is damaged" in caplog.text


def test_the_same_number_twice_has_the_marks_of_both(tmp_path):
    for folder, name in (("a", "one"), ("b", "two"), ("c", None)):
        write_cell(tmp_path / folder, EPS, 0.5)
        if name:
            write_marks(tmp_path / folder, ["*"], **{name: "why"})
    found = rows.read([tmp_path])
    (line,) = csv.DictReader(io.StringIO(rows.to_csv(found)))
    assert line["marks"] == "one;two"
    assert {mark.name for mark in found["marks"][0]} == {"one", "two"}


def test_letters_and_what_they_stand_for(runs):
    table = tables.table(one(summaries.summarise(rows.read([runs]))))
    assert [row[0] for row in table.rows] == ["at", "ok", "ssl"]
    letters = [[table.letters(i, j) for j in range(4)] for i in range(3)]
    assert letters == [["", "", "a", "a"], [""] * 4, ["", "", "a,b", "a,b"]]
    assert table.explained() == [
        ("a", "noise_beats (at, seed 1): 3 of 200 with 5 % noise."),
        ("a", "noise_beats (ssl): 2."),
        ("b", "_rough (ssl): a < b."),
    ]
    assert table.notes[-1] == "Letters: reasons to doubt a number."


def test_marks_in_all_formats(runs, tmp_path):
    text = report.write([runs], tmp_path)
    assert text.startswith(
        "digits test, pgd_linf: accuracy (%)\n"
        "run  seeds                  0                    8/255\n"
        "at       3         90.0 ± 0.0 (a)           50.0 ± 0.0 (a)\n"
        "ok       1  70.0 [65.0, 74.0]        40.0 [35.0, 44.0]\n"
        "ssl      2         80.0 ± 0.0 (a,b)         60.0 ± 0.0 (a,b)\n"
    )
    assert "\n(b) _rough (ssl): a < b.\n" in text
    page = (tmp_path / "table.md").read_text()
    assert "| 80.0 ± 0.0<sup>a,b</sup> | 60.0" in page
    assert "\n\n<sup>b</sup> \\_rough (ssl): a \\< b.\n" in page
    page = (tmp_path / "table.tex").read_text()
    assert r"ssl & 2 & 80.0 $\pm$ 0.0\textsuperscript{a,b} & 60.0" in page
    assert r"\textsuperscript{a} noise\_beats (at, seed 1): 3 of 200 with 5 \%" in page
    at, ok, ssl = csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8"))
    assert at["8/255"] == "50.0 ± 0.0"
    assert at["marks"] == "0: noise_beats; 8/255: noise_beats"
    assert ok["marks"] == ""
    assert ssl["marks"] == "0: _rough, noise_beats; 8/255: _rough, noise_beats"


def test_differences_have_the_marks_of_both_sides(runs):
    found = rows.read([runs])
    table = tables.table(one(differences.differences(found, "at")))
    # `ok` has seed 0 alone, where `at` has no mark; `ssl` has seeds 0 and 1.
    ok, ssl = ([table.letters(row, column) for column in range(5)] for row in (0, 1))
    assert (ok, ssl) == ([""] * 5, ["", "", "a,b", "a,b", "a,b"])
    assert table.header[-1] == "crossing"
    assert [line for _, line in table.explained()] == [
        "_rough (ssl): a < b.",
        "noise_beats (at, seed 1): 3 of 200 with 5 % noise.",
        "noise_beats (ssl): 2.",
    ]
    table = tables.table(one(differences.differences(found, "ssl")))
    assert table.letters(0, 2) == table.letters(1, 2) == "a,b"


def test_curves_in_doubt_are_hollow(runs, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        plots.Figure, "savefig", lambda self, *_, **__: figures.append(self)
    )
    plots.save(one(summaries.summarise(rows.read([runs]))), tmp_path / "x.png")
    curves = figures[0].axes[0].containers
    hollow = {
        drawn.get_label(): colors.same_color(drawn[0].get_markerfacecolor(), "white")
        for drawn in curves
    }
    note = " (in doubt: see the table)"
    assert hollow == {f"at{note}": True, "ok": False, f"ssl{note}": True}
