"""Questions as vectors of a store: by the model that made it, with that model's own prompt for queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.embed import provenance
from zstore.embed.check import wrong_with
from zstore.embed.engine import vectors
from zstore.embed.models import kind_of, load
from zstore.embed.types import Encoder, Failure
from zstore.errors import NotFound
from zstore.reader import Reader

# Of a document and a query these may differ; exact is to rounding the same.
_OF_THE_TEXT = ("prompt", "max_tokens", provenance.EXACT)
_SETTINGS = {"encoder": (), "hash": ("dim",), "sentence-transformers": ("dim", "dtype", "normalize"),
             "callable": ("dim", "dtype", "name")}


def query(reader: Reader, texts: Sequence[str] | str, *, model: Any = None, epoch: int = 0, prompt: str | None = None) -> Array:
    """(n, dim) vectors of the questions, to be compared with the store's, in the order and dtype of the store's.

    ``reader``: of a store that ``embed`` wrote; ``epoch``: whose vectors will be compared. The model is the one whose name the
    store remembers, with the same dim, dtype and normalisation; ``model`` gives it as ``embed`` takes it, as it must for a
    function or an object. A model with a prompt for queries uses that; ``prompt`` is another one, by name or as text, "" for
    none.

    A named model is loaded at each call: give several texts at once, or the loaded model. Raises ValueError where the model is
    not the one that made the store, naming both, and for a text that no model can make sense of; NotFound where the model is
    not on this machine.
    """
    held = provenance.held(reader.attrs, epoch)
    if held is None:
        raise ValueError(f"the store says of no model that it made epoch {epoch}: queries must be embedded by what made its "
                         "vectors")
    if isinstance(texts, str):
        texts = [texts]
    for at, text in enumerate(texts):
        reason = wrong_with(text)
        if reason is not None:
            raise ValueError(f"query {at}: {reason}")
    encoder, name = _encoder(held, model, prompt)
    made = provenance.of(encoder, name)
    if not provenance.same(held, made, _OF_THE_TEXT):
        one, other = provenance.both(held, made, _OF_THE_TEXT)
        raise ValueError(f"the store holds vectors of {one}, and the queries' would be of {other}: their distances would mean "
                         "nothing; give model= what made the store")
    return _embedded(encoder, list(texts))


def _encoder(held: dict[str, Any], model: Any, prompt: str | None) -> tuple[Encoder, str]:
    given = held.get(provenance.NAME) if model is None else model
    kind = kind_of(given)
    settings = {name: held.get(name) for name in _SETTINGS[kind]}
    if kind == "sentence-transformers":
        settings |= {"task": "query", "prompt": prompt}
    elif prompt is not None:
        raise ValueError(f"prompt is of sentence-transformers models, and the store's is {provenance.described(held)}")
    try:
        return load(given, **settings), provenance.name_of(given)
    except NotFound as error:
        if model is not None:
            raise
        raise NotFound(f"the store was made by {provenance.described(held)}; give it as model=, or what it is called here "
                       f"({error})") from None


def _embedded(encoder: Encoder, texts: list[str]) -> Array:
    found: list[Any] = [None] * len(texts)
    for result in vectors(iter(enumerate(texts)), encoder):
        if isinstance(result, Failure):
            raise ValueError(f"query {result.id}: {result.reason}")
        keys, rows, _ = result
        for at, row in zip(keys, rows, strict=True):
            found[at] = row
    return np.stack(found) if found else encoder.encode([])
