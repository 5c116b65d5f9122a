"""The interleavings that broke earlier drafts of the protocol, against the real code, one operation at a time."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest_model import HEAD, RECORD, Race, Real

import zstore
from zstore.commits.log import Log
from zstore.commits.publish import Delta, publish
from zstore.errors import Conflict, StaleWriter, StoreNotFound
from zstore.shards.read import open_shard
from zstore.storage import open_storage
from zstore.testing.gate import Actor, Gate, Stop, every_order, some_orders

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LIVE = "_zstore/live/*"

# -- two committers ---------------------------------------------------------------------------------------------------

# Where two members of one session can meet: looking for head, the sync that ends the writing, the number, Zarr's documents.
MEET = [HEAD, Stop("sync", "_zstore/claims"), Stop("create", RECORD), Stop("exclusive"), Stop("rewrite", "zarr.json")]


class Committers:
    """Makes two members with a row each, pending, and checks what their two commits left."""

    def __init__(self, place: Callable[[], Real]) -> None:
        self._place, self.made = place, 0

    def make(self, gate: Gate) -> Sequence[Actor]:
        self.made += 1
        self.real = self._place()
        return [self._member(gate, number) for number in range(2)]

    def _member(self, gate: Gate, number: int) -> Actor:
        actor = gate.start(lambda: writer.commit(), MEET)
        writer = actor.adopt(partial(self.real.writer, session="launch", member=number))
        self.real.append(writer, number)
        return actor

    def check(self, actors: Sequence[Actor]) -> None:
        commits = [actor.finish() for actor in actors]
        assert sorted(commit.version for commit in commits) == [1, 2]
        for number, commit in enumerate(commits):
            assert commit.new_rows == 1 and number in self.real.ids(version=commit.version)
        self.real.check(0, 1)
        self.real.end()


def test_orders_of_two_committers(many_writers: None, tmp_path: Path) -> None:
    on_disk = Committers(lambda: Real(str(tmp_path / uuid.uuid4().hex)))
    some_orders(on_disk.make, on_disk.check, count=10, seed=1)
    in_memory = Committers(lambda: Real(f"memory://{uuid.uuid4().hex}"))
    some_orders(in_memory.make, in_memory.check, count=40, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_order_of_two_committers(many_writers: None) -> None:
    committers = Committers(lambda: Real(f"memory://{uuid.uuid4().hex}"))
    assert every_order(committers.make, committers.check) > 1000


def test_orders_of_two_committers_on_s3(many_writers: None, s3: Any) -> None:
    committers = Committers(lambda: Real(s3.url(), s3.options))
    some_orders(committers.make, committers.check, count=3, seed=3)


def test_two_members_claim_one_shard_at_once(race: Race) -> None:
    """Both find it free; only one of them may have it."""
    member, committing = race.acting(lambda writer: writer.commit(), session="launch", member=1)
    race.append(member, 1)
    assert committing.until("create", "_zstore/claims/*")
    race.wrote(2, session="launch", member=2)
    committing.finish()
    race.check(1, 2)
    assert claims(race) == ["0.json", "1.json"]


# -- opening ----------------------------------------------------------------------------------------------------------

def test_opener_holds_the_dead_session_until_its_record(race: Race) -> None:
    """O finds session 0 dead; J of session 0 comes back: it must not come in, for O's record is about to fence it."""
    race.die(race.wrote(0, session="launch"))
    opener = race.actor(race.writer)
    assert opener.until("create", RECORD)
    assert open_storage(race.url).try_exclusive_live(f"_zstore/live/{0:020d}") is None
    joiner = race.actor(lambda: race.writer(session="launch"))
    assert joiner.until("share_live", LIVE)
    joiner.go()
    writer = opener.finish()
    with pytest.raises(Conflict, match="is being written by"):
        joiner.finish()
    race.rows(writer, 1)
    race.check(0, 1)


def test_joiner_reads_head_again_once_it_has_the_lock(race: Race) -> None:
    race.die(race.wrote(0, session="launch"))
    joiner = race.actor(lambda: race.writer(session="launch"))
    assert joiner.until("share_live", LIVE)
    writer = race.writer()
    with pytest.raises(Conflict, match="is being written by"):
        joiner.finish()
    race.rows(writer, 1)
    race.check(0, 1)


def test_ranks_that_open_together_all_come_in(race: Race) -> None:
    """Rank 3 holds the dead session exclusively; rank 4's try fails, and it waits, and then joins rank 3."""
    race.die(race.wrote(0))
    race.gate.patience_s = 30.0
    rank3, rank4 = (race.actor(partial(race.writer, session="launch", member=rank)) for rank in (3, 4))
    assert rank3.until("create", RECORD)
    assert rank4.until("try_exclusive_live", LIVE)
    rank4.go()
    for rank, actor in ((3, rank3), (4, rank4)):
        race.rows(actor.finish(), rank)
    race.check(0, 3, 4)
    assert {commit.session for commit in zstore.history(race.url)} == {0, 2}


def test_loser_of_the_number_chooses_its_tail_anew(race: Race) -> None:
    """Two take-overs choose one tail. Who loses the number must leave it to the other, who writes it as a zombie later."""
    race.closed(0)
    loser = race.actor(lambda: race.writer(takeover=True))
    assert loser.until("create", RECORD)
    winner = race.writer(takeover=True)
    writer = loser.finish()
    race.append(writer, 1)
    race.append(winner, 10, 11, 12, 13, 14)
    writer.commit()
    with pytest.raises(StaleWriter):
        winner.commit()
    race.rows(writer, 2)
    race.check(0, 1, 2)


def test_loser_of_the_number_builds_on_the_new_head(race: Race) -> None:
    """What was committed meanwhile is in the loser's opening; what its target was, still is."""
    race.closed(0)
    openers = [race.actor(lambda: race.writer(takeover=True)), race.actor(lambda: race.writer(takeover=True, at=1))]
    for opener in openers:
        assert opener.until("create", RECORD)
    race.wrote(1, takeover=True)
    openers[0].finish()
    assert race.ids() == [0, 1]
    openers[1].finish().close()
    race.check(0)


def test_loser_of_the_number_asks_again_who_lives(race: Race) -> None:
    race.die(race.wrote(0))
    opener = race.actor(race.writer)
    assert opener.until("create", RECORD)
    living = race.writer(takeover=True)
    with pytest.raises(Conflict, match="is being written by"):
        opener.finish()
    race.rows(living, 1)
    race.check(0, 1)


def test_two_make_the_store_at_once(race: Race) -> None:
    """Of two first batches one makes the store; the other, whose vectors are longer, is told."""
    one, faster = race.acting(lambda writer: race.append(writer, 0), session="launch")
    two, slower = race.acting(lambda writer: writer.append([1], [[1.0, -1.0, 0.0]]), session="launch")
    assert faster.until("create", RECORD) and slower.until("create", RECORD)
    faster.finish()
    with pytest.raises(ValueError, match="3 per row, but the store holds 2"):
        slower.finish()
    race.die(two)
    one.close()
    race.check(0)


def test_load_state_dict_is_no_gap_for_a_polite_opener(race: Race) -> None:
    race.closed(0)
    writer, loading = race.acting(lambda writer: writer.load_state_dict(None))
    assert loading.until("create", RECORD)
    with pytest.raises(Conflict, match="is being written by"):
        race.actor(race.writer).finish()
    loading.finish()
    race.rows(writer, 1)
    race.check(1)


# -- tails --------------------------------------------------------------------------------------------------------------

def claims(race: Race) -> list[str]:
    return open_storage(race.url).list("_zstore/claims")


def test_tail_is_taken_where_all_is_well(race: Race) -> None:
    race.closed(0)
    race.closed(1)
    race.check(0, 1)
    assert claims(race) == ["0.json"]


def test_tail_whose_last_row_was_deleted_is_left(race: Race) -> None:
    """Its taker would go on where the extents end, and give one address to two rows."""
    race.closed(0, 1)
    zstore.delete(race.url, [1])
    race.closed(2)
    race.check(0, 2)
    assert race.ids(version=1) == [0, 1] and claims(race) == ["0.json", "1.json"]


def test_tail_below_a_claim_is_left(race: Race) -> None:
    """A member's shard lies above, and a rollback cut it: addresses must rise from session to session all the same."""
    one, two = race.wrote(0, session="launch", member=1), race.wrote(1, session="launch", member=2)
    one.close()
    race.die(two)
    zstore.rollback(race.url, 1)
    race.closed(2)
    race.check(0, 2)
    log = Log(open_storage(race.url))
    opening = log.read(log.head().session.opened)
    assert (log.head().extents - opening.extents).starts.min() >= opening.length


def covered(race: Race, writer: Any) -> list[int]:
    """The rows that each field's object of shard 0 covers."""
    schema, storage = writer._core.schema, open_storage(race.url)
    return [open_shard(storage, schema, f, 0).rows for f in schema.fields.values()]


@pytest.mark.parametrize("field", ["ids", "epoch", "vectors"])
def test_tail_of_which_one_field_is_shorter_is_left(race: Race, field: str) -> None:
    """A writer stops between two fields' objects. Had it handed its shard over all the same, nobody could go on with it."""
    writer, committing = race.acting(lambda writer: writer.commit())
    race.rows(writer, 0)
    race.append(writer, 1)
    assert committing.until("rewrite", f"{field}/c.*")
    core = writer._core
    deadline = time.monotonic() + 60
    while sorted(covered(race, writer)) != [1, 2, 2]:       # the others are being written, by threads that are not stopped
        assert time.monotonic() < deadline
    publish(core.log, core.session.info, lambda head: Delta(uuid.uuid4().hex, tail=0).apply(head, core.session.info, 0, 0))
    race.die(writer)
    race.closed(2)
    race.check(0, 2)
    assert claims(race) == ["0.json", "1.json"]


# -- zombies ------------------------------------------------------------------------------------------------------------

def test_zombie_seals_two_shards_after_its_successor_committed(race: Race) -> None:
    zombie = race.wrote(0)
    race.append(zombie, 1)
    successor = race.wrote(10, 11, 12, takeover=True)
    with pytest.raises(StaleWriter):
        race.append(zombie, *range(2, 12))
        zombie.commit()
    with pytest.raises(StaleWriter):
        zombie.close()
    race.rows(successor, 13, 14, 15)
    successor.close()
    race.closed(16)
    race.check(0, *range(10, 17))
    storage = open_storage(race.url)
    for name in storage.list("_zstore/claims"):
        claim = json.loads(storage.read(f"_zstore/claims/{name}"))
        if claim["opened"] == 0 and claim["shard"] > 0:         # claimed, and then it saw its successor
            assert not storage.exists(f"ids/c.{claim['shard']}")


def test_fenced_writer_cannot_load_its_mark(race: Race) -> None:
    """A opens and stops; B takes over, commits, closes; A wakes and loads its mark: B's rows must stay in head."""
    race.closed(0)
    mark = zstore.history(race.url)[-1].mark
    fenced = race.writer()
    race.closed(1, takeover=True)
    with pytest.raises(StaleWriter):
        fenced.load_state_dict(mark)
    race.check(0, 1)


def test_lost_number_is_judged_at_head(race: Race) -> None:
    """M loses n to a peer; B takes over at n+1; M must not take the peer's record for leave to publish n+2."""
    member, committing = race.acting(lambda writer: writer.commit(), session="launch", member=1)
    race.append(member, 1)
    peer = race.writer(session="launch", member=2)
    race.append(peer, 2)
    assert committing.until("create", RECORD)
    taken = peer.commit()
    assert taken is not None and committing.until("read", f"*{taken.version:020d}.json")
    successor = race.writer(takeover=True)
    with pytest.raises(StaleWriter):
        committing.finish()
    race.rows(successor, 3)
    race.check(2, 3)


# -- gc, delete and compact ----------------------------------------------------------------------------------------------

def litter(race: Race) -> list[int]:
    """A store with rows and a tail, and an unnamed shard that a dead session left."""
    race.closed(0)
    dead = race.wrote(1)
    race.append(dead, *range(20, 30))
    dead._core.pipeline.check()
    with dead._core.pipeline.held():
        dead._core.pipeline.absorb()
        dead._core.pipeline.await_seal()
    race.die(dead)
    assert not [name for name in zstore.gc(race.url, dry_run=True) if "/c." in name]        # nobody has fenced it yet
    race.closed(2)
    return [0, 1, 2]


def gc(race: Race) -> Any:
    return zstore.gc(race.url)


@pytest.mark.parametrize("gap", ["list", "delete"])
def test_gc_while_the_next_session_opens_and_writes(race: Race, gap: str) -> None:
    """gc has read head, or made its plan; a session opens, takes the tail, writes shards that no record names yet."""
    rows = litter(race)
    collecting = race.actor(partial(gc, race))
    assert collecting.until(gap)
    writer = race.writer()
    race.append(writer, *range(40, 50))
    with writer._core.pipeline.held():
        writer._core.pipeline.absorb()
        writer._core.pipeline.await_seal()
    removed = collecting.finish()
    assert any("/c." in name for name in removed)
    writer.commit()
    race.check(*rows, *range(40, 50))
    writer.close()
    assert zstore.verify(race.url) == []


def test_gc_while_what_was_cut_comes_back(race: Race) -> None:
    """gc has made its plan; a rollback names rows again that head did not."""
    litter(race)
    newest = zstore.history(race.url)[-1].version
    zstore.rollback(race.url, 0)
    collecting = race.actor(partial(gc, race))
    assert collecting.until("delete")
    zstore.rollback(race.url, newest)
    collecting.finish()
    race.check(0, 1, 2)


def test_gc_leaves_the_signs_of_life_of_an_opener(race: Race) -> None:
    race.closed(0)
    opener = race.actor(race.writer)
    assert opener.until("create", RECORD)
    gc(race)
    writer = opener.finish()
    with pytest.raises(Conflict, match="is being written by"):
        race.actor(race.writer).finish()
    race.rows(writer, 1)
    race.check(0, 1)


def test_delete_reaches_rows_that_head_does_not_hold(race: Race) -> None:
    """v1 names K; rollback to v0; `delete(K)`; rollback to v1: K must not be back."""
    race.closed(0, 1)
    zstore.rollback(race.url, 0)
    zstore.delete(race.url, [0])
    zstore.rollback(race.url, 1)
    race.check(1)


def test_delete_starts_over_from_the_head_that_it_lost_to(race: Race) -> None:
    """The key is appended again, and committed, while the delete is about to publish."""
    race.closed(0, 1)
    deleting = race.actor(lambda: zstore.delete(race.url, [0]))
    assert deleting.until("create", RECORD)
    race.closed(0, 2, takeover=True)
    assert zstore.history(race.url)[-1].rows == 4
    deleting.finish()
    race.check(1, 2)
    for version in range(zstore.history(race.url)[-1].version):
        zstore.rollback(race.url, version)
        assert 0 not in race.ids()


def test_compact_and_a_writer_at_one_place(race: Race) -> None:
    """Record 0 comes first: whoever makes it has the place; until record 1 the store is nobody's to open."""
    race.closed(0, 1)
    place = Real(race.url + "-dst")
    compacting = race.actor(lambda: zstore.compact(race.url, place.url))
    assert compacting.until("create", f"*{0:020d}.json")
    assert compacting.until("create", f"*{1:020d}.json")
    with pytest.raises(Conflict, match="compact"):
        place.writer()
    with pytest.raises(StoreNotFound, match="compact"):
        zstore.Reader(place.url)
    compacting.finish()
    place.check(0, 1)
    place.end()


def test_compact_finds_the_place_taken(race: Race) -> None:
    race.closed(0, 1)
    place = Real(race.url + "-dst")
    compacting = race.actor(lambda: zstore.compact(race.url, place.url))
    assert compacting.until("create", f"*{0:020d}.json")
    place.closed(5)
    with pytest.raises(zstore.errors.ZStoreError):
        compacting.finish()
    place.check(5)
    place.end()


# -- Zarr's documents ---------------------------------------------------------------------------------------------------

def test_two_projections_in_both_orders(race: Race) -> None:
    """The earlier commit's projection comes last, or is under way when the later commit is made: the root stays at head."""
    for number, stop in enumerate(["exclusive", "rewrite"]):
        member, committing = race.acting(lambda writer: writer.commit(), session=f"launch {number}", member=1)
        race.append(member, 10 * number)
        peer, second = race.acting(lambda writer: writer.commit(), session=f"launch {number}", member=2)
        race.append(peer, 10 * number + 1)
        assert committing.until(*((stop, "zarr.json") if stop == "rewrite" else (stop,)))
        if stop == "rewrite":
            assert second.until("exclusive")
        else:
            second.finish()
            assert race.root() == zstore.history(race.url)[-1].version
        committing.finish()
        assert race.root() == zstore.history(race.url)[-1].version
        second.finish()
        member.close()
        peer.close()
    race.check(0, 1, 10, 11)


@pytest.mark.parametrize("version", [0, 500])
def test_a_restored_root_is_replaced(race: Race, version: int) -> None:
    """An older copy, or one of a store that went further: the next commit brings it to head."""
    writer = race.wrote(0)
    storage = open_storage(race.url)
    document = json.loads(storage.read("zarr.json"))
    document["attributes"]["zstore"]["version"] = version
    document["attributes"]["zstore"]["commit_id"] = f"{random.Random(1).getrandbits(128):032x}"
    storage.replace(storage.draft([json.dumps(document).encode()], "test"), "zarr.json")
    race.rows(writer, 1)
    race.check(0, 1)
