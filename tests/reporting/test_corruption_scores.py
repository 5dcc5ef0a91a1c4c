"""Scores over corruptions: published numbers to the printed digit, and by hand."""

import math
from pathlib import Path

import fake_cells
import numpy as np
import pytest

from tfssl.reporting import corruption_scores as scores
from tfssl.reporting import corruption_tables, corruptions, report, rows
from tfssl.types import UserError

PUBLISHED = Path(__file__).parents[2] / "published" / "chhipa2023.csv"
CELLS = [(c, s) for c in scores.ALL for s in scores.SEVERITIES]


@pytest.fixture(scope="module")
def published():
    (group,) = corruptions.groups(rows.read([PUBLISHED]))
    assert group.corruptions == scores.ALL
    return {
        run.removeprefix("chhipa2023_"): seeds[0] for run, seeds in group.runs.items()
    }


# Chhipa et al. 2023, their result files: 'mCE' and 'RmCE' as printed there. That of the
# supervised network (42.13) was computed with its clean accuracy for an error.
# Then, of the same errors, the standard mCE and relative mCE, computed apart from us.
PRINTED = {
    "simclr": (75.993, 75.984, 99.3, 132.7),
    "simsiam": (75.766, 76.042, 99.3, 137.1),
    "byol": (73.771, 74.623, 96.6, 141.4),
    "barlow_twins": (73.804, 74.660, 96.8, 141.6),
    "swav": (70.463, 70.716, 92.4, 126.6),
    "dino_rn50": (71.512, 72.916, 93.9, 144.9),
    "dino_vits8": (57.285, 58.297, 76.2, 115.9),
    "supervised_rn50": (53.690, 42.130, 69.3, 88.6),
}


@pytest.mark.parametrize("method", PRINTED)
def test_published_scores(method, published):
    seed = published[method]
    mean, as_coded, mce, relative = PRINTED[method]
    assert f"{100 * scores.mean_error(seed.errors):.3f}" == f"{mean:.3f}"
    clean = 0.7613 if method == "supervised_rn50" else seed.clean
    found = 100 * scores.relative_as_coded(seed.errors, clean)
    assert f"{found:.3f}" == f"{as_coded:.3f}"
    assert f"{100 * scores.mce(seed.errors):.1f}" == f"{mce:.1f}"
    found = 100 * scores.relative_mce(seed.errors, seed.clean)
    assert f"{found:.1f}" == f"{relative:.1f}"


def test_published_groups(published):
    errors = published["simclr"].errors
    # The figure digital.png, severities 1 and 5, and what it should have shown.
    ends = [100 * scores.digital_as_coded(errors, [s]) for s in (1, 5)]
    assert [f"{end:.1f}" for end in ends] == ["42.9", "62.2"]
    ends = [
        100 * scores.group_means(errors, scores.NOTEBOOK, [s])["digital"]
        for s in (1, 5)
    ]
    assert [f"{end:.1f}" for end in ends] == ["52.7", "78.7"]
    found = scores.group_means(published["swav"].errors, scores.FOLDERS)
    assert [f"{100 * found[g]:.1f}" for g in ("blur", "noise", "weather")] == [
        "80.5",
        "75.3",
        "68.3",
    ]
    falls = scores.not_monotone(errors)
    assert {"snow", "elastic_transform", "saturate"} == set(falls)
    assert all(falling == [3] for falling in falls.values())


def test_groupings_are_partitions():
    for grouping in scores.GROUPINGS.values():
        members = [c for group in grouping.values() for c in group]
        assert sorted(members) == sorted(scores.ALL)


def test_closed_forms():
    # A classifier that is the reference, and one with twice its errors.
    reference = {(c, s): scores.ALEXNET.get(c, 0.5) for c, s in CELLS}
    assert math.isclose(scores.mce(reference), 1)
    assert math.isclose(scores.relative_mce(reference, scores.ALEXNET_CLEAN), 1)
    half = {cell: error / 2 for cell, error in reference.items()}
    assert math.isclose(scores.mce(half), 0.5)
    assert math.isclose(scores.relative_mce(half, scores.ALEXNET_CLEAN / 2), 0.5)
    # Nothing lost to corruption.
    even = dict.fromkeys(CELLS, 0.3)
    assert math.isclose(scores.relative_mce(even, 0.3), 0, abs_tol=1e-12)
    assert math.isclose(scores.relative_as_coded(even, 0.3), (1.5 - 0.3) / 4.565)
    # As benchmarks without a reference have it: the plain mean of 75 cells.
    only = {cell: float(cell == ("fog", 4)) for cell in CELLS}
    assert math.isclose(scores.mean_error(only, scores.BENCHMARK), 1 / 75)
    assert math.isclose(scores.group_means(only, scores.NOTEBOOK)["weather"], 1 / 15)
    with pytest.raises(KeyError):
        scores.mean_error({})


N = fake_cells.N


def measured(folder, run, seed=0, rate=0.3, leave_out=(), **changes):
    """Made-up outcomes, correlated over the cells; the errors [cells + 1, n]."""
    generator = np.random.default_rng([seed, len(run)])
    hard = generator.random(N)
    wrong = []
    for cell in [("none", 0), *CELLS]:
        missed = hard * generator.random(N) < rate * (0.5 + cell[1] / 10)
        wrong.append(missed)
        if cell in leave_out:
            continue
        fake_cells.write_cell(
            folder,
            float(cell[1]),
            float(1 - missed.mean()),
            run,
            seed,
            ~missed,
            evaluator="corruptions",
            perturbation=cell[0],
            # Names of files need only differ.
            metric="accuracy",
            cell=f"{cell[0]}_{cell[1]}",
            **changes,
        )
    return np.array(wrong)


def test_intervals_are_those_of_a_mean_over_examples(tmp_path):
    ours = measured(tmp_path / "a", "ours")
    theirs = measured(tmp_path / "b", "theirs", rate=0.2)
    (group,) = corruptions.groups(rows.read([tmp_path / "a", tmp_path / "b"]))
    (all_in_all, *_) = corruption_tables.summaries(group)
    estimate = all_in_all.estimates["ours", "mean of 19"]
    each = ours[1:].mean(0)
    half = 1.959964 * each.std(ddof=1) / np.sqrt(N)
    np.testing.assert_allclose(
        [estimate.mean, estimate.low, estimate.high],
        [each.mean(), each.mean() - half, each.mean() + half],
    )
    clean = all_in_all.estimates["ours", "clean"]
    np.testing.assert_allclose(clean.mean, ours[0].mean())

    (minus, *_) = corruption_tables.summaries(group, "theirs")
    estimate = minus.estimates["ours", "mean of 15"]
    each = (ours[1:76].astype(float) - theirs[1:76]).mean(0)
    half = 1.959964 * each.std(ddof=1) / np.sqrt(N)
    np.testing.assert_allclose(
        [estimate.mean, estimate.low, estimate.high],
        [each.mean(), each.mean() - half, each.mean() + half],
        atol=1e-9,
    )
    # Relative to a run: sums over severities, not means of ratios.
    (relative,) = corruption_tables.relative(group, "theirs")
    ratios = ours[1:76].reshape(15, 5, N).mean((1, 2)) / theirs[1:76].reshape(
        15, 5, N
    ).mean((1, 2))
    np.testing.assert_allclose(relative.estimates["ours", "mCE"].mean, ratios.mean())
    np.testing.assert_allclose(relative.estimates["theirs", "mCE"].mean, 1)
    assert corruption_tables.relative(group) == []


def test_seeds_and_missing_extras(tmp_path):
    for seed in (0, 1):
        measured(tmp_path / str(seed), "ours", seed, leave_out=[("spatter", 2)])
    (group,) = corruptions.groups(rows.read([tmp_path]))
    assert group.corruptions == scores.BENCHMARK
    (all_in_all, *_) = corruption_tables.summaries(group)
    assert all_in_all.columns == ["clean", "mean of 15"]
    values = [
        scores.mean_error(s.errors, scores.BENCHMARK)
        for s in group.runs["ours"].values()
    ]
    estimate = all_in_all.estimates["ours", "mean of 15"]
    assert estimate.seeds == 2
    np.testing.assert_allclose(estimate.high - estimate.mean, np.std(values, ddof=1))
    # Too little for a score: told as it was measured.
    measured(tmp_path / "other", "other", leave_out=[("fog", 2)])
    assert list(corruptions.groups(rows.read([tmp_path / "other"]))) == []


def test_report_and_its_table_read_again(tmp_path):
    measured(tmp_path / "runs", "ours")
    text = report.write([tmp_path / "runs"], tmp_path / "report")
    assert "digits test, corruptions: error (%)" in text
    assert "digits test, corruptions: error, weather, mean over severities (%)" in text
    pictures = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert "corruptions-digits-test-corruptions-noise-error.png" in pictures
    # Without outcomes per example there are no intervals, but the numbers are the same.
    again = report.write([tmp_path / "report" / "rows.csv"], tmp_path / "again")
    assert "no interval" in again
    first, second = (
        corruptions.groups(rows.read([place]))[0].runs["ours"][0]
        for place in (tmp_path / "runs", tmp_path / "report" / "rows.csv")
    )
    assert first.errors == second.errors
    assert first.clean == second.clean


def test_published_marks_are_at_what_depends_on_the_clean_error():
    (group,) = corruptions.groups(rows.read([PUBLISHED]))
    (all_in_all, *_) = corruption_tables.summaries(group)
    doubts = {
        c: all_in_all.estimates["chhipa2023_swav", c].marks for c in all_in_all.columns
    }
    assert {mark.name for mark in doubts["clean"]} == {"clean_not_measured"}
    assert not doubts["mean of 15"]
    assert not doubts["mean of 19"]
    (relative,) = corruption_tables.relative(group)
    assert relative.estimates["chhipa2023_swav", "relative mCE"].marks
    assert not relative.estimates["chhipa2023_swav", "mCE"].marks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run,value\na,1\n",
        "run,dataset,split,evaluator,perturbation,strength,metric,value,n\n",
    ],
)
def test_files_that_are_no_tables(text, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"numbers\.csv"):
        rows.read([path])


@pytest.mark.parametrize(
    ("dataset", "classes", "reference"),
    [
        ("imagenet2012:5.1.0", 1000, ["AlexNet's"]),
        ("imagenet2012:5.1.0", 9, []),
        ("imagenette/160px-v2:1.0.0", 10, []),
    ],
)
def test_only_imagenet_is_compared_with_alexnet(dataset, classes, reference, tmp_path):
    settings = {"dataset": {"num_classes": classes}}
    measured(tmp_path, "ours", dataset=dataset, settings=settings)
    (group,) = corruptions.groups(rows.read([tmp_path]))
    found = [summary.metric for summary in corruption_tables.relative(group)]
    assert found == [f"error relative to {name}, mean of 15" for name in reference]


def test_what_is_in_no_group_has_tables_of_its_own(tmp_path):
    """An evaluation that was killed, and an extra corruption that others lack."""
    measured(tmp_path / "ours", "ours")
    measured(tmp_path / "killed", "killed", leave_out=[("fog", 2)])
    measured(tmp_path / "less", "less", leave_out=[("spatter", 2)])
    found = rows.read([tmp_path])
    left = corruptions.without(found, corruptions.groups(found))
    corrupted = left[left["perturbation"] != "none"]
    assert set(corrupted["run"][corrupted["perturbation"] == "snow"]) == {"killed"}
    extra = corrupted[corrupted["perturbation"] == "spatter"]
    assert set(extra["run"]) == {"ours", "killed", "less"}


def gaps(folder, baseline=None):
    """The reasons why a run lacks its mean over 15, and what settings differ."""
    (group,) = corruptions.groups(rows.read([folder]))
    summary, *_ = corruption_tables.summaries(group, baseline)
    reasons = {
        run: reason
        for (run, reason), columns in summary.gaps.items()
        if "mean of 15" in columns
    }
    assert not {run for run, _ in summary.estimates} & set(reasons)
    return reasons, summary.unlike


def test_only_what_was_measured_alike_is_compared(tmp_path):
    measured(tmp_path / "a0", "a")
    assert gaps(tmp_path) == ({}, [])
    measured(tmp_path / "a1", "a", 1, n=N // 2, settings={"model": "a", "examples": 2})
    different = "measured on different numbers of examples"
    assert gaps(tmp_path) == ({"a": different}, ["examples", "steps"])
    measured(tmp_path / "b", "bb")
    assert gaps(tmp_path, "a")[0] == {}  # Of the seed that both have.
    measured(tmp_path / "c", "ccc", n=N // 2)
    measured(tmp_path / "d", "dddd", 7)
    assert gaps(tmp_path, "bb")[0] == {
        "ccc": different,
        "dddd": "no seed in common with bb",
    }
    # As many, and others.
    for path in (tmp_path / "a0").rglob("*.npz"):
        with np.load(path) as file:
            np.savez(path, ids=file["ids"] + 1, correct=file["correct"])
    assert gaps(tmp_path, "bb")[0]["a"] == "measured on different examples"


@pytest.mark.parametrize(
    ("error", "lacking"), [(0.0, ["mCE", "relative mCE"]), (0.9, ["relative mCE"])]
)
def test_a_baseline_that_nothing_can_be_divided_by(error, lacking, tmp_path):
    """Such as a network that gives one answer, whatever it sees."""
    measured(tmp_path / "ours", "ours")
    for corruption, severity in [("none", 0), *CELLS]:
        fake_cells.write_cell(
            *(tmp_path / "same", float(severity), 1 - error, "same"),
            evaluator="corruptions",
            perturbation=corruption,
            cell=f"{corruption}_{severity}",
        )
    report.write([tmp_path / "ours", tmp_path / "same"], tmp_path / "out", "same")
    (group,) = corruptions.groups(rows.read([tmp_path / "ours", tmp_path / "same"]))
    (relative,) = corruption_tables.relative(group, "same")
    reason = "the reference has or loses nothing to divide by"
    assert relative.gaps["ours", reason] == lacking


def test_a_baseline_of_which_only_corruptions_are_known(tmp_path):
    for run in ("ours", "theirs"):
        measured(tmp_path / "runs" / run, run, leave_out=[("none", 0)])
    report.write([tmp_path / "runs"], tmp_path / "out", "theirs")
    text = (tmp_path / "out" / "corruptions-differences.md").read_text()
    assert "error minus that of theirs" in text
    with pytest.raises(UserError, match="no run is called other: there are ours, the"):
        report.write([tmp_path / "runs"], tmp_path / "out", "other")
