"""Methods that compare views: what they feed to their losses, and their state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.losses import clustering, contrastive, distillation, redundancy, similarity
from tfssl.objectives.barlow_twins import BarlowTwins
from tfssl.objectives.byol import BYOL
from tfssl.objectives.deacl import DeACL
from tfssl.objectives.dino import DINO
from tfssl.objectives.moco_v2 import MoCoV2
from tfssl.objectives.moco_v3 import MoCoV3
from tfssl.objectives.queue import Queue
from tfssl.objectives.rocl import RoCL
from tfssl.objectives.simclr import SimCLR
from tfssl.objectives.simsiam import SimSiam
from tfssl.objectives.swav import SwAV
from tfssl.objectives.teacher import Teacher
from tfssl.objectives.vicreg import VICReg
from tfssl.types import UserError

B, SHAPE, D = 4, (4, 4, 3), 5


class Forward:
    """Passes of a backbone, as the trainer makes them."""

    def __init__(self, backbone, training=True):
        self.training = self.updates = training
        self.notes = {}
        self._backbone = backbone

    def features(self, image):
        flat = tf.reshape(image, [-1, *image.shape[-3:]])
        features = self._backbone(flat, training=self.training)
        return tf.reshape(features, [*image.shape[:-3], D])


def made(objective):
    """The objective, built on a small backbone of its own."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(D, 2)(image)
    x = keras.layers.BatchNormalization()(x)
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    objective.build(D, 3)
    objective.follow(backbone)
    return objective, backbone


def batch(seed=0, count=2, **more):
    rng = np.random.default_rng(seed)
    views = rng.uniform(size=(B, count, *SHAPE)).astype("float32")
    return {"views": tf.constant(views), "progress": tf.constant(0.5), **more}


def loss_of(objective, forward, batch):
    return objective.loss(forward, objective.views(None, batch), batch)


def test_views_must_be_there():
    objective, _ = made(SimCLR(4, 3))
    with pytest.raises(UserError, match=r"2 views of each image.*makes 0.*VIEWS"):
        objective.views(None, {})
    with pytest.raises(UserError, match="makes 3"):
        objective.views(None, batch(count=3))


def test_simclr_passes_both_views_as_one_batch():
    objective, backbone = made(SimCLR(4, 3, temperature=0.3))
    data = batch()
    got = loss_of(objective, Forward(backbone), data)
    flat = tf.reshape(data["views"], [-1, *SHAPE])
    z = tf.reshape(objective.head(backbone(flat, training=True)), [B, 2, 3])
    want = contrastive.nt_xent(z[:, 0], z[:, 1], 0.3)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_simsiam_predicts_across_views_and_stops_the_gradient():
    objective, backbone = made(SimSiam((4, 3), 2))
    data = batch()
    with tf.GradientTape() as tape:
        got = loss_of(objective, Forward(backbone), data)
    gradient = tape.gradient(got, backbone.trainable_variables[0])
    with tf.GradientTape() as tape:
        (z1, p1), (z2, p2) = [
            objective.head(backbone(data["views"][:, i], training=True), training=True)
            for i in range(2)
        ]
        targets = [tf.constant(z.numpy()) for z in (z1, z2)]
        want = similarity.negative_cosine(p1, targets[1]) / 2
        want += similarity.negative_cosine(p2, targets[0]) / 2
    np.testing.assert_allclose(got, want, rtol=1e-5)
    expected = tape.gradient(want, backbone.trainable_variables[0])
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_teacher_is_an_average_of_all_weights():
    _, backbone = made(SimCLR(4, 3))
    teacher = Teacher(backbone)
    image = batch()["views"][:, 0]
    before = [v.numpy() for v in backbone.weights]
    np.testing.assert_allclose(teacher(image), backbone(image, training=True), 1e-5)
    # Its passes move no statistics, the student's pass above did.
    backbone.set_weights([w + 1 for w in before])
    teacher.follow(0.75)
    backbone.set_weights([w + 0.25 for w in before])
    np.testing.assert_allclose(
        teacher(image), backbone(image, training=True), rtol=1e-4
    )
    assert all(not v.trainable for v in teacher.variables)


def test_byol_asks_the_teacher_for_the_other_view():
    objective, backbone = made(BYOL(4, 3, momentum=0.9))
    data = batch()
    images = tf.unstack(data["views"], axis=1)
    backbone.set_weights([w * 1.5 for w in backbone.get_weights()])
    got = loss_of(objective, Forward(backbone), data)
    predicted = [
        objective.head(backbone(x, training=True), training=True)[1] for x in images
    ]
    taught = [objective.teacher(x) for x in images]
    want = similarity.byol(predicted[0], taught[1])
    want += similarity.byol(predicted[1], taught[0])
    np.testing.assert_allclose(got, want, rtol=1e-4)
    # At the end of the run the teacher stands still.
    before = [v.numpy() for v in objective.state]
    objective.after_step(tf.constant(1.0))
    for old, new in zip(before, objective.state, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-7)


def test_teacher_of_a_network_with_dropout():
    inputs = keras.Input([3])
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(2)(inputs))
    student = keras.Model(inputs, x)
    teacher = Teacher(student)
    student.set_weights([w + 1 for w in student.get_weights()])
    teacher.follow(0.5)
    np.testing.assert_allclose(teacher.variables[1], [0.5, 0.5])  # The bias.


def test_moco_v3_asks_the_teacher_for_the_other_view():
    objective, backbone = made(MoCoV3(4, 3, temperature=0.3, momentum=0.8))
    data = batch()
    backbone.set_weights([w * 1.5 for w in backbone.get_weights()])
    queries, keys = [
        [fn(x) for x in tf.unstack(data["views"], axis=1)]
        for fn in (
            lambda x: objective.head(backbone(x, training=True), training=True),
            objective.teacher,
        )
    ]
    want = contrastive.moco_v3(queries[0], keys[1], 0.3)
    want += contrastive.moco_v3(queries[1], keys[0], 0.3)
    got = loss_of(objective, Forward(backbone), data)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "start", "end"),
    [
        (MoCoV2(4, 3, queue=8, momentum=0.8), 0.8, 0.8),
        (MoCoV3(4, 3, momentum=0.8), 0.8, 1.0),
        (BYOL(4, 3, momentum=0.8), 0.8, 1.0),
        (DINO(4, 3, 6, momentum=0.8), 0.8, 1.0),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_teachers_follow_by_their_momentum(objective, start, end):
    _, backbone = made(objective)
    kernel = backbone.trainable_variables[0]
    average = objective.teacher.variables[0]
    for progress, momentum in ((0.0, start), (1.0, end)):
        old = average.numpy()
        kernel.assign(kernel + 1)
        objective.after_step(tf.constant(progress))
        want = momentum * old + (1 - momentum) * kernel.numpy()
        np.testing.assert_allclose(average, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        (
            BarlowTwins((4, 3), off_diagonal=0.1, scale=0.5),
            lambda z1, z2: 0.5 * redundancy.barlow_twins(z1, z2, 0.1),
        ),
        (
            VICReg((4, 3), 2.0, 3.0, 4.0),
            lambda *z: redundancy.vicreg(*z, 2.0, 3.0, 4.0),
        ),
    ],
    ids=["barlow_twins", "vicreg"],
)
def test_each_view_is_a_pass_of_its_own(objective, loss):
    _, backbone = made(objective)
    data = batch()
    got = loss_of(objective, Forward(backbone), data)
    z = [
        objective.head(backbone(x, training=True), training=True)
        for x in tf.unstack(data["views"], axis=1)
    ]
    np.testing.assert_allclose(got, loss(*z), rtol=1e-4)


def test_deacl(tmp_path):
    _, teacher = made(SimCLR(4, 3))
    teacher.save(tmp_path / "teacher.keras")
    objective, student = made(DeACL(tmp_path / "teacher.keras", robustness=3.0))
    student.set_weights([w + 0.3 for w in student.get_weights()])
    clean, attacked = tf.unstack(batch()["views"], axis=1)
    data = objective.before_attack(Forward(student), attacked, {"image": clean})
    taught = teacher(clean, training=False)
    features = [student(x, training=False) for x in (clean, attacked)]
    forward = Forward(student, training=False)
    np.testing.assert_allclose(
        objective.attack_loss(forward, attacked, data),
        similarity.negative_cosine(features[1], taught),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        objective.loss(forward, attacked, data),
        similarity.negative_cosine(features[0], taught)
        + 3 * similarity.negative_cosine(*features),
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    "objective",
    [
        SimCLR(4, 3),
        SimSiam((4, 3), 2),
        BYOL(4, 3),
        BarlowTwins((4, 3)),
        VICReg((4, 3)),
        MoCoV2(4, 3, queue=8),
        MoCoV3(4, 3),
        SwAV(4, 3, 6, queue=8),
        DINO(4, 3, 6),
    ],
    ids=lambda objective: objective.name,
)
def test_losses_are_float32_in_mixed_precision(objective):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        objective, backbone = made(objective)
        forward = Forward(backbone)
        loss = loss_of(objective, forward, batch())
    finally:
        keras.config.set_dtype_policy(before)
    assert loss.dtype == tf.float32
    assert forward.notes[objective.name].dtype == tf.float32
    assert np.all(np.isfinite(loss))


def test_queue_forgets_the_oldest():
    queue = Queue(5, 1, "test")
    for start in (0, 3, 6):
        queue.push(tf.reshape(tf.range(start, start + 3, dtype=tf.float32), [3, 1]))
    assert sorted(queue.read()[:, 0].numpy()) == [4, 5, 6, 7, 8]
    queue.push(tf.reshape(tf.range(20, 27, dtype=tf.float32), [7, 1]))
    assert sorted(queue.read()[:, 0].numpy()) == [22, 23, 24, 25, 26]


def test_moco_compares_with_the_queue_and_fills_it():
    objective, backbone = made(MoCoV2(4, 3, temperature=0.3, queue=8))
    data = batch()
    old = objective.keys.read()
    key = objective._key(data["views"][:, 1])
    got = loss_of(objective, Forward(backbone), data)
    query = objective.head(backbone(data["views"][:, 0], training=True))
    np.testing.assert_allclose(
        got, contrastive.info_nce(query, key, old, 0.3), rtol=1e-4
    )
    np.testing.assert_allclose(objective.keys.read()[:B], key, rtol=1e-5)
    np.testing.assert_allclose(objective.keys.read()[B:], old[B:])
    # An attack moves nothing.
    loss_of(objective, Forward(backbone, training=False), batch(1))
    np.testing.assert_allclose(objective.keys.read()[:B], key, rtol=1e-5)


@pytest.mark.parametrize(("progress", "pushed"), [(0.1, 8), (0.5, 7), (0.5, 8)])
def test_swav_codes_use_a_full_queue_from_its_time_on(progress, pushed):
    objective, backbone = made(SwAV(4, 3, 6, queue=8, queue_from=0.3))
    data = batch(progress=tf.constant(progress))
    for queue in objective._queues:
        queue.push(tf.math.l2_normalize(tf.random.normal([pushed, 3], seed=0), axis=1))
    old = [queue.read() for queue in objective._queues]
    got = loss_of(objective, Forward(backbone), data)
    flat = tf.reshape(data["views"], [-1, *SHAPE])
    outputs = objective.head(backbone(flat, training=True), training=True)
    z, scores = [tf.reshape(x, [B, 2, -1]) for x in outputs]
    codes = [
        clustering.sinkhorn(
            scores[:, i],
            known=objective.clusters(old[i])
            if progress > 0.3 and pushed == 8
            else None,
        )
        for i in range(2)
    ]
    want = clustering.swapped_prediction(tf.unstack(scores, axis=1), codes, 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    rows = (pushed + np.arange(B)) % 8
    found = objective._queues[1].read().numpy()[rows]
    np.testing.assert_allclose(found, z[:, 1], rtol=1e-4)
    np.testing.assert_allclose(tf.norm(objective._queues[0].read(), axis=1), 1, 1e-5)


def test_swav_prototypes_stay_on_the_sphere_and_wait():
    objective, backbone = made(SwAV(4, 3, 6, queue=0, frozen=0.3))
    kernel = objective.clusters.kernel
    for progress, moves in ((0.1, False), (0.5, True)):
        with tf.GradientTape() as tape:
            loss = loss_of(
                objective, Forward(backbone), batch(progress=tf.constant(progress))
            )
        gradient = tape.gradient(loss, kernel.value)
        assert bool(np.any(gradient)) == moves
    kernel.assign(kernel * 3)
    objective.after_step(tf.constant(0.5))
    np.testing.assert_allclose(tf.norm(kernel.value, axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dino_with_small_crops(batch_norm):
    objective, backbone = made(
        DINO(
            *(4, 3, 6),
            warmup_teacher_temperature=0.02,
            warmup=1.0,
            centre_momentum=0.8,
            batch_norm=batch_norm,
        )
    )
    local = tf.random.stateless_uniform([B, 3, 3, 3, 3], [0, 1])
    data = batch(local_views=local)
    objective.centre.assign(tf.range(6.0) / 10)
    forward = Forward(backbone)
    got = loss_of(objective, forward, data)

    def outputs(*groups):
        flat = [tf.reshape(group, [-1, *group.shape[2:]]) for group in groups]
        features = [
            tf.reshape(backbone(x, training=True), [B, group.shape[1], -1])
            for x, group in zip(flat, groups, strict=True)
        ]
        features = tf.concat(features, axis=1)
        flat = tf.reshape(features, [-1, features.shape[-1]])
        scores = objective.head(flat, training=True)[1]
        return tf.unstack(tf.reshape(scores, [*features.shape[:2], 6]), axis=1)

    students = outputs(data["views"], local)
    teachers = outputs(data["views"])  # It starts as a copy.
    want = distillation.dino(students, teachers, tf.range(6.0) / 10, 0.1, 0.03)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    mean = tf.reduce_mean(tf.stack(teachers), [0, 1])
    np.testing.assert_allclose(
        objective.centre, 0.8 * tf.range(6.0) / 10 + 0.2 * mean, atol=1e-5
    )
    (entropy,) = objective.statistics(forward).values()
    assert np.all((entropy >= 0) & (entropy <= 1))


def test_rocl_attacks_the_first_view_alone():
    objective, backbone = made(RoCL(4, 3))
    data = batch()
    attacked = objective.views(None, data)
    np.testing.assert_array_equal(attacked, data["views"][:, 0])
    forward = Forward(backbone, training=False)
    constant = objective.before_attack(forward, attacked, data)
    z = [
        objective.head(backbone(data["views"][:, i], training=False)) for i in range(2)
    ]
    np.testing.assert_allclose(
        objective.attack_loss(forward, attacked, constant),
        contrastive.nt_xent(*z, 0.5),
        rtol=1e-4,
    )
    flat = tf.reshape(tf.concat([data["views"], attacked[:, None]], 1), [-1, *SHAPE])
    three = tf.reshape(objective.head(backbone(flat, training=True)), [B, 3, 3])
    want = 2 * contrastive.nt_xent_of_views(three, 0.5)
    want += contrastive.nt_xent(three[:, 2], three[:, 1], 0.5) / 256
    got = objective.loss(Forward(backbone), attacked, data)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SwAV(prototypes=0), "SwAV.prototypes must be a whole"),
        (lambda: SwAV(iterations=0), "SwAV.iterations"),
        (lambda: SwAV(queue=0.5), "SwAV.queue"),
        (lambda: DINO(out=1), "DINO.out must be a whole number, at least 2, not 1"),
        (lambda: DINO(batch_norm="no"), "DINO.batch_norm"),
    ],
)
def test_sizes_that_make_no_head(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_two_view_methods_refuse_small_crops():
    objective, backbone = made(SimCLR(4, 3))
    local = tf.zeros([B, 3, 3, 3, 3])
    with pytest.raises(UserError, match="simclr looks at no small crops"):
        loss_of(objective, Forward(backbone), batch(local_views=local))
