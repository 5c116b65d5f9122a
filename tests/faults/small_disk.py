"""Small file systems of their own, for tests that fill them: where the rights allow it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A file system on a file: ext4 through a loop device, or tmpfs. It goes with ``close``."""

    def __init__(self, place: Path, kind: str, options: str = "") -> None:
        self.folder, self.kind = place / "disk", kind
        self._image = place / "image"
        self.folder.mkdir()
        self._size = 8 << 20
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting a small file system takes root")
        if kind == "ext4":
            if shutil.which("mkfs.ext4") is None:
                pytest.skip("there is no mkfs.ext4 here")
            with self._image.open("wb") as file:
                file.truncate(self._size)
            _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        self._options = options
        self.mount()

    def mount(self) -> None:
        options = f"loop{self._options}" if self.kind == "ext4" else f"size={self._size}{self._options}"
        source = str(self._image) if self.kind == "ext4" else "none"
        _run("mount", "-t", self.kind, "-o", options, source, str(self.folder))

    def break_down(self) -> None:
        """As after an error of the device: from now on the file system is read-only, whoever has files open in it."""
        _run("mount", "-o", "remount,abort", str(self.folder))

    def mount_again(self) -> None:
        """As after a reboot, with the check of the file system that comes with it."""
        _run("umount", str(self.folder))
        subprocess.run(["fsck.ext4", "-p", str(self._image)], capture_output=True, timeout=60, check=False)
        self.mount()

    def close(self) -> None:
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, timeout=60, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"a small file system can't be had here: {' '.join(command[:3])}: {done.stderr.strip()}")
