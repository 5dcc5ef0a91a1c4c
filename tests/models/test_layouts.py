"""Encoders are found in the checkpoints of all methods, and nothing else is taken."""

import fake_states
import numpy as np
import pytest

from tfssl.models.checkpoints import layouts
from tfssl.models.checkpoints.convert import convert
from tfssl.types import UserError

RESNET = fake_states.resnet()
HEAD = fake_states.head(32, name="")
OTHER = {name: 2 * x for name, x in RESNET.items()}
MATRIX, VECTOR = np.ones([3, 2]), np.ones(3)


def checkpoint(*parts):
    return {
        prefix + name: value for prefix, part in parts for name, value in part.items()
    }


CHECKPOINTS = {
    "torchvision": checkpoint(("", RESNET), ("fc", HEAD)),
    "Barlow Twins, VICReg, DINO": RESNET,
    "Barlow Twins, full": checkpoint(
        ("model.module.backbone.", RESNET),
        ("model.module.", {"projector.0.weight": MATRIX, "bn.running_mean": VECTOR}),
        ("optimizer.state.0.", {"mu": MATRIX}),
    ),
    "MoCo v1": checkpoint(
        ("state_dict.module.encoder_q.", RESNET),
        ("state_dict.module.encoder_q.fc", fake_states.head(32, 3, "")),
        ("state_dict.module.encoder_k.", OTHER),
        ("state_dict.module.", {"queue": MATRIX, "queue_ptr": np.array([0])}),
    ),
    "MoCo v2": checkpoint(
        ("state_dict.module.encoder_q.", RESNET),
        ("state_dict.module.encoder_q.fc.", {"0.weight": MATRIX, "2.weight": MATRIX}),
        ("state_dict.module.encoder_k.", OTHER),
    ),
    "MoCo v2 and SimSiam, linear": checkpoint(
        ("state_dict.module.", RESNET),
        ("state_dict.module.fc", HEAD),
        ("optimizer.state.0.", {"momentum_buffer": MATRIX}),
    ),
    "MoCo v3": checkpoint(
        ("state_dict.module.base_encoder.", RESNET),
        ("state_dict.module.base_encoder.fc.", {"0.weight": MATRIX}),
        ("state_dict.module.momentum_encoder.", OTHER),
        ("state_dict.module.predictor.", {"0.weight": MATRIX}),
    ),
    "SimSiam": checkpoint(
        ("state_dict.module.encoder.", RESNET),
        ("state_dict.module.encoder.fc.", {"0.weight": MATRIX, "6.bias": VECTOR}),
        ("state_dict.module.predictor.", {"0.weight": MATRIX}),
    ),
    "SwAV": checkpoint(
        ("module.", RESNET),
        ("module.", {"projection_head.0.weight": MATRIX, "prototypes.weight": MATRIX}),
    ),
    "DINO, full": checkpoint(
        ("student.module.backbone.", OTHER),
        ("teacher.backbone.", RESNET),
        ("teacher.head.mlp.0.", {"weight": MATRIX}),
        ("dino_loss.", {"center": VECTOR}),
    ),
    "mmpretrain, linear": checkpoint(
        ("state_dict.backbone.", RESNET), ("state_dict.head.fc", HEAD)
    ),
    "mmselfsup, linear": checkpoint(
        ("state_dict.backbone.", RESNET), ("state_dict.head.fc_cls", HEAD)
    ),
    "mmselfsup, pre-training": checkpoint(
        ("state_dict.backbone.", RESNET),
        ("state_dict.target_net.0.", OTHER),
        ("state_dict.neck.", {"fc0.weight": MATRIX}),
    ),
    "VISSL": checkpoint(
        ("classy_state_dict.base_model.model.trunk._feature_blocks.", RESNET),
        ("classy_state_dict.base_model.model.heads.0.clf.0", HEAD),
    ),
}


@pytest.fixture(scope="module")
def expected():
    """Weights of the encoder."""
    tensors = {k: v for k, v in RESNET.items() if not k.endswith("tracked")}
    return sum(np.sum(x, dtype=float) for x in tensors.values())


def weight(model):
    """One number that tells encoders apart."""
    encoder = [v for v in model.weights if "logits" not in v.path]
    return sum(np.sum(v.numpy(), dtype=float) for v in encoder)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_encoders_of_all_methods(tmp_path, expected, kind):
    tensors = CHECKPOINTS[kind]
    np.savez(tmp_path / "a.npz", **tensors)
    model, report = convert(tmp_path / "a.npz", image_size=32)
    assert weight(model) == pytest.approx(expected, rel=1e-5)
    has_head = any(tensors[name] is HEAD[".bias"] for name in tensors)
    assert model.output_names == ["logits" if has_head else "features"]
    used = sum(not name.endswith("tracked") for name in RESNET) + 2 * has_head
    assert f"used      {used} of {len(tensors)} tensors" in report


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DINO, full", {"layout": "student"}),
        ("MoCo v2", {"layout": "encoder_k"}),
        ("MoCo v3", {"layout": "momentum_encoder"}),
        ("mmselfsup, pre-training", {"prefix": "state_dict.target_net.0."}),
        ("mmselfsup, pre-training", {"prefix": "target_net.0."}),
    ],
)
def test_another_encoder_may_be_named(tmp_path, expected, kind, settings):
    np.savez(tmp_path / "a.npz", **CHECKPOINTS[kind])
    model, _ = convert(tmp_path / "a.npz", image_size=32, **settings)
    assert weight(model) == pytest.approx(2 * expected, rel=1e-5)


def test_what_was_chosen_and_left_out_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", **CHECKPOINTS["DINO, full"])
    _, report = convert(tmp_path / "a.npz", image_size=32)
    assert "layout teacher, tensors below teacher.backbone.;" in report
    assert "there is also student (--layout)" in report
    counters = sum(name.endswith("tracked") for name in RESNET)
    student = f"student ({len(RESNET) - counters})"
    left = (
        f"num_batches_tracked ({2 * counters}), {student}, teacher (1), dino_loss (1)"
    )
    assert f"left out  {left}" in report


@pytest.mark.parametrize(
    "head",
    [
        fake_states.head(32, name="module.linear"),
        fake_states.head(32, name="state_dict.module.linear"),
        fake_states.head(32, name="head.fc_cls"),
        {"weight": HEAD[".weight"], "bias": HEAD[".bias"]},
        checkpoint(("state_dict.module.", OTHER), ("state_dict.module.fc", HEAD)),
    ],
)
def test_heads_of_files_of_their_own(tmp_path, head):
    # The checkpoint has one, too.
    np.savez(
        tmp_path / "a.npz",
        **checkpoint(("", RESNET), ("fc", fake_states.head(32, 7, ""))),
    )
    np.savez(tmp_path / "b.npz", **head)
    model, report = convert(tmp_path / "a.npz", tmp_path / "b.npz", image_size=32)
    np.testing.assert_array_equal(model.get_layer("logits").kernel, HEAD[".weight"].T)
    assert "fc (2)" in report


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        ({"conv.weight": VECTOR}, {}, "neither a ResNet .* such as conv.weight"),
        (fake_states.below("net.f.", RESNET), {}, "--prefix net.f."),
        (RESNET, {"prefix": "encoder."}, "neither a ResNet"),
        (RESNET, {"layout": "teacher"}, "no encoder of layout teacher, but of plain"),
        (RESNET, {"layout": "dino"}, "no layout dino: there is plain, teacher"),
        (
            checkpoint(("model.", RESNET), ("state_dict.", RESNET)),
            {},
            "both model.conv1.weight and state_dict.conv1.weight",
        ),
    ],
)
def test_what_is_not_found_is_told(tmp_path, tensors, settings, message):
    np.savez(tmp_path / "a.npz", **tensors)
    with pytest.raises(UserError, match=message) as error:
        convert(tmp_path / "a.npz", image_size=32, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"mlp.weight": MATRIX}, "no linear head"),
        (fake_states.head(32) | fake_states.head(32, name="linear"), "several linear"),
        ({"linear.weight": MATRIX}, "no tensor linear.bias"),
    ],
)
def test_heads_that_are_none_are_told(tmp_path, head, message):
    np.savez(tmp_path / "a.npz", **RESNET)
    np.savez(tmp_path / "b.npz", **head)
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "a.npz", tmp_path / "b.npz", image_size=32)


def test_the_table_has_no_two_rows_of_a_name():
    assert len({x.name for x in layouts.LAYOUTS}) == len(layouts.LAYOUTS)
    assert len({x.prefix for x in layouts.LAYOUTS}) == len(layouts.LAYOUTS)
