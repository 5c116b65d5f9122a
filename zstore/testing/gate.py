"""A gate in the storage: races of the real code, one operation at a time.

Each ``Actor`` runs a call on a thread of its own. Storages that are opened there, and all operations on them, in whatever
thread, are the actor's. The test lets an actor go on until a chosen operation comes next, and there it stops; or it runs
several actors through every order of their chosen operations.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple, cast

from zstore import maintenance, reader, writer
from zstore.storage.base import Storage
from zstore.storage.open import open_storage

TIMEOUT_S = 60.0
OPERATIONS = {"read", "fetch", "open", "exists", "list", "draft", "replace", "rewrite", "create", "sync", "delete", "exclusive",
              "share_live", "try_exclusive_live", "is_held"}
_rooms = (reader, writer)       # loaded, so that their ways in can be gated
_here = threading.local()


class Op(NamedTuple):
    """One operation. ``name`` is the object's or the folder's, "" where there is none."""

    method: str
    name: str


class Stop(NamedTuple):
    """Operations at which an actor stops: a method, and a pattern of names as of ``fnmatch``. ``in_a_row``: of several
    that follow each other, with no other stop between, the first only (a head is found by many looks)."""

    method: str
    name: str = "*"
    in_a_row: bool = False

    def meets(self, op: Op) -> bool:
        return op.method == self.method and fnmatchcase(op.name, self.name)


class Gate:
    """All actors of one test, and the lock of ``Storage.exclusive`` that they share. ``patience_s``: how long its openers
    wait for a session that lives."""

    def __init__(self, patience_s: float = 0.05) -> None:
        self.patience_s = patience_s
        self.changed = threading.Condition()
        self.holder: Actor | None = None        # is within ``exclusive``
        self.actors: list[Actor] = []

    def start(self, call: Callable[[], Any], stops: Sequence[Stop] = ()) -> Actor:
        """A new actor that has not begun yet; ``stops`` are where ``step`` stops it."""
        return Actor(self, call, stops)

    def open(self, *arguments: Any, **options: Any) -> Storage:
        """``open_storage``; the storage is the actor's on whose thread it is called, else as it is."""
        storage = open_storage(*arguments, **options)
        actor = getattr(_here, "actor", None)
        return storage if actor is None else cast(Storage, GatedStorage(storage, self, actor))

    @contextmanager
    def installed(self) -> Iterator[Gate]:
        """All rooms of zstore open their storages through this gate. At the end every actor goes on, ungated, to its end."""
        for room in iter_modules(maintenance.__path__, "zstore.maintenance."):
            import_module(room.name)
        patched = [module for name, module in list(sys.modules.items())
                   if name.startswith("zstore.") and vars(module).get("open_storage") is open_storage]
        patched = [module for module in patched if module.__name__ not in (__name__, "zstore.storage", "zstore.storage.open")]
        for module in patched:
            vars(module)["open_storage"] = self.open
        try:
            yield self
        finally:
            for module in patched:
                vars(module)["open_storage"] = open_storage
            for actor in self.actors:
                actor.free()


class Actor:
    """A call on its own thread. ``at`` is the operation that comes next, None before the first and after the end."""

    def __init__(self, gate: Gate, call: Callable[[], Any], stops: Sequence[Stop]) -> None:
        self._gate, self._call, self._stops = gate, call, list(stops)
        self._wanted: list[Stop] = []           # what it stops at in this move
        self._gated = True
        self._met: Stop | None = None
        self.at: Op | None = None
        self.ended = False
        self._moving = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        gate.actors.append(self)

    def until(self, method: str, name: str = "*") -> bool:
        """Let it go on until this operation comes next (the next one, if it stands at one already). False if it ended;
        raises what it ended with."""
        stopped = self._move([Stop(method, name)])
        if self._error is not None:
            raise self._error
        return stopped

    def step(self) -> bool:
        """Let it go on until one of its ``stops``; False if it ended."""
        return self._move(self._stops)

    def go(self) -> None:
        """Let it go on to its end, and do not wait for it: for who is to be found waiting."""
        self._move([], wait=False)

    def finish(self) -> Any:
        """Let it go on to its end, and give or raise what it ended with."""
        self._move([])
        if self._error is not None:
            raise self._error
        return self._result

    def adopt(self, call: Callable[[], Any]) -> Any:
        """Run this now, on the caller's thread, ungated; storages that it opens are the actor's once it moves."""
        before, _here.actor = getattr(_here, "actor", None), self
        try:
            return call()
        finally:
            _here.actor = before

    @property
    def waits(self) -> bool:
        """It could not go on: another actor holds the store's lock."""
        holder = self._gate.holder
        return self.at is not None and self.at.method == "exclusive" and holder not in (None, self)

    def free(self) -> None:
        """Ungate it, and wait for its end."""
        with self._gate.changed:
            self._gated, self._moving = False, True
            self._gate.changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT_S)

    def arrive(self, op: Op) -> None:
        """An operation comes: wait here if the move ends at it."""
        changed = self._gate.changed
        with changed:
            met = next((stop for stop in self._wanted if stop.meets(op)), None)
            if met is None or self._thread.ident is None or not self._gated:
                return
            again, self._met = met.in_a_row and met is self._met, met
            if again:
                return
            self.at, self._moving = op, False
            changed.notify_all()
            changed.wait_for(lambda: self._moving)

    def _move(self, wanted: list[Stop], wait: bool = True) -> bool:
        changed = self._gate.changed
        with changed:
            self._wanted, self._moving, self.at = wanted, True, None
            if self._thread.ident is None:
                self._thread.start()
            changed.notify_all()
            if wait and not changed.wait_for(lambda: not self._moving or self.ended, TIMEOUT_S):
                raise AssertionError(f"an actor neither stopped nor ended; it waits for {self._wanted}")
        return not self.ended

    def _run(self) -> None:
        _here.actor = self
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        with self._gate.changed:
            self.ended, self.at = True, None
            self._gate.changed.notify_all()


class GatedStorage:
    """A storage whose operations are an actor's. All else is the inner one's."""

    def __init__(self, inner: Storage, gate: Gate, actor: Actor) -> None:
        self._inner, self._gate, self._actor = inner, gate, actor
        self.patience_s = gate.patience_s

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in OPERATIONS:
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self._actor.arrive(Op(name, _named(arguments)))
            return value(*arguments, **options)
        return call

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See ``Storage.exclusive``. A distant storage's keeps out threads of one process only, and actors stand for
        processes: it is left out."""
        self._actor.arrive(Op("exclusive", ""))
        if self._inner.distant:
            yield
            return
        with self._inner.exclusive():
            self._gate.holder = self._actor
            try:
                yield
            finally:
                self._gate.holder = None


def _named(arguments: Sequence[Any]) -> str:
    """The object's name, or the first folder's."""
    for argument in arguments:
        if isinstance(argument, (list, tuple, set)):
            argument = next(iter(argument), "")
        if isinstance(argument, str):
            return argument
    return ""


def every_order(make: Callable[[Gate], Sequence[Actor]], check: Callable[[Sequence[Actor]], None]) -> int:
    """Run the actors of ``make``, from scratch each time, through every order of the operations at which they stop, and
    ``check`` each; give how many orders there were."""
    unseen: list[list[int]] = [[]]
    orders = 0
    while unseen:
        order = unseen.pop()

        def turn(able: list[int], taken: list[int], order: list[int] = order) -> int:
            if len(taken) < len(order):
                return order[len(taken)]
            unseen.extend([*taken, other] for other in able[1:])
            return able[0]
        _play(make, check, turn)
        orders += 1
    return orders


def some_orders(make: Callable[[Gate], Sequence[Actor]], check: Callable[[Sequence[Actor]], None], count: int,
                seed: int) -> None:
    """``every_order``, but as many of them as asked for, drawn at random."""
    dice = random.Random(seed)
    for _ in range(count):
        _play(make, check, lambda able, taken: dice.choice(able))


def _play(make: Callable[[Gate], Sequence[Actor]], check: Callable[[Sequence[Actor]], None],
          turn: Callable[[list[int], list[int]], int]) -> None:
    gate = Gate()
    with gate.installed():
        actors, taken = make(gate), list[int]()
        while able := [n for n, actor in enumerate(actors) if not actor.ended and not actor.waits]:
            chosen = turn(able, taken)
            taken.append(chosen)
            actors[chosen].step()
        assert all(actor.ended for actor in actors), f"actors wait for each other: {taken}"
        check(actors)
