"""Shorter floats and micro-batches change the arithmetic and not the method."""

import csv

import gin
import keras
import methods
import numpy as np
import pytest
import tensorflow as tf

from tfssl import config, distribute
from tfssl.models.resnet import resnet
from tfssl.models.vit import vit
from tfssl.objectives.classification import Classification
from tfssl.training import optimizers
from tfssl.training.guards import check_overflow
from tfssl.training.loop import train
from tfssl.training.network import Network
from tfssl.training.parts import in_turn
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer
from tfssl.types import UserError

SHORT = ("bfloat16", "float16")


def images(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.uniform(size=(n, 8, 8, 3)), tf.float32)


def small_resnet():
    keras.utils.set_random_seed(1)
    return resnet((8, 8, 3), (1, 1), width=8)


def small_vit():
    keras.utils.set_random_seed(1)
    return vit((8, 8, 3), patch=4, width=16, depth=2, heads=2)


def pulled(network, backbone, image, training=True):
    """Features, and gradients of a loss of them, of images and weights."""

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = network(image, training=training)
            # All examples of the batch have to do with one another.
            distances = tf.matmul(features, features, transpose_b=True)
            loss = tf.reduce_sum(tf.math.softplus(distances / 10))
        return features, tape.gradient(loss, [image, *backbone.trainable_variables])

    return run()


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in z]) for z in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_short_floats_compute_the_same_network(make, precision):
    backbone, other = make(), make()
    network = Network(other, precision)
    for a, b in zip(backbone.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)  # The same seed, the same weights.
    kinds = {layer.compute_dtype for layer in network._layers.layers}
    assert kinds == {"float32", precision}

    want, gradients = pulled(backbone, backbone, images())
    got, short = pulled(network, other, images())
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, want, atol=0.04 * np.abs(want).max())
    assert not np.array_equal(got, want)
    assert cosine(gradients, short) > 0.99
    for a, b in zip(
        backbone.non_trainable_variables, other.non_trainable_variables, strict=True
    ):
        assert a.dtype == b.dtype == "float32"
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("frozen", ["all", "one layer"])
def test_what_is_frozen_stays_so(frozen):
    backbone, other = small_vit(), small_vit()
    for network in (backbone, other):
        layer = network if frozen == "all" else network.get_layer("block1_attention")
        layer.trainable = False
    want, _ = pulled(backbone, backbone, images())
    got, _ = pulled(Network(other, "bfloat16"), other, images())
    np.testing.assert_allclose(got, want, atol=0.04 * np.abs(want).max())


def test_backbones_from_elsewhere():
    """Functions of keras.ops are layers to Keras, but not quite; models are none."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(2 * image - 1)
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    found = [
        Network(backbone, precision).for_attack(False, True)(images(), False)
        for precision in ("float32", "bfloat16")
    ]
    np.testing.assert_allclose(*found, atol=0.02)
    nested = keras.Model(image, backbone(image))
    with pytest.raises(UserError, match="whose layers are no models"):
        Network(nested, "bfloat16")


def test_an_attack_whose_features_overflow_says_so():
    backbone = small_resnet()
    backbone.get_layer("stem_conv").kernel.assign_add(tf.ones([3, 3, 3, 8]) * 1e5)
    network = Network(backbone, "float16").for_attack(False, True)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        network(images(), False)
    with pytest.raises(UserError, match=r"in the attack of step 3.*'bfloat16'"):
        check_overflow(raised.value, 3)
    check_overflow(ValueError("another"), 3)


@pytest.mark.parametrize("training", [True, False])
def test_parts_equal_ghost_batches_done_slowly(training):
    """Features, gradients and statistics, of views as well."""
    backbone, other = small_resnet(), small_resnet()
    network = Network(other, micro_batches=4)
    views = tf.reshape(images(16), [8, 2, 8, 8, 3])

    def slow(views, training):
        parts = [views[i::4] for i in range(4)]  # Both views of an example together.
        before = [v.numpy() for v in backbone.non_trainable_variables]
        features, after = [], []
        for part in parts:
            for variable, value in zip(
                backbone.non_trainable_variables, before, strict=True
            ):
                variable.assign(value)
            flat = backbone(tf.reshape(part, [-1, 8, 8, 3]), training=training)
            features.append(tf.reshape(flat, [2, 2, -1]))
            after.append([v.numpy() for v in backbone.non_trainable_variables])
        for variable, values in zip(
            backbone.non_trainable_variables, zip(*after, strict=True), strict=True
        ):
            variable.assign(np.mean(values, 0))
        joined = [features[i % 4][i // 4] for i in range(8)]
        return tf.stack(joined)

    def slowly():
        with tf.GradientTape() as tape:
            tape.watch(views)
            features = slow(views, training)
            flat = tf.reshape(features, [16, -1])
            distances = tf.matmul(flat, flat, transpose_b=True)
            loss = tf.reduce_sum(tf.math.softplus(distances / 10))
        return features, tape.gradient(loss, [views, *backbone.trainable_variables])

    def reshaped(views, training):
        return tf.reshape(network(views, training=training), [16, -1])

    want, gradients = slowly()
    got, in_parts = pulled(reshaped, other, views, training)
    np.testing.assert_allclose(tf.reshape(got, want.shape), want, atol=1e-5)
    for a, b in zip(in_parts, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())
    for a, b in zip(
        other.non_trainable_variables, backbone.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        if not training:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("attacked", [False, True])
def test_parts_wait_for_all_that_is_asked_of_the_one_before(attacked):
    """Else its activations stay; and of an attack no gradients of weights are asked."""
    backbone = small_resnet()
    network = Network(backbone, micro_batches=4)
    if attacked:
        network = network.for_attack(training=True, whole=True)

    @tf.function(autograph=False)
    def gradient(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_sum(network(image, training=True) ** 2)
        return tape.gradient(loss, image if attacked else backbone.trainable_variables)

    operations = gradient.get_concrete_function(images()).graph.get_operations()
    waits = [len(op.control_inputs) for op in operations if op.type == "Identity"]
    assert waits.count(len(backbone.trainable_variables)) == (0 if attacked else 3)


@pytest.mark.parametrize("method", ["trades", "simclr", "adversarial_simclr"])
def test_micro_batches_without_batch_norm_change_nothing(method):
    """The step of a whole batch, whether or not its loss compares examples."""

    def step(micro_batches):
        terms, settings = methods.METHODS[method]()
        keras.utils.set_random_seed(0)
        image = keras.Input(methods.SHAPE)
        x = keras.layers.Conv2D(6, 3, strides=2, activation="gelu")(image)
        backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
        trainer = Trainer(
            *(backbone, methods.K, terms, methods.attack()),
            micro_batches=micro_batches,
            **settings,
        )
        trainer.compile(optimizers.sgd(0.1))
        run = tf.function(trainer.train_step, autograph=False)
        logs = [run(methods.one_batch(seed)) for seed in range(3)]
        return logs, [v.numpy() for v in trainer.trainable_variables]

    (logs, weights), (other_logs, other_weights) = step(1), step(4)
    for a, b in zip(logs, other_logs, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=name)
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_in_turn_joins_in_order():
    batch = {"a": tf.range(6), "b": tf.reshape(tf.range(12.0), [6, 2]), "c": 3.0}
    batch["c"] = tf.constant(batch["c"])
    sizes = []

    def function(part):
        sizes.append(part["a"].shape[0])
        return {"sum": part["b"] + part["c"] + tf.cast(part["a"], tf.float32)[:, None]}

    found = in_turn(function, batch, 3)["sum"]
    assert sizes == [2, 2, 2]
    np.testing.assert_array_equal(found, function(batch)["sum"])


def trained_on(images, labels, scale):
    """A network that is sure of these images, times a scale of its logits."""
    keras.utils.set_random_seed(0)
    network = small_resnet()
    trainer = Trainer(network, 4, [Term(Classification())])
    trainer.compile(optimizers.adam(0.01))
    batch = {"image": images, "label": labels}
    step = tf.function(trainer.train_step, autograph=False)
    for _ in range(60):
        step(batch)
    dense = trainer.classifier.get_layer("logits")
    dense.set_weights([scale * weight for weight in dense.get_weights()])
    return trainer


@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_attacks_are_as_strong_in_short_floats(precision, scale):
    """PGD in the shorter float, judged in float32; also of a network that is sure.

    With larger logits the gradients of all images are below what float16 can hold.
    """
    n = 256
    rng = np.random.default_rng(0)
    labels = tf.constant(rng.integers(0, 4, n), tf.int32)
    centres = rng.uniform(0.3, 0.7, size=(4, 8, 8, 3))
    noise = rng.normal(scale=0.1, size=(n, 8, 8, 3))
    image = np.clip(centres[labels.numpy()] + noise, 0, 1).astype(np.float32)
    trainer = trained_on(tf.constant(image), labels, scale)
    attack = methods.attack(epsilon="8/255", steps=10)
    classifier = trainer.classifier

    def attacked(precision):
        network = Network(trainer.backbone, precision).for_attack(False, True)

        @tf.function(autograph=False)
        def run():
            def loss(x):
                return keras.losses.sparse_categorical_crossentropy(
                    labels, classifier(network(x, training=False)), from_logits=True
                )

            seed = tf.stack([tf.range(n), tf.range(n)], 1)
            return attack(loss, tf.constant(image), seed)

        logits = classifier(trainer.backbone(run()))
        return np.mean(np.argmax(logits, 1) == labels.numpy())

    clean = classifier(trainer.backbone(tf.constant(image)))
    accuracy = np.mean(np.argmax(clean, 1) == labels.numpy())
    full, short = attacked("float32"), attacked(precision)
    assert accuracy > full + 0.2, "the attack has to do something"
    assert abs(full - short) <= 0.03


def test_float16_steps_that_overflow_are_left_out_on_all_replicas(two_replicas):
    """One replica alone overflows; Keras itself looks at the first one's gradients."""
    strategy = two_replicas
    trainer = methods.build(
        [Term(Classification())], strategy, precision="float16", ema_decay=0.5
    )
    before = [v.numpy() for v in trainer.trainable_variables]
    batch = {k: v.numpy() for k, v in methods.one_batch().items()}
    batch["image"][-1] = 1e30  # Infinite in float16, on the second replica.
    data = tf.data.Dataset.from_tensors(batch).repeat(1)
    data = distribute.share_out(strategy, lambda *_: data)

    @tf.function(autograph=False)
    def step(batch):
        return distribute.add(strategy, strategy.run(trainer.train_step, (batch,)))

    scale = float(step(next(iter(data)))["loss_scale"])
    assert scale == 2**15
    for a, b in zip(before, trainer.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(trainer.optimizer.dynamic_scale.numpy()) == scale / 2
    assert int(trainer.optimizer.iterations.numpy()) == 0
    step(next(iter(distribute.share_out(strategy, lambda *_: methods.batches()))))
    assert int(trainer.optimizer.iterations.numpy()) == 1


@pytest.mark.parametrize("method", ["trades", "jigsaw_both_l2", "adversarial_simclr"])
def test_compiled_attacks_find_the_same(method):
    def step(jit_attack):
        terms, settings = methods.METHODS[method]()
        trainer = methods.build(terms, rate=0.01, jit_attack=jit_attack, **settings)
        run = tf.function(trainer.train_step, autograph=False)
        return [run(methods.one_batch(seed))["loss"] for seed in range(2)]

    np.testing.assert_allclose(step(True), step(False), rtol=1e-3)


def test_a_run_in_float16_and_parts_exports_a_float32_model(tmp_path):
    config.parse(
        ["runs/train.gin", "data/digits.gin", "models/tiny.gin", "terms/standard.gin"],
        [
            *("NAME='short'", "EPOCHS=2", "BATCH_SIZE=50", "Dataset.num_examples=100"),
            *("PRECISION='float16'", "MICRO_BATCHES=5", "LEARNING_RATE=0.01"),
            *("import tfssl.evaluation.validation", "VALIDATION=@Validation()"),
            *("import tfssl.evaluation.evaluators", "Validation.evaluators=[@Clean()]"),
        ],
    )
    train(tmp_path)
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["loss_scale"]) for row in rows] == [2**15] * 2
    with gin.unlock_config():
        gin.bind_parameter("Trainer.micro_batches", 7)
    with pytest.raises(UserError, match="does not divide by 1 replicas x 7 micro"):
        train(tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "float8"}, "precision is one of float32, bfloat16, float16"),
        ({"micro_batches": 0}, "micro_batches must be a whole number"),
        ({"micro_batches": 2, "one_pass": True}, "and no micro_batches"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        methods.build([Term(Classification())], **settings)


def test_float16_attacks_need_batch_norm_in_inference_mode():
    terms, settings = methods.METHODS["attack_in_training_mode"]()
    trainer = methods.build(terms, precision="float16", **settings)
    with pytest.raises(UserError, match="inference mode"):
        trainer.train_step(methods.one_batch())
