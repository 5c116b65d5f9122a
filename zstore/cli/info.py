"""What a store holds, from its head record: instant on a live store of any size."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from zstore.cli import output, stores
from zstore.maintenance.describe import Description, describe

EXAMPLES = """\
  zstore info runs/a.zarr
  zstore info runs/a.zarr --tag before-finetune --json
  zstore info s3://bucket/runs/a.zarr -o anon=true"""

FEW_ROWS = 250_000      # up to here the epochs are counted too: that reads the key index
MANY_EXTENTS = 10_000
_BUILT_IN = ("vectors", "ids", "epoch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    stores.add_version(parser)


def run(args: argparse.Namespace) -> int:
    store = describe(args.url, version=args.version, tag=args.tag, storage_options=stores.storage_options(args))
    epochs = _epochs(args, store)
    output.emit(args, _facts(store, epochs), _lines(store, epochs))
    return output.OK


def _epochs(args: argparse.Namespace, store: Description) -> list[int] | None:
    """The distinct epochs, or None where counting them would take a while."""
    if store.commit.rows > FEW_ROWS:
        return None
    with stores.reader(args, version=store.commit.version) as reader:
        epochs: list[int] = reader.epochs.tolist()
    return epochs


def _facts(store: Description, epochs: list[int] | None) -> dict[str, Any]:
    c = store.commit
    fields = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in store.fields.items()}
    return {"url": store.url, "store_id": c.store_id, "version": c.version, "head": store.head,
            "commit_id": c.commit_id, "rows": c.rows, "superseded": store.superseded, "epochs": epochs,
            "fields": fields, "codec": store.codec, "rows_per_shard": store.rows_per_shard, "time": c.time,
            "tag": c.tag, "meta": c.meta, "attrs": store.attrs,
            "session": {"opened": c.session, "since": store.since, "host": c.host, "pid": c.pid, "member": c.member},
            "writer": store.writer, "extents": store.extents, "place": store.place}


def _lines(store: Description, epochs: list[int] | None) -> Iterator[str]:
    c = store.commit
    older = "" if c.version == store.head else f" (head is {store.head})"
    tag = f", tag {c.tag}" if c.tag else ""
    superseded = f", {store.superseded:,} of them superseded" if store.superseded else ""
    yield _line("store", f"{store.url}")
    yield _line("version", f"{c.version}{older}{tag}, committed {c.when}")
    yield _line("rows", f"{c.rows:,}{superseded}")
    if store.extents > 1:
        advice = "; `zstore compact` makes them one" if store.extents > MANY_EXTENTS else ""
        yield _line("extents", f"{store.extents:,}{advice}")
    if epochs is not None:
        yield _line("epochs", _span(epochs))
    for name in _BUILT_IN:
        yield _line(name, _type(*store.fields[name]))
    embedded = any(name.partition("@")[0] == "embedding" for name in store.attrs)
    for name, (dtype, shape) in store.fields.items():
        if name not in _BUILT_IN:
            whose = "of embed, which knows a text by it" if name == "text_hash" and embedded else "a field of yours"
            yield _line(name, f"{_type(dtype, shape)}, {whose}")
    yield _line("codec", f"{store.codec}, {store.rows_per_shard:,} rows per shard")
    for name, value in store.attrs.items():
        yield _line("attribute", f"{name} = {value!r}")
    yield _line("place", "; ".join(f"{what}: {how}" for what, how in store.place.items()))
    yield _line("session", f"{c.session}, of {c.host}, pid {c.pid}")
    yield _line("writer", output.coloured("alive", 32) if store.writer == "alive" else store.writer)


def _line(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _type(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} ({', '.join(map(str, shape))})" if shape else dtype


def _span(epochs: list[int]) -> str:
    if not epochs:
        return "none"
    if len(epochs) == 1:
        return str(epochs[0])
    dense = epochs[-1] - epochs[0] == len(epochs) - 1
    return f"{epochs[0]} to {epochs[-1]}" + ("" if dense else f", {len(epochs)} of them")
