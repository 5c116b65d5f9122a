"""Parquet files and datasets of Hugging Face on disk, a few rows at a time, and no column but those that are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from zstore.embed.failing import unread
from zstore.embed.files import Place
from zstore.embed.picking import Record, Wanted
from zstore.errors import MissingExtra

_BATCH = 1 << 20        # bytes of the wanted columns that are decoded at once, about; a page of the file is the least
_MOST_ROWS = 1024


def parquet(file: Place, wanted: Wanted) -> Iterator[Record]:
    """The rows of a Parquet file, counted from 0 in messages. MissingExtra without pyarrow, ValueError for what is no Parquet,
    OSError for damaged pages."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra(f"{file.shown} is Parquet, which needs pyarrow: pip install 'zstore[parquet]'") from None

    row = 0
    with ExitStack() as stack:
        raw = stack.enter_context(file.open())
        try:
            # Pages are read as they are decoded: a row group may be larger than the memory.
            table = ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False)
        except (ArrowException, OSError) as error:
            raise ValueError(f"{file.shown} is no Parquet file: {error}") from error
        wanted.require(table.schema_arrow.names, file.shown)
        try:
            for batch in table.iter_batches(_rows(table, wanted), columns=wanted.names, use_threads=False):
                yield from _records(batch, f"{file.shown} row", row)
                row += batch.num_rows
        except (ArrowException, OSError) as error:
            raise OSError(f"{file.shown} can't be read after row {row}: {error}") from error


def count(file: Place) -> int | None:
    """How many rows a Parquet file has, by its footer; None where that can't be read."""
    try:
        from pyarrow.parquet import ParquetFile

        with file.open() as raw:
            return int(ParquetFile(raw).metadata.num_rows)
    except Exception:           # whoever reads it says what is wrong
        return None


def _rows(table: Any, wanted: Wanted) -> int:
    """How many rows make a batch of a bounded size, by the sizes that the file's footer tells."""
    size, footer = 0, table.metadata
    rows = int(footer.num_rows)
    for group in range(footer.num_row_groups):
        chunks = [footer.row_group(group).column(at) for at in range(footer.num_columns)]
        size += sum(int(chunk.total_uncompressed_size) for chunk in chunks if chunk.path_in_schema in wanted.names)
    return max(1, min(_MOST_ROWS, _BATCH * max(rows, 1) // max(size, 1)))


def _records(batch: Any, shown: str, first: int) -> Iterator[Record]:
    try:
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    except UnicodeDecodeError:
        for at in range(batch.num_rows):
            yield _one(batch.slice(at, 1), f"{shown} {first + at}")
        return
    for at, values in enumerate(zip(*columns.values(), strict=True)):
        yield f"{shown} {first + at}", dict(zip(columns, values, strict=True))


def _one(row: Any, place: str) -> Record:
    try:
        return place, {name: row.column(name)[0].as_py() for name in row.schema.names}
    except UnicodeDecodeError as error:
        return unread(place, f"the row is not UTF-8: {error.reason}")


def is_dataset(folder: Place) -> bool:
    """Whether ``save_to_disk`` of Hugging Face's datasets wrote this folder."""
    return any(folder.within(name).exists() for name in ("dataset_info.json", "dataset_dict.json"))


def dataset(folder: Place, wanted: Wanted) -> Iterator[Record]:
    """The rows of a dataset on disk, counted from 0 in messages. MissingExtra without the package datasets, ValueError for a
    folder that holds several splits."""
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        raise MissingExtra(f"{folder.shown} is a Hugging Face dataset and needs datasets: pip install 'zstore[hf]'") from None

    url = folder.path if folder.fs is None else folder.fs.unstrip_protocol(folder.path)
    loaded = load_from_disk(url, storage_options=folder.options or None)
    if not isinstance(loaded, Dataset):
        splits = ", ".join(f"{folder.shown.rstrip('/')}/{name}" for name in loaded)
        raise ValueError(f"{folder.shown} holds several splits; name those to read: {splits}")
    wanted.require(loaded.column_names, folder.shown)
    row = 0
    for batch in loaded.with_format(None).select_columns(wanted.names).iter(batch_size=256):
        for values in zip(*(batch[name] for name in wanted.names), strict=True):
            yield f"{folder.shown} row {row}", dict(zip(wanted.names, values, strict=True))
            row += 1
