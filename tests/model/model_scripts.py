"""The interleavings that broke earlier drafts of the protocol, for the model: each goes red without its rule.

A script drives actors by hand through ``Stage``: ``go`` to the end, or until an operation comes next. What it returns
does not matter: the world itself says when the promise breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zstore.testing.model import World
from zstore.testing.model_actors import Writer, collect
from zstore.testing.model_runs import Actor
from zstore.testing.model_words import Steps


class Stage:
    """A world, and the writers that a script brings in."""

    def __init__(self, world: World) -> None:
        self.world = world

    def writer(self, **how: Any) -> Writer:
        return Writer(self.world, **how)

    def go(self, steps: Steps, until: str | None = None) -> Actor:
        """Start it, and let it run until this operation (or a wait) comes next; without, to its end."""
        actor = Actor(steps)
        self.on(actor, until)
        return actor

    def on(self, actor: Actor, until: str | None = None) -> None:
        """Let it go on. An actor that waits stays where it is."""
        if until is None:
            actor.at = ""
        else:
            actor.step()
        actor.until("wait", *([] if until is None else [until]))

    def opened(self, **how: Any) -> Writer:
        """A writer that came in."""
        writer = self.writer(**how)
        self.go(writer.open())
        return writer

    def wrote(self, *keys: int, **how: Any) -> Writer:
        """A writer that came in and committed rows of these keys."""
        writer = self.opened(**how)
        self.rows(writer, *keys)
        return writer

    def rows(self, writer: Writer, *keys: int) -> None:
        self.go(writer.append(list(keys)))
        self.go(writer.commit())

    def closed(self, *keys: int, **how: Any) -> Writer:
        """A writer that came in, committed rows of these keys, and closed."""
        writer = self.wrote(*keys, **how)
        self.go(writer.close())
        return writer

    def gone(self, writer: Writer) -> None:
        """Its process was killed."""
        self.world.end(writer.me)

    def visit(self, **how: Any) -> None:
        """A rollback or a delete."""
        writer = self.writer(**how)
        self.go(writer.open(keep_tail=True))
        self.go(writer.let_go())


def claims(s: Stage) -> None:
    """Two members begin a shard at once; and a zombie that fills its shard and seals the next, which is its successor's."""
    a, peer = s.wrote(0, token=-1), s.opened(token=-1)
    s.go(a.append([1, 2]))
    sealing = s.go(a.append([3, 4, 5]), "write 0")
    s.rows(peer, 6)
    b = s.wrote(1, takeover=True)
    s.on(sealing)
    s.rows(b, 2)


def fence(s: Stage) -> None:
    """A zombie commits into its successor's session."""
    a = s.wrote(0)
    s.wrote(1, takeover=True, at=0)
    s.go(a.commit(closing=True))


def fence_at_claims(s: Stage) -> None:
    """A zombie claims shards in turn with its successor for an epoch."""
    a = s.wrote(0, 1, 2)
    s.opened(takeover=True)
    s.go(a.append([3, 4, 0]))


def lock_to_the_record(s: Stage) -> None:
    """The opener lets go of the session that it found dead; a joiner revives it; the opener's record fences the joiner."""
    a = s.wrote(0, token=-1)
    s.gone(a)
    opener = s.go(s.writer().open(), "create")
    joiner = s.go(s.writer(token=-1).open())
    s.on(opener)
    s.on(joiner)


def joiner_looks_again(s: Stage) -> None:
    """A joiner reads head; an opener publishes; the joiner locks a session that is over."""
    a = s.wrote(0, token=-1)
    s.gone(a)
    joiner = s.go(s.writer(token=-1).open(), "share live")
    s.opened()
    s.on(joiner)


def ask_again(s: Stage) -> None:
    """An opener found head's session dead, lost its number to another, and does not ask whether that one lives."""
    a = s.wrote(0)
    s.gone(a)
    opener = s.go(s.writer().open(), "create")
    s.opened(takeover=True)
    s.on(opener)


def live_first(s: Stage) -> None:
    """The opener's record is there before its sign of life: the next opener finds it dead."""
    s.closed(0)
    first = s.go(s.writer().open(), "create")
    s.on(first, "share live")
    s.opened()
    s.on(first)


def tail_anew(s: Stage) -> None:
    """Two openers choose one tail; the loser of the number keeps its choice."""
    s.closed(0)
    one, two = s.writer(takeover=True), s.writer(takeover=True)
    loser = s.go(one.open(), "create")
    s.go(two.open())
    s.on(loser)
    s.rows(one, 1)
    s.go(two.append([2, 3]))


def target_anew(s: Stage) -> None:
    """The loser of a number restates the head that it first saw: what was committed meanwhile is dropped."""
    s.closed(0)
    loser = s.go(s.writer(takeover=True).open(), "create")
    s.wrote(1, 2, takeover=True)
    s.on(loser)


def topmost(s: Stage) -> None:
    """A tail below another member's shard, which a rollback cut: its rows lose against yesterday's."""
    one, two = s.wrote(0, token=-1), s.wrote(1, token=-1)
    s.go(one.close())
    s.gone(two)
    s.visit(at=1)
    s.wrote(1)


def all_trailers(s: Stage) -> None:
    """An exit between two fields leaves one field's tail longer; the taker writes over it."""
    a = s.wrote(0)
    s.go(a.append([1]))
    s.go(a.commit(closing=True, drop=1))
    s.go(a.let_go())
    s.wrote(2)


def ends_there(s: Stage) -> None:
    """A delete cuts the tail's last row; the taker continues where the extents end: one address for two rows."""
    s.closed(0, 1)
    s.visit(keys=frozenset([1]))
    s.wrote(2)


def heads_tail(s: Stage) -> None:
    """A rollback restores its target's tail, which another writer took over long ago."""
    s.closed(0)
    handed = len(s.world.records) - 1
    b = s.opened()
    c = s.wrote(1, takeover=True, at=handed)
    s.go(b.append([2, 3]))
    s.rows(c, 2)


def joiners_take_none(s: Stage) -> None:
    """A member leaves; two joiners take its tail."""
    s.opened(token=-1)
    leaver = s.wrote(0, token=-1)
    s.go(leaver.close())
    one, two = s.opened(token=-1), s.opened(token=-1)
    s.rows(one, 1)
    s.rows(two, 2)


def own_shard(s: Stage) -> None:
    """A member hands over the highest unfilled shard, which is another's."""
    one, two = s.wrote(0, token=-1), s.wrote(1, token=-1)
    s.go(one.close())
    s.wrote(2, takeover=True)
    s.go(two.append([3, 4]))


def next_goes_on(s: Stage) -> None:
    """A rollback sets `next` back."""
    s.closed(0, 1, 2, 3)
    s.opened(at=0)


def delta(s: Stage) -> None:
    """The taker of a tail restates the shard from its first row on: a row that was deleted is back."""
    s.closed(0, 1)
    s.visit(keys=frozenset([0]))
    s.wrote(2)


def delta_of_members(s: Stage) -> None:
    """A member restates what it saw when it came in: a peer's commit is dropped."""
    one, two = s.opened(token=-1), s.opened(token=-1)
    s.rows(one, 0)
    s.rows(two, 1)


def judge_at_head(s: Stage) -> None:
    """M loses n to a peer; B takes over at n+1; M sees its own session in n, gallops to n+1 and publishes n+2."""
    one, two = s.wrote(0, token=-1), s.wrote(1, token=-1)
    s.go(one.append([2]))
    commit = s.go(one.commit(), "create")
    s.rows(two, 3)
    s.on(commit, "who took it?")
    s.opened(takeover=True)
    s.on(commit)


def reload_fenced(s: Stage) -> None:
    """A opens and stops; B takes over, commits, closes; A wakes and loads its mark: B's rows leave head."""
    s.closed(0)
    a = s.opened()
    s.closed(1, takeover=True)
    s.go(a.reload(1))


def reload_keeps_its_lock(s: Stage) -> None:
    """A writer that goes back lets go of its old session before its new record exists: a polite opener comes between."""
    s.closed(0)
    a = s.opened()
    reload = s.go(a.reload(1), "unlocked")
    opener = s.go(s.writer().open(), "create")
    s.on(opener)
    s.on(reload)


def deletes(s: Stage) -> None:
    """Mark, delete, crash, resume at the mark: the row is back."""
    s.closed(0, 1)
    s.visit(keys=frozenset([0]))
    s.visit(at=1)


def deletes_by_key(s: Stage) -> None:
    """v2 names K; rollback to v0; `delete(K)` finds nothing; rollback to v2: K is back."""
    s.closed(0)
    s.visit(at=0)
    s.visit(keys=frozenset([0]))
    s.visit(at=1)


def if_match(s: Stage) -> None:
    """A late duplicate of a tail's first PUT arrives after its second was committed."""
    a = s.wrote(0)
    s.rows(a, 1)
    s.world.late[0]()


def gc_sessions(s: Stage) -> None:
    """gc removes what a living session has written and not named yet."""
    a = s.opened()
    s.go(a.append([0, 1, 2]))
    s.go(collect(s.world))
    s.go(a.commit())


def gc_heads(s: Stage) -> None:
    """gc reads head; the next session opens and writes; gc lists it, unnamed; it commits; gc deletes."""
    s.closed(0, 1, 2)
    gc = s.go(collect(s.world), "list")
    b = s.opened()
    s.go(b.append([0, 1, 2]))
    s.on(gc, "gc delete")
    s.go(b.commit())
    s.on(gc)


def gc_named(s: Stage) -> None:
    """gc asks head alone what is named: rows that were cut leave their versions."""
    s.closed(0)
    s.visit(at=0)
    s.go(collect(s.world))


def gc_of_a_tail(s: Stage) -> None:
    """gc plans while a tail of an older session lies there; a session takes it over within."""
    s.closed(0)
    gc = s.go(collect(s.world), "list")
    b = s.wrote(1)
    s.on(gc)
    s.rows(b, 2)


def gc_live(s: Stage) -> None:
    """gc removes the sign of life of head's session: a polite opener finds it dead."""
    s.wrote(0)
    s.go(collect(s.world))
    s.opened()


def two_projections(s: Stage) -> None:
    """A projector reads head and pauses; another publishes and projects; the first writes what it saw."""
    a = s.opened()
    s.go(a.append([0]))
    first = s.go(a.commit(), "read root")
    s.wrote(1, takeover=True)
    s.on(first)


def two_projections_at_once(s: Stage) -> None:
    """Both look at one root, and the one with the older head writes last."""
    a = s.opened()
    s.go(a.append([0]))
    first = s.go(a.commit(), "put root")
    s.wrote(1, takeover=True)
    s.on(first)


# Rule, whether the storage is distant, and the interleaving that needs it.
SCRIPTS: list[tuple[str, bool, Callable[[Stage], None]]] = [
    ("claims", False, claims),
    ("fence", False, fence),
    ("fence at claims", False, fence_at_claims),
    ("lock to the record", False, lock_to_the_record),
    ("joiner looks again", False, joiner_looks_again),
    ("polite", False, gc_live),
    ("ask again", False, ask_again),
    ("live first", False, live_first),
    ("tail anew", False, tail_anew),
    ("target anew", False, target_anew),
    ("topmost", False, topmost),
    ("all trailers", False, all_trailers),
    ("ends there", False, ends_there),
    ("head's tail", False, heads_tail),
    ("joiners take none", False, joiners_take_none),
    ("own shard", False, own_shard),
    ("next", False, next_goes_on),
    ("delta", False, delta),
    ("delta", False, delta_of_members),
    ("judge at head", False, judge_at_head),
    ("reload fenced", False, reload_fenced),
    ("reload keeps its lock", False, reload_keeps_its_lock),
    ("deletes", False, deletes),
    ("deletes by key", False, deletes_by_key),
    ("if-match", True, if_match),
    ("gc: sessions", False, gc_sessions),
    ("gc: head's", False, gc_heads),
    ("gc: named", False, gc_named),
    ("gc: live", False, gc_live),
    ("root rises", True, two_projections),
    ("one door", False, two_projections_at_once),
]
