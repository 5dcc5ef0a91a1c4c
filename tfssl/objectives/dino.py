"""DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294)."""

from __future__ import annotations

import math

import gin
import keras
import tensorflow as tf

from tfssl import distribute, types
from tfssl.losses import distillation
from tfssl.objectives import heads
from tfssl.objectives.momentum import cosine_momentum
from tfssl.objectives.multi_crop import MultiCropObjective
from tfssl.objectives.prototypes import Prototypes
from tfssl.objectives.teacher import Teacher


@gin.register(module="tfssl.objectives")
class DINO(MultiCropObjective):
    """A student's output for each crop matches a teacher's for the other global crop.

    Algorithm 1 and eq. 3: cross-entropy of softmax(student / student_temperature) to
    softmax((teacher - centre) / teacher_temperature). The centre is a moving average of
    the teacher's outputs over the global batch (eq. 4). Head: three layers with GELU, a
    bottleneck of unit length, and weight-normalised outputs of length 1 (section 3.1,
    appendix C).

    Args:
      hidden: Width of the head's hidden layers.
      bottleneck: Dimensions before the output.
      out: K, dimensions of the output.
      student_temperature: tau_s.
      teacher_temperature: tau_t after the warm-up.
      warmup_teacher_temperature: tau_t at the start.
      warmup: Share of the run in which tau_t rises, linearly.
      momentum: Of the teacher, at the start; it rises to 1 along half a cosine.
      centre_momentum: m of eq. 4.
      frozen: Share of the run in which the output layer does not learn.
      batch_norm: BatchNorm in the head: the paper has none with a ViT (appendix C); its
        authors' ResNet-50 has (their args.txt).
    """

    name = "dino"

    def __init__(
        self,
        hidden: int = 2048,
        bottleneck: int = 256,
        out: int = 65536,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        warmup: float = 0.3,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        batch_norm: bool = False,
    ):
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.out = types.whole("DINO.out", out, 2)
        self.student_temperature = types.positive(
            "DINO.student_temperature", student_temperature
        )
        self.teacher_temperature = types.positive(
            "DINO.teacher_temperature", teacher_temperature
        )
        self.warmup_teacher_temperature = types.positive(
            "DINO.warmup_teacher_temperature", warmup_teacher_temperature
        )
        self.warmup = types.share("DINO.warmup", warmup)
        self.momentum = types.share("DINO.momentum", momentum)
        self.centre_momentum = types.share("DINO.centre_momentum", centre_momentum)
        self.frozen = types.share("DINO.frozen", frozen)
        if not isinstance(batch_norm, bool):
            raise types.UserError(f"DINO.batch_norm = {batch_norm!r} must be a bool")
        self.batch_norm = batch_norm

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        widths = [self.hidden, self.hidden, self.bottleneck]
        x = heads.mlp(inputs, widths, self.name, self.batch_norm, activation="gelu")
        self.outputs = Prototypes(
            self.out, weight_norm=True, name=f"{self.name}_outputs"
        )
        self.head = keras.Model(inputs, [x, self.outputs(x)], name=f"{self.name}_head")
        self.centre = distribute.state(tf.zeros([self.out]), f"{self.name}/centre")

    def follow(self, backbone: keras.Model) -> None:
        self.teacher = Teacher(backbone, self.head)
        self.state = [*self.teacher.variables, self.centre]

    def loss(
        self,
        forward: types.Forward,
        views: tuple[tf.Tensor, ...],
        batch: types.Batch,
    ) -> tf.Tensor:
        learns = batch["progress"] >= self.frozen
        students = [self.outputs(x, learns) for x, _ in self.crops(forward, views)]
        flat = tf.reshape(views[0], [-1, *views[0].shape[2:]])
        _, teachers = self.teacher(flat)
        teachers = tf.reshape(teachers, [-1, self.num_views, self.out])
        temperature = self._teacher_temperature(batch["progress"])
        loss = distillation.dino(
            students,
            tf.unstack(teachers, axis=1),
            tf.convert_to_tensor(self.centre),
            self.student_temperature,
            temperature,
        )
        forward.notes["dino/teacher"] = (teachers - self.centre) / temperature
        if forward.updates:
            mean = tf.reduce_mean(distribute.gather(teachers), [0, 1])
            self.centre.assign_add((1 - self.centre_momentum) * (mean - self.centre))
        return loss

    def statistics(self, forward: types.Forward) -> dict[str, tf.Tensor]:
        """The entropy of the teacher, in [0, 1]; both ends are kinds of collapse."""
        log = tf.nn.log_softmax(forward.notes["dino/teacher"])
        entropy = -tf.reduce_sum(tf.exp(log) * log, axis=-1) / math.log(self.out)
        return {"teacher_entropy": tf.reduce_mean(entropy, axis=-1)}

    def _teacher_temperature(self, progress: tf.Tensor) -> tf.Tensor:
        low, high = self.warmup_teacher_temperature, self.teacher_temperature
        if not self.warmup:
            return tf.constant(high)
        return low + (high - low) * tf.minimum(progress / self.warmup, 1.0)

    def after_step(self, progress: tf.Tensor) -> None:
        self.teacher.follow(cosine_momentum(self.momentum, 1.0, progress))
