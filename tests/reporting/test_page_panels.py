"""Pictures of what was kept: each pixel where and what it should be."""

import io

import numpy as np
import pytest
from fake_cells import write_cell
from matplotlib import image as images

from tfssl.reporting import panels, rows


def keep(folder, perturbation, strength, seed=0, **arrays):
    path = write_cell(
        *(folder, strength, 0.5),
        seed=seed,
        evaluator="panels",
        perturbation=perturbation,
        metric="panel",
        cell=f"{perturbation}_{strength}",
    )
    np.savez(path.with_suffix(".npz"), ids=np.arange(2), **arrays)


@pytest.fixture
def measured(tmp_path):
    """Two examples, grey at 10 and 20 times one more than the severity."""
    for seed in (0, 1):
        for name, severity in (("none", 0), ("fog", 1), ("fog", 2)):
            level = np.array([10, 20])[:, None, None] * (1 + severity + 10 * seed)
            keep(
                *(tmp_path / str(seed), name, float(severity), seed),
                image=np.tile(level, [1, 48, 48]).astype(np.uint8)[..., None],
                map=np.full([2, 48, 48], 255, np.uint8),
                correct=np.array([True, severity == 0]),
                ssim=np.array([0.5, 0.25]),
            )
    return rows.read([tmp_path])


def test_maps(measured):
    assert panels.without(measured).empty
    found = panels.read(measured, "at")
    assert list(found) == ["fog"]
    assert list(found["fog"]) == [0, 1, 2]
    picture = images.imread(io.BytesIO(panels.maps(found["fog"]))) * 255
    # Twice as large, with 5 pixels around; image, map, both; 8 between examples.
    tile = 2 * 48 + 10
    assert picture.shape[:2] == (2 * (3 * tile + 8), 3 * tile)
    hot = np.array([252, 255, 164])  # The end of the colours that maps have.
    for example in range(2):
        for severity in range(3):
            top, left = example * (3 * tile + 8), severity * tile
            level = (10, 20)[example] * (1 + severity)  # Those of the first seed.
            centre = picture[top + tile // 2 :: tile, left + tile // 2, :3][:3]
            expected = np.stack([np.full(3, level), hot, (level + hot) / 2])
            np.testing.assert_allclose(centre, expected, atol=1.5)
            red, green = picture[top + 3, left + tile // 2, :2]
            assert (green > red) == (example == 0 or severity == 0)
            assert (picture[top, left, :3] == 255).all()


def test_similarity_is_a_picture(measured):
    picture = images.imread(io.BytesIO(panels.similarity(panels.read(measured, "at"))))
    assert picture.shape[1] == 390


def test_large_images_are_made_smaller():
    cell = {
        "image": np.zeros([1, 224, 224, 3], np.uint8),
        "correct": np.array([True]),
        "map": np.zeros([1, 224, 224], np.uint8),
        "attention": np.zeros([1, 224, 224], np.uint8),
    }
    picture = images.imread(io.BytesIO(panels.maps({0.0: cell})))
    assert picture.shape[:2] == (5 * 122 + 8, 122)


def test_a_table_without_its_files_has_no_pictures(measured, tmp_path):
    (tmp_path / "t.csv").write_text(rows.to_csv(measured))
    assert panels.read(rows.read([tmp_path / "t.csv"]), "at") == {}
