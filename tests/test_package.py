"""What installing relies on: versions, programs, shipped files, pins."""

import ast
import configparser
import importlib.metadata
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tfssl

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser(delimiters=["="])
    parser.optionxform = str
    parser.read(ROOT / "setup.cfg")
    return parser


def _lines(text):
    return [x for x in text.strip().splitlines() if not x.startswith("#")]


def test_versions_agree():
    assert importlib.metadata.version("tfssl") == tfssl.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {tfssl.__version__}\n" in citation


def test_programs_exist(setup):
    scripts = _lines(setup["options.entry_points"]["console_scripts"])
    assert len(scripts) == len(list((ROOT / "bin").iterdir()))
    for script in scripts:
        name, module, function = re.fullmatch(r"(\S+) = (\S+):(\w+)", script).groups()
        program = ROOT / "bin" / name.removeprefix("tfssl-")
        assert f"from {module} import {function}\n" in program.read_text()
        # Not imported: two programs may not define their flags in one process.
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
        assert function in {getattr(node, "name", None) for node in tree.body}


def test_each_gin_folder_is_shipped(setup):
    folders = {p.parent.relative_to(ROOT) for p in (ROOT / "gin").rglob("*.gin")}
    assert dict(setup["options.data_files"]) == {
        "share/tfssl/published": "published/*.csv",
        **{f"share/tfssl/{folder}": f"{folder}/*.gin" for folder in folders},
    }
    inside = {p for p in (ROOT / "gin").rglob("*") if p.is_file()}
    assert {p.suffix for p in inside} == {".gin"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_constraints_pin_what_is_required(setup, python):
    required = _lines(setup["options"]["install_requires"])
    for extra in ("torch", "tensorboard", "ray", "test", "lint", "benchmark"):
        required += _lines(setup["options.extras_require"][extra])

    pins = {}
    for line in _lines((ROOT / "constraints.txt").read_text()):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in pins, f"two pins of {name}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            pins[name] = specifier.version

    for line in required:
        requirement = Requirement(line)
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_no_file_names_a_place_on_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z"]
    files = subprocess.run(listed, capture_output=True, check=True, text=True).stdout
    place = re.compile(rb"(?<![\w.-])/(work|root|home/\w+)/")
    found = [
        name
        for name in files.split("\0")
        if (ROOT / name).is_file() and place.search((ROOT / name).read_bytes())
    ]
    assert found == []
