"""Files of others are data: nothing in them is run, and none leaves its folder."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

from tfssl import saved
from tfssl.types import UserError

ROOT = Path(__file__).parent.parent
# What a call must not have, wherever it is, and what one of that name must have.
NEVER = {"allow_pickle": True, "safe_mode": False, "weights_only": False, "shell": True}
ALWAYS = {"torch.load": "weights_only", "np.load": "allow_pickle"}
# They run what is in a text, or write where an archive says.
FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "shutil.unpack_archive"}
UNPACKING = ("extract", "extractall", "enable_unsafe_deserialization")


def dangers(text):
    """What in a module's code could run or unpack what a file holds."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {
            keyword.arg: getattr(keyword.value, "value", keyword.value)
            for keyword in node.keywords
        }
        if name in FORBIDDEN or name.rpartition(".")[2] in UNPACKING:
            yield f"line {node.lineno} calls {name}"
        for option, value in NEVER.items():
            if given.get(option) is value:
                yield f"line {node.lineno} calls {name} with {option}={value}"
        if name in ALWAYS and ALWAYS[name] not in given:
            yield f"line {node.lineno} calls {name} without {ALWAYS[name]}"


def test_no_file_is_run():
    modules = [*ROOT.glob("tfssl/**/*.py"), *ROOT.glob("bin/*")]
    assert len(modules) > 100
    found = {str(path): list(dangers(path.read_text())) for path in modules}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "keras.saving.load_model(path, safe_mode=False)",
        "subprocess.run('ls', shell=True)",
        "exec(path.read_text())",
        "with tarfile.open(path) as f:\n    f.extractall(folder)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_each_would_be_found(line):
    assert list(dangers(line))
    fine = "np.load(path, allow_pickle=False)\ntorch.load(path, weights_only=True)\n"
    assert not list(dangers(f"{fine}re.compile('x')\nmodel.eval()\nsafe_mode=False"))


def test_code_in_a_model_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = keras.Input([2])
    touch = keras.layers.Lambda(lambda x: __import__("os").mkdir("was_run") or x)
    keras.Model(inputs, touch(inputs)).save("model.keras")
    Path("was_run").rmdir()  # It was, when the model was made.
    with pytest.raises(UserError, match="no Keras model that loads"):
        saved.load("model.keras")
    assert not Path("was_run").exists()


def test_a_cell_that_holds_objects_is_no_cell(tmp_path):
    from tfssl.evaluation.journal import Journal

    np.savez(tmp_path / "a.part.npz", key="k", id=np.array([{}], object))
    assert Journal(tmp_path / "a.part.npz", "k").read() == {}
