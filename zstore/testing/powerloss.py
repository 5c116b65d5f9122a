"""A model of a file system that loses power: only what was fsynced is sure to be there, names and bytes apart.

The rules are the least that POSIX promises. A file's bytes are durable once that file was fsynced. A name that was made,
replaced or removed is so once its folder was fsynced; until then each of them may have reached the disk or not, in any
order, a rename also by half. Bytes that were not fsynced are there, torn, zeros, garbage or missing, whatever became of
the name.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from zstore.testing.system import Call, System


@dataclass(frozen=True)
class Heard:
    """A line of the ledger, in its place among the calls."""

    line: str


@dataclass
class Journal:
    """The calls of one life that changed something, and the lines of its ledger, in order; names are relative to ``root``."""

    root: str
    entries: list[Call | Heard] = field(default_factory=list)

    def system(self) -> System:
        """What stands for ``os`` while the life goes on."""
        return System(after=self._note)

    def hear(self, line: str) -> None:
        """The ledger was written."""
        self.entries.append(Heard(line))

    def without(self, unwanted: Callable[[str, str], bool]) -> Journal:
        """The journal of a library that left some syncs out: ``unwanted(kind, name)``, where a file's name is the one that
        it had in the end."""
        return Journal(self.root, [entry for entry, name in self._named() if not _is_sync(entry, name, unwanted)])

    def late(self, unwanted: Callable[[str, str], bool], until: Callable[[str, str], bool]) -> Journal:
        """The journal of a library that does some syncs only after the next sync for which ``until`` holds."""
        out: list[Call | Heard] = []
        waiting: list[Call | Heard] = []
        for entry, name in self._named():
            if _is_sync(entry, name, unwanted):
                waiting.append(entry)
                continue
            out.append(entry)
            if _is_sync(entry, name, until):
                out += waiting
                waiting = []
        return Journal(self.root, out + waiting)

    def _note(self, call: Call) -> None:
        if call.kind != "open":
            self.entries.append(replace(call, path=self._relative(call.path), target=self._relative(call.target)))

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root) if path else ""

    def _named(self) -> list[tuple[Call | Heard, str]]:
        names = {entry.path: entry.target for entry in self.entries
                 if isinstance(entry, Call) and entry.kind in ("rename", "link")}
        return [(entry, names.get(entry.path, entry.path) if isinstance(entry, Call) else "") for entry in self.entries]


def _is_sync(entry: Call | Heard, name: str, wanted: Callable[[str, str], bool]) -> bool:
    return isinstance(entry, Call) and entry.kind.startswith("fsync") and wanted(entry.kind, name)


@dataclass
class File:
    """A file's bytes; the first ``sure`` of them were fsynced."""

    data: bytes = b""
    sure: int = 0


@dataclass(eq=False)
class Folder:
    """A folder: the names that are surely there, and what was done to names since its last fsync."""

    names: dict[str, Node] = field(default_factory=dict)
    doubtful: list[tuple[str, Node | None]] = field(default_factory=list)

    def now(self) -> dict[str, Node]:
        """What a process sees."""
        return self.kept([True] * len(self.doubtful))

    def kept(self, keep: list[bool]) -> dict[str, Node]:
        """The names, if of the doubtful changes these reached the disk."""
        names = dict(self.names)
        for (name, node), kept in zip(self.doubtful, keep, strict=True):
            if kept and node is None:
                names.pop(name, None)
            elif kept and node is not None:
                names[name] = node
        return names


Node: TypeAlias = File | Folder
Tear = Callable[[File], bytes]
Keep = Callable[[int], list[bool]]      # of so many changes in doubt, in the order of the walk
Tree: TypeAlias = "dict[str, bytes | None]"     # path: bytes, or None for a folder


class Disk:
    """The tree below ``root``, which itself is surely there."""

    def __init__(self) -> None:
        self.root = Folder()

    def apply(self, call: Call) -> None:
        """Do what the call did."""
        if call.kind == "mkdir":
            self._set(call.path, Folder())
        elif call.kind == "create":
            self._set(call.path, File())
        elif call.kind == "write":
            self._file(call.path).data += call.data
        elif call.kind == "fsync":
            file = self._file(call.path)
            file.sure = len(file.data)
        elif call.kind == "fsync folder":
            folder = self._folder(call.path)
            folder.names, folder.doubtful = folder.now(), []
        elif call.kind in ("rename", "link"):
            self._set(call.target, self._get(call.path))
        if call.kind in ("rename", "unlink"):
            self._set(call.path, None)

    def left(self, keep: Keep, tear: Tear) -> Tree:
        """What is on the disk if of the changes in doubt these were kept, and unsure bytes became what ``tear`` says."""
        tree: Tree = {}
        _walk(self.root, "", keep, tear, tree)
        return tree

    def doubts(self) -> int:
        """The changes of names in doubt, of folders that are seen now."""
        seen: list[int] = []
        _walk(self.root, "", lambda count: seen.append(count) or [True] * count, lambda file: file.data, {})  # type: ignore[func-returns-value]
        return sum(seen)

    def _folder(self, path: str) -> Folder:
        node: Node = self.root
        for part in path.split("/") if path not in ("", ".") else ():
            assert isinstance(node, Folder)
            node = node.now()[part]
        assert isinstance(node, Folder)
        return node

    def _get(self, path: str) -> Node:
        folder, _, name = path.rpartition("/")
        return self._folder(folder).now()[name]

    def _file(self, path: str) -> File:
        node = self._get(path)
        assert isinstance(node, File)
        return node

    def _set(self, path: str, node: Node | None) -> None:
        folder, _, name = path.rpartition("/")
        self._folder(folder).doubtful.append((name, node))


def _walk(folder: Folder, path: str, keep: Keep, tear: Tear, tree: Tree) -> None:
    for name, node in sorted(folder.kept(keep(len(folder.doubtful))).items()):
        tree[path + name] = None if isinstance(node, Folder) else tear(node)
        if isinstance(node, Folder):
            _walk(node, f"{path}{name}/", keep, tear, tree)


def whole(file: File) -> bytes:
    """All bytes reached the disk."""
    return file.data


def sure(file: File) -> bytes:
    """Only what was fsynced."""
    return file.data[:file.sure]


def half(file: File) -> bytes:
    """Torn: half of what was not fsynced."""
    return file.data[:(file.sure + len(file.data)) // 2]


def zeros(file: File) -> bytes:
    """The length reached the disk, the bytes did not."""
    return file.data[:file.sure] + bytes(len(file.data) - file.sure)


def garbage(file: File) -> bytes:
    """What lay on the disk before."""
    return file.data[:file.sure] + random.Random(len(file.data)).randbytes(len(file.data) - file.sure)


TEARS: list[Tear] = [sure, half, zeros, garbage, whole]


def states(disk: Disk, seed: int, randoms: int) -> Iterator[tuple[str, Tree]]:
    """Ways in which this moment may be found after a power loss, with a word for each."""
    def none(count: int) -> list[bool]:
        return [False] * count

    def every(count: int) -> list[bool]:
        return [True] * count

    yield "nothing in doubt was kept", disk.left(none, sure)
    yield "everything was kept", disk.left(every, whole)
    tear = TEARS[seed % 4]
    yield f"all names were kept, bytes: {tear.__name__}", disk.left(every, tear)
    chance = random.Random(seed)
    doubts = disk.doubts()
    if doubts:
        for only in (False, True):
            place = chance.randrange(doubts)
            yield f"change {place} in doubt was the {'only' if only else 'one'} {'kept' if only else 'lost'}", disk.left(
                _but_one(place, only), whole)
    for number in range(randoms):
        often, tear = chance.choice((0.2, 0.5, 0.8)), chance.choice(TEARS)
        yield (f"random {number}: {often} of the names, bytes: {tear.__name__}",
               disk.left(lambda count, p=often: [chance.random() < p for _ in range(count)], tear))  # type: ignore[misc]


def _but_one(place: int, only: bool) -> Keep:
    at = 0

    def keep(count: int) -> list[bool]:
        nonlocal at
        at += count
        return [(at - count + i == place) is only for i in range(count)]
    return keep


def digest(tree: Tree) -> bytes:
    """Equal for equal trees."""
    out = hashlib.blake2b(digest_size=16)
    for path, data in sorted(tree.items()):
        out.update(f"{path}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    return out.digest()


def lay(tree: Tree, folder: Path) -> None:
    """Make the tree below this folder."""
    for path, data in tree.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
