"""Where texts are read from: a path or any fsspec URL, gzip and zstd unpacked, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePosixPath
from typing import IO, Any

from zstore.errors import MissingExtra

MOST = 16 << 20                     # bytes of one line, or of one text file; what is longer is a failure
LEDGER = ".failures.jsonl"          # behind a store's name: what could not be embedded into it
PACKED = (".gz", ".zst", ".zstd")   # the ends of names that say nothing of the format
_BLOCK = 1 << 20
_LOCAL = ("file://", "local://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}


@dataclass(frozen=True)
class Place:
    """A file or folder. ``fs`` is None for a local one; ``shown`` is how messages name it, without credentials."""

    fs: Any
    path: str
    shown: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def named(url: str) -> Place:
        """The place as messages name it, which can't be read: no package is needed for its scheme."""
        for prefix in _LOCAL:
            url = url.removeprefix(prefix)
        return Place(None, url, _without_credentials(url) if "://" in url else url)

    @staticmethod
    def of(url: str, options: Mapping[str, Any] | None = None) -> Place:
        """The place of a path or URL. ``options`` go to fsspec, and a local path needs none. Makes no request. ValueError for
        an unknown scheme, MissingExtra for one whose package is not installed."""
        place = Place.named(url)
        if not place.remote:
            return place
        fs, path = _filesystem(url, dict(options or {}))
        return Place(fs, path, place.shown, dict(options or {}))

    @property
    def remote(self) -> bool:
        """Whether it has a scheme."""
        return "://" in self.shown

    def is_folder(self) -> bool:
        return os.path.isdir(self.path) if self.fs is None else bool(self.fs.isdir(self.path))

    def exists(self) -> bool:
        return os.path.exists(self.path) if self.fs is None else bool(self.fs.exists(self.path))

    def matches(self) -> list[Place]:
        """The files whose names fit the pattern that this place is, sorted; those in Zarr stores that it finds are left out."""
        if self.fs is None:
            from glob import glob
            found = [Place(None, path, path) for path in sorted(glob(self.path, recursive=True)) if os.path.isfile(path)]
        else:
            found = [self._near(path) for path in sorted(self.fs.glob(self.path)) if not self.fs.isdir(path)]
        base = len(re.split(r"[*?[]", self.path, maxsplit=1)[0].rpartition("/")[0])
        stores: dict[str, bool] = {}
        return [file for file in found if not file._in_store(file.path.rpartition("/")[0], base, stores)]

    def _in_store(self, folder: str, base: int, known: dict[str, bool]) -> bool:
        """Whether this folder, or one above it down to ``base`` characters of its name, is a store."""
        if len(folder) <= base:
            return False
        if folder not in known:
            known[folder] = (Place(self.fs, f"{folder}/zarr.json", "").exists()
                             or self._in_store(folder.rpartition("/")[0], base, known))
        return known[folder]

    def within(self, name: str) -> Place:
        """What has this name in this folder."""
        path = os.path.join(self.path, name) if self.fs is None else f"{self.path.rstrip('/')}/{name}"
        return Place(self.fs, path, f"{self.shown.rstrip('/')}/{name}", self.options)

    def beside(self, end: str) -> Place:
        """What has this name without ``end``."""
        return Place(self.fs, self.path.removesuffix(end), self.shown.removesuffix(end), self.options)

    def files(self) -> Iterator[tuple[str, Place]]:
        """Every file below this folder, with its relative name, folder by folder and sorted; hidden ones and Zarr stores are
        left out."""
        walk = os.walk(self.path, onerror=_stop) if self.fs is None else self.fs.walk(self.path, on_error="raise")
        root = self.path.rstrip("/")
        for folder, folders, names in walk:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inner = folder[len(root):].strip("/")
            if "zarr.json" in names:
                folders.clear()
                continue
            for name in sorted(names):
                relative = f"{inner}/{name}" if inner else name
                if not name.startswith(".") and (self.fs is not None or os.path.isfile(os.path.join(folder, name))):
                    yield relative, self.within(relative)

    def open(self) -> IO[bytes]:
        """The bytes as they stand; seekable where the storage is."""
        if self.fs is not None:
            file: IO[bytes] = self.fs.open(self.path, "rb")
            return file
        if stat.S_ISDIR(os.stat(self.path).st_mode):
            raise IsADirectoryError(f"{self.shown} is a folder")
        return open(self.path, "rb")

    @contextmanager
    def unpacked(self) -> Iterator[io.BufferedReader]:
        """The bytes as a stream, unpacked where they are gzip or zstd (the first bytes tell, or the name). MissingExtra for
        zstd where neither this Python nor pyarrow reads it."""
        with ExitStack() as stack:
            if self.path == "-":
                raw: Any = sys.stdin.buffer
                raw = raw if hasattr(raw, "peek") else io.BufferedReader(raw, _BLOCK)
            else:
                raw = stack.enter_context(io.BufferedReader(self.open(), _BLOCK))   # type: ignore[type-var]
            head = raw.peek(4)[:4]
            if head[:2] == b"\x1f\x8b":
                packed: Any = gzip.GzipFile(fileobj=raw)
            elif head == b"\x28\xb5\x2f\xfd" or (head and self.path.endswith((".zst", ".zstd"))):
                packed = _zstd(raw, self.shown)
            else:
                yield raw
                return
            yield stack.enter_context(io.BufferedReader(_Unpacked(packed), _BLOCK))

    def read_whole(self) -> bytes | None:
        """All bytes; None where there is no such file."""
        try:
            if self.fs is not None:
                content: bytes = self.fs.cat_file(self.path)
                return content
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write_whole(self, content: bytes) -> None:
        """Replace the file by this content: at once, and locally on the disk when it returns."""
        if self.fs is not None:
            self.fs.pipe_file(self.path, content)
            return
        new = f"{self.path}.{os.getpid()}.new"
        try:
            with open(new, "wb") as file:
                file.write(content)
                _flush(file)
            os.replace(new, self.path)
        except BaseException:
            if os.path.exists(new):
                os.unlink(new)
            raise
        self._flush_folder()

    def append(self, content: bytes) -> None:
        """Add whole lines at the end, on a line of their own even where a crash cut the last one short."""
        if self.fs is not None:
            self.fs.pipe_file(self.path, (self.read_whole() or b"") + content)
            return
        with open(self.path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                content = content if file.read(1) == b"\n" else b"\n" + content
            file.write(content)
            _flush(file)
        if not end:
            self._flush_folder()

    def remove(self) -> None:
        """Remove the file, if it is there."""
        try:
            os.unlink(self.path) if self.fs is None else self.fs.rm_file(self.path)
        except FileNotFoundError:
            pass

    def _flush_folder(self) -> None:
        descriptor = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _near(self, path: str) -> Place:
        return Place(self.fs, path, _without_credentials(self.fs.unstrip_protocol(path)), self.options)


class _Unpacked(io.RawIOBase):
    """Gives what could be unpacked before it meets damage; a GzipFile asked for a whole block would drop it."""

    def __init__(self, packed: Any) -> None:
        super().__init__()
        self._packed = packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._packed.read1(len(buffer))
        buffer[:len(found)] = found
        return len(found)


def suffix_of(name: str) -> str:
    """``.jsonl`` of ``docs.JSONL.gz``."""
    path = PurePosixPath(name.lower())
    return (PurePosixPath(path.stem) if path.suffix in PACKED else path).suffix


def lines(stream: io.BufferedReader, shown: str) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, from 1, and its line end; None for one longer than ``MOST``, which is passed over in pieces.
    A byte order mark is dropped. OSError, with the number of the last good line, where the bytes can't be read or unpacked;
    ValueError for UTF-16."""
    number = 0
    while True:
        try:
            line = stream.readline(MOST + 1)
            long = len(line) > MOST
            while long and line and not line.endswith(b"\n"):
                line = stream.readline(MOST)
        except Exception as error:
            what = "is cut short or damaged" if isinstance(error, EOFError) else "can't be read"
            raise OSError(f"{shown} {what} after line {number}: {error}") from error
        number += 1
        if number == 1:
            line = _unmarked(line, shown)
        if long:
            yield number, None
        elif line:
            yield number, line
        else:
            return


def _unmarked(line: bytes, shown: str) -> bytes:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{shown} is UTF-16, and UTF-8 is needed: convert it with iconv -f UTF-16 -t UTF-8")
    return line.removeprefix(b"\xef\xbb\xbf")


def _filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = url.split("://")[0].split("::")[-1]
    try:
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        how = f': pip install "zstore[{extra}]"' if extra else f" ({error})"
        raise MissingExtra(f"{scheme}:// URLs need a package that is not installed{how}") from error
    return fs, path


def _zstd(raw: Any, shown: str) -> Any:
    try:
        return import_module("compression.zstd").ZstdFile(raw)         # Python 3.14 brings it
    except ImportError:
        pass
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra(f"{shown} is zstd, which needs Python 3.14 or pyarrow: pip install 'zstore[parquet]'") from None
    return pyarrow.CompressedInputStream(raw, "zstd")


def _without_credentials(url: str) -> str:
    return re.sub(r"[?#].*", "", re.sub(r"(?<=://)[^/@\s]+@", "", url))


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _stop(error: OSError) -> None:
    raise error
