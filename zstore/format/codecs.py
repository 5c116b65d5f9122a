"""Codec presets, as data, and the chunk codecs that they name. The one home of numcodecs, with ``shards``.

A fixed-width chunk goes through Zarr's ``bytes`` (little endian), then blosc, then ``crc32c``; a string chunk through
``vlen-utf8``, then the same. ``raw`` has no blosc, and no ``crc32c`` for fixed-width chunks: their checksums stand in the
shard's trailer.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numcodecs.blosc as _blosc
import numpy as np

from zstore._typing import Array, Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c
from zstore.format.dtypes import STRING, itemsize

# (cname, level). lz4 with bitshuffle: 1.12x on real float32 MiniLM vectors at 2.0 GB/s in, 2.8 out per core.
PRESETS: dict[str, tuple[str, int] | None] = {"lossless": ("lz4", 5), "small": ("zstd", 5), "raw": None}
DEFAULT = "lossless"
_BITSHUFFLE = 2
_NOSHUFFLE = 0
_MOST_OVERHEAD = 16                   # what a blosc buffer of bytes that do not compress is longer than they
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<BBBBIII")   # blosc 1: version, inner version, flags, typesize, nbytes, blocksize, cbytes


@dataclass(frozen=True)
class ChunkCodec:
    """Encodes and decodes one inner chunk; safe from any thread, and releases the interpreter lock while it works."""

    preset: str
    typesize: int           # 0 for strings
    checked: bool           # crc32c at the end of each chunk

    @property
    def fixed(self) -> bool:
        """Every encoded chunk has the length of its rows: ``raw`` fixed-width."""
        return PRESETS[self.preset] is None and self.typesize > 0

    @property
    def compresses(self) -> bool:
        """Chunks are blosc buffers that end with their CRC32C."""
        return PRESETS[self.preset] is not None

    def encode(self, chunk: Buffer) -> bytes:
        """One chunk's bytes (C order, little endian, or a vlen-utf8 body) as they stand in the shard."""
        choice = PRESETS[self.preset]
        if choice is None:
            data = bytes(memoryview(chunk).cast("B"))
        else:
            shuffle = _BITSHUFFLE if self.typesize else _NOSHUFFLE
            data = _compress(chunk, choice[0].encode(), choice[1], shuffle, max(self.typesize, 1))
        return data + _CRC.pack(crc32c(data)) if self.checked else data

    def room(self, size: int) -> int:
        """The most bytes that a chunk of ``size`` bytes becomes."""
        return size + _MOST_OVERHEAD + _CRC.size

    def encode_run(self, rows: Array, size: int, out: Array) -> list[int]:
        """Encode chunks of ``size`` bytes each, one behind the other in ``rows`` (uint8, contiguous), to one behind the other
        in ``out`` (uint8, contiguous, ``room`` for each). Their lengths. Only where this codec ``compresses``."""
        choice, function = PRESETS[self.preset], _deflater()
        assert choice is not None
        name, shuffle, typesize = choice[0].encode(), _BITSHUFFLE if self.typesize else _NOSHUFFLE, max(self.typesize, 1)
        source, target, into = _address(rows), _address(out), out.data
        lengths, at = [], 0
        for start in range(0, len(rows), size):
            length = 0
            if function is not None:
                length = function(choice[1], shuffle, typesize, size, source + start, target + at, size + _MOST_OVERHEAD,
                                  name, 0, 1)
            if length <= 0:
                data = bytes(_blosc.compress(rows[start:start + size], name, choice[1], shuffle, 0, typesize))
                length = len(data)
                into[at:at + length] = data
            _CRC.pack_into(into, at + length, crc32c(into[at:at + length]))
            lengths.append(length + _CRC.size)
            at += length + _CRC.size
        return lengths

    def decode_into(self, data: bytes, out: Array, name: str) -> None:
        """Decode a fixed-width chunk into ``out`` (uint8, contiguous, the chunk's exact size)."""
        body = self._verified(data, name)
        if PRESETS[self.preset] is None:
            if len(body) != out.nbytes:
                raise Corrupt(name, "a chunk has another length than its rows", expected=out.nbytes, actual=len(body))
            out[:] = np.frombuffer(body, np.uint8)
            return
        self._bounded(body, out.nbytes, out.nbytes, name)
        self._inflate(body, out, name)

    def decode_string(self, data: bytes, largest: int, name: str) -> bytes:
        """The vlen-utf8 body of a string chunk; refused before decoding where it claims more than ``largest`` bytes."""
        body = self._verified(data, name)
        if PRESETS[self.preset] is None:
            return bytes(body)
        self._bounded(body, 4, largest, name)
        return bytes(self._inflate(body, None, name))

    def check(self, data: bytes, name: str) -> None:
        """``Corrupt`` where these bytes carry a checksum and fail it."""
        self._verified(data, name)

    def _verified(self, data: bytes, name: str) -> memoryview:
        view = memoryview(data)
        if not self.checked:
            return view
        if len(view) < 4:
            raise Corrupt(name, "a chunk is shorter than its checksum")
        expected, actual = struct.unpack("<I", view[-4:])[0], crc32c(view[:-4])
        if expected != actual:
            raise Corrupt(name, "a chunk's CRC32C does not match", expected=f"{expected:08x}", actual=f"{actual:08x}")
        return view[:-4]

    def _bounded(self, body: memoryview, least: int, most: int, name: str) -> None:
        # The header is a stranger's claim: it is held against the geometry before a byte is decoded.
        if len(body) < _HEADER.size:
            raise Corrupt(name, "a chunk is shorter than its blosc header")
        nbytes, cbytes = _HEADER.unpack_from(body)[4], _HEADER.unpack_from(body)[6]
        if not least <= nbytes <= most or cbytes != len(body):
            raise Corrupt(name, "a chunk claims another size than its geometry", expected=most, actual=nbytes)

    def headers_fit(self, data: Array, starts: Int64s, lengths: Int64s, nbytes: int) -> bool:
        """Whether the blosc buffers at these places of ``data`` (uint8; each at least a header long) say that they are so
        long, and hold ``nbytes``."""
        headers = data[starts[:, None] + np.arange(_HEADER.size)].view("<u4")
        return bool((headers[:, 1] == nbytes).all() and (headers[:, 3] == lengths).all())

    def _inflate(self, body: memoryview, out: Array | None, name: str) -> Any:
        try:
            return _blosc.decompress(body, out)
        except (RuntimeError, ValueError) as error:
            raise Corrupt(name, f"a chunk can't be decoded: {error}") from None


def _compress(chunk: Buffer, name: bytes, level: int, shuffle: int, typesize: int) -> bytes:
    """The blosc buffer of these bytes, the same as numcodecs gives."""
    function, source = _deflater(), np.frombuffer(chunk, np.uint8)
    if function is not None:
        out = np.empty(source.nbytes + _MOST_OVERHEAD, np.uint8)
        size = function(level, shuffle, typesize, source.nbytes, source.ctypes.data, out.ctypes.data, out.nbytes, name, 0, 1)
        if size > 0:
            return out[:size].tobytes()
    return bytes(_blosc.compress(source, name, level, shuffle, 0, typesize))


def _address(data: Array) -> int:
    address: int = data.__array_interface__["data"][0]
    return address


@cache
def _deflater() -> Callable[..., int] | None:
    """c-blosc's own ``blosc_compress_ctx``, as ``inflater`` and for the same reason: beside a busy training thread an encoder
    that calls it so takes half the time. None where the library shows it to nobody, or gives other bytes than numcodecs."""
    try:
        function = ctypes.CDLL(_blosc.__file__).blosc_compress_ctx
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
                         ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    sample = np.arange(4096, dtype=np.uint8) // 3
    out, wanted = np.empty(sample.nbytes + _MOST_OVERHEAD, np.uint8), _blosc.compress(sample, b"lz4", 5, _BITSHUFFLE, 0, 4)
    size = function(5, _BITSHUFFLE, 4, sample.nbytes, sample.ctypes.data, out.ctypes.data, out.nbytes, b"lz4", 0, 1)
    if size <= 0 or out[:size].tobytes() != bytes(wanted):
        return None
    found: Callable[..., int] = function
    return found


@cache
def inflater() -> Callable[[int, int, int, int], int] | None:
    """c-blosc's own ``blosc_decompress_ctx(source, target, nbytes, threads)``, by addresses, as numcodecs carries it; gives
    ``nbytes`` where all went well. None where that library shows it to nobody.

    numcodecs holds the interpreter lock for a third of the time that a small chunk takes: two threads that decode through
    it are slower than one. Called so they are nearly twice as fast. The source is checked before: it must be a blosc
    buffer of its full length that says ``nbytes``."""
    try:
        function = ctypes.CDLL(_blosc.__file__).blosc_decompress_ctx
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    sample = np.arange(256, dtype=np.uint8)
    stored, back = np.frombuffer(_blosc.compress(sample, b"lz4", 5, _BITSHUFFLE, 0, 1), np.uint8), np.zeros_like(sample)
    if function(stored.ctypes.data, back.ctypes.data, back.nbytes, 1) != back.nbytes or (back != sample).any():
        return None
    found: Callable[[int, int, int, int], int] = function
    return found


@cache
def chunk_codec(preset: str, dtype: str) -> ChunkCodec:
    """The codec of a field of this data type under this preset."""
    size = itemsize(dtype)
    return ChunkCodec(preset, size, checked=PRESETS[preset] is not None or size == 0)


def zarr_codecs(preset: str, dtype: str) -> list[dict[str, Any]]:
    """The inner codecs as Zarr v3 metadata."""
    size = itemsize(dtype)
    if dtype == STRING:
        codecs: list[dict[str, Any]] = [{"name": "vlen-utf8"}]
    elif size == 1:
        codecs = [{"name": "bytes"}]
    else:
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    choice = PRESETS[preset]
    if choice is not None:
        codecs.append({"name": "blosc", "configuration": {
            "typesize": max(size, 1), "cname": choice[0], "clevel": choice[1],
            "shuffle": "bitshuffle" if size else "noshuffle", "blocksize": 0}})
    if choice is not None or dtype == STRING:
        codecs.append({"name": "crc32c"})
    return codecs
