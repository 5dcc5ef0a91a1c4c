"""Reports of made-up runs, against numbers worked out by hand."""

import json
import math
import re

import numpy as np
import pytest
from fake_cells import EPS, N, curve, one, write_cell, write_marks

from tfssl.reporting import differences, plots, report, rows, summaries, tables
from tfssl.reporting.tables import GAP
from tfssl.types import UserError


@pytest.fixture
def figures(monkeypatch):
    """What is saved."""
    saved = []
    save = plots.Figure.savefig
    monkeypatch.setattr(
        plots.Figure,
        "savefig",
        lambda self, *args, **kw: (saved.append(self), save(self, *args, **kw)),
    )
    return saved


@pytest.fixture
def runs(tmp_path):
    """Two runs of three seeds whose curves cross, and one of one seed."""
    folder = tmp_path / "runs"
    for seed, (noise, gain) in enumerate([(0.0, 0.01), (0.01, 0.02), (-0.01, 0.03)]):
        base = np.array([0.80, 0.70, 0.50]) + noise
        curve(folder / f"b_at/{seed}", "at", seed, base)
        curve(folder / f"a_ssl/{seed}", "ssl_x", seed, base + [gain, gain, -gain])
    curve(folder / "c", "single", 1, [0.7, 0.6, 0.55])
    return folder


def test_table_by_hand(runs):
    table = tables.table(one(summaries.summarise(rows.read([runs]))))
    assert table.header == ["run", "seeds", "0", "4/255", "8/255"]
    # ssl_x at 0: 81, 83, 82 percent; at 8/255: 49, 49, 46.
    assert table.rows == [
        ["ssl_x", "3", "82.0 ± 1.0", "72.0 ± 1.0", "48.0 ± 1.7"],
        ["at", "3", "80.0 ± 1.0", "70.0 ± 1.0", "50.0 ± 1.0"],
        [
            "single",
            "1",
            "70.0 [65.0, 74.0]",
            "60.0 [55.0, 64.0]",
            "55.0 [50.0, 59.0]",
        ],
    ]
    assert table.title == "digits test, pgd_linf: accuracy (%)"
    notes = " ".join(table.notes)
    assert "n = 400 examples" in notes
    assert "± sample standard deviation over seeds" in notes
    assert "95 % Wilson interval over the examples" in notes
    assert "Caution" not in notes


def test_order_is_that_of_the_folders(runs):
    given = [runs / "c", runs / "b_at", runs / "a_ssl", runs]
    assert list(rows.read(given)["run"].unique()) == ["single", "at", "ssl_x"]
    assert len(rows.read(given)) == len(rows.read([runs])) == 21


@pytest.mark.parametrize(
    ("perturbation", "strengths", "labels"),
    [
        ("linf", (0.0, 1 / 255, 1.0), ["0", "1/255", "255/255"]),
        ("linf", (0.0, 0.1, 8 / 255), ["0", "0.03137", "0.1"]),
        ("l2", (0.0, 0.5, 1.0), ["0", "0.5", "1"]),
        ("fog", (1, 2, 5), ["1", "2", "5"]),
        ("none", (0,), ["clean"]),
    ],
)
def test_strengths_are_written_as_people_write_them(
    tmp_path, perturbation, strengths, labels
):
    for strength in strengths:
        write_cell(tmp_path, strength, 0.5, perturbation=perturbation)
    table = tables.table(one(summaries.summarise(rows.read([tmp_path]))))
    assert table.header == ["run", "seeds", *labels]


def test_gaps_are_dashes_with_a_reason(tmp_path):
    curve(tmp_path / "a0", "a", 0, [0.5, 0.4, 0.3])
    curve(tmp_path / "a1", "a", 1, [0.5, 0.4], strengths=(0.0, EPS))
    write_cell(tmp_path / "a1", EPS, 0.4, "a", 1, n=100)
    write_cell(tmp_path / "b", 0.0, 0.9, "b", 0, evaluator="clean", perturbation="none")
    clean, pgd = map(tables.table, summaries.summarise(rows.read([tmp_path])))
    # A run without any number is left out.
    assert clean.rows == [["b", "1", "90.0 [85.0, 94.0]"]]
    assert pgd.rows == [["a", "2", "50.0 ± 0.0", GAP, GAP]]
    assert not any(" a " in note for note in clean.notes)
    assert not any(" b " in note for note in pgd.notes)
    assert f"{GAP} a at 4/255: seed 1 not measured." in pgd.notes
    assert any(
        note.startswith(f"{GAP} a at 8/255: seeds were measured on different numbers")
        for note in pgd.notes
    )


def test_runs_without_numbers_are_left_out_and_named(tmp_path, figures, caplog):
    for run in ("a", "b", "c"):
        clean = {"evaluator": "clean", "perturbation": "none"}
        write_cell(tmp_path / run, 0.0, 0.9, run, **clean)
    curve(tmp_path / "a", "a", 0, [0.5, 0.4, 0.3])
    curve(tmp_path / "c", "c", 0, [0.5, 0.4, 0.2])
    # On other seeds than the baseline: numbers, but no differences, and a reason.
    curve(tmp_path / "d", "d", 1, [0.5, 0.4, 0.1])
    caplog.set_level("INFO", "absl")
    report.write([tmp_path], tmp_path / "out", "a")
    assert caplog.messages == [
        "left out where they have no number: d (3 of 4 tables), b (2 of 4 tables)"
    ]
    names = [[text.get_text() for text in f.legends[0].get_texts()] for f in figures]
    assert names == [["a", "c", "d"], ["c"]]
    # As if no one were left out: a run has one colour in all pictures.
    assert [curve[0].get_color() for curve in figures[0].axes[0].containers] == [
        plots.COLORS[index] for index in (0, 2, 3)
    ]
    text = (tmp_path / "out" / "differences.md").read_text()
    assert f"{GAP} d at 0, 4/255, 8/255: no seed in common with a." in text
    assert "| d |" not in text


def test_what_only_the_baseline_has_makes_no_differences(tmp_path):
    curve(tmp_path / "a", "a", 0, [0.5, 0.4, 0.3])
    write_cell(tmp_path / "b", 0.0, 0.9, "b", evaluator="clean", perturbation="none")
    found = one(differences.differences(rows.read([tmp_path]), "a"))
    assert found.evaluator == "clean"
    assert found.gaps == {("b", "no seed in common with a"): [0.0]}


def test_unlike_measurements_are_told(tmp_path):
    write_cell(tmp_path / "a", EPS, 0.5, "a", settings={"model": "x", "steps": 20})
    write_cell(tmp_path / "b", EPS, 0.4, "b", settings={"model": "y", "steps": 5}, n=99)
    notes = tables.table(one(summaries.summarise(rows.read([tmp_path])))).notes
    assert "Caution, settings differ between the cells: steps." in notes
    assert "n = 99 to 400 examples: not the same in all cells." in notes


def test_contradictions_are_refused_and_repetitions_kept_once(tmp_path):
    write_cell(tmp_path / "a", EPS, 0.5)
    path = write_cell(tmp_path / "b", EPS, 0.5)
    assert len(rows.read([tmp_path])) == 1
    write_cell(tmp_path / "b", EPS, 0.6)
    with pytest.raises(UserError, match=r"differ in value, low, high") as error:
        rows.read([tmp_path])
    assert str(path) in str(error.value)
    write_cell(tmp_path / "b", EPS, 0.5, settings={"model": "at", "steps": 5})
    with pytest.raises(UserError, match=r"differ in steps:"):
        rows.read([tmp_path])


@pytest.mark.parametrize("text", ["", '{"row": {"run": "at"', '{"key": 1}', "[]"])
def test_half_written_cells_are_skipped(tmp_path, text):
    write_cell(tmp_path, 0.0, 0.9)
    write_cell(tmp_path, EPS, 0.5).write_text(text)
    assert rows.read([tmp_path])["value"].tolist() == [0.9]


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        rows.read([tmp_path])
    with pytest.raises(UserError, match="is no folder"):
        rows.read([tmp_path / "nowhere"])


def test_epsilon_in_training_only_in_its_norm(tmp_path):
    for perturbation in ("linf", "l2"):
        write_cell(
            tmp_path, EPS, 0.5, evaluator=perturbation, perturbation=perturbation
        )
    manifest = {"name": "at", "seed": 0, "epsilon": "8/255", "norm": "linf"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    l2, linf = summaries.summarise(rows.read([tmp_path]))
    assert (l2.epsilons_train, linf.epsilons_train) == ([], [EPS])


def test_differences_are_paired_over_seeds(runs):
    summary = one(differences.differences(rows.read([runs]), "at"))
    table = tables.table(summary)
    # Gains of 1, 2, 3 points on left and middle, minus that on the right: the noise
    # that the seeds share is gone. From +2 to -2 between 4/255 and 8/255: at 6/255.
    assert table.rows[0] == [
        "ssl_x",
        "3",
        "+2.0 ± 1.0",
        "+2.0 ± 1.0",
        "-2.0 ± 1.0",
        "6/255",
    ]
    # One seed, and no outcomes per example. 60 - 71 and 55 - 51: 11 / 15 of the way.
    assert table.rows[1][:5] == ["single", "1", "-11.0", "-11.0", "+4.0"]
    assert table.rows[1][5] == f"{4 + 4 * 11 / 15:.3g}/255"
    assert len(table.rows) == 2
    with pytest.raises(UserError, match="there are ssl_x, at, single"):
        differences.differences(rows.read([runs]), "att")


def test_difference_of_one_seed_is_paired_over_examples(tmp_path):
    ours, theirs = np.zeros((2, N), bool)
    ours[:250] = True  # 30 that only we have right, 10 that only they have.
    theirs[30:260] = True
    write_cell(tmp_path / "a", EPS, 250 / N, "a", correct=ours)
    write_cell(tmp_path / "b", EPS, 230 / N, "b", correct=theirs)
    estimate = one(differences.differences(rows.read([tmp_path]), "b")).estimates
    found = estimate["a", EPS]
    each = ours.astype(float) - theirs
    half = 1.96 * each.std() / math.sqrt(N)
    assert found.mean == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05 - half, abs=1e-5)
    assert found.high == pytest.approx(0.05 + half, abs=1e-5)


def test_other_examples_are_not_compared(tmp_path):
    correct = np.arange(N) < N // 2
    write_cell(tmp_path / "a", EPS, 0.5, "a", correct=correct)
    path = write_cell(tmp_path / "b", EPS, 0.5, "b", correct=correct)
    np.savez(path.with_suffix(".npz"), ids=np.arange(N) + 1, correct=correct)
    write_cell(tmp_path / "c", EPS, 0.5, "c", n=N - 1)
    write_cell(tmp_path / "d", EPS, 0.5, "d", seed=7)
    summary = one(differences.differences(rows.read([tmp_path]), "a"))
    assert not summary.estimates
    assert [reason for _, reason in summary.gaps] == [
        "measured on different examples",
        "measured on different numbers of examples",
        "no seed in common with a",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, -1, -2], [1.5]),
        ([3, 1, -3, -2], [1.25]),
        ([-1, 1, -1, 3], [0.5, 1.5, 2.25]),
        ([1, 0, -1, -1], [1]),  # In a point of the grid,
        ([1, 0, 0, -1], [1.5]),  # in the middle of a range,
        ([1, 0, 1, 2], []),  # touched only,
        ([0, -1, -2, 0], []),  # zero at the ends.
    ],
)
def test_crossings(values, expected):
    assert differences.crossings([0, 1, 2, 3], values) == pytest.approx(expected)


def test_latex_is_escaped_and_balanced():
    table = tables.Table(
        title="a_b & 50 % of {x}",
        header=["run", "8/255"],
        rows=[["x_1^2~\\#$", "-1.0 [-2.0, +0.5]"], ["y-2", "3.0 ± 0.1"], ["z", GAP]],
        notes=["0 < 1 > 0."],
    )
    text = tables.to_latex([table])
    assert r"x\_1\textasciicircum{}2\textasciitilde{}\textbackslash{}\#\$" in text
    assert r"& $-$1.0 [$-$2.0, +0.5] \\" in text
    assert r"y-2 & 3.0 $\pm$ 0.1 \\" in text
    assert r"z & -- \\" in text
    assert r"a\_b \& 50 \% of \{x\}" in text
    body = re.sub(r"\\[\\&%$#_{}]", "", text.split("\n", 1)[1])
    assert body.isascii()
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    assert not set("%#_^~<>") & set(body)
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    assert body.count("&") == 4


def test_other_writers():
    first = tables.Table("one", ["run", "0"], [["a|b_c", "1 ± 2"]], ["Note."])
    second = tables.Table("two, too", ["run", "0.5"], [["d", "3"]], [])
    assert tables.to_csv([first, second]) == (
        'table,run,0,0.5\none,a|b_c,1 ± 2,\n"two, too",d,,3\n'
    )
    assert tables.to_markdown([first]) == (
        "### one\n\n| run | 0 |\n| --- | ---: |\n| a\\|b\\_c | 1 ± 2 |\n\nNote.\n"
    )
    assert tables.to_text([first]) == "one\nrun        0\na|b_c  1 ± 2\nNote.\n"


def test_the_same_cells_give_the_same_bytes(runs, tmp_path):
    texts = [report.write([runs], tmp_path / name, "at") for name in ("one", "two")]
    assert texts[0] == texts[1]
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == [
        "curve-digits-test-pgd_linf-linf-accuracy.png",
        "differences-digits-test-pgd_linf-linf-accuracy.png",
        "differences.csv",
        "differences.md",
        "differences.tex",
        "rows.csv",
        "table.csv",
        "table.md",
        "table.tex",
    ]
    for name in written:
        one, two = ((tmp_path / which / name).read_bytes() for which in ("one", "two"))
        assert one == two, name
        if name.endswith(".png"):
            assert not {b"tEXt", b"iTXt", b"tIME"} & set(re.findall(rb"\w{4}", one))


def test_everything_drawn_lies_in_the_picture(tmp_path, figures):
    """Long names and many runs: nothing is cut off or covered by the legend."""
    for index in range(9):
        name = f"{index}_adversarial_training_with_rotation"
        curve(tmp_path / str(index), name, 0, [0.9, 0.5, 0.1], evaluator="long" * 20)
    write_marks(tmp_path / "8", ["*"], doubt="why")
    plots.save(one(summaries.summarise(rows.read([tmp_path]))), tmp_path / "x.png")
    (figure,) = figures
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    (axes,), (legend,) = figure.axes, figure.legends
    assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0
    assert axes.get_window_extent().height > 0.35 * figure.bbox.height
