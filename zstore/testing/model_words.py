"""The words of the model: its rules, each of which can be taken out, records, and what an actor means by one."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeAlias, TypeVar

SHARD_ROWS = 3
FIELDS = 2

RULES = {
    "claims": "a shard is claimed before its first byte",
    "fence": "a commit is published on a head of its own session only",
    "fence at claims": "after a claim, a newer session is looked for",
    "lock to the record": "an opener holds head's session exclusively until its own record exists",
    "joiner looks again": "a joiner, having locked, reads head again",
    "live first": "an opener holds its own sign of life before its record exists",
    "polite": "an opener asks whether head's session lives",
    "ask again": "every attempt of an opening asks anew whether head's session lives",
    "tail anew": "every attempt of an opening chooses the tail from its own head",
    "target anew": "every attempt of an opening builds on the rows of its own head",
    "topmost": "a tail is taken only if no claim lies above it",
    "all trailers": "a tail is taken only if the trailers of all fields cover the same rows",
    "ends there": "a tail is taken only if head's extents end where its trailers do",
    "head's tail": "a rollback keeps head's tail, never its target's",
    "joiners take none": "a joiner takes no tail",
    "own shard": "a member hands over its own shard only",
    "next": "a rollback carries `next` on from head",
    "delta": "a commit adds to its parent and restates nothing",
    "judge at head": "a lost number is judged by the session of head, not of the record that took it",
    "reload fenced": "a second opening by the same writer needs a head of its own session",
    "reload keeps its lock": "it holds its old sign of life until its new record exists",
    "deletes": "a rollback subtracts what was deleted since",
    "deletes by key": "what was deleted is known by its keys, not by head's addresses",
    "if-match": "a distant tail is rewritten only over the generation that it extends",
    "gc: sessions": "gc removes nothing that a session of head's number or above has claimed",
    "gc: head's": "gc calls old what is older than the head that it read, not all that is not head's",
    "gc: named": "gc removes nothing that any record names",
    "gc: live": "gc removes no sign of life of head's session or a later one",
    "root rises": "the root document is replaced only by a higher version",
    "one door": "locally one lock covers the whole projection",
}


class Broken(AssertionError):
    """The promise does not hold."""


class Stopped(Exception):
    """This actor writes no more: stale, refused, in doubt, or its tail was changed under it."""


class Record(NamedTuple):
    """A commit record. ``session`` is the number of the opening record, ``opening`` its commit id."""

    version: int
    commit: int
    session: int
    opening: int
    token: int
    extents: int
    length: int
    next: int
    tail: int | None
    deletes: int | None


class Intent(NamedTuple):
    """What the actor means by a record; the promise is checked against this, not against what the record says."""

    kind: str                           # "create", "open", "reload", "commit"
    rows: frozenset[int] = frozenset()  # a commit adds these
    target: int | None = None           # an opening rolls back to this version
    keys: frozenset[int] = frozenset()  # an opening deletes these
    polite: bool = False
    before: int = -1                    # the session that a reload leaves


class Claim(NamedTuple):
    """``stale``: its claimant had been fenced when it made it."""

    session: int
    stale: bool


class Shard(NamedTuple):
    """One field's object: the rows from the shard's first address on."""

    rows: tuple[int, ...]
    generation: int


def bits(extents: int) -> list[int]:
    """The addresses of a set."""
    out = []
    while extents:
        low = extents & -extents
        out.append(low.bit_length() - 1)
        extents ^= low
    return out


T = TypeVar("T")
Giving: TypeAlias = Generator[str, None, T]         # an actor; what it yields names the operation that comes next
Steps: TypeAlias = Giving[None]
