"""The views of `benchmarks/views.py` as other libraries make them.

Each maker takes `Views` of tfssl and returns a function of images [n, h, w, 3] uint8
that makes all views of all images, as a list of float32 arrays or tensors in [0, 1]. It
raises the reason if it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfssl.data.view_color import ColorJitter, Grayscale, Solarize
from tfssl.data.view_geometry import GaussianBlur, HorizontalFlip, RandomResizedCrop
from tfssl.data.view_op import ViewOp
from tfssl.data.views import ViewRecipe, Views

Maker = Callable[[Views], Callable[[np.ndarray], list]]


def recipes(views: Views) -> Iterator[ViewRecipe]:
    """One for each view."""
    for group in views.groups.values():
        yield from group


def torchvision(views: Views) -> Callable[[np.ndarray], list]:
    """Pillow's images one by one, as torchvision's own recipes have it."""
    from PIL import Image
    from torchvision import transforms

    def translate(op: ViewOp):
        match op:
            case RandomResizedCrop():
                mode = transforms.InterpolationMode(op.interpolation)
                size = op.size or 32
                return transforms.RandomResizedCrop(size, op.scale, op.ratio, mode)
            case HorizontalFlip():
                return transforms.RandomHorizontalFlip(op.p)
            case ColorJitter():
                jitter = transforms.ColorJitter(*op.strengths, op.hue)
                return transforms.RandomApply([jitter], op.p)
            case Grayscale():
                return transforms.RandomGrayscale(op.p)
            case GaussianBlur():
                return transforms.RandomApply(
                    [transforms.GaussianBlur(3, op.sigma)], op.p
                )
            case Solarize():
                # Of uint8, where the brighter half starts at 128.
                return transforms.RandomSolarize(round(256 * op.threshold), op.p)

    chains = [
        transforms.Compose([*map(translate, recipe.ops), transforms.ToTensor()])
        for recipe in recipes(views)
    ]

    def make(images):
        pictures = [Image.fromarray(image) for image in images]
        return [
            np.stack([chain(x).permute(1, 2, 0) for x in pictures]) for chain in chains
        ]

    return make


def albumentations(views: Views) -> Callable[[np.ndarray], list]:
    """Arrays of uint8, one by one."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # Else it asks PyPI for a newer one.
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    modes = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

    def translate(op: ViewOp):
        match op:
            case RandomResizedCrop():
                size = (op.size or 32,) * 2
                return albumentations.RandomResizedCrop(
                    size, op.scale, op.ratio, modes[op.interpolation]
                )
            case HorizontalFlip():
                return albumentations.HorizontalFlip(p=op.p)
            case ColorJitter():
                ranges = [(max(0, 1 - x), 1 + x) for x in op.strengths]
                return albumentations.ColorJitter(*ranges, (-op.hue, op.hue), p=op.p)
            case Grayscale():
                return albumentations.ToGray(p=op.p)
            case GaussianBlur():
                return albumentations.GaussianBlur((3, 3), op.sigma, p=op.p)
            case Solarize():
                return albumentations.Solarize((op.threshold, op.threshold), p=op.p)

    chains = [
        albumentations.Compose([translate(op) for op in recipe.ops])
        for recipe in recipes(views)
    ]

    def make(images):
        return [
            np.stack([chain(image=image)["image"] for image in images]).astype(
                "float32"
            )
            / 255
            for chain in chains
        ]

    return make


def keras_layers(views: Views) -> Callable[[np.ndarray], list]:
    """Batches through Keras' layers, as near as they come.

    There is no random resized crop: it is TensorFlow's `crop_and_resize` with boxes of
    the right shares, bilinear. The order of the jitter is fixed, all images are
    jittered, one width of blur is drawn for a batch, and solarization is of all images.
    """

    def crop(op: RandomResizedCrop) -> Callable[[tf.Tensor], tf.Tensor]:
        def run(images):
            n = tf.shape(images)[0]
            area = tf.random.uniform([n], *op.scale)
            ratio = tf.exp(tf.random.uniform([n], *np.log(op.ratio)))
            sides = tf.minimum(tf.sqrt(tf.stack([area / ratio, area * ratio], 1)), 1)
            start = tf.random.uniform([n, 2]) * (1 - sides)
            boxes = tf.concat([start, start + sides], axis=1)
            size = (op.size or 32,) * 2
            return tf.image.crop_and_resize(images, boxes, tf.range(n), size)

        return run

    def translate(op: ViewOp):
        bounds = {"value_range": (0, 1)}
        match op:
            case RandomResizedCrop():
                return crop(op)
            case HorizontalFlip():
                return keras.layers.RandomFlip("horizontal")
            case ColorJitter():
                brightness, contrast, saturation = op.strengths
                return keras.layers.RandomColorJitter(
                    (0, 1), brightness, contrast, min(1.0, saturation), op.hue
                )
            case Grayscale():
                return keras.layers.RandomGrayscale(op.p)
            case GaussianBlur():
                return keras.layers.RandomGaussianBlur((op.p, op.p), 3, 1.0, **bounds)
            case Solarize():
                return keras.layers.Solarization(threshold_factor=0.5, **bounds)

    chains = [[translate(op) for op in recipe.ops] for recipe in recipes(views)]

    @tf.function(autograph=False)
    def make(images):
        images = tf.cast(images, tf.float32) / 255
        made = []
        for chain in chains:
            view = images
            for op in chain:
                # The layers do nothing unless they train.
                layer = isinstance(op, keras.Layer)
                view = op(view, training=True) if layer else op(view)
            made.append(view)
        return made

    return make
