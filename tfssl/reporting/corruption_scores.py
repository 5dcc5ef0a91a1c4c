"""Scores that sum up a classifier's errors over corruptions and severities.

Errors are shares in [0, 1], `errors[corruption, severity]`, severities 1 to 5. The
scores are Hendrycks and Dietterich's (2019, https://arxiv.org/abs/1903.12261) unless
one says otherwise.

All are linear in the errors (which are the mean of what each image contributes, 0 or
1), so errors may also be arrays [n], an entry per image: the mean of their scores is
the score, and their spread says how far to trust it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Number = float | np.ndarray
Errors = Mapping[tuple[str, int], Number]

SEVERITIES = (1, 2, 3, 4, 5)
BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 of the benchmark."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Those its authors meant for validation."""
ALL = BENCHMARK + EXTRA

FOLDERS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": EXTRA,
}
"""Groups as the benchmark's own folders have them."""
NOTEBOOK = {
    "noise": (*FOLDERS["noise"], "speckle_noise", "spatter"),
    "blur": (*FOLDERS["blur"], "gaussian_blur"),
    "weather": ("snow", "frost", "fog"),
    "digital": (*FOLDERS["digital"], "brightness", "saturate"),
}
"""Groups of the figures of Chhipa et al. 2023 (https://arxiv.org/abs/2308.02525)."""
GROUPINGS = {"folders": FOLDERS, "notebook": NOTEBOOK}

ALEXNET_CLEAN = 0.4348
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's errors on ImageNet-C, means over the severities (ALEXNET_ERR in imagenet.py
of github.com/google-research/augmix), and on clean images (imagenet_variants.py of
github.com/google-research/robustness_metrics): what ImageNet's errors are divided by.
Of the four extra corruptions only rounded values are known, and mCE leaves them out."""


def _mean(values: Sequence[Number]) -> Number:
    return sum(values) / len(values)


def _share(part: Number, whole: float) -> Number:
    # Shares of up to millions of examples: what is smaller is rounding.
    if abs(whole) < 1e-12:
        raise ZeroDivisionError
    return part / whole


def mean_error(
    errors: Errors,
    corruptions: Iterable[str] = ALL,
    severities: Iterable[int] = SEVERITIES,
) -> Number:
    """The mean of the cells.

    Over the 15 of `BENCHMARK` this is what the literature calls mCE on CIFAR-10-C.
    Chhipa et al. 2023 call the mean over all 19 'mCE', on ImageNet.

    Raises:
      KeyError: A cell is missing.
    """
    severities = tuple(severities)
    return _mean([errors[c, s] for c in corruptions for s in severities])


def corruption_error(errors: Errors, corruption: str, normaliser: float) -> Number:
    """CE: sum_s E_s / sum_s E_s of the reference; 1 if they are equal.

    Args:
      errors: Of the classifier.
      corruption: Which.
      normaliser: The mean of the reference's errors over the severities.

    Raises:
      ZeroDivisionError: That is 0.
    """
    return _share(mean_error(errors, [corruption]), normaliser)


def mce(errors: Errors, normaliser: Mapping[str, float] = ALEXNET) -> Number:
    """Mean corruption error: the mean of CE over the 15 corruptions.

    Args:
      errors: Of the classifier.
      normaliser: The reference's errors, means over the severities.

    Raises:
      ZeroDivisionError: One of them is 0.
    """
    return _mean([corruption_error(errors, c, normaliser[c]) for c in BENCHMARK])


def relative_mce(
    errors: Errors,
    clean: Number,
    normaliser: Mapping[str, float] = ALEXNET,
    normaliser_clean: float = ALEXNET_CLEAN,
) -> Number:
    """Mean over the 15 of sum_s (E_s - E_clean) / sum_s (E_s - E_clean) of a reference.

    How much is lost to corruption, in comparison: a classifier may have a low mCE by
    being good on clean images alone.

    Args:
      errors, clean: Of the classifier.
      normaliser, normaliser_clean: Of the reference; see `mce`.

    Raises:
      ZeroDivisionError: It loses nothing to a corruption.
    """
    return _mean(
        [
            _share(mean_error(errors, [c]) - clean, normaliser[c] - normaliser_clean)
            for c in BENCHMARK
        ]
    )


def means_over_severities(errors: Errors) -> dict[str, Number]:
    """A classifier's errors as a normaliser for others."""
    return {c: mean_error(errors, [c]) for c in BENCHMARK}


def group_means(
    errors: Errors,
    grouping: Mapping[str, Iterable[str]],
    severities: Iterable[int] = SEVERITIES,
) -> dict[str, Number]:
    """The mean error of each group, its corruptions weighing alike."""
    severities = tuple(severities)
    return {
        group: mean_error(errors, members, severities)
        for group, members in grouping.items()
    }


def relative_as_coded(errors: Errors, clean: Number) -> Number:
    """'RmCE' of the code of Chhipa et al. 2023, metric.py, to compare with its tables.

    mean_c (sum_s E_s - E_clean) / (5 - 0.435), over 19 corruptions: the clean errors
    are subtracted once, not for each severity, and the reference, of error 1 wherever
    images are corrupted, has AlexNet's on clean ones. It says little more than the mean
    error. Use `relative_mce`.
    """
    return _mean([(5 * mean_error(errors, [c]) - clean) / (5 - 0.435) for c in ALL])


def digital_as_coded(errors: Errors, severities: Iterable[int] = SEVERITIES) -> Number:
    """The group 'digital' in the published figures of Chhipa et al. 2023.

    A name is misspelt in their notebook, plots.ipynb, so that contrast is not added,
    but the sum is divided by 6 as if it were. Use `group_means`.
    """
    members = [c for c in NOTEBOOK["digital"] if c != "contrast"]
    return mean_error(errors, members, severities) * len(members) / 6


def not_monotone(
    errors: Errors, corruptions: Iterable[str] = ALL
) -> dict[str, list[int]]:
    """Corruptions whose error falls with severity: the severities at which it does."""
    found = {
        c: [s for s in SEVERITIES[1:] if errors[c, s] < errors[c, s - 1]]
        for c in corruptions
    }
    return {c: falls for c, falls in found.items() if falls}
