"""Many compressed chunks of one shard file: few reads, one checksum, and then nothing but decoding.

Chunk by chunk the interpreter's own work is as long as the decoding of a small chunk, and two threads wait for each other
at every step. Here a batch is read into one buffer and checked by one call that needs no interpreter lock.

A stored chunk ends with its own CRC32C, so the checksum behind it is the same for every sound chunk. Four bytes that bring
that checksum back to its start are put behind each: then the checksum of the whole buffer is 0 where all chunks are sound.
What a damaged one leaves is carried on to the end, for every further byte maps checksums one to one.
"""

from __future__ import annotations

import os
import threading
from itertools import pairwise

import numpy as np

from zstore._typing import Array, Int64s
from zstore.format.checksum import crc32c
from zstore.format.codecs import ChunkCodec, inflater
from zstore.format.trailer import ShardEnd
from zstore.storage.base import Handle
from zstore.storage.descriptors import read_into

BATCH_BYTES = 1 << 21       # stored bytes of one batch
LEAST_BYTES = 20            # a blosc header and a checksum
_spare = threading.local()
RESET = np.frombuffer(bytes.fromhex("6cd087d3"), np.uint8)      # crc32c(RESET, crc32c(b"..." + its checksum)) == 0


def decode_batches(handle: Handle, end: ShardEnd, codec: ChunkCodec, longest: int, chunks: Int64s, out: Array,
                   places: Int64s, size: int) -> int:
    """Decode these chunks, of ``size`` bytes each, into ``out`` (uint8, contiguous) at ``places``. How many, from the first,
    are done: it stops before a batch in which anything is amiss, for the caller to say what. 0 where batches don't work."""
    descriptor = handle.fileno() if codec.compresses and hasattr(os, "preadv") else None
    inflate = inflater() if descriptor is not None else None
    if descriptor is None or inflate is None:
        return 0
    offsets, lengths = end.offsets[chunks].astype(np.int64), end.lengths[chunks].astype(np.int64)
    if (offsets < 0).any() or (lengths < LEAST_BYTES).any() or (lengths > longest).any():
        return 0
    cuts = [*np.flatnonzero(np.diff(np.cumsum(lengths) // BATCH_BYTES, prepend=-1)).tolist(), len(chunks)]
    targets = places + _address(out)
    for low, high in pairwise(cuts):
        data, starts = _read(descriptor, offsets[low:high], lengths[low:high])
        if data is None or crc32c(data.data) != 0 or not codec.headers_fit(data, starts, lengths[low:high] - 4, size):
            return low
        for source, target in zip((starts + _address(data)).tolist(), targets[low:high].tolist(), strict=True):
            if inflate(source, target, size, 1) != size:
                return low
    return len(chunks)


def read_plain(handle: Handle, end: ShardEnd, whole: int, chunks: Int64s, out: Array, places: Int64s, size: int) -> int:
    """The same for a raw shard that covers its first ``whole`` chunks wholly: chunks side by side, here and there, are read
    to their places by one call and checked where they are."""
    descriptor = handle.fileno() if hasattr(os, "preadv") else None
    if descriptor is None or not len(chunks) or int(chunks.max()) >= whole:
        return 0
    offsets = end.offsets[chunks].astype(np.int64)
    steps = np.arange(len(chunks)) * size
    if (offsets - offsets[0] != steps).any() or (places - places[0] != steps).any() or (end.lengths[chunks] != size).any():
        return 0
    first, length = int(places[0]), len(chunks) * size
    view = out.data[first:first + length]
    try:
        read_into(descriptor, int(offsets[0]), [view], length)
    except OSError:
        return 0
    for done, expected in enumerate(end.chunk_crcs[chunks].tolist()):
        if crc32c(view[done * size:(done + 1) * size]) != expected:
            return done
    return len(chunks)


def _read(descriptor: int, offsets: Int64s, lengths: Int64s) -> tuple[Array | None, Int64s]:
    """The stored chunks in one buffer, each with four bytes behind it, and where they start; None for what can't be read."""
    stops = np.cumsum(lengths + len(RESET)) - len(RESET)
    starts = stops - lengths
    data = _buffer(int(stops[-1]) + len(RESET))
    data[stops[:, None] + np.arange(len(RESET))] = RESET
    view = data.data
    parts = [view[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    ends = offsets + lengths
    firsts = np.flatnonzero(np.concatenate(([True], offsets[1:] != ends[:-1])))
    lasts = np.append(firsts[1:], len(parts))
    try:
        for low, high, at, end in zip(firsts.tolist(), lasts.tolist(), offsets[firsts].tolist(), ends[lasts - 1].tolist(),
                                      strict=True):
            read_into(descriptor, at, parts[low:high], end - at)
    except OSError:
        return None, starts
    return data, starts


def _buffer(nbytes: int) -> Array:
    """This thread's own, used again: new pages from the system cost as much as reading into them."""
    kept: Array | None = getattr(_spare, "data", None)
    if kept is None or len(kept) < nbytes:
        kept = np.empty(max(nbytes, min(4 * nbytes, BATCH_BYTES + BATCH_BYTES // 8)), np.uint8)
        _spare.data = kept if len(kept) <= 2 * BATCH_BYTES else None
    return kept[:nbytes]


def _address(data: Array) -> int:
    address: int = data.__array_interface__["data"][0]
    return address
