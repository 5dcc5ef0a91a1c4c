"""Strict parsing, and files that can be read back."""

import sys

import pytest

from tfssl import config
from tfssl.types import UserError, fraction


@pytest.fixture
def gin_file(tmp_path):
    def write(text, name="test.gin"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


HEAD = "import tfssl.attacks.balls\nimport tfssl.attacks.pgd\n"


def test_text_can_be_read_back(gin_file):
    path = gin_file(f"{HEAD}EPSILON = '8/255'\na/PGD.ball = @Linf()\nX = @a/PGD()\n")
    config.parse([path], ["EPSILON='4/255'"])
    text = config.text()
    assert "EPSILON = '4/255'" in text
    config.parse([gin_file(text, "again.gin")])
    assert config.text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PGD.step = 1", "step"),
        ("PDG.steps = 1", "PDG"),
        ("PGD.steps =", "test.gin"),
        ("PGD.steps = %STEPS", "STEPS"),
        ("PGD.steps = %gin.REQUIRED", "REQUIRED"),
        ("train/PGD.steps = 1", "scope train/ of train/"),
        ("include 'no/such.gin'", "no/such.gin"),
        ("import tfssl.attacks.no_such", "no_such"),
    ],
)
def test_every_slip_is_an_error(gin_file, text, message):
    with pytest.raises(UserError, match=message) as error:
        config.parse([gin_file(HEAD + text + "\n")])
    assert "\n" not in str(error.value)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package with a module that leaves a trace when it is run."""
    package = tmp_path / "somewhere" / "my_lab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('was_run').touch()\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    yield package
    sys.modules.pop("my_lab.methods", None)
    sys.modules.pop("my_lab", None)


IMPORTS = [
    "import my_lab.methods",
    "import my_lab.methods as tfssl",
    "from my_lab import methods",
    "include 'inner.gin'",
]


@pytest.mark.parametrize("line", IMPORTS)
def test_what_is_not_ours_is_run_only_if_allowed(foreign, gin_file, line):
    gin_file(IMPORTS[0], "inner.gin")
    text = line.replace("inner.gin", str(foreign.parents[1] / "inner.gin"))
    path = gin_file(f"{text}\nX = 2\n")
    calls = [
        lambda allowed: config.parse([path], [], allowed),
        lambda allowed: config.files_name([path], "X", allowed),
        lambda allowed: config.parse([], [text], allowed),
    ]
    for call in calls:
        for allowed in ((), ("my_la", "my_lab_2", "methods")):
            with pytest.raises(UserError, match=r"add --allow_import my_lab$") as error:
                call(allowed)
            assert "\n" not in str(error.value)
    assert not (foreign / "was_run").exists()

    config.parse([path], [], ["my_lab"])
    assert (foreign / "was_run").exists()
    # It is in what is saved: whoever reads that has to allow it, too.
    saved = gin_file(config.text(), "saved.gin")
    with pytest.raises(UserError, match="allow_import"):
        config.parse([saved])
    config.parse([saved], [], ["my_lab.methods"])


@pytest.mark.parametrize("line", ["import os", "import tfssl_more", "import gin.tf"])
def test_installed_modules_are_not_ours(gin_file, line):
    with pytest.raises(UserError, match="would be run"):
        config.parse([gin_file(line)])


def test_only_what_is_registered_has_a_name(gin_file):
    text = (
        "from __gin__ import dynamic_registration\n"
        "import tfssl.manifest\n"
        "X = @tfssl.manifest.subprocess.run()\n"
    )
    with pytest.raises(UserError, match="may not use __gin__"):
        config.parse([gin_file(text)])
    with pytest.raises(UserError, match="subprocess"):
        config.parse([gin_file(text.partition("\n")[2])])


def test_only_gin_files_are_included(gin_file, tmp_path):
    """An error would show a line of another file."""
    (tmp_path / "secret").write_text("PASSWORD hunter2\n")
    with pytest.raises(UserError, match="Unable to open") as error:
        config.parse([gin_file(f"include '{tmp_path}/secret'")])
    assert "hunter2" not in str(error.value)


TYPED = """
import tfssl.objectives.jigsaw
import tfssl.objectives.moco_v2
import tfssl.objectives.simsiam
import tfssl.training.loop
import tfssl.data.view_geometry
"""


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("MoCoV2.symmetric = 'False'", "MoCoV2.symmetric = 'False' is no bool"),
        ("MoCoV2.queue = True", "MoCoV2.queue = True is no int"),
        ("MoCoV2.temperature = '0.2'", "MoCoV2.temperature = '0.2' is no float"),
        ("Jigsaw.grid = 2.5", "Jigsaw.grid = 2.5 is no int"),
        ("a/Jigsaw.gap = None", "a/Jigsaw.gap = None is no int"),
        ("Jigsaw.gap = %GAP", r"Jigsaw.gap = '3' \(by GAP\) is no int"),
        ("SimSiam.projector = 64", r"SimSiam.projector = 64 is no Sequence\[int\]"),
        ("SimSiam.projector = (64, '8')", "SimSiam.projector"),
        ("RandomResizedCrop.scale = (0.2, 0.5, 1)", "RandomResizedCrop.scale"),
    ],
)
def test_values_of_other_types_are_errors(gin_file, binding, message):
    use = "GAP = '3'\nX = @a/Jigsaw()\n"
    with pytest.raises(UserError, match=message) as error:
        config.parse([gin_file(TYPED + use + binding + "\n")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "binding",
    [
        "MoCoV2.temperature = 1",
        "MoCoV2.symmetric = True",
        "Jigsaw.gap = %GAP",
        "SimSiam.projector = [64, %GAP]",
        "RandomResizedCrop.size = None",
        "RandomResizedCrop.scale = (0.2, 1)",
        "train.terms = [@Jigsaw()]",
    ],
)
def test_values_that_fit(gin_file, binding):
    config.parse([gin_file(TYPED + "GAP = 3\n" + binding + "\n")])


def test_a_folder_named_like_an_include_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "objectives").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config.parse(["terms/adversarial.gin"])


def test_a_file_here_comes_before_one_below_gin(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gin").write_text("X = 1\n")
    monkeypatch.chdir(tmp_path)
    config.parse(["models/tiny.gin"])
    assert "X = 1" in config.text()


def test_differences_are_bindings_not_comments():
    old = "# a\nA = 1\nB = \\\n    2\n"
    assert config.differences(old, "# b\n\nA = 1\nB = \\\n    2\n") == []
    assert config.differences(old, "A = 1\nB = \\\n    3\n") == ["- B = 2", "+ B = 3"]


@pytest.mark.parametrize(
    ("value", "number"), [("8/255", 8 / 255), ("0.5", 0.5), (0.25, 0.25), (0, 0.0)]
)
def test_fraction(value, number):
    assert fraction(value) == number


@pytest.mark.parametrize(
    "value",
    ["-1/255", "8/0", "eight", "1/255/2", -0.1, float("nan"), "inf", None, True],
)
def test_not_a_fraction(value):
    with pytest.raises(UserError, match="is not a size"):
        fraction(value)
