"""A store's rows as others read them: zarr-python, TensorStore and xarray. Nothing here knows zstore.

Run as a program it writes what it read to a file, and fails if any module of zstore was loaded:

    python tests/foreign.py READER URL OUT.npz [--bfloat16]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray[Any, Any]]


def root(url: str) -> dict[str, Any]:
    """The group's document, as it lies there."""
    import fsspec

    with fsspec.open(f"{url.rstrip('/')}/zarr.json", "rb") as file:
        document: dict[str, Any] = json.load(file)
    return document


def at_extents(array: Any, extents: list[list[int]]) -> np.ndarray[Any, Any]:
    """The rows that count: two lines of numpy, as FORMAT.md has them."""
    parts = [np.asarray(array[start:start + count]) for start, count in extents]
    return np.concatenate(parts) if parts else np.asarray(array[:0])


def by_zarr(url: str, names: list[str] | None = None) -> Columns:
    """With zarr-python: a local path, or a memory:// URL through its FsspecStore."""
    import zarr

    store: Any = zarr.storage.FsspecStore.from_url(url, read_only=True) if "://" in url else url
    group = zarr.open_group(store, mode="r")
    ours: Any = group.attrs["zstore"]
    return {name: at_extents(group[name], ours["extents"])
            for name in (sorted(group.array_keys()) if names is None else names)}


def by_tensorstore(url: str, names: list[str] | None = None) -> Columns:
    """With TensorStore, each array by its own document."""
    import tensorstore as ts

    extents = root(url)["attributes"]["zstore"]["extents"]
    out = {}
    for name in arrays(url) if names is None else names:
        array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/{name}/"}}).result()
        parts = [array[start:start + count].read().result() for start, count in extents]
        out[name] = np.concatenate(parts) if parts else array[:0].read().result()
    return out


def by_xarray(url: str, names: list[str] | None = None) -> Columns:
    """With xarray, opened as xarray opens any Zarr group."""
    import xarray

    with xarray.open_zarr(url, chunks=None, drop_variables=None if names is None else
                          [name for name in arrays(url) if name not in names]) as data:
        extents = data.attrs["zstore"]["extents"]
        return {str(name): at_extents(data[name], extents) for name in data.variables}


def arrays(url: str) -> list[str]:
    """The names of the group's arrays, from its consolidated metadata."""
    return sorted(root(url)["consolidated_metadata"]["metadata"])


READERS: dict[str, Callable[..., Columns]] = {"zarr": by_zarr, "tensorstore": by_tensorstore, "xarray": by_xarray}


def main() -> None:
    reader, url, out = sys.argv[1:4]
    if "--bfloat16" in sys.argv:
        import zstore_bfloat16  # noqa: F401
    columns = READERS[reader](url)
    np.savez(out, **{name: as_plain(column) for name, column in columns.items()})
    loaded = [name for name in sys.modules if name == "zstore" or name.startswith("zstore.")]
    assert not loaded, f"a foreign reader loaded {loaded}"


def as_plain(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Comparable with numpy alone: strings as fixed width, bfloat16 as its bits."""
    if column.dtype.kind in "OT":
        return np.array(column.tolist(), str)
    return column.view(np.uint16) if column.dtype.name == "bfloat16" else column


if __name__ == "__main__":
    main()
