"""BatchNorm in inference mode, folded into the convolutions before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

_WEIGHTED = (
    keras.layers.BatchNormalization,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
_STATELESS = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.InputLayer,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.Multiply,
    keras.layers.Normalization,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.Softmax,
    keras.layers.ZeroPadding2D,
)


class Folded:
    """What a network computes in inference mode, with fewer passes over memory.

    gamma (conv(x, k) - mean) / sqrt(variance + epsilon) + beta is a convolution by k
    scaled, plus a bias. An attack folds once and profits in each of its gradients.

    Args:
      network: Functional model of stock layers, each used once. It is left as it is,
        and a BatchNorm that does not follow a convolution of its own stays one.
    """

    def __init__(self, network: keras.Model):
        self._network = network
        self._pairs = _pairs(network)
        gone = {norm.name for _, norm in self._pairs.values()}

        def clone(layer):
            if not isinstance(layer, keras.Layer):  # A function of `keras.ops`.
                return layer
            config = layer.get_config()
            if layer.name in self._pairs:
                config |= {"use_bias": True, "kernel_initializer": "zeros"}
            return type(layer).from_config(config)

        def call(layer, x, *args, **kwargs):
            return x if layer.name in gone else layer(x, *args, **kwargs)

        # Only its structure is used; its own weights stay at their initial values, for
        # which nothing may be drawn that others are to draw after it.
        state = random.getstate()
        try:
            self._twin = keras.models.clone_model(
                network, clone_function=clone, call_function=call
            )
        finally:
            random.setstate(state)

    @classmethod
    def fits(cls, network: keras.Model) -> bool:
        """Whether a model of whatever origin is one that can be folded.

        Only layers count whose configuration and weights are all that they are: others
        would be copied wrong without a word. And only float32: in shorter floats the
        two round so differently that an attack on one is weak against the other.
        """
        # The class of functional models has no public name.
        return type(network).__name__ == "Functional" and all(
            isinstance(operation, keras.layers.Layer)
            and type(operation) in (_WEIGHTED if operation.weights else _STATELESS)
            and operation.dtype_policy.name == "float32"
            and not getattr(operation, "lora_enabled", False)
            and _is_stock(getattr(operation, "activation", None))
            for operation in network.operations
        )

    @property
    def folds(self) -> bool:
        """Whether there is anything to fold."""
        return bool(self._pairs)

    def at_present(self) -> Callable[..., tf.Tensor]:
        """The network with the weights it has now, as a function of images."""
        if not self._pairs:
            return self._network
        values = {}
        for layer in self._twin.layers:
            if layer.name in self._pairs:
                weights = _fold(*self._pairs[layer.name])
            elif layer.weights:
                weights = self._network.get_layer(layer.name).weights
            else:
                continue
            for variable, value in zip(layer.weights, weights, strict=True):
                values[variable.path] = tf.convert_to_tensor(value)
        trained = [values[v.path] for v in self._twin.trainable_variables]
        others = [values[v.path] for v in self._twin.non_trainable_variables]

        def network(image: tf.Tensor, training: bool = False) -> tf.Tensor:
            del training  # Folding is for inference mode.
            return self._twin.stateless_call(trained, others, image, training=False)[0]

        return network


def _pairs(network: keras.Model) -> dict[str, tuple]:
    """Convolutions, by name, each with the BatchNorm that alone reads its output."""
    # Not `layer.output`: layers may have been called in other models before.
    config = network.get_config()
    readers: dict[str, list] = {}
    for layer in config["layers"]:
        for source in _sources(layer["inbound_nodes"]):
            readers.setdefault(source, []).append(layer)
    outputs = tf.nest.flatten(config["output_layers"])
    layers = {layer.name: layer for layer in network.layers}
    pairs = {}
    for conv in network.layers:
        read_by = readers.get(conv.name, [])
        if len(read_by) != 1 or len(read_by[0]["inbound_nodes"]) != 1:
            continue
        norm = layers.get(read_by[0]["name"])
        if conv.name not in outputs and _is_linear(conv) and _is_norm(norm):
            pairs[conv.name] = (conv, norm)
    return pairs


def _sources(nodes: Any) -> Iterator[str]:
    """Names of the layers whose outputs are read, as configurations list them."""
    if isinstance(nodes, dict):
        if "keras_history" in nodes:
            yield nodes["keras_history"][0]
        nodes = nodes.values()
    elif not isinstance(nodes, (list, tuple)):
        return
    for node in nodes:
        yield from _sources(node)


def _is_linear(layer: keras.Layer) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
    )


def _is_norm(layer: keras.Layer | None) -> bool:
    return type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3)


def _is_stock(activation: Callable | None) -> bool:
    """Whether it is a function of Keras; a layer would have weights of its own."""
    name = getattr(activation, "__name__", "")
    return activation is None or getattr(keras.activations, name, None) is activation


def _fold(conv, norm) -> tuple[tf.Tensor, tf.Tensor]:
    """The kernel and bias that do the work of both."""
    scale = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
    if norm.scale:
        scale *= norm.gamma
    bias = -norm.moving_mean * scale
    if norm.center:
        bias += norm.beta
    if conv.use_bias:
        bias += conv.bias * scale
    return conv.kernel * scale, bias
