"""Every gin file parses once others complete it, and every run takes two steps."""

import csv
import json
import math
import re

import gin
import pytest

from tfssl import config
from tfssl.models.resnet import resnet
from tfssl.training.loop import train

GIN = config.gin_dir()
FILES = sorted(str(path.relative_to(GIN)) for path in GIN.rglob("*.gin"))
# A run is one file of each of these folders, read in this order.
PARTS = {
    "runs": "runs/train.gin",
    "data": "data/digits.gin",
    "models": "models/tiny.gin",
    "attacks": "attacks/pgd_linf.gin",
    "terms": "terms/adversarial_ssl_both.gin",
    "objectives": "objectives/rotation.gin",
}
# The same at a size for tests: 8 images of digits, two channels.
SHRINK = """
include 'data/digits.gin'
include 'models/tiny.gin'
import tfssl.objectives.jigsaw

resnet.blocks = (1,)
resnet.width = 2
Dataset.num_examples = 8
Jigsaw.grid = 2
Jigsaw.permutations = 5
STEPS = 2
BATCH_SIZE = 4
EPOCHS = 1
"""
# For ImageNet's networks, which want larger images: the digits at 32 x 32. What else is
# large is made small by `shrink_heads`.
SHRINK_IMAGENET = """
include 'data/digits.gin'
import tfssl.models.resnet
import tfssl.models.vit

resnet50.width = 2
resnet50.mean = 0.5
resnet50.std = 0.25
vit_small.mean = 0.5
vit_small.std = 0.25
Dataset.test_split = 'test'
Dataset.image_size = 32
Dataset.in_memory = True
RandomResizedCrop.size = 32
Dataset.num_examples = 8
BATCH_SIZE = 4
EPOCHS = 1
"""


def completed(file):
    """The files that make a run of a file: it, in its place among those it lacks."""
    folder, name = file.split("/")[0], file.split("/")[-1]
    others = list(PARTS.values())
    if folder == "papers" and name == "base.gin":
        return [file, *others[3:]]
    if folder == "papers" and not name.startswith(("scale_", "evaluation_")):
        return [file]
    if folder == "protocols":
        return [file]
    if file == "runs/corrupt.gin":
        return [file, PARTS["data"]]
    if file == "runs/evaluate.gin":
        return [*others, file, "evaluation/clean.gin"]
    if file == "terms/acl.gin":  # Brings its objective, and wants views.
        return [*list((PARTS | {"terms": file}).values()), "views/acl.gin"]
    if folder in PARTS and folder != "objectives":
        return list((PARTS | {folder: file}).values())
    return [*others, file]


RUNS = [f for f in FILES if f.startswith("papers/") and completed(f) == [f]]
# Too dear for two steps each time.
IMAGENET = [f for f in RUNS if f.endswith("_imagenet.gin")]
OTHER_RUNS = [f for f in RUNS if f not in IMAGENET]
# Runs as well, but for an encoder and a name.
PROTOCOLS = [f for f in FILES if f.startswith("protocols/")]
INCLUDED = {
    i for f in OTHER_RUNS for i in re.findall("include '(.*)'", (GIN / f).read_text())
}
OTHER_TERMS = [f for f in FILES if f.startswith("terms/") and f not in INCLUDED]
OTHER_OPTIMIZERS = [
    f for f in FILES if f.startswith("optimizers/") and f not in INCLUDED
]


def parse(file, *more, encoder="encoder.keras"):
    named = file in RUNS or file == "runs/corrupt.gin"
    params = [] if named else ["NAME='test'"]
    if file in PROTOCOLS or file == "models/pretrained.gin":
        params.append(f"PRETRAINED='{encoder}'")
    if file.startswith("papers/zhang2022") or file == "objectives/deacl.gin":
        params.append(f"DEACL_TEACHER='{encoder}'")
    if file in ("evaluation/cifar_c.gin", "evaluation/imagenet_c.gin"):
        params.append("RELEASED='FOLDER'")
    if file == "evaluation/corruptions_written.gin":
        params.append("WRITTEN='cifar10_c:1.0.0'")
    config.parse([*completed(file), *more], params)


@pytest.mark.parametrize("file", FILES)
def test_file_parses(file):
    parse(file)
    assert (GIN / file).read_text().startswith("# ")


@pytest.mark.parametrize("file", RUNS)
def test_a_complete_file_says_what_to_expect(file):
    header = (GIN / file).read_text().split("include")[0]
    assert f"bin/train --gin_file {file}" in header
    assert re.search(r"arXiv \d|openreview", header)
    assert "\n# Cost: " in header
    assert "\n# Expected: " in header


@pytest.mark.parametrize("file", PROTOCOLS)
def test_a_protocol_says_what_it_freezes(file):
    header = (GIN / file).read_text().split("include")[0]
    assert f"bin/train --gin_file {file}" in header
    assert "PRETRAINED = '" in header
    assert "NAME = '" in header
    assert "\n# Source: " in header
    parse(file)
    frozen = gin.query_parameter("%FROZEN")
    assert f"\n# Frozen: {'all' if frozen else 'nothing'}" in header


@pytest.mark.parametrize("file", PROTOCOLS)
def test_a_protocol_uses_what_it_binds(file, tmp_path):
    encoder = tmp_path / "encoder.keras"
    resnet((8, 8, 1), (1,), width=2).save(encoder)
    (tmp_path / "shrink.gin").write_text(SHRINK + "BACKBONE = @pretrained")
    parse(file, tmp_path / "shrink.gin", encoder=encoder)
    two_steps(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["backbone_frozen"] == gin.query_parameter("%FROZEN")


@pytest.mark.parametrize("file", [*OTHER_RUNS, *OTHER_TERMS, *OTHER_OPTIMIZERS])
def test_two_steps(file, tmp_path):
    (tmp_path / "shrink.gin").write_text(SHRINK + no_warmup(file))
    teacher = tmp_path / "teacher.keras"
    if file.startswith("papers/zhang2022"):
        resnet((8, 8, 1), (1,), width=2).save(teacher)
    parse(file, tmp_path / "shrink.gin", encoder=teacher)
    two_steps(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", IMAGENET)
def test_two_steps_on_small_imagenet(file, tmp_path):
    (tmp_path / "shrink.gin").write_text(SHRINK_IMAGENET + no_warmup(file))
    parse(file, tmp_path / "shrink.gin")
    shrink_heads()
    two_steps(tmp_path)


def no_warmup(file):
    used = "warmup_epochs" in (GIN / file).read_text()
    return "cosine.warmup_epochs = 0\n" if used else ""


def shrink_heads():
    """No width, queue or small crop that is bound stays larger than 16."""

    def small(value):
        if isinstance(value, tuple):
            return tuple(map(small, value))
        return min(value, 16) if isinstance(value, int) else value

    for (scope, name), bound in gin.config._CONFIG.items():
        if name.startswith("tfssl.objectives.") or scope == "local":
            bound.update({key: small(value) for key, value in bound.items()})


def two_steps(tmp_path):
    train(tmp_path)
    # What is bound is used: gin says nothing of bindings that nobody reads. (Networks
    # and tasks were exchanged for smaller ones, and SGD is bound where it is not used.)
    bound = {name for _, name in gin.config._CONFIG if name != "gin.macro"}
    unused = bound - {name for _, name in gin.config._OPERATIVE_CONFIG}
    assert {
        n
        for n in unused
        if not re.match(r"tfssl\.((models|objectives)\.|training\.sgd$)", n)
    } == set()
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert row["step"] == "2"
    assert all(math.isfinite(float(v)) for v in row.values())
    assert json.loads((tmp_path / "manifest.json").read_text())["finished"]
