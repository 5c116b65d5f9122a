"""What made a store's vectors stands in its attributes; a run that would mix two kinds in one epoch is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from zstore.embed.types import Encoder

VERSIONS = "versions"       # of packages: kept for the record, and no reason to refuse
KEEP = "keep"               # the fields beside the vectors
NAME = "named"              # what the user called the model: one model may have several names
_NOTES = (VERSIONS, KEEP, NAME)


def attribute(epoch: int) -> str:
    """The attribute that describes an epoch's vectors. A plain corpus has epoch 0 and one word."""
    if not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"an epoch is an integer from 0 on, not {epoch!r}")
    return "embedding" if epoch == 0 else f"embedding@{epoch}"


def of(encoder: Encoder, name: str) -> dict[str, Any]:
    """The encoder's provenance as JSON gives it back, so that it compares with what a store holds."""
    made: dict[str, Any] = json.loads(json.dumps({**encoder.provenance(), NAME: name}, sort_keys=True))
    return made


def key(made: Mapping[str, Any]) -> bytes:
    """16 bytes that differ where vectors would."""
    return blake2b(json.dumps(_essence(made), sort_keys=True).encode(), digest_size=16).digest()


def held(attrs: Mapping[str, Any], epoch: int) -> dict[str, Any] | None:
    """What the store says of this epoch: provenance and ``keep``. None where nothing was embedded under it."""
    found = attrs.get(attribute(epoch))
    return dict(found) if isinstance(found, Mapping) else None


def check(url: str, attrs: Mapping[str, Any], rows: int, epoch: int, made: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that a Writer shall set. ValueError, one sentence that names both, where this run's vectors must not
    stand beside those of the store's epoch, or where the store is none of ``embed``'s."""
    there = held(attrs, epoch)
    if there is None:
        if rows and not any(name.partition("@")[0] == "embedding" for name in attrs):
            raise ValueError(f"{url} holds {rows:,} rows that were not embedded from texts, and this run's vectors are of "
                             f"{described(made)}: write to another store")
        return {}
    if _essence(there) != _essence(made):
        differing = [name for name in sorted({*_essence(there), *_essence(made)}) if there.get(name) != made.get(name)]
        raise ValueError(f"{url} holds vectors of {described(there, differing)}, and this run's would be of "
                         f"{described(made, differing)}: write to another store, or embed with what made this one")
    return {attribute(epoch): there}


def described(made: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """A provenance for people: the model, and the settings named."""
    model = f"the model {made.get(NAME, 'without a name')!s}"
    return ", ".join([model, *(f"{name} {_short(made.get(name))}" for name in names)])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _essence(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name not in _NOTES}
