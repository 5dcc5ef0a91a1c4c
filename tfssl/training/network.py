"""How the backbone is computed: in which precision, and in how many parts."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfssl.folding import Folded
from tfssl.training.parts import in_parts
from tfssl.training.passes import unflatten
from tfssl.types import UserError

PRECISIONS = ("float32", "bfloat16", "float16")

# Of what overflows in an attack.
OVERFLOWS = "features are not finite in float16"

# float16 ends at 65504, and gradients grow on their way.
_LARGEST = 2.0**7


class Network:
    """The function of a backbone, with the backbone's own variables.

    In one of the shorter floats its layers compute, but for three: images are
    normalised in float32, as 8/255 is only two steps of bfloat16's last digit, features
    are averaged in float32, and BatchNorm takes its statistics in it. Weights and their
    updates are float32, and so is all that comes after the features.

    Of micro-batches nothing is kept for the gradient but images and features; the rest
    is computed again once the gradients of the features are known. So a loss may
    compare all images of a batch, in the memory of one part (GradCache: Gao et al.
    2021, arXiv:2101.06983). BatchNorm normalises each part by itself ("ghost batches")
    and moves its statistics once, by their mean. Dropout drops the same in each.

    Args:
      backbone: Functional model, images [n, h, w, c] in [0, 1] to features [n, d].
      precision: 'float32', 'bfloat16' or 'float16'.
      micro_batches: k, by which the number of examples must divide. Every k-th example
        is in the same part: so are those of several replicas.
      attacked: Whether `for_attack` will be asked for.
      jit_attack: Whether that is compiled with XLA, unless BatchNorm is in training
        mode: replicas cannot talk to one another in what is compiled. Nor is anything
        random in it, which XLA would draw otherwise.

    Raises:
      UserError: There is no such precision, or number of micro-batches.
    """

    def __init__(
        self,
        backbone: keras.Model,
        precision: str = "float32",
        micro_batches: int = 1,
        attacked: bool = True,
        jit_attack: bool = False,
    ):
        if precision not in PRECISIONS:
            raise UserError(
                f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}"
            )
        if not isinstance(micro_batches, int) or micro_batches < 1:
            raise UserError(
                "micro_batches must be a whole number, at least 1, not"
                f" {micro_batches!r}"
            )
        self._backbone = backbone
        self._precision = precision
        self._parts = micro_batches
        self._jit = jit_attack
        self._layers = backbone
        if precision != "float32":
            self._layers = _in_precision(backbone, precision)
        # In shorter floats the folded network rounds so differently that what fools it
        # need not fool the other.
        self._folded = None
        if attacked and precision == "float32":
            folded = Folded(backbone)
            self._folded = folded if folded.folds else None

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self._backbone.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        return self._backbone.non_trainable_variables

    def __call__(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images [b, ..., h, w, c] to features [b, ..., d], float32."""
        return self._through(image, training, trains=True)

    def _through(self, image: tf.Tensor, training: bool, trains: bool) -> tf.Tensor:
        """The same; only with `trains` are gradients of weights to be had."""
        if self._layers is self._backbone and self._parts == 1:
            return _flat(self._backbone)(image, training=training)
        trained, others = self._values()
        features, after = self._call(trained, others, image, training, trains)
        for variable, value in zip(self.non_trainable_variables, after, strict=True):
            variable.assign(value)
        return features

    def stateless_call(
        self,
        trained: Sequence[tf.Tensor],
        others: Sequence[tf.Tensor],
        image: tf.Tensor,
        training: bool = False,
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        """The same for other values of the variables, as in Keras.

        Returns:
          Features, and what the variables that are not trained become.
        """
        return self._call(trained, others, image, training, trains=True)

    def _call(
        self,
        trained: Sequence[tf.Tensor],
        others: Sequence[tf.Tensor],
        image: tf.Tensor,
        training: bool,
        trains: bool,
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        def call(image: tf.Tensor, *weights: tf.Tensor):
            states = []

            def features(flat: tf.Tensor) -> tf.Tensor:
                found, after = self._layers.stateless_call(
                    weights, others, flat, training=training
                )
                states.extend(after)
                return found

            return _flat(features)(image), states

        if self._parts == 1:
            return call(image, *trained)
        if trains:
            return in_parts(call, self._parts, image, trained, others)
        return in_parts(
            lambda part: call(part, *trained), self._parts, image, (), others
        )

    def for_attack(self, training: bool, whole: bool) -> Callable[..., tf.Tensor]:
        """The network with the weights it has now, for gradients of images.

        Args:
          training: Mode of BatchNorm.
          whole: Whether it will get whole batches, and not one micro-batch at a time.

        Raises:
          UserError: In float16 with BatchNorm in training mode.
        """
        if training:
            if self._precision == "float16":
                raise UserError(
                    "with precision 'float16' BatchNorm has to be in inference mode in"
                    " attacks (PGD.batch_norm); 'bfloat16' takes both"
                )
            return functools.partial(self._through, trains=False)
        if self._folded is not None:
            network = self._folded.at_present()
        else:
            trained, others = self._values()

            def network(image: tf.Tensor) -> tf.Tensor:
                return self._layers.stateless_call(trained, others, image)[0]

        if self._precision == "float16":
            network = _scaled(network)
        if self._jit:
            network = tf.function(network, autograph=False, jit_compile=True)
        network = _flat(network)
        if self._precision == "float16":
            network = _checked(network)
        if not whole or self._parts == 1:
            return lambda image, training: network(image)
        return lambda image, training: in_parts(
            lambda part: (network(part), []), self._parts, image
        )[0]

    def _values(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        return (
            [tf.convert_to_tensor(v) for v in self.trainable_variables],
            [tf.convert_to_tensor(v) for v in self.non_trainable_variables],
        )


def _flat(network: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """From [n, h, w, c] to [n, d], to from [..., h, w, c] to [..., d]."""

    def run(image: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        features = network(tf.reshape(image, [-1, *image.shape[-3:]]), **kwargs)
        return unflatten(features, image)

    return run


def _in_precision(network: keras.Model, precision: str) -> keras.Model:
    """A network of the same layers, most of which compute in a shorter float.

    Its weights are at their initial values, for which nothing may be drawn that others
    are to draw after it.

    Raises:
      UserError: There are models among its layers, or weights are trained in one of the
        two alone.
    """
    outputs = tf.nest.flatten(network.get_config()["output_layers"])
    in_float32 = (
        keras.layers.InputLayer,
        keras.layers.Normalization,
        keras.layers.Rescaling,
    )

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.Layer):  # A function of `keras.ops`.
            return layer
        if isinstance(layer, keras.Model):
            raise UserError(
                f"precision {precision!r} needs a backbone whose layers are no models,"
                f" as {layer.name} is"
            )
        config = layer.get_config()
        if not isinstance(layer, in_float32) and layer.name not in outputs:
            config["dtype"] = f"mixed_{precision}"
        return type(layer).from_config(config)

    state = random.getstate()
    try:
        twin = keras.models.clone_model(network, clone_function=clone)
    finally:
        random.setstate(state)
    for layer, other in zip(network.layers, twin.layers, strict=True):
        # Twice: what a layer is already said to be, Keras does not pass on to those
        # within it.
        for trainable in (not layer.trainable, layer.trainable):
            other.trainable = trainable
    for kind in ("trainable_variables", "non_trainable_variables"):
        if [v.shape for v in getattr(network, kind)] != [
            v.shape for v in getattr(twin, kind)
        ]:
            raise UserError(
                f"precision {precision!r} needs layers that are trained as a whole, or"
                " not at all"
            )
    return twin


def _checked(network: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    """The same function; it raises an error that says `OVERFLOWS` if it overflows.

    Attacks would get gradients of NaN, and leave the images as they are.
    """
    return lambda image: tf.debugging.check_numerics(network(image), OVERFLOWS)


def _scaled(network: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    """The same function, with gradients that do not vanish in float16.

    How large the gradient of an image is depends on how sure the network is of it, so
    each has a scale of its own, by which it is divided again at the end. No image may
    have to do with another.
    """

    @tf.custom_gradient
    def run(image):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            features = network(image)

        def gradient(upstream):
            largest = tf.reduce_max(tf.abs(upstream), 1, keepdims=True)
            scale = _LARGEST / tf.maximum(largest, 1e-30)
            found = tape.gradient(features, image, upstream * scale)
            return found / scale[:, :, tf.newaxis, tf.newaxis]

        return features, gradient

    return run
