"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929), as in DeiT and DINO.

Three small layers of theirs are not stock Keras (`tfssl.models.tokens`). They are
registered, so that a saved model loads with `keras.saving.load_model` once
`import tfssl.models.vit` has run. bin/evaluate imports it with the run's configuration;
for a file given as --model, add a --gin_file of a ViT, such as models/vit_tiny_p4.gin.
"""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras

from tfssl.models import layers
from tfssl.models.tokens import ClassToken, PatchMap, Tokens
from tfssl.types import UserError


@gin.register(module="tfssl.models")
def vit(
    image_shape: Sequence[int],
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: int = 4,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
    last_blocks: int = 1,
) -> keras.Model:
    """A vision transformer: images [b, h, w, c] to features [b, last_blocks * width].

    The features are the class token after the last LayerNorm, or several: see
    `last_blocks`. By name there are

        final_norm    [b, 1 + n, width], the final tokens: class, then patches by rows
        features_map  [b, h / patch, w / patch, width], the patches as the attention of
                      the last block reads them, after its first LayerNorm

    The final patches have no part in the features, so that a gradient (as in Grad-CAM)
    with respect to them is zero; those of `features_map` are the last that have.
    `last_attention` shows where the class token looks.

    For porting: DINO's and timm's ViT have the same weights in other shapes. Linear
    weights are transposed. The 3 width outputs of their `qkv` are ordered as (query,
    key, value), heads, width / heads; here these are three kernels
    [width, heads, width / heads] and biases [heads, width / heads]. The kernel of
    `proj` is [heads, width / heads, width]. `cls_token` is `tokens/class_token`,
    `pos_embed` is `tokens/position`; weight decay leaves them alone, as in DeiT and
    unlike in DINO.

    Kernels are drawn from a truncated normal distribution of deviation 0.02, and biases
    are 0. There is neither dropout nor stochastic depth.

    Args:
      image_shape: (h, w, c).
      patch: Side of the square patches in pixels; divides h and w.
      width: Length of a token, d of the features.
      depth: Number of blocks.
      heads: Number of attention heads; divides the width.
      mlp_ratio: Hidden units of the blocks' perceptrons are `mlp_ratio * width`.
      mean: Subtracted from the image, one number or one per channel. The defaults
        roughly standardise natural images of any number of channels.
      std: Divides the image afterwards.
      any_size: Take images of other heights and widths, too, as multi-crop needs: the
        position embedding is interpolated. What is left of a patch at the lower and
        right border is not looked at.
      last_blocks: The features are the class tokens after each of so many last blocks,
        the last one at the end, all through the last LayerNorm. DINO's linear
        classifiers of a ViT-S read 4 (eval_linear.py of its authors).

    Raises:
      UserError: A size is invalid.
    """
    for name, size in (
        ("patch", patch),
        ("width", width),
        ("depth", depth),
        ("heads", heads),
        ("mlp_ratio", mlp_ratio),
        ("last_blocks", last_blocks),
    ):
        layers.check_size(name, size)
    if last_blocks > depth:
        raise UserError(f"last_blocks is {last_blocks}, but there are {depth} blocks")
    if width % heads:
        raise UserError(f"width {width} does not divide by the {heads} heads")
    image, x = layers.image_input(image_shape, patch, mean, std, any_size)
    height, columns = image_shape[:2]
    if height % patch or columns % patch:
        raise UserError(
            f"images of {height}x{columns} do not divide into patches of {patch} pixels"
        )

    patches = keras.layers.Conv2D(
        width, patch, strides=patch, kernel_initializer=_initializer(), name="patches"
    )(x)
    x = Tokens((height // patch, columns // patch), name="tokens")(patches)
    after_blocks = []
    for i in range(1, depth + 1):
        name = f"block{i}"
        y = _norm(x, f"{name}_norm1")
        if i == depth:
            token = ClassToken(name="last_class_token")(y)
            y = PatchMap(name="features_map")([y, patches])
            y = keras.layers.Reshape((-1, width), name="last_patches")(y)
            y = keras.layers.Concatenate(axis=1, name="last_tokens")([token, y])
        y = keras.layers.MultiHeadAttention(
            heads,
            width // heads,
            kernel_initializer=_initializer(),
            name=f"{name}_attention",
        )(y, y)
        x = keras.layers.Add(name=f"{name}_add1")([x, y])
        y = _norm(x, f"{name}_norm2")
        y = _dense(y, mlp_ratio * width, f"{name}_mlp1", "gelu")
        y = _dense(y, width, f"{name}_mlp2")
        x = keras.layers.Add(name=f"{name}_add2")([x, y])
        after_blocks.append(x)
    norm = keras.layers.LayerNormalization(epsilon=1e-6, name="final_norm")
    # The last block first: what a layer was called with first is its `output`.
    tokens = []
    for i in range(depth, depth - last_blocks, -1):
        name = "class_token" if i == depth else f"block{i}_class_token"
        tokens.insert(0, ClassToken(name=name)(norm(after_blocks[i - 1])))
    token = tokens[0]
    if last_blocks > 1:
        token = keras.layers.Concatenate(name="class_tokens")(tokens)
    features = keras.layers.Reshape((last_blocks * width,), name="features")(token)
    return keras.Model(image, features, name="vit")


@gin.register(module="tfssl.models")
def vit_tiny(
    image_shape: Sequence[int],
    patch: int,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """ViT-Ti of DeiT (arXiv:2012.12877), d = 192; arguments as in `vit`.

    5,524,416 parameters with patches of 16 x 16 on images of 224 x 224.
    """
    return vit(image_shape, patch, 192, 12, 3, 4, mean, std, any_size)


@gin.register(module="tfssl.models")
def vit_small(
    image_shape: Sequence[int],
    patch: int,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """ViT-S of DeiT (arXiv:2012.12877) and DINO, d = 384; arguments as in `vit`.

    21,665,664 parameters with patches of 16 x 16 on images of 224 x 224.
    """
    return vit(image_shape, patch, 384, 12, 6, 4, mean, std, any_size)


@gin.register(module="tfssl.models")
def last_attention(model: keras.Model) -> keras.Model:
    """Where the class token looks in the last block, as in DINO (arXiv:2104.14294).

    Args:
      model: A ViT of this module, possibly loaded, possibly with a classifier on top.

    Returns:
      A model that shares its weights: images [b, h, w, c] to attention
      [b, heads, h / patch, w / patch]. The numbers are in [0, 1]; those of a head add
      up to 1 less what the class token pays itself.

    Raises:
      UserError: The model is no such ViT.
    """
    try:
        token, tokens, patches = (
            model.get_layer(name).output
            for name in ("last_class_token", "last_tokens", "patches")
        )
    except ValueError:
        raise UserError(f"{model.name} is no ViT of tfssl.models.vit") from None
    attention = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.MultiHeadAttention)
    ][-1]
    # Not by asking the layer for its scores: Keras allows for as many outputs of a
    # layer in a graph as its first call had.
    query, key = attention.query_dense(token), attention.key_dense(tokens)
    x = keras.ops.einsum("bqhk,bnhk->bnh", query, key) / attention.key_dim**0.5
    x = PatchMap()([keras.ops.softmax(x, axis=1), patches])
    return keras.Model(model.input, keras.layers.Permute((3, 1, 2))(x))


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def _dense(
    x: keras.KerasTensor, units: int, name: str, activation: str | None = None
) -> keras.KerasTensor:
    return keras.layers.Dense(
        units, activation, kernel_initializer=_initializer(), name=name
    )(x)
