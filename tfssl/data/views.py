"""Views: the random versions of an image that self-supervised methods compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

from tfssl import randomness
from tfssl.data.view_op import ViewOp
from tfssl.types import UserError


@gin.register(module="tfssl.data")
class ViewRecipe(ViewOp):
    """Operations in a row, all with the view's seed.

    Args:
      ops: Such as `RandomResizedCrop()` and `ColorJitter(0.4, 0.4, 0.4, 0.1)`.

    Raises:
      UserError: They are something else.
    """

    def __init__(self, ops: Sequence[ViewOp]):
        self.ops = _all("ViewRecipe.ops", ops)
        self.any_size = bool(self.ops) and self.ops[0].any_size

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        for op in self.ops:
            image = op.planes(image, seed, strength)
        return image


@gin.register(module="tfssl.data")
class Views:
    """Makes the views of images, each view with its own recipe and its own draws.

    Args:
      recipes: One for each view: twice the same for SimCLR, two different ones for
        BYOL. All must make images of one size.
      local_recipes: One for each view of the second group, that of the small crops of
        multi-crop (Caron et al. 2020, SwAV, https://arxiv.org/abs/2006.09882).
      strength: From the share of the run that is done to how strong all recipes are,
        both in [0, 1], such as `Fading()`; if not given, they are always as set.

    Raises:
      UserError: There is no recipe, or an argument is something else.
    """

    def __init__(
        self,
        recipes: Sequence[ViewRecipe],
        local_recipes: Sequence[ViewRecipe] = (),
        strength: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        if not recipes:
            raise UserError("Views.recipes is empty: it needs a recipe for each view")
        self.groups = {
            "views": _all("Views.recipes", recipes),
            "local_views": _all("Views.local_recipes", local_recipes),
        }
        if strength is not None and not callable(strength):
            raise UserError(f"Views.strength = {strength!r} must be such as @Fading()")
        self.strength = strength

    def __call__(
        self, image: tf.Tensor, seed: tf.Tensor, progress: tf.Tensor | float = 0.0
    ) -> dict[str, tf.Tensor]:
        """[h, w, c] and [2], or [b, h, w, c] and [b, 2], to the groups of views.

        Args:
          image: float32 in [0, 1]. If h and w are not known before the batch is there,
            each recipe must begin with a crop to a given size.
          seed: int32.
          progress: The share of the run that is done, in [0, 1]: one for all or [b].

        Returns:
          'views' [(b,) v, h', w', c] float32 in [0, 1] and, if there are any,
          'local_views' [(b,) v', h'', w'', c].

        Raises:
          UserError: The recipes of a group make images of different sizes, or of sizes
            that depend on the pictures.
        """
        strength = self.strength(progress) if self.strength else 1.0
        result, number = {}, 0
        for name, recipes in self.groups.items():
            views = []
            for recipe in recipes:
                own = randomness.fold(seed, f"view/{number}")
                views.append(recipe(image, own, strength))
                number += 1
            sizes = {tuple(view.shape[-3:-1]) for view in views}
            if len(sizes) > 1:
                raise UserError(f"The {name} differ in size: {sorted(sizes)}")
            if views:
                result[name] = tf.stack(views, axis=-4)
        return result


def _all(name: str, items: Sequence[ViewOp]) -> tuple[ViewOp, ...]:
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, ViewOp) for item in items
    ):
        raise UserError(
            f"{name} must be a list such as [@GaussianBlur()], with () behind each name"
        )
    return tuple(items)
