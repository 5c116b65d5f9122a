"""Signs of life as files, for folders whose locks do not reach other machines."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress


class FolderSigns:
    """See ``leases.Signs``: files below a store's folder. Their dates are the file server's, and so is the clock."""

    def __init__(self, root: str) -> None:
        self._root = root

    def touch(self, name: str) -> None:
        """Write one byte, which makes the server date the file; setting a date would take this machine's clock."""
        descriptor = self._made(os.path.join(self._root, name))
        try:
            os.pwrite(descriptor, b"1", 0)
            os.fsync(descriptor)        # NFS keeps what is written to itself for a while
        finally:
            os.close(descriptor)

    def _made(self, path: str) -> int:
        for _ in range(100):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with suppress(FileNotFoundError):       # the last one that left has just removed the folder
                return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def stamps(self, folder: str) -> dict[str, float]:
        """Each file is opened: an NFS client asks the server for its date then, and answers from memory otherwise."""
        path, out = os.path.join(self._root, folder), {}
        try:
            names = os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):     # nobody yet; or a lock's file, from another kind of place
            return {}
        for name in names:
            with suppress(FileNotFoundError, IsADirectoryError):
                try:
                    out[name] = _date(os.path.join(path, name))
                except OSError as error:
                    if error.errno != errno.ESTALE:         # removed a moment ago
                        raise
        return out

    def now(self) -> float:
        """The date of a file that is made for it."""
        name = f"_zstore/tmp/clock-{uuid.uuid4().hex}"
        self.touch(name)
        try:
            return os.stat(os.path.join(self._root, name)).st_mtime
        finally:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Remove the file, and its folder with the last."""
        path = os.path.join(self._root, name)
        with suppress(FileNotFoundError):
            os.unlink(path)
        if os.path.basename(os.path.dirname(path)) != "tmp":
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))


def _date(path: str) -> float:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
