"""Pictures of what `tfssl.evaluation.panels` has kept: images, and maps on them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import image as images
from matplotlib.figure import Figure

from tfssl import types

_SIDE = 96  # Pixels of an image in a panel, about.
_RIGHT, _WRONG = (0, 150, 70), (200, 30, 30)

Cells = Mapping[float, Mapping[str, np.ndarray]]
"""What was kept of a corruption, by severity; of the clean images at 0."""


def without(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows as from `rows.read`, but for those that are pictures."""
    return rows[rows["metric"] != types.PANEL]


def read(rows: pd.DataFrame, run: str) -> dict[str, Cells]:
    """What was kept of a run, of its first seed, by corruption.

    Args:
      rows: As from `rows.read`, of one data set and split.
      run: Its name. Of several evaluators that kept pictures it is the first.
    """
    its = rows[(rows["metric"] == types.PANEL) & (rows["run"] == run)]
    its = its[its["evaluator"] == its["evaluator"].min()]
    found: dict[str, dict[float, dict[str, np.ndarray]]] = {}
    for row in its[its["seed"] == its["seed"].min()].itertuples():
        path = Path(row.run_dir, row.cell).with_suffix(".npz")
        if path.is_file():  # A table may have come without.
            with np.load(path, allow_pickle=False) as file:
                found.setdefault(row.perturbation, {})[row.strength] = dict(file)
    clean = found.pop("none", {})
    return {name: clean | cells for name, cells in found.items()}


def maps(cells: Cells) -> bytes:
    """A PNG: in columns the severities, below each image its maps and these upon it.

    Green borders are of images that are classified right, red ones of the others.
    """
    return _png(np.concatenate([_column(cells[s]) for s in sorted(cells)], axis=1))


def similarity(found: Mapping[str, Cells]) -> bytes:
    """A PNG of one image: a row per corruption, its structural similarity below."""
    columns = max(map(len, found.values()))
    figure = Figure(
        figsize=(1.3 * columns, 1.5 * len(found)), dpi=100, layout="constrained"
    )
    axes = figure.subplots(len(found), columns, squeeze=False)
    for line, (name, cells) in zip(axes, found.items(), strict=True):
        for place in line:
            place.set(xticks=[], yticks=[])
        for place, severity in zip(line, sorted(cells), strict=False):
            place.imshow(_colored(cells[severity]["image"][0]))
            place.set_xlabel(f"{cells[severity]['ssim'][0]:.2f}", fontsize=8)
        line[0].set_ylabel(name, fontsize=8)
    for place, severity in zip(
        axes[0], sorted(next(iter(found.values()))), strict=False
    ):
        place.set_title(f"severity {severity:g}" if severity else "clean", fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _column(cell: Mapping[str, np.ndarray]) -> np.ndarray:
    tiles = []
    for i, image in enumerate(cell["image"]):
        image = _colored(image)
        tiles.append(_framed(image, _RIGHT if cell["correct"][i] else _WRONG))
        for name in ("map", "attention"):
            if name in cell:
                heat = matplotlib.colormaps["inferno"](cell[name][i])[..., :3] * 255
                tiles += [_framed(heat), _framed(0.5 * image + 0.5 * heat)]
        tiles.append(np.full([8, tiles[0].shape[1], 3], 255))  # Between examples.
    return np.concatenate(tiles)


def _colored(image: np.ndarray) -> np.ndarray:
    """[h, w, 1 or 3] to [h, w, 3]."""
    return np.broadcast_to(image, [*image.shape[:2], 3])


def _framed(image: np.ndarray, color: Sequence[int] = (255, 255, 255)) -> np.ndarray:
    """In about the size of a panel, with a border of 3 pixels and a gap of 2."""
    side = max(image.shape[:2])
    step, times = max(1, round(side / _SIDE)), max(1, _SIDE // side)
    image = image[::step, ::step].repeat(times, 0).repeat(times, 1)
    for width, value in ((3, color), (2, (255, 255, 255))):
        padding = [(width, width), (width, width)]
        image = np.stack(
            [
                np.pad(image[..., c], padding, constant_values=value[c])
                for c in range(3)
            ],
            axis=-1,
        )
    return image


def _png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    images.imsave(
        data, image.astype(np.uint8), format="png", metadata={"Software": None}
    )
    return data.getvalue()
