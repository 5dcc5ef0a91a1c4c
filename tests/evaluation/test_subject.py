"""How a subject goes through its examples."""

import numpy as np

from tfssl.evaluation import journal, subject
from tfssl.evaluation.classifier import Classifier


def test_the_journal_is_made_only_when_it_is_due(
    make_model, dataset, tmp_path, monkeypatch
):
    """Ten batches of 23 examples and ten seconds: it is due after each third one."""
    seen, joined = [], []
    join = subject._joined

    def look(classifier, batch):
        seen.append(batch["id"])
        return {"image": batch["image"]}

    def joining(parts):
        whole = join(parts)
        joined.append(len(whole["id"]))
        return whole

    monkeypatch.setattr(journal.time, "monotonic", lambda: 10.0 * len(seen))
    monkeypatch.setattr(subject, "_joined", joining)
    path = tmp_path / "a.part.npz"
    whole = subject.Subject(Classifier(make_model()), dataset, "test", 23, 0)
    whole.journals = lambda label: journal.Journal(path, "key")
    found = whole.map(look, eager=True, label="look")
    np.testing.assert_array_equal(found["image"], dataset.image)
    assert joined == [69, 138, 207, 230]
    kept = journal.Journal(path, "key").read()
    np.testing.assert_array_equal(kept["image"], dataset.image[:207])


def test_few_examples_make_small_batches(make_model, dataset):
    """But no smaller ones than asked for on another split."""
    sizes = []

    def look(classifier, batch):
        sizes.append(len(batch["id"]))
        return {"image": batch["image"]}

    few = subject.Subject(Classifier(make_model()), dataset, "test", 100, 0).first(3)
    found = few.map(look, eager=True)
    np.testing.assert_array_equal(found["image"], dataset.image[:3])
    few.on("train").map(look, eager=True)
    assert sizes == [3, 100, 100, 100]
