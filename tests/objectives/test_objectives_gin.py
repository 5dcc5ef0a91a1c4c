"""The gin file of each objective defines its macros, and they make the objective."""

import gin
import pytest

from tfssl import config

MACROS = {
    "classification": {"CLASSIFY": "Classification"},
    "rotation": {"SSL": "Rotation"},
    "rotation_4_copies": {"SSL": "Rotation"},
    "jigsaw": {"SSL": "Jigsaw"},
    "trades": {"KL": "KL"},
    "mart": {"BOOSTED": "BoostedCrossEntropy", "WEIGHTED_KL": "WeightedKL"},
}


def value_of(macro):
    with gin.config_scope(macro):
        return gin.get_configurable("gin.macro")()


@pytest.mark.parametrize("name", MACROS)
def test_macros(name):
    config.parse([f"objectives/{name}.gin"])
    for macro, cls in MACROS[name].items():
        assert type(value_of(macro)).__name__ == cls
    if name.startswith("rotation"):
        assert value_of("SSL").copies == (4 if "4" in name else 1)
