"""Stages and roles of an evaluator stand in one table."""

from fake_cells import EPS, one, write_cell, write_marks

from tfssl.reporting import differences, report, rows, summaries, tables
from tfssl.reporting.tables import GAP

# In an order that is not that of their names.
ATTACKS = ["fab", "apgd_t", "square"]


def ensemble(folder, run, clean, stages, largest=EPS, seed=0, attacks=ATTACKS):
    """Cells of `evaluation.ensemble.Ensemble`; stages[strength] has one per attack."""
    described = [[name, {"class": name}] for name in attacks]

    def write(strength, value, metric, settings):
        kind = {"evaluator": "aa", "perturbation": "linf", "metric": metric}
        settings = {"model": run, **settings}
        write_cell(folder, strength, value, run, seed, settings=settings, **kind)

    write(0.0, clean, "accuracy", {"attacks": []})
    for strength, values in stages.items():
        for i, (attack, value) in enumerate(zip(attacks, values, strict=False)):
            used = described[: i + 1] if strength == largest else described
            metric = f"accuracy after {attack}" if attack != attacks[-1] else "accuracy"
            write(strength, value, metric, {"attacks": used, "attack": attack})


def test_stages_of_an_ensemble_are_columns_in_its_order(tmp_path):
    half = EPS / 2
    for seed, more in enumerate([0.0, 0.02]):
        stages = {EPS: [0.5 + more, 0.4, 0.4], half: [0.7, 0.7, 0.7]}
        ensemble(tmp_path / f"a{seed}", "a", 0.9, stages, seed=seed)
    ensemble(tmp_path / "b", "b", 0.8, {EPS: [0.6, 0.3]})  # Interrupted.
    plain, *stages = map(tables.table, summaries.summarise(rows.read([tmp_path])))
    assert plain.title == "digits test, aa (linf): accuracy (%)"
    assert plain.header == ["run", "seeds", "0", "4/255", "8/255"]
    assert plain.rows[0][2:] == ["90.0 ± 0.0", "70.0 ± 0.0", "40.0 ± 0.0"]
    assert [table.title for table in stages] == [
        f"digits test, aa (linf) at {size}/255: accuracy after each attack (%)"
        for size in (4, 8)
    ]
    for table in stages:
        assert table.header == (
            ["run", "seeds", "clean", "after fab", "after apgd_t", "final"]
        )
        assert not any(note.startswith("Caution") for note in table.notes)
    assert stages[1].rows == [
        ["a", "2", "90.0 ± 0.0", "51.0 ± 1.4", "40.0 ± 0.0", "40.0 ± 0.0"],
        ["b", "1", "80.0 [75.0, 84.0]", "60.0 [55.0, 64.0]", "30.0 [25.0, 34.0]", GAP],
    ]
    assert f"{GAP} b at final: not measured." in stages[1].notes


def test_evaluators_of_unperturbed_images_share_a_table(tmp_path):
    plain = {"perturbation": "none"}
    write_cell(tmp_path / "a", 0.0, 0.4, "a", evaluator="knn", **plain)
    write_cell(tmp_path / "a", 0.0, 0.5, "a", evaluator="linear", **plain)
    write_cell(tmp_path / "b", 0.0, 0.3, "b", evaluator="knn", **plain)
    write_cell(tmp_path / "a", EPS, 0.2, "a", evaluator="aa")
    attacked, probes = map(tables.table, summaries.summarise(rows.read([tmp_path])))
    assert attacked.title == "digits test, aa (linf): accuracy (%)"
    assert probes.title == "digits test, knn, linear: accuracy (%)"
    assert probes.header == ["run", "seeds", "knn", "linear"]
    assert probes.rows == [
        ["a", "1", "40.0 [35.0, 44.0]", "50.0 [45.0, 54.0]"],
        ["b", "1", "30.0 [25.0, 34.0]", GAP],
    ]


def test_other_ensembles_of_the_same_name_are_told(tmp_path):
    ensemble(tmp_path / "a", "a", 0.9, {EPS: [0.5, 0.4, 0.3]})
    ensemble(tmp_path / "b", "b", 0.9, {EPS: [0.4, 0.3]}, attacks=["apgd_t", "square"])
    _, stages = map(tables.table, summaries.summarise(rows.read([tmp_path])))
    assert stages.header[2:] == ["clean", "after fab", "after apgd_t", "final"]
    assert stages.rows[1][3] == GAP
    assert "Caution, settings differ between the cells: attacks." in stages.notes


def test_checks_are_one_table(tmp_path):
    values = {"accuracy, unbounded": 0, "accuracy": 0.3, "accuracy, noise": 0.8}
    for metric, value in values.items():
        write_cell(tmp_path, EPS, value, evaluator="checks", metric=metric, n=200)
    write_cell(tmp_path, 0.0, 0.9, evaluator="checks", n=200)
    write_marks(tmp_path, ["checks"], noise_beats_attack="why")
    table = tables.table(one(summaries.summarise(rows.read([tmp_path]))))
    assert table.title == (
        "digits test, checks (linf) at 8/255: accuracy under each attack (%)"
    )
    assert table.header[2:] == ["clean", "attack", "noise", "unbounded"]
    assert [cell.split()[0] for cell in table.rows[0][2:]] == [
        "90.0",
        "30.0",
        "80.0",
        "0.0",
    ]
    assert [table.letters(0, column) for column in range(2, 6)] == ["a"] * 4


def test_differences_of_stages(tmp_path):
    for run, more in (("a", 0.0), ("b", 0.1)):
        stages = {EPS: [0.5 + more, 0.4, 0.3 - more]}
        ensemble(tmp_path / run, run, 0.9, stages)
    found = rows.read([tmp_path])
    _, stages = map(tables.table, differences.differences(found, "a"))
    assert stages.title.endswith(
        "at 8/255: accuracy after each attack minus that of a (percentage points)"
    )
    assert stages.rows == [["b", "1", "+0.0", "+10.0", "+0.0", "-10.0"]]
    report.write([tmp_path], tmp_path / "out", "a")
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        "curve-digits-test-aa-linf-accuracy.png",
        "differences-digits-test-aa-linf-accuracy.png",
    }


def test_scores_of_foreign_images_stand_side_by_side(tmp_path):
    """A table for each data set and metric, with a column for each score."""
    kind = {"evaluator": "ood", "perturbation": "svhn"}
    for value, metric in [
        (0.8, "auroc of msp"),
        (0.9, "auroc of knn"),
        (0.3, "fpr95 of msp"),
    ]:
        write_cell(tmp_path / "a", 0.0, value, "a", metric=metric, **kind)
    auroc, fpr95 = map(tables.table, summaries.summarise(rows.read([tmp_path])))
    assert auroc.title == "digits test, ood (svhn): auroc of each score (%)"
    assert auroc.header == ["run", "seeds", "knn", "msp"]
    assert auroc.rows == [["a", "1", "90.0 [85.0, 94.0]", "80.0 [75.0, 84.0]"]]
    assert not any("Wilson" in note for note in auroc.notes)
    assert fpr95.header == ["run", "seeds", "msp"]


def test_classes_of_a_data_set_are_no_scores(tmp_path):
    kind = {"evaluator": "shifts", "perturbation": "none"}
    metrics = [f"accuracy in the classes of imagenet_{x}" for x in "ar"]
    for metric in metrics:
        write_cell(tmp_path / "a", 0.0, 0.4, "a", metric=metric, **kind)
    found = list(map(tables.table, summaries.summarise(rows.read([tmp_path]))))
    assert [table.title for table in found] == [
        f"digits test, shifts: {metric} (%)" for metric in metrics
    ]
    assert {table.header[2] for table in found} == {"clean"}
