"""What made a store's vectors stands in its attributes; a run that would mix two kinds in one epoch is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from zstore.embed.types import Encoder
from zstore.maintenance.describe import Description

VERSIONS = "versions"       # of packages: kept for the record, and no reason to refuse
KEEP = "keep"               # the fields beside the vectors
NAME = "named"              # what the user called the model: one model may have several names
EXACT = "exact"             # that each vector hangs on its text alone; where it is left out they do to rounding
PROBE = "probe"             # what a function gave for some short texts: compared by closeness, see ``callables``
CUT = ("passages", "overlap")        # how texts were cut; no vector hangs on it, but a row does
_NOTES = (VERSIONS, KEEP, NAME, *CUT)
_MODEL = ("kind", "weights", "name")        # another one of these is another model, whatever its settings
_CLOSE = 1e-3               # of a vector's length


def attribute(epoch: int) -> str:
    """The attribute that describes an epoch's vectors. A plain corpus has epoch 0 and one word."""
    if not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"an epoch is an integer from 0 on, not {epoch!r}")
    return "embedding" if epoch == 0 else f"embedding@{epoch}"


def of(encoder: Encoder, name: str, exact: bool = False) -> dict[str, Any]:
    """The encoder's provenance as JSON gives it back, so that it compares with what a store holds."""
    made: dict[str, Any] = json.loads(json.dumps({**encoder.provenance(), NAME: name}, sort_keys=True))
    return {**made, EXACT: True} if exact else made


def name_of(model: Any, name: str | None = None) -> str:
    """What the user called the model; a folder by its whole path, so that it is found from another folder too."""
    if name is not None:
        return name
    if isinstance(model, (str, os.PathLike)):
        folder = os.path.expanduser(os.fspath(model))
        return os.path.abspath(folder) if os.path.isdir(folder) else os.fspath(model)
    return str(getattr(model, "__qualname__", None) or type(model).__name__)


def key(made: Mapping[str, Any]) -> bytes:
    """16 bytes that differ where vectors would. A function's stay the same from run to run as ``agreed`` gives it."""
    return blake2b(json.dumps(_essence(made), sort_keys=True).encode(), digest_size=16).digest()


def held(attrs: Mapping[str, Any], epoch: int) -> dict[str, Any] | None:
    """What the store says of this epoch: provenance and ``keep``. None where nothing was embedded under it."""
    found = attrs.get(attribute(epoch))
    return dict(found) if isinstance(found, Mapping) else None


def agreed(url: str, store: Description | None, epoch: int, made: Mapping[str, Any],
           encoder: Encoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's provenance, with the store's own figures where it is the same but for rounding, and the attributes that a
    Writer shall set. Raises what ``check`` raises, and ValueError where the store's vectors have another dimension or dtype."""
    if store is None:
        return dict(made), {}
    found = check(url, store.attrs, store.commit.rows, epoch, made)
    dtype, shape = store.fields["vectors"]
    if (dtype, shape) != (encoder.dtype, (encoder.dim,)):
        raise ValueError(f"{url} holds vectors of {shape[0]} dimensions as {dtype}, and those of {described(made)} have "
                         f"{encoder.dim} as {encoder.dtype}: a store has one dimension and one dtype in all its epochs, so "
                         "write to another store")
    epochs = (there for name, there in store.attrs.items() if name.partition("@")[0] == "embedding")
    alike: Mapping[str, Any] = next((there for there in (*found.values(), *epochs) if same(there, made)), {})
    return {**made, **{name: alike[name] for name in (PROBE,) if name in alike}}, found


def check(url: str, attrs: Mapping[str, Any], rows: int, epoch: int, made: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that a Writer shall set. ValueError, one sentence that names both, where this run's vectors must not
    stand beside those of the store's epoch, or where the store is none of ``embed``'s."""
    there = held(attrs, epoch)
    if there is None:
        if rows and not any(name.partition("@")[0] == "embedding" for name in attrs):
            raise ValueError(f"{url} holds {rows:,} rows that were not embedded from texts, and this run's vectors are of "
                             f"{described(made)}: write to another store")
        return {}
    if not same(there, made):
        one, other = both(there, made)
        raise ValueError(f"{url} holds vectors of {one}, and this run's would be of {other}: write to another store, or embed "
                         "with what made this one")
    return {attribute(epoch): there}


def same(there: Any, made: Mapping[str, Any], but: Sequence[str] = ()) -> bool:
    """Whether two provenances may stand side by side, whatever the settings in ``but``."""
    return isinstance(there, Mapping) and not _differing(there, made, but)


def both(there: Mapping[str, Any], made: Mapping[str, Any], but: Sequence[str] = ()) -> tuple[str, str]:
    """Two provenances that differ, for people: two models by their names alone, one model by the settings that differ."""
    names = _differing(there, made, but)
    if names == [PROBE]:
        return described(there), f"{described(made)}, which gives the same text another vector"
    if any(name in _MODEL for name in names):
        names = [name for name in names if name in _MODEL]
        if there.get(NAME) != made.get(NAME):
            names = [name for name in names if name == "kind"]
        elif "kind" in names:
            names = ["kind"]
    names = [name for name in names if name != PROBE]
    return described(there, names), described(made, names)


def cut(url: str, store: Description | None, epoch: int, passages: int | None, overlap: int) -> dict[str, Any]:
    """What the attribute says of the cutting. ValueError naming both where the store's epoch was cut in another way; a store
    that does not say it is taken as it is."""
    mine = dict(zip(CUT, (passages, overlap if passages else 0), strict=True))
    there = held({} if store is None else store.attrs, epoch) or {}
    if CUT[0] in there and any(there.get(name) != mine[name] for name in CUT):
        raise ValueError(f"{url} holds {_pieces(there)}, and this run's would be {_pieces(mine)}: cut as the store does, or "
                         "write to another store")
    return mine


def _pieces(made: Mapping[str, Any]) -> str:
    size = made.get(CUT[0])
    return f"passages of {size:,} characters that overlap by {made.get(CUT[1]):,}" if size else "whole texts"


def described(made: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """A provenance for people: the model, and the settings named."""
    model = f"the model {made.get(NAME, 'without a name')!s}"
    return ", ".join([model, *(f"{name} {_short(made.get(name, False if name == EXACT else None))}" for name in names)])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _differing(there: Mapping[str, Any], made: Mapping[str, Any], but: Sequence[str]) -> list[str]:
    one, other = _essence(there), _essence(made)
    return [name for name in sorted({*one, *other} - {*but}) if (name in one) != (name in other) or (
        not _close(one[name], other[name]) if name == PROBE else one[name] != other[name])]


def _close(one: Any, other: Any) -> bool:
    """Whether two probes are one to rounding. Each is a list of vectors: the length, then some of the values."""
    if [len(vector) for vector in one] != [len(vector) for vector in other]:
        return False
    return all(abs(a - b) <= _CLOSE * max(abs(x[0]), abs(y[0])) for x, y in zip(one, other, strict=True)
               for a, b in zip(x, y, strict=True))


def _essence(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name not in _NOTES}
