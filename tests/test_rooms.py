"""Who may import whom: the table in docs/design.md, enforced."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEADER = "| room | may import |"


def rules(page: str) -> dict[str, set[str]]:
    """The table's rows: {room: rooms it may import}; 'everything' is {'*'}."""
    allowed = {}
    for line in page.split(HEADER)[1].splitlines()[2:]:
        if not line.startswith("|"):
            break
        rooms, others = line.strip("|").split("|")
        names = {"*"} if others.strip() == "everything" else set(_names(others))
        allowed |= dict.fromkeys(_names(rooms), names)
    return allowed


def _names(cell: str) -> list[str]:
    return re.findall(r"\w+", cell)


def imports(file: Path, root: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file it does so."""
    package = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = [*parents, *filter(None, [node.module])]
            yield from (".".join([*base, name.name]) for name in node.names)


def violations(root: Path, allowed: dict[str, set[str]]) -> list[str]:
    """What breaks a rule in a tree, one line each."""
    programs = [p for p in (root / "bin").glob("*") if p.is_file()]
    package = sorted((root / "tfssl").rglob("*.py"))
    found = []
    for file in programs + package:
        path = file.relative_to(root)
        room = path.parts[0] if path.parts[0] == "bin" else Path(path.parts[1]).stem
        may = allowed.get(room, set()) | {room, "__version__"}
        for name in imports(file, root):
            top, *inside = name.split(".")
            if path == Path("tfssl/__init__.py"):
                found.append(f"{path} imports {name}: it may import nothing")
            elif top == "tfssl" and inside and not may & {inside[0], "*"}:
                found.append(f"{path} imports {name}")

    others = [p for d in ("tests", "benchmarks", "docs") for p in (root / d).rglob("*")]
    for file in programs + package + [p for p in others if p.suffix == ".py"]:
        path = file.relative_to(root)
        # Importing gin.tf fails on current TensorFlow; unpickling runs code.
        never = re.compile(r"(gin\.tf|pickle)(\.|$)")
        found += [f"{path} imports {n}" for n in imports(file, root) if never.match(n)]
        if file.name == "utils.py":
            found.append(f"{path}: name it after what is in it")
    # It would hide the package gin from programs started in the repository.
    found += [f"{p.relative_to(root)} exists" for p in root.glob("gin/**/__init__.py")]
    return found


def test_rules_are_kept():
    allowed = rules((ROOT / "docs/design.md").read_text())
    rooms = {p.parent.name for p in ROOT.glob("tfssl/*/__init__.py")}
    assert rooms <= set(allowed), "each room has a row in docs/design.md"
    assert violations(ROOT, allowed) == []


def test_table_is_read():
    page = f"""Above.\n\n{HEADER}\n|---|---|\n| cli | everything |
| models, losses | types, distribute |\n\n| not | this |\n"""
    assert rules(page) == {
        "cli": {"*"},
        "models": {"types", "distribute"},
        "losses": {"types", "distribute"},
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("tfssl/losses/a.py", "from tfssl.data import digits"),
        ("tfssl/losses/a.py", "from tfssl import data"),
        ("tfssl/losses/a.py", "import tfssl.data.digits as d"),
        ("tfssl/losses/a.py", "from ..data import digits"),
        ("tfssl/losses/a.py", "from .. import data"),
        ("tfssl/losses/deeper/a.py", "from ...data import digits"),
        ("tfssl/losses/a.py", "def f():\n    from tfssl.data import digits"),
        ("tfssl/losses/a.py", "if True:\n    import numpy, tfssl.data"),
        ("tfssl/types.py", "from tfssl.losses import a"),
        ("tfssl/losses/a.py", "import gin.tf"),
        ("tfssl/cli/a.py", "from gin import tf"),
        ("tfssl/cli/a.py", "import pickle"),
        ("tests/losses/a.py", "from pickle import loads"),
        ("bin/train", "import tfssl.losses"),
        ("tfssl/__init__.py", "import os"),
        ("tfssl/losses/utils.py", ""),
        ("gin/papers/__init__.py", ""),
    ],
)
def test_violation_is_found(tmp_path, path, code):
    allowed = {"cli": {"*"}, "losses": {"types"}, "bin": {"cli"}}
    fine = {
        "tfssl/__init__.py": '"""A package."""\n__version__ = "1"',
        "tfssl/types.py": "import gin",
        "tfssl/losses/b.py": "from tfssl import types\nfrom . import c\nimport gin",
        "tfssl/losses/deeper/c.py": "from ..b import d\nimport tfssl",
        "tfssl/cli/train.py": "import tfssl.losses.a\nfrom ..data import digits",
        "bin/train": "from tfssl.cli.train import run",
    }
    for file, text in fine.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert violations(tmp_path, allowed) == []

    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    (line,) = violations(tmp_path, allowed)
    assert line.startswith(path)
