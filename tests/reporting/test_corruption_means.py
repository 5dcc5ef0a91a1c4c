"""Means over corruptions in place of a table for each."""

import math

import pytest
from fake_cells import write_cell

from tfssl.reporting import corruption_scores as scores
from tfssl.reporting import corruptions, report, rows


def measure(folder, run, names, metric="ssim", **changes):
    for i, name in enumerate(names):
        for severity in (1.0, 2.0):
            write_cell(
                folder / run,
                severity,
                severity / 4 + i / 100,
                run,
                evaluator="c",
                perturbation=name,
                metric=metric,
                cell=f"{name}_{severity}.{metric}",
                settings={"model": run, "corruption": name},
                **changes,
            )


def test_means_of_all_or_of_the_benchmark(tmp_path):
    measure(tmp_path, "all", scores.ALL, unit="")
    measure(tmp_path, "fifteen", scores.ALL[:16], unit="")
    measure(tmp_path, "few", scores.BENCHMARK[:2], unit="")
    measure(tmp_path, "accurate", scores.ALL, "accuracy")
    before = rows.read([tmp_path])
    found = corruptions.averaged(before)
    for run, n in (("all", 19), ("fifteen", 15)):
        its = found[found["run"] == run]
        # An extra one that stands alone stays as it is.
        alone = {"speckle_noise"} if run == "fifteen" else set()
        assert set(its["perturbation"]) == {f"mean of {n}"} | alone
        its = its[its["perturbation"] == f"mean of {n}"]
        assert its["value"].tolist() == pytest.approx(
            [severity / 4 + (n - 1) / 200 for severity in (1, 2)]
        )
        assert its["settings"].unique() == [f'{{"model": "{run}"}}']
        assert all(map(math.isnan, its["low"]))
    for run in ("few", "accurate"):
        its, old = (t[t["run"] == run].to_dict("records") for t in (found, before))
        assert list(map(str, its)) == list(map(str, old))


def test_one_picture_for_all(tmp_path):
    measure(tmp_path, "all", scores.ALL, unit="")
    report.write([tmp_path / "all"], tmp_path / "report")
    pictures = [path.name for path in (tmp_path / "report").glob("*.png")]
    assert pictures == ["curve-digits-test-c-mean_of_19-ssim.png"]
    assert (tmp_path / "report" / "rows.csv").read_text().count("fog") >= 2
