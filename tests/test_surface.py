"""The public surface, name by name, as DESIGN section 4 fixes it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zstore
from zstore import errors

ROOT = Path(__file__).parents[1]
NAMES = {"Commit", "Reader", "View", "Writer", "ZStoreError", "compact", "delete", "gc", "history", "rollback", "verify",
         "__version__"}
GUESTS = {"embed", "train"}         # modules, lazy ones
REQUIRED = inspect.Parameter.empty


def shape_of(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(positional, keyword-only)`` parameters with their defaults, without self; ``**name`` as a keyword."""
    positional, keywords = {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = parameter.default
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords["**" + name] = REQUIRED
        else:
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD, name
            positional[name] = parameter.default
    return positional, keywords


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_top_level_has_these_names_and_no_more() -> None:
    assert set(zstore.__all__) == NAMES
    assert set(dir(zstore)) == NAMES | GUESTS
    for name in NAMES:
        assert getattr(zstore, name) is not None
    with pytest.raises(AttributeError, match="'zstore' has no attribute 'open'"):
        zstore.open  # noqa: B018


def test_guests_are_there_when_asked_for() -> None:
    """``import zstore`` alone loads neither."""
    program = ("import sys, zstore\nassert not {'zstore.embed', 'zstore.train', 'torch', 'numpy'} & {*sys.modules}\n"
               "print(zstore.embed.embed.__module__, zstore.train.__name__, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.split() == ["zstore.embed.run", "zstore.train", "False"], done.stderr


def test_star_import_gives_exactly_the_names() -> None:
    program = "from zstore import *; print(*sorted(n for n in globals() if n[0] != '_' or n == '__version__'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert set(done.stdout.split()) == NAMES, done.stderr


def test_the_version_is_semantic() -> None:
    assert [part.isdigit() for part in zstore.__version__.split(".")] == [True] * 3


def test_it_says_that_it_is_typed() -> None:
    assert (ROOT / "zstore" / "py.typed").is_file()


def test_writer() -> None:
    assert public(zstore.Writer) == {"append", "commit", "close", "add_field", "state_dict", "load_state_dict",
                                     "check", "uncommitted"}
    assert shape_of(zstore.Writer.__init__) == ({"url": REQUIRED}, {
        "mode": "a", "dim": None, "dtype": None, "id_dtype": None, "codec": None, "fields": None, "attrs": None,
        "rows_per_shard": None, "commit_every_s": 60.0, "session": None, "member": 0, "at": None, "takeover": False,
        "only_writer": False, "storage_options": None})
    assert shape_of(zstore.Writer.append) == (
        {"ids": REQUIRED, "vectors": REQUIRED}, {"epoch": 0, "**fields": REQUIRED})
    assert shape_of(zstore.Writer.commit) == ({}, {"tag": None, "meta": None})
    assert shape_of(zstore.Writer.close) == ({}, {})
    assert shape_of(zstore.Writer.add_field) == ({"name": REQUIRED, "values": REQUIRED}, {"fill": None})
    assert shape_of(zstore.Writer.state_dict) == ({}, {})
    assert shape_of(zstore.Writer.load_state_dict) == ({"mark": REQUIRED}, {})


VIEW = {"ids", "vectors", "field", "epochs", "epoch", "latest", "select", "find", "get", "batches", "torch", "dataset",
        "coverage"}


def test_view() -> None:
    assert public(zstore.View) == VIEW          # to_arrow comes with a later issue
    assert shape_of(zstore.View.field) == ({"name": REQUIRED}, {})
    assert shape_of(zstore.View.epoch) == ({"epoch": REQUIRED}, {})
    assert shape_of(zstore.View.latest) == ({}, {})
    assert shape_of(zstore.View.select) == ({"rows": REQUIRED}, {})
    assert shape_of(zstore.View.find) == ({"ids": REQUIRED}, {"epoch": None})
    assert shape_of(zstore.View.get) == ({"ids": REQUIRED}, {"epoch": None, "field": "vectors", "missing": "raise"})
    assert shape_of(zstore.View.batches) == ({"size": None}, {})
    assert shape_of(zstore.View.torch) == ({}, {})
    assert shape_of(zstore.View.coverage)[0] in ({"expected": REQUIRED}, {"expected": None})
    for name in ("ids", "vectors", "epochs"):
        assert isinstance(inspect.getattr_static(zstore.View, name), property)
    assert hasattr(zstore.View, "__len__")
    assert hasattr(zstore.View, "__getitem__")


def test_reader() -> None:
    assert issubclass(zstore.Reader, zstore.View)
    assert public(zstore.Reader) == VIEW | {"version", "history", "attrs", "refresh", "close"}
    assert shape_of(zstore.Reader.__init__) == ({"url": REQUIRED}, {
        "version": None, "tag": None, "cache_dir": None, "cache_bytes": None, "verify": False, "storage_options": None})
    assert shape_of(zstore.Reader.refresh) == ({}, {})
    for name in ("version", "history", "attrs"):
        assert isinstance(inspect.getattr_static(zstore.Reader, name), property)


def test_functions() -> None:
    def without_options(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        positional, keywords = shape_of(function)
        assert keywords.pop("storage_options") is None
        return positional, keywords
    assert without_options(zstore.history) == ({"url": REQUIRED}, {})
    assert without_options(zstore.rollback) == ({"url": REQUIRED, "to": REQUIRED}, {"only_writer": False})
    assert without_options(zstore.delete) == ({"url": REQUIRED, "ids": REQUIRED}, {"epoch": None, "only_writer": False})
    assert without_options(zstore.gc) == ({"url": REQUIRED}, {"dry_run": False})
    positional, keywords = shape_of(zstore.compact)
    assert positional == {"src": REQUIRED, "dst": REQUIRED}
    assert {"codec": None, "dtype": None, "order": None}.items() <= keywords.items()
    positional, keywords = without_options(zstore.verify)
    assert positional == {"url": REQUIRED}
    assert {"repair": False, "quick": False}.items() <= keywords.items()


def test_commit_fields() -> None:
    names = [field.name for field in dataclasses.fields(zstore.Commit)]
    assert names[:8] == ["store_id", "version", "commit_id", "rows", "new_rows", "duplicates", "nonfinite", "time"]
    assert zstore.Commit.__dataclass_params__.frozen        # type: ignore[attr-defined]
    assert {"mark", "meta"} <= public(zstore.Commit) | set(names)


ERRORS: dict[str, tuple[type[BaseException], ...]] = {
    "NotFound": (errors.ZStoreError, KeyError),
    "StoreNotFound": (errors.NotFound, FileNotFoundError),
    "AlreadyExists": (errors.ZStoreError, FileExistsError),
    "Conflict": (errors.ZStoreError,),
    "StaleWriter": (errors.Conflict,),
    "InDoubt": (errors.ZStoreError, OSError),
    "BehindCheckpoint": (errors.ZStoreError,),
    "FormatError": (errors.ZStoreError, ValueError),
    "Corrupt": (errors.ZStoreError, OSError),
    "MissingExtra": (errors.ZStoreError, ImportError),
}


def test_the_errors_are_these() -> None:
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and not name.startswith("_")}
    assert found == {*ERRORS, "ZStoreError"}
    assert zstore.ZStoreError is errors.ZStoreError


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_the_builtin_that_a_handler_expects(name: str) -> None:
    kind = getattr(errors, name)
    for base in ERRORS[name]:
        assert issubclass(kind, base)


@pytest.mark.parametrize("name", [*ERRORS, "ZStoreError"])
def test_messages_print_as_they_are(name: str) -> None:
    kind = getattr(errors, name)
    if name == "Corrupt":
        error = errors.Corrupt("ids/c.0", "it fails", offset=7, expected="aa", actual="bb")
        assert str(error) == "ids/c.0 at byte 7: it fails (expected aa, found bb); run `zstore verify` on the store"
        assert (error.object, error.offset, error.expected, error.actual) == ("ids/c.0", 7, "aa", "bb")
    else:
        error = kind("it's 'so': no \"repr\"")
        assert str(error) == "it's 'so': no \"repr\""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_the_logger_is_quiet_until_asked() -> None:
    importlib.import_module("zstore.writer")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("zstore").handlers)


def documented() -> list[tuple[str, Any]]:
    """Every public class, function, method and property of every module of zstore."""
    found: list[tuple[str, Any]] = []
    for path in sorted((ROOT / "zstore").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "demo" in parts or parts[-1] == "__init__":
            continue            # the demo imports what a core installation lacks
        try:
            module = importlib.import_module(".".join(parts))
        except ImportError as error:        # a core installation lacks what guests are for
            if str(error.name).partition(".")[0] in ("zstore", "numpy") or parts[1] not in ("train", "embed"):
                raise
            continue
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                found.append((f"{module.__name__}.{name}", value))
                found += [(f"{module.__name__}.{name}.{method}", member) for method, member in vars(value).items()
                          if not method.startswith("_") and (callable(member) or isinstance(
                              member, (property, classmethod, staticmethod)))]
            elif callable(value):
                found.append((f"{module.__name__}.{name}", value))
    return found


def _function(value: Any) -> Any:
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def _is_public(kind: Any) -> bool:
    return kind in (zstore.Writer, zstore.View, zstore.Reader, zstore.Commit) or kind in vars(errors).values()


def test_every_module_says_what_it_is() -> None:
    silent = []
    for path in sorted((ROOT / "zstore").rglob("*.py")):
        first = path.read_text().lstrip()[:3]
        if first != '"""':
            silent.append(str(path.relative_to(ROOT)))
    assert not silent


def test_every_public_class_and_method_has_a_docstring() -> None:
    silent = [name for kind in (zstore.Writer, zstore.View, zstore.Reader, zstore.Commit)
              for name in [kind.__name__, *(f"{kind.__name__}.{m}" for m in public(kind))]
              if not _doc_of(kind, name)]
    silent += [name for name in NAMES - {"__version__"} if not getattr(zstore, name).__doc__]
    silent += [name for name in ERRORS if not vars(getattr(errors, name)).get("__doc__")]
    assert not silent


def _doc_of(kind: type, name: str) -> str | None:
    _, _, member = name.partition(".")
    if not member:
        return kind.__doc__
    if member in {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else False:
        return "a field: the class says what it is"
    return inspect.getdoc(inspect.getattr_static(kind, member))


def test_every_class_of_the_house_has_a_docstring() -> None:
    silent = [name for name, value in documented() if inspect.isclass(value) and not vars(value).get("__doc__")]
    assert not silent


def test_every_function_of_the_house_is_typed() -> None:
    bare = []
    for name, value in documented():
        function = _function(value)
        if not inspect.isfunction(function):
            continue
        hints = function.__annotations__
        wanted = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        if "return" not in hints or any(parameter not in hints for parameter in wanted):
            bare.append(name)
    assert not bare


@pytest.mark.parametrize("kind", [zstore.Writer, zstore.View, zstore.Reader, zstore.Commit])
def test_the_hints_of_the_public_classes_resolve(kind: type) -> None:
    for name in {*public(kind), "__init__"}:
        function = _function(inspect.getattr_static(kind, name))
        if inspect.isfunction(function):
            typing.get_type_hints(function)
