"""What kind of file system a folder lies on, and what of links, locks and mappings holds there."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Here links, locks, renames and mappings are known to hold, and all processes are on this machine.
_SETTLED = frozenset({"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay", "tmpfs", "xfs", "zfs"})
_NETWORK = frozenset({"9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4",
                      "ocfs2", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs"})
# What a file system says that lacks hard links, locks or mappings, as against one that fails.
LACKING = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.ENODEV,
                     errno.EMLINK})


@dataclass(frozen=True)
class Place:
    """``kind``: the file system's type, "" where the system does not say. ``network``: other machines may write here too,
    and a lock of this one may not reach them. The rest is known by kind, or was tried."""

    kind: str
    network: bool
    links: bool
    locks: bool
    maps: bool


def place_of(folder: str) -> Place:
    """The nearest folder that there is, as a place for a store. Tries what is not known by the kind of file system, with a
    file of its own that is gone again when this returns; where it may not write it supposes the best."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    kind = file_system(folder)
    network = kind.split(".")[0] in _NETWORK
    if kind in _SETTLED or (not kind and os.uname().sysname == "Darwin"):
        return Place(kind, network, links=True, locks=True, maps=True)
    try:
        with _probe(folder) as path:
            return Place(kind, network, _links(path), _locks(path), _maps(path))
    except OSError:
        return Place(kind, network, links=True, locks=True, maps=True)


def file_system(folder: str) -> str:
    """The type of the mount that the folder lies on, as the system calls it; "" where it does not say."""
    place, best, found = os.path.realpath(folder), "", ""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):          # the later of two on one point hides the earlier
            best, found = point, kinds[0]
    return found


@contextmanager
def _probe(folder: str) -> Iterator[str]:
    path = os.path.join(folder, f".zstore-probe-{uuid.uuid4().hex}")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(OSError):
            os.write(descriptor, bytes(mmap.PAGESIZE))
        os.close(descriptor)
        yield path
    finally:
        for name in (path, path + ".link"):
            with suppress(OSError):
                os.unlink(name)


def _links(path: str) -> bool:
    try:
        os.link(path, path + ".link")
    except OSError as error:
        return error.errno not in LACKING
    try:
        os.link(path, path + ".link")
    except FileExistsError:
        return True
    except OSError:
        pass
    return False                # a second link of one name went through


def _locks(path: str) -> bool:
    first, second = os.open(path, os.O_RDWR | os.O_CLOEXEC), os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False            # both hold it: the lock is the process's, or nobody's
    except OSError as error:
        return error.errno not in LACKING
    finally:
        os.close(first)
        os.close(second)


def _maps(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mmap.mmap(descriptor, mmap.PAGESIZE, access=mmap.ACCESS_READ).close()
        return True
    except (OSError, ValueError):
        return False
    finally:
        os.close(descriptor)
