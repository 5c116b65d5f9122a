"""Every contender by its name, in the order of the tables: module, class, settings, and what may hold it back."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contender import Contender, Missing
from benchmarks.data import Data


@dataclass(frozen=True)
class Entry:
    """``module`` under benchmarks.contenders, ``cls`` in it, ``settings`` for its constructor; ``dtype`` where it is not the
    run's; ``compressed`` for the tables that compare like with like; ``package`` is what to install."""

    module: str
    cls: str
    package: str
    settings: dict[str, Any] = field(default_factory=dict)
    compressed: bool = False
    dtype: str | None = None
    remote: bool = False


CONTENDERS: dict[str, Entry] = {
    "zstore raw": Entry("zstore_store", "ZStore", "zstore", {"codec": "raw"}, remote=True),
    "zstore lossless": Entry("zstore_store", "ZStore", "zstore", {"codec": "lossless"}, compressed=True, remote=True),
    "zstore bfloat16": Entry("zstore_store", "ZStore", "zstore", {"codec": "lossless"}, compressed=True, dtype="bfloat16",
                             remote=True),
    "np.memmap": Entry("memmap", "Memmap", "numpy"),
    # Peers that compress. zarrs reads and writes local stores alone.
    "zarr-python, append per batch": Entry("zarr_python", "ZarrAppend", "zarr", compressed=True, remote=True),
    "zarr-python lz4": Entry("zarr_python", "ZarrTuned", "zarr", {"codec": "lz4"}, compressed=True, remote=True),
    "zarr-python lz4 (no fsync)": Entry("zarr_python", "ZarrUnsynced", "zarr", {"codec": "lz4"}, compressed=True),
    "zarr-python lz4 sharded": Entry("zarr_python", "ZarrTuned", "zarr", {"codec": "lz4", "inner": 64}, compressed=True),
    "zarrs lz4": Entry("zarr_python", "ZarrTuned", "zarrs", {"codec": "lz4", "pipeline": "zarrs"},
                                    compressed=True),
    "zarrs lz4 (no fsync)": Entry("zarr_python", "ZarrUnsynced", "zarrs", {"codec": "lz4", "pipeline": "zarrs"},
                                    compressed=True),
    "zarrs lz4 sharded": Entry("zarr_python", "ZarrTuned", "zarrs", {"codec": "lz4", "inner": 64, "pipeline": "zarrs"},
                               compressed=True),
    "TensorStore lz4": Entry("tensorstore_", "TensorStore", "tensorstore", {"codec": "lz4"}, compressed=True, remote=True),
    "TensorStore lz4 sharded": Entry("tensorstore_", "TensorStore", "tensorstore", {"codec": "lz4", "inner": 16},
                                     compressed=True),
    "Icechunk lz4": Entry("icechunk_", "Icechunk", "icechunk", {"codec": "lz4"}, compressed=True, remote=True),
    "blosc2 lz4, 64 rows": Entry("blosc2_", "Blosc2", "blosc2", {"block": 64, "chunk_mb": 4}, compressed=True),
    "blosc2 lz4, 16 rows": Entry("blosc2_", "Blosc2", "blosc2", {"block": 16, "chunk_mb": 1}, compressed=True),
    "Parquet": Entry("parquet", "Parquet", "pyarrow", compressed=True, remote=True),
    "Parquet, file per commit": Entry("parquet", "ParquetFiles", "pyarrow", compressed=True, remote=True),
    "HDF5 bs5": Entry("hdf5", "HDF5", "h5py hdf5plugin", {"codec": "bs5"}, compressed=True),
    # Peers that store values as they are.
    "zarr-python raw": Entry("zarr_python", "ZarrTuned", "zarr", {"codec": "raw"}, remote=True),
    "zarr-python raw (no fsync)": Entry("zarr_python", "ZarrUnsynced", "zarr", {"codec": "raw"}),
    "zarrs raw": Entry("zarr_python", "ZarrTuned", "zarrs", {"codec": "raw", "pipeline": "zarrs"}),
    "zarrs raw (no fsync)": Entry("zarr_python", "ZarrUnsynced", "zarrs", {"codec": "raw", "pipeline": "zarrs"}),
    "TensorStore raw": Entry("tensorstore_", "TensorStore", "tensorstore", {"codec": "raw"}, remote=True),
    "Icechunk raw": Entry("icechunk_", "Icechunk", "icechunk", {"codec": "raw"}, remote=True),
    "Lance": Entry("lance_", "Lance", "pylance", remote=True),
    "HDF5 raw": Entry("hdf5", "HDF5", "h5py", {"codec": "raw"}),
    "LMDB": Entry("lmdb_", "LMDB", "lmdb"),
    "Redis, append-only file": Entry("redis_", "Redis", "redis hiredis"),
    "Redis, memory only": Entry("redis_", "RedisMemory", "redis hiredis"),
}


def make(name: str, place: str, data: Data, storage_options: dict[str, Any] | None = None) -> Contender:
    """The contender at a place; ``Missing`` if what it needs is not installed."""
    entry = CONTENDERS[name]
    try:
        module = importlib.import_module(f"benchmarks.contenders.{entry.module}")
        made: Contender = getattr(module, entry.cls)(place, data, storage_options, **entry.settings)
    except ImportError as error:
        raise Missing(f"pip install {entry.package} ({error})") from error
    return made
