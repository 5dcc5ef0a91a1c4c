"""BatchNorm in inference mode, folded into the convolutions before it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf


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
            config = layer.get_config()
            if layer.name in self._pairs:
                # Zeros draw no random numbers: later layers get those they would have.
                config |= {"use_bias": True, "kernel_initializer": "zeros"}
            return type(layer).from_config(config)

        def call(layer, x, *args, **kwargs):
            return x if layer.name in gone else layer(x, *args, **kwargs)

        # Only its structure is used; its own weights stay at their initial values.
        self._twin = keras.models.clone_model(
            network, clone_function=clone, call_function=call
        )

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
    readers: dict[int, list] = {}
    for layer in network.layers:
        for tensor in tf.nest.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    pairs = {}
    for conv in network.layers:
        linear = isinstance(conv, keras.layers.Conv2D) and (
            conv.activation is keras.activations.linear
        )
        read_by = readers.get(id(conv.output), [])
        if linear and len(read_by) == 1 and conv.output is not network.output:
            (norm,) = read_by
            if isinstance(norm, keras.layers.BatchNormalization):
                pairs[conv.name] = (conv, norm)
    return pairs


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
