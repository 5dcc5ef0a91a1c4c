"""The only module that parses or writes gin.

A configuration is a list of gin files and a list of bindings read last. Everything is
strict: an unknown file, name, parameter, macro or scope is one clear error. So is an
import of what is not tfssl's, unless it is allowed: importing a module runs it, and
configurations come from others, with their runs.
"""

from __future__ import annotations

import collections.abc
import contextlib
import difflib
import importlib.util  # noqa: F401  gin 0.5.0 uses it without importing it.
import inspect
import os
import re
import sysconfig
import tokenize
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from tfssl.types import UserError


def gin_dir() -> Path:
    """The folder of the shipped gin files: beside the package, or where pip puts it."""
    beside = Path(__file__).resolve().parent.parent / "gin"
    if beside.is_dir():
        return beside
    return Path(sysconfig.get_path("data")) / "share" / "tfssl" / "gin"


def find(file: str | os.PathLike) -> Path:
    """Resolves a gin file: a path as given, or one under `gin_dir()`."""
    for path in (Path(file), gin_dir() / file):
        if path.is_file():
            return path
    folder, name = os.path.split(file)
    there = sorted(p.name for p in (gin_dir() / folder).glob("*.gin"))
    close = difflib.get_close_matches(name, there, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    if there and not close:
        hint = f"; {folder or '.'} holds {', '.join(there)}"
    raise UserError(f"no gin file {file} (looked here and in {gin_dir()}){hint}")


def parse(
    files: Sequence[str | os.PathLike],
    params: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> None:
    """Reads gin files, then bindings such as 'EPOCHS=1', and locks the result.

    Args:
      files, params: Later ones win.
      allowed: Modules and packages other than tfssl that gin may import.

    Raises:
      UserError: A file, name, parameter, macro or scope is unknown, a required macro is
        not set, a value is not of the type that its parameter is annotated with, an
        import is not allowed, or the syntax is wrong.
    """
    with _one_line_errors(), _imports_of("tfssl", *allowed):
        _read(files)
        known = _macros_named()
        for param in params:
            macro = re.fullmatch(r"\s*(\w+)\s*=.*", param, re.DOTALL)
            if macro and macro[1] not in known:
                close = difflib.get_close_matches(macro[1], known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise UserError(f"no macro {macro[1]} in this configuration{hint}")
            try:
                gin.parse_config(param)
            except SyntaxError:
                raise UserError(
                    f"cannot read --gin_param {param}: words, and fractions such as"
                    " '8/255', need quotes within"
                ) from None
        _check_scopes()
        _check_types()
        gin.finalize()


def files_name(
    files: Sequence[str | os.PathLike], macro: str, allowed: Sequence[str] = ()
) -> bool:
    """Whether gin files set a macro or use it, whatever they leave to bindings.

    Raises:
      UserError: As `parse`, of the files. No configuration is in force after it.
    """
    with _one_line_errors(), _imports_of("tfssl", *allowed):
        _read(files)
        found = macro in _macros_named()
        gin.clear_config()
    return found


def text() -> str:
    """All bindings in force, as a gin file that can be read back."""
    return gin.config_str()


def operative_text() -> str:
    """The parameters that were used, with defaults: a record, not to be read back."""
    return gin.operative_config_str()


def differences(old: str, new: str) -> list[str]:
    """The bindings in which two `text()`s differ, as '- old' and '+ new' lines.

    Imports do not count: a binding that needs another differs itself.
    """

    def bindings(config: str) -> list[str]:
        return [
            line
            for line in joined(config).splitlines()
            if line.strip() and not line.startswith(("#", "import "))
        ]

    diff = difflib.ndiff(bindings(old), bindings(new))
    return [re.sub(r"\s+", " ", line) for line in diff if line[0] in "-+"]


def joined(text: str) -> str:
    """A `text()` with each binding that was continued on a next line on one."""
    return text.replace("\\\n", "")


@contextlib.contextmanager
def _imports_of(*allowed: str) -> Iterator[None]:
    """Refuses all other imports in what gin reads meanwhile.

    And its dynamic registration, by which a file names whatever can be reached from a
    module, such as what that module imports: only what is registered has a name.
    """
    context = gin.config.ParseContext
    process = context.process_import

    def strict(self, statement) -> None:
        name = statement.module
        if name.startswith("__gin__"):
            raise UserError(f"gin files may not use {name}: register what they name")
        if not any(f"{name}.".startswith(f"{each}.") for each in allowed):
            raise UserError(
                f"{statement.location.filename or 'a binding'} imports {name}, which is"
                " not tfssl's and would be run: if you trust it, add --allow_import"
                f" {name.partition('.')[0]}"
            )
        process(self, statement)

    context.process_import = strict
    try:
        yield
    finally:
        context.process_import = process


def _read(files: Sequence[str | os.PathLike]) -> None:
    """Reads gin files, and nothing of what was read before."""
    gin.clear_config()
    gin.add_config_file_search_path(str(gin_dir()))
    # Gin's other reader looks includes up as resources of Python packages, and fails
    # where any folder on sys.path is called like the first folder of an include.
    # And what is included is a gin file: no error shows what is in another one.
    paths = [str(find(file)) for file in files]

    def readable(path: str) -> bool:
        return (path in paths or path.endswith(".gin")) and os.path.isfile(path)

    gin.config._FILE_READERS[:] = [(open, readable)]
    gin.parse_config_files_and_bindings(paths, [], finalize_config=False)


def _macros_set() -> set[str]:
    return {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"}


def _macros_named() -> set[str]:
    return _macros_set() | {name for name, _ in _references("gin.macro")}


def _references(selector: str | None = None) -> Iterator[tuple[str, str]]:
    """(scope, selector) of every @reference and %macro in the bindings."""

    def walk(value):
        if isinstance(value, gin.config.ConfigurableReference):
            yield "/".join(value.scopes), value.selector
        elif isinstance(value, dict):
            yield from walk(list(value.items()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from walk(item)

    for bindings in gin.config._CONFIG.values():
        for value in bindings.values():
            for scope, name in walk(value):
                if selector in (None, name):
                    yield scope, name


def _check_scopes() -> None:
    """A binding under a scope that nothing refers to would be ignored in silence."""
    used = {part for scope, _ in _references() for part in scope.split("/")}
    for scope, selector in gin.config._CONFIG:
        if selector == "gin.macro":
            continue
        for part in filter(None, scope.split("/")):
            if part not in used:
                raise UserError(f"scope {part}/ of {scope}/{selector} is used nowhere")


def _check_types() -> None:
    """Gin binds anything to anything: 'False' to a bool, where it would be true."""
    for (scope, selector), bindings in gin.config._CONFIG.items():
        if selector == "gin.macro":
            continue
        for parameter, bound in bindings.items():
            value, macro = _resolved(bound)
            kind = _annotation(selector, parameter)
            if not _fits(value, kind):
                name = "/".join(filter(None, [scope, selector.rpartition(".")[2]]))
                through = f" (by {macro})" if macro else ""
                shown = kind.__name__ if isinstance(kind, type) else kind
                shown = re.sub(r"[\w.]+\.(?=\w)", "", str(shown))
                raise UserError(
                    f"{name}.{parameter} = {value!r}{through} is no {shown}"
                )


def _resolved(value: Any) -> tuple[Any, str]:
    """A bound value, through macros, and the name of the first of these."""
    first = ""
    while isinstance(value, gin.config.ConfigurableReference):
        if value.selector != "gin.macro":
            break
        macro = "/".join(value.scopes)
        first = first or macro
        value = gin.config._CONFIG.get((macro, "gin.macro"), {}).get("value", value)
        if macro not in _macros_set():
            break
    return value, first


def _annotation(selector: str, parameter: str) -> Any:
    """What a configurable's parameter is annotated with; Any if that is not known."""
    made = gin.config._REGISTRY[selector].wrapped
    function = made.__init__ if isinstance(made, type) else made
    function = inspect.unwrap(function)
    kind = getattr(function, "__annotations__", {}).get(parameter, Any)
    if not isinstance(kind, str):
        return kind
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__={parameter: kind}),
            function.__globals__,
        )[parameter]
    except NameError:  # Of something that is imported for type checkers alone.
        return Any


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation says, as far as gin can write such."""
    if isinstance(value, gin.config.ConfigurableReference):
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind is os.PathLike:
        return isinstance(value, str)
    if kind in (None, type(None)):
        return value is None
    if origin in (list, tuple, collections.abc.Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and Ellipsis not in arguments:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(item, arguments[0]) for item in value)
    return True


@contextlib.contextmanager
def _one_line_errors():
    try:
        yield
    except UserError as error:
        # Gin appends lines that say where in a file it came from.
        raise UserError(str(error).splitlines()[0]) from None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
        OSError,
        RuntimeError,
        SyntaxError,
        tokenize.TokenError,
    ) as error:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        where = getattr(error, "filename", None)
        line = f" ({where}:{error.lineno})" if isinstance(error, SyntaxError) else ""
        message = re.sub(r"\s+", " ", message).strip()
        if missing := re.match(r"(\w+)/macro\.value set to `%gin.REQUIRED`", message):
            raise UserError(
                f"{missing[1]} is not set: include a file that sets it, or give it by"
                f' --gin_param "{missing[1]} = ..." (the gin files that need it, and'
                " gin/runs/train.gin, say what goes where)"
            ) from error
        raise UserError(f"configuration: {message}{line}") from error
