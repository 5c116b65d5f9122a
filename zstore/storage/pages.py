"""Raw pages: reserved runs of addresses, files mapped side by side into them, memory that a forked child shares.

A ``Range`` reserves addresses without memory. Files and anonymous pages are then put into their places, and the whole
is one array. The rest stays inaccessible: **touching an address where nothing was mapped kills the process**, so hand
out only slices of what is mapped. Where the platform does not offer this, ``Range`` raises OSError.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zstore.storage.limits import available_memory

__all__ = ["HUGE", "PAGE", "Bytes", "Range", "available_memory", "private", "private_pages", "release", "shared",
           "shared_slots"]

Bytes: TypeAlias = npt.NDArray[np.uint8]

PAGE: int = mmap.PAGESIZE
HUGE = 1 << 21              # a huge page of most machines

_NONE, _READ, _WRITE = 0, 1, 2
_SHARED, _PRIVATE, _FIXED = 0x01, 0x02, 0x10
_ANONYMOUS, _NORESERVE = (0x1000, 0x40) if sys.platform == "darwin" else (0x20, 0x4000)
_FAILED = ctypes.c_void_p(-1).value
_BY_HUGE_PAGES, _POPULATE_READ = 14, 22     # of Linux alone


def _libc(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """A function of libc; None where the constants above are not known to hold."""
    if not sys.platform.startswith(("linux", "darwin")) or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype, function.argtypes = result, list(arguments)
    found: Callable[..., Any] = function
    return found


_mmap = _libc("mmap", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
              ctypes.c_int64)
_munmap = _libc("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_madvise = _libc("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _map(address: int | None, length: int, protection: int, flags: int, descriptor: int = -1, offset: int = 0) -> int:
    if _mmap is None:
        raise OSError(f"no page mapping on {sys.platform}")
    got = _mmap(address, length, protection, flags, descriptor, offset)
    if got is None or got == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mapping {length} bytes: {os.strerror(code)}")
    return int(got)


def _unmap(address: int, length: int) -> None:
    if _munmap is not None:
        _munmap(address, length)


class Range:
    """One reserved run of addresses; unmapped when it and the last array made from it are gone.

    Mapping and reading different places from several threads is safe; mapping over a place that is being read is not.
    """

    def __init__(self, nbytes: int) -> None:
        """Reserve ``nbytes``, rounded up to whole pages. No memory is taken. OSError when it can't be."""
        if nbytes <= 0:
            raise ValueError(f"cannot reserve {nbytes} bytes")
        self.nbytes = nbytes
        self._reserved = _whole_pages(nbytes)
        first = _map(None, self._reserved + HUGE, _NONE, _PRIVATE | _ANONYMOUS | _NORESERVE)
        self._address = -(-first // HUGE) * HUGE        # a huge page lies at a multiple of its size
        # Not at exit: a daemon thread may still read then, and the pages go with the process anyway.
        weakref.finalize(self, _unmap, first, self._reserved + HUGE).atexit = False

    def map_file(self, descriptor: int, offset_in_file: int, at: int, length: int) -> None:
        """Map a file's bytes, read-only, at the offset ``at`` of the range; the descriptor may be closed afterwards.

        ``at`` and ``offset_in_file`` are multiples of PAGE. ValueError beyond the range or the end of the file;
        OSError when the system refuses, and then the place is inaccessible.
        """
        self._check(at, length)
        size = os.fstat(descriptor).st_size
        if offset_in_file < 0 or offset_in_file % PAGE or offset_in_file + length > size:
            raise ValueError(f"cannot map {length} bytes from offset {offset_in_file} of a file of {size} bytes")
        self._place(at, length, _READ, _SHARED, descriptor, offset_in_file)

    def map_anonymous(self, at: int, length: int) -> None:
        """Map zeroed private pages, to be filled through ``writable``, at the offset ``at``. Errors as ``map_file``."""
        self._check(at, length)
        self._place(at, length, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)

    def huge(self, at: int, length: int) -> None:
        """Ask for huge pages in this part, where the system has them and its places allow."""
        self._advise(at, length, _BY_HUGE_PAGES)

    def bring(self, at: int, length: int) -> None:
        """Have all pages of this mapped part here when it returns, in one call and not one fault after another. Nothing where
        the system can't; what can't be read says so when it is touched."""
        self._advise(at, length, _POPULATE_READ)

    def _advise(self, at: int, length: int, advice: int) -> None:
        self._check(at, length)
        if _madvise is not None and sys.platform == "linux":
            _madvise(self._address + at, length, advice)

    def array(self) -> Bytes:
        """The whole range, (nbytes,) uint8, read-only, no copy; it and its views keep the range alive."""
        return np.asarray(_Span(self, self._address, self.nbytes, readonly=True))

    def writable(self, at: int, length: int) -> Bytes:
        """A part of the range, (length,) uint8, no copy. Writing kills the process unless its pages are anonymous."""
        if at < 0 or length < 0 or at + length > self.nbytes:
            raise ValueError(f"bytes {at} to {at + length} are not in a range of {self.nbytes}")
        return np.asarray(_Span(self, self._address + at, length, readonly=False))

    def _check(self, at: int, length: int) -> None:
        if at < 0 or at % PAGE or length <= 0 or at + length > self._reserved:
            raise ValueError(f"cannot map {length} bytes at {at} of a range of {self.nbytes} (pages of {PAGE})")

    def _place(self, at: int, length: int, protection: int, flags: int, descriptor: int, offset: int) -> None:
        address = self._address + at
        try:
            _map(address, length, protection, flags | _FIXED, descriptor, offset)
        except OSError:
            self._close_hole(address, _whole_pages(length))
            raise

    def _close_hole(self, address: int, length: int) -> None:
        # A file system that refuses late (FUSE without page cache) does so after the kernel has dropped our
        # reservation. Some other thread's pages could land in that hole, be read as ours, and be unmapped with the
        # range. The address is a wish here: where the old reservation stands, the kernel answers with another one.
        try:
            got = _map(address, length, _NONE, _PRIVATE | _ANONYMOUS | _NORESERVE)
        except OSError:
            return
        if got != address:
            _unmap(got, length)


class _Span:
    """What numpy makes an array of, and keeps as that array's base."""

    def __init__(self, owner: Range, address: int, length: int, *, readonly: bool) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3, "shape": (length,), "typestr": "|u1", "data": (address, readonly)}


def private(nbytes: int) -> Bytes:
    """Zeroed memory of its own, taken page by page as it is filled, and given back to the system with the array: the
    allocator's own pools would keep it."""
    return np.frombuffer(private_pages(nbytes), np.uint8)[:nbytes]


def private_pages(nbytes: int) -> mmap.mmap:
    """The same as Python knows it: its slices take the bytes of any array, without a call of numpy's."""
    pages = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):             # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def shared(nbytes: int) -> Bytes:
    """Zeroed, writable (nbytes,) uint8 in pages that children forked from now on share. OSError when refused."""
    if nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)


def shared_slots(slots: int, nbytes: int, least: int) -> tuple[int, Bytes]:
    """``shared`` memory for as many slots of ``nbytes`` as the system lets us name, ``least`` or OSError; and how many."""
    while True:
        try:
            return slots, shared(slots * nbytes)
        except (OSError, ValueError, OverflowError):
            if slots <= least:
                raise
            slots = max(slots // 2, least)


def release(pages: Bytes, at: int, length: int) -> None:
    """Give the whole pages of this part of ``shared`` memory back to the system; they read as zeros afterwards. Nothing
    where the system can't."""
    base: Any = pages
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    low, high = -(-at // PAGE) * PAGE, (at + length) // PAGE * PAGE
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_REMOVE") and low < high:
        base.madvise(mmap.MADV_REMOVE, low, high - low)


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE
