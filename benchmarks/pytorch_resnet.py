"""The ResNet-18 of `tfssl.models.resnet` in PyTorch, with weights from Keras."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import torch


class TorchResNet18(torch.nn.Module):
    """ResNet-18 with the CIFAR stem; its modules have the names of the Keras layers."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = torch.nn.ModuleDict()
        self._add("stem", "", 3, width, 3, 1)
        self._blocks = []
        channels = width
        for stage in range(1, 5):
            filters = width * 2 ** (stage - 1)
            for block in (1, 2):
                name = f"stage{stage}_block{block}"
                stride = 2 if stage > 1 and block == 1 else 1
                self._add(name, "1", channels, filters, 3, stride)
                self._add(name, "2", filters, filters, 3, 1)
                if stride > 1:
                    self._add(f"{name}_shortcut", "", channels, filters, 1, stride)
                self._blocks.append(name)
                channels = filters
        self.layers["logits"] = torch.nn.Linear(channels, 10)

    def _add(self, name, suffix, channels, filters, size, stride):
        self.layers[f"{name}_conv{suffix}"] = torch.nn.Conv2d(
            channels, filters, size, stride, padding=size // 2, bias=False
        )
        self.layers[f"{name}_bn{suffix}"] = torch.nn.BatchNorm2d(filters)

    def _conv_bn(self, x, name, suffix=""):
        return self.layers[f"{name}_bn{suffix}"](self.layers[f"{name}_conv{suffix}"](x))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [b, c, h, w] in [0, 1] to logits [b, 10]."""
        x = torch.relu(self._conv_bn((image - 0.5) / 0.25, "stem"))
        for name in self._blocks:
            out = torch.relu(self._conv_bn(x, name, "1"))
            out = self._conv_bn(out, name, "2")
            if f"{name}_shortcut_conv" in self.layers:
                x = self._conv_bn(x, f"{name}_shortcut")
            x = torch.relu(x + out)
        return self.layers["logits"](x.mean((2, 3)))

    @torch.no_grad()
    def port(self, model: keras.Model) -> None:
        """Copies the weights of the Keras model."""
        for name, module in self.layers.items():
            weights = [torch.from_numpy(w) for w in model.get_layer(name).get_weights()]
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(weights[0].permute(3, 2, 0, 1))
            elif isinstance(module, torch.nn.Linear):
                module.weight.copy_(weights[0].T)
                module.bias.copy_(weights[1])
            else:
                module.weight.copy_(weights[0])
                module.bias.copy_(weights[1])
                module.running_mean.copy_(weights[2])
                module.running_var.copy_(weights[3])


class ChannelsLast(torch.nn.Module):
    """A network that computes in channels last, which is faster on CPUs.

    It gives contiguous gradients of contiguous images, as some attacks expect.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.training = network.training

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [b, c, h, w] to what the network makes of them."""
        image = image.contiguous(memory_format=torch.channels_last)
        if image.requires_grad:
            image.register_hook(lambda gradient: gradient.contiguous())
        return self.network(image)


def to_torch(image: tf.Tensor | np.ndarray) -> torch.Tensor:
    """Images [b, h, w, c] to [b, c, h, w]."""
    return torch.from_numpy(np.moveaxis(np.asarray(image), -1, 1).copy())
