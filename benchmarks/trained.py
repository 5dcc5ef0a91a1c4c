"""A trained network in both frameworks, and the images to attack it on."""

from __future__ import annotations

import numpy as np
import torch
from pytorch_resnet import ChannelsLast, TorchResNet18, to_torch

from tfssl.data.dataset import Dataset
from tfssl.evaluation.classifier import Classifier

# Rounding of other orders of summation, in a network of unit-sized logits.
SAME_LOGITS = 1e-4


def cifar10(classifier: Classifier, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first n test images [n, 32, 32, 3] and their labels [n]."""
    dataset = Dataset("cifar10:3.0.2")
    classifier.check_fit(dataset)
    keep = np.arange(dataset.size("test")) < n
    batch = next(dataset.eval_batches("test", n, 0, keep).as_numpy_iterator())
    return batch["image"], batch["label"]


def port(classifier: Classifier, image: np.ndarray) -> tuple[torch.nn.Module, float]:
    """The network in PyTorch, and the largest difference of its logits on the images.

    Raises:
      AssertionError: It is another function.
    """
    network = TorchResNet18(classifier.model.get_layer("stem_conv").filters)
    network.port(classifier.model)
    network = ChannelsLast(network.eval().requires_grad_(False))
    theirs = network(to_torch(image)).numpy()
    difference = float(np.abs(classifier.logits(image) - theirs).max())
    if not difference <= SAME_LOGITS:
        raise AssertionError(f"the port's logits differ by {difference}")
    return network, difference
