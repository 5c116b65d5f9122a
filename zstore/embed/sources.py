"""Texts from wherever they are: files of every common kind, folders, stdin, or anything that can be looped over."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

from zstore.embed import columnar, records
from zstore.embed.columns import typed
from zstore.embed.failing import unread
from zstore.embed.feed import decoded
from zstore.embed.files import MOST, Place, suffix_of
from zstore.embed.ours import Ours, is_ledger, is_store
from zstore.embed.picking import Record, Wanted
from zstore.embed.types import Failure, Item
from zstore.notices import warn

FORMATS = ("jsonl", "csv", "tsv", "parquet", "text", "dataset")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
             ".pq": "parquet"}
_NO_TABLES = {"_SUCCESS", "_metadata", "_common_metadata"}      # what Spark and others leave among the parts of a table
Items = Iterator[Item | Failure]


def read(source: Any, *, id: str = "id", text: str = "text", keep: Iterable[str] = (), format: str | None = None,
         storage_options: Mapping[str, Any] | None = None, to: str | os.PathLike[str] | None = None) -> Items:
    """The items of a source, one after the other and never all in memory; what can't be read is a Failure in its place.

    ``source``: a path, an fsspec URL, a pattern (``*``), ``"-"`` for stdin, a list of these, a mapping of id to text, or
    anything that gives (id, text) pairs, dicts, Items or Failures. Gzip and zstd are unpacked. The format is told by the
    name (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``; stdin is JSON Lines), else by ``format``, one of
    ``FORMATS``. A folder is a Hugging Face dataset on disk, or the files of one table, or text files, whose ids are their
    names relative to it; a single text file's id is its path as given, without "./" and the like.

    ``to``: a store, which is left out where it stands among the sources, as its ledger is; other Zarr stores and their ledgers
    are left out of folders and patterns too.

    ``id``, ``text`` and ``keep`` name columns; a type behind a name ("year:float64") is another's matter. ValueError where a
    column is not there, with those that are; FileNotFoundError where nothing is; MissingExtra for a package that is not
    installed. These two come from the call.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    keep = (keep,) if isinstance(keep, str) else keep
    wanted = Wanted(typed(id)[0], text, tuple(typed(name)[0] for name in keep))
    ours, several = Ours(to), _several(source)
    found = [_read(one, wanted, format, storage_options, ours, alone=len(several) == 1) for one in several]
    return chain.from_iterable(found)


def _several(source: Any) -> list[Any]:
    if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) for one in source):
        return list(source)
    return [source]


def _read(source: Any, wanted: Wanted, format: str | None, options: Mapping[str, Any] | None, ours: Ours,
          alone: bool) -> Items:
    if isinstance(source, bytes) or not isinstance(source, (str, os.PathLike)):
        return _given(source, wanted)
    name = os.fspath(source)
    if not name:
        raise ValueError("a source's name is empty")
    if name == "-":
        if format in ("parquet", "text", "dataset"):
            raise ValueError(f"stdin can't be of the format {format}: jsonl, csv or tsv")
        return _table(Place(None, "-", "stdin"), format or "jsonl", wanted)
    place = Place.of(name, options)
    is_folder = place.is_folder()
    if (is_store(place) if is_folder else is_ledger(place)) or ours.has(place):
        what = "a Zarr store" if is_folder else "the ledger of a store"
        if alone:
            raise ValueError(f"{place.shown} is {what}, and no source of texts")
        if not ours.has(place):         # it stands where a shell's pattern may find it
            warn(f"{place.shown} is {what}, and is left out of the sources")
        return iter(())
    if is_folder:
        return _folder(place, wanted, format, ours)
    if place.exists():
        return _file(place, wanted, format)
    matches = place.matches() if any(c in name for c in "*?[") else []
    if not matches:
        raise FileNotFoundError(f"there is no file or folder {place.shown}")
    return chain.from_iterable(_file(match, wanted, format) for match in matches if not ours.leaves_out(match))


def _file(file: Place, wanted: Wanted, format: str | None) -> Items:
    if format == "dataset":
        raise ValueError(f"{file.shown} is a file, and a dataset on disk is a folder")
    suffix = suffix_of(file.path)
    format = format or ("jsonl" if suffix == ".json" else _SUFFIXES.get(suffix, "text"))
    if format == "text":
        _no_columns(wanted)
        return _texts([(file.shown if file.remote else posixpath.normpath(file.shown), file)])
    return _table(file, format, wanted)


def _table(file: Place, format: str, wanted: Wanted) -> Items:
    if format == "parquet":
        return wanted.items(columnar.parquet(file, wanted), file.shown)
    rows = {"jsonl": records.jsonl, "csv": records.tables, "tsv": records.tsv}[format]
    return wanted.items(rows(file), file.shown)


def _folder(folder: Place, wanted: Wanted, format: str | None, ours: Ours) -> Items:
    if format == "dataset" or (format is None and columnar.is_dataset(folder)):
        return wanted.items(columnar.dataset(folder, wanted), folder.shown)
    kinds: dict[bool, str] = {}         # whether a table -> an example
    if format is None:
        for name, file in folder.files():
            if name.rpartition("/")[2] not in _NO_TABLES and not ours.leaves_out(file):
                kinds.setdefault(suffix_of(name) in _SUFFIXES, name)
        if len(kinds) > 1:
            raise ValueError(f"{folder.shown} holds tables ({kinds[True]}) and other files ({kinds[False]}); say which to read "
                             "with a pattern, or take all as text: format='text' (--format text)")
    if format == "text" or not kinds.get(True, format):
        _no_columns(wanted)
        return _texts((name, file) for name, file in folder.files() if not ours.leaves_out(file))
    files = (file for name, file in folder.files() if name.rpartition("/")[2] not in _NO_TABLES)
    return chain.from_iterable(_file(file, wanted, format) for file in files if not ours.leaves_out(file))


def _no_columns(wanted: Wanted) -> None:
    if wanted.keep:
        raise ValueError(f"text files have no columns, so {', '.join(map(repr, wanted.keep))} can't be kept")


def _texts(files: Iterable[tuple[str, Place]]) -> Items:
    """Each file as one text."""
    return (_whole(name, file) for name, file in files)


def _whole(name: str, file: Place) -> Item | Failure:
    refused = partial(Failure, name, "source", place=file.shown)
    try:
        with file.unpacked() as stream:
            content = stream.read(MOST + 1)
    except (OSError, EOFError) as error:
        return refused(f"the file can't be read: {error}")
    if len(content) > MOST:
        return refused(f"the file is longer than {MOST >> 20} MiB")
    text, wrong = decoded(content, "the file")
    return refused(wrong) if wrong else Item(name, text.removeprefix("\ufeff"), place=file.shown)


def _given(source: Any, wanted: Wanted) -> Items:
    """Whatever a caller's own source gives."""
    if isinstance(source, Mapping):
        source = source.items()
    if hasattr(source, "select_columns"):       # a dataset of Hugging Face: no picture is decoded for its caption
        if source.column_names is not None:
            wanted.require(source.column_names, "the dataset")
        source = source.select_columns(wanted.names)
    if isinstance(source, bytes) or not hasattr(source, "__iter__"):
        raise TypeError(f"a source is a path, a URL, or gives (id, text) pairs or dicts; this is a {type(source).__name__}")
    return _items(source, wanted)


def _items(source: Iterable[Any], wanted: Wanted) -> Items:
    shown = "the source"
    pending = enumerate(source)
    for at, given in pending:
        if isinstance(given, Mapping):
            rest = (_record(*numbered) for numbered in chain([(at, given)], pending))
            yield from wanted.items(rest, shown)
            return
        yield _pair(at, given, wanted, first=at == 0)


def _record(at: int, given: Any) -> Record:
    if isinstance(given, Mapping):
        return f"item {at}", given
    return unread(f"item {at}", f"this is a {type(given).__name__}, and the items before it were dicts", given)


def _pair(at: int, given: Any, wanted: Wanted, first: bool) -> Item | Failure:
    if isinstance(given, (Item, Failure)):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2:
        if wanted.keep:
            raise ValueError(f"pairs of id and text have no columns to keep ({', '.join(wanted.keep)}); give dicts")
        return Item(given[0], given[1], place=f"item {at}")
    what = f"a {type(given).__name__}" + (f" of length {len(given)}" if isinstance(given, (tuple, list)) else "")
    if first:
        raise TypeError(f"a source gives (id, text) pairs or dicts; this one gives {what}")
    return unread(f"item {at}", f"this is {what}, and not an (id, text) pair", given)
