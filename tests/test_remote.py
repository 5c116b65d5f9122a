"""Remote storage: S3 over HTTP, what only looks like it, and signs of life. Whole stores on it are in test_remote_stores."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstore.errors import Conflict, Corrupt, InDoubt
from zstore.storage import leases, open_storage, patience, ranges
from zstore.storage.backend import Doubtful, Unmet
from zstore.storage.base import Renewed
from zstore.storage.fresh import MOST_BYTES, Fresh
from zstore.storage.remote import RemoteStorage
from zstore.storage.s3 import S3Backend

pytest.importorskip("s3fs")
pytest.importorskip("moto")

NAME = "vectors/c.0.0"


class Wire:
    """Between a storage and its service: requests and answers that are lost on the way.

    ``plan(verb, name)`` says what becomes of a request: "" (nothing), "request" or "answer" (that is lost), "unsent", or an
    error that is raised in its place.
    """

    def __init__(self, storage: RemoteStorage, plan: Callable[[str, str], Any]) -> None:
        self._service, self._plan = storage._service, plan
        self.calls: list[tuple[str, str]] = []
        storage._service = self  # type: ignore[assignment]

    def __getattr__(self, verb: str) -> Any:
        act = getattr(self._service, verb)
        if not callable(act):
            return act

        def call(*arguments: Any, **more: Any) -> Any:
            name = arguments[0] if arguments else ""
            self.calls.append((verb, name))
            fate = self._plan(verb, name)
            if isinstance(fate, Exception):
                raise fate
            if fate in ("request", "unsent"):
                raise Doubtful(f"{name}: connection reset", sent=fate == "request")
            done = act(*arguments, **more)
            if fate == "answer":
                raise Doubtful(f"{name}: connection reset")
            return done
        return call


def fates(*each: Any, verb: str = "put") -> Callable[[str, str], Any]:
    """The fate of the first, second, ... request of this verb; those that follow arrive."""
    left = list(each)
    return lambda asked, _: left.pop(0) if asked == verb and left else ""


@pytest.fixture
def storage(s3: Any) -> RemoteStorage:
    made = open_storage(s3.url(), s3.options)
    assert isinstance(made, RemoteStorage)
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    monkeypatch.setattr(patience, "ATTEMPT_S", 5.0)


def another(storage: RemoteStorage) -> RemoteStorage:
    return RemoteStorage(storage._address, storage._options)


def create(storage: RemoteStorage, data: bytes, name: str = NAME) -> bool:
    return storage.create(storage.draft([data], "t"), name)


def rewrite(storage: RemoteStorage, data: bytes, over: str | None, name: str = NAME) -> str:
    return storage.rewrite(storage.draft([data], "t"), name, over)


# -- creation ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lost", [["answer"], ["request"], ["request", "answer"], ["answer", "request", "answer"]])
def test_an_own_creation_whose_answer_was_lost_is_known_again(storage: RemoteStorage, lost: list[str]) -> None:
    Wire(storage, fates(*lost))
    assert create(storage, b"mine") is True
    assert create(another(storage), b"theirs") is False
    assert storage.read(NAME) == b"mine"


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_taken_name_stays_the_others_when_answers_are_lost(storage: RemoteStorage, lost: str) -> None:
    assert create(another(storage), b"theirs")
    Wire(storage, fates(lost))
    assert create(storage, b"mine") is False
    assert storage.read(NAME) == b"theirs"


def test_a_creation_without_an_answer_is_in_doubt_and_names_the_object(storage: RemoteStorage, impatient: None) -> None:
    Wire(storage, lambda verb, _: "request" if verb == "put" else "")
    with pytest.raises(InDoubt, match=NAME):
        create(storage, b"mine")


def test_a_creation_that_surely_never_left_is_not_in_doubt(storage: RemoteStorage, impatient: None) -> None:
    Wire(storage, lambda verb, _: "unsent")
    with pytest.raises(TimeoutError, match=NAME) as caught:
        create(storage, b"mine")
    assert not isinstance(caught.value, InDoubt)
    assert not another(storage).exists(NAME)


def test_a_refusal_is_raised_at_once_but_not_over_a_doubt(storage: RemoteStorage) -> None:
    wire = Wire(storage, fates(PermissionError("expired")))
    with pytest.raises(PermissionError, match="expired"):
        create(storage, b"mine")
    assert wire.calls == [("put", NAME)]
    storage._service = wire._service
    Wire(storage, fates("request", PermissionError("expired")))
    with pytest.raises(InDoubt, match="expired"):
        create(storage, b"mine")


# -- rewriting --------------------------------------------------------------------------------------------------------

def test_a_rewrite_goes_over_its_own_generation_only(storage: RemoteStorage) -> None:
    first = rewrite(storage, b"one", None)
    second = rewrite(storage, b"one two", first)
    assert second != first and storage.fetch(NAME) == (b"one two", second)
    for over in (None, first, '"0"'):
        with pytest.raises(Conflict, match=NAME):
            rewrite(another(storage), b"other", over)
    assert storage.read(NAME) == b"one two"
    storage.delete(NAME)
    with pytest.raises(Conflict, match="removed"):
        rewrite(storage, b"one two three", second)


@pytest.mark.parametrize("lost", ["answer", "request"])
@pytest.mark.parametrize("size", [10, 3 << 20])
def test_an_own_rewrite_whose_answer_was_lost_is_known_again(storage: RemoteStorage, lost: str, size: int) -> None:
    data = os.urandom(size)
    Wire(storage, fates(lost, lost))
    generation = rewrite(storage, data, None)
    assert storage.fetch(NAME) == (data, generation)
    longer = rewrite(storage, data + b"more", generation)
    assert storage.fetch(NAME) == (data + b"more", longer)


def test_a_large_object_of_another_is_not_taken_for_ours(storage: RemoteStorage) -> None:
    """Same size; it differs in its end, where a shard's trailer is."""
    data = os.urandom(2 << 20)
    rewrite(another(storage), data[:-1] + bytes([data[-1] ^ 1]), None)
    with pytest.raises(Conflict):
        rewrite(storage, data, None)


def test_what_ended_in_doubt_and_landed_late_is_written_over(storage: RemoteStorage, impatient: None) -> None:
    """v1 stands; v2 ends in doubt; v3 is tried; v2 lands meanwhile. v3 goes on over v2, for v2 is ours."""
    first = rewrite(storage, b"v1", None)
    wire = Wire(storage, lambda verb, _: "request" if verb == "put" else "")
    with pytest.raises(TimeoutError, match=NAME):
        rewrite(storage, b"v1v2", first)
    storage._service = wire._service
    storage._service.put(NAME, b"v1v2", over=first)         # late
    third = rewrite(storage, b"v1v2v3", first)
    assert storage.fetch(NAME) == (b"v1v2v3", third)
    with pytest.raises(Unmet):
        storage._service.put(NAME, b"v1v2", over=first)     # later still, a duplicate
    assert storage.read(NAME) == b"v1v2v3"


def test_what_ended_in_doubt_excuses_no_foreign_object(storage: RemoteStorage, impatient: None) -> None:
    first = rewrite(storage, b"v1", None)
    wire = Wire(storage, lambda verb, _: "request" if verb == "put" else "")
    with pytest.raises(TimeoutError):
        rewrite(storage, b"v1v2", first)
    storage._service = wire._service
    rewrite(another(storage), b"theirs", first)
    with pytest.raises(Conflict):
        rewrite(storage, b"v1v2v3", first)


# -- what a service can ------------------------------------------------------------------------------------------------

class Careless(S3Backend):
    """Says yes to every condition that it is given."""

    forgets = ("absent", "over")

    def put(self, name: str, data: bytes, *, absent: bool = False, over: str | None = None) -> str:
        return super().put(name, data, absent=absent and "absent" not in self.forgets,
                           over=None if "over" in self.forgets else over)


@pytest.mark.parametrize(("forgets", "creates", "rewrites"), [
    ((), True, True), (("over",), True, False), (("absent",), False, True), (("absent", "over"), False, False)])
def test_a_probe_finds_out_what_a_service_forgets(storage: RemoteStorage, forgets: tuple[str, ...], creates: bool,
                                                  rewrites: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Careless, "forgets", forgets)
    storage._service = Careless(storage._filesystem, storage._root, storage.url)
    if creates:
        storage.writable()
    else:
        with pytest.raises(Conflict, match="only_writer=True"):
            storage.writable()
    storage.writable(only_writer=True)
    assert storage.rewrites is rewrites
    assert ("atomic" in storage.offers()["create"].split(" (")[0].split()[0]) is creates
    assert storage.kind() == "nothing"


def test_a_place_that_cannot_be_written_is_refused_by_its_name(s3: Any) -> None:
    absent = open_storage("s3://no-such-bucket/a.zarr", s3.options)
    assert absent.kind() == "nothing" and not absent.exists("a")
    with pytest.raises(FileNotFoundError, match=r"no-such-bucket/a\.zarr"):
        absent.writable()


def test_a_service_that_is_down_is_named_and_no_secret_is(s3: Any, impatient: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        options = {**s3.options, "key": "AKIAFORNOBODY", "secret": "hush-hush",
                   "endpoint_url": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        storage = open_storage("s3://bucket/a.zarr", options)
        for act in (lambda: storage.read("a"), lambda: storage.exists("a"), lambda: storage.list(""),
                    lambda: create(storage, b"x"), lambda: storage.writable()):  # type: ignore[arg-type]
            with pytest.raises(TimeoutError, match=r"s3://bucket/a\.zarr") as caught:
                act()
            assert "hush" not in str(caught.value) and "AKIA" not in str(caught.value)
            assert not isinstance(caught.value, InDoubt)
    assert "hush" not in repr(storage) + storage.url


# -- reading ----------------------------------------------------------------------------------------------------------

def test_each_look_is_one_request_and_none_lists(s3: Any, storage: RemoteStorage) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME)
    s3.requests()
    for act, verb in ((lambda: storage.read(NAME), "GET"), (lambda: storage.fetch(NAME), "GET"),
                      (lambda: storage.exists(NAME), "HEAD"), (lambda: storage.exists("absent"), "HEAD"),
                      (lambda: storage.open(NAME), "HEAD"), (lambda: storage.open(NAME, 4), "GET")):
        act()
        asked = s3.requests()
        assert len(asked) == 1 and asked[0].startswith(f"{verb} /bucket/") and "list" not in asked[0]


def test_the_end_that_came_at_opening_is_not_asked_for_again(s3: Any, storage: RemoteStorage) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME)
    handle = storage.open(NAME, 4)
    assert (handle.size, handle.generation) == (10, storage.fetch(NAME)[1])
    s3.requests()
    assert handle.read(6, 4) == b"6789" and handle.read(8, 9) == b"89" and handle.read(10, 1) == b""
    assert s3.requests() == []
    assert handle.read(5, 3) == b"567" and len(s3.requests()) == 1
    assert storage.open(NAME, 100).read(0, 10) == b"0123456789" and len(s3.requests()) == 1
    storage.replace(storage.draft([b""], "t"), NAME)
    assert storage.open(NAME, 100).size == 0


def test_a_handle_never_reads_two_generations(storage: RemoteStorage) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME)
    handle = storage.open(NAME, 2)
    storage.replace(storage.draft([b"abcdefghij"], "t"), NAME)
    assert handle.read(8, 2) == b"89"
    for act in (lambda: handle.read(0, 3), lambda: storage.read_ranges([(handle, 0, 3)])):
        with pytest.raises(OSError, match=f"{NAME} changed while it was read"):
            act()
    storage.delete(NAME)
    with pytest.raises(FileNotFoundError, match=NAME):
        handle.read(0, 3)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_reads_are_tried_again(storage: RemoteStorage, lost: str) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME)
    Wire(storage, fates(lost, lost, verb="get"))
    assert storage.read(NAME) == b"0123456789"


def test_a_document_that_is_too_large_is_refused_before_it_is_read(storage: RemoteStorage,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME)
    monkeypatch.setattr("zstore.storage.s3.MOST_READ", 9)
    with pytest.raises(Corrupt, match="too large"):
        storage.read(NAME)
    assert storage.open(NAME).read(0, 10) == b"0123456789"


def test_many_ranges_come_in_few_requests(s3: Any, storage: RemoteStorage) -> None:
    data = {name: random.Random(name).randbytes(1 << 20) for name in ("a", "b")}
    for name, body in data.items():
        storage.replace(storage.draft([body], "t"), name)
    handles = {name: storage.open(name, 1000) for name in data}
    s3.requests()
    chance = random.Random(7)
    wanted = [(name, chance.randrange(0, 200_000), chance.randrange(0, 9_000)) for name in "ab" for _ in range(100)]
    wanted += [("a", 900_000, 10), ("b", (1 << 20) - 500, 400), ("b", (1 << 20) - 5, 50), ("a", 3, 0)]
    chance.shuffle(wanted)
    got = storage.read_ranges([(handles[name], offset, length) for name, offset, length in wanted])
    assert got == [data[name][offset:offset + length] for name, offset, length in wanted]
    assert len(s3.requests()) == 3
    assert storage.read_ranges([]) == []
    with pytest.raises(ValueError):
        storage.read_ranges([(handles["a"], -1, 3)])


@given(st.lists(st.tuples(st.integers(0, 40_000_000), st.integers(1, 20_000_000)), max_size=30))
def test_merged_ranges_cover_what_is_wanted_and_little_else(wanted: list[tuple[int, int]]) -> None:
    numbered = [(number, start, start + length) for number, (start, length) in enumerate(wanted)]
    pieces = ranges.merged(numbered)
    assert sorted(member for piece in pieces for member in piece.members) == sorted(numbered)
    for piece in pieces:
        assert piece.start == min(start for _, start, _ in piece.members)
        assert piece.stop == max(stop for _, _, stop in piece.members)
        assert piece.stop - piece.start <= ranges.MOST_BYTES or len(piece.members) == 1
        covered = piece.start
        for _, start, stop in sorted(piece.members, key=lambda member: member[1]):
            assert start - covered <= ranges.GAP_BYTES
            covered = max(covered, stop)


def test_an_error_of_one_range_ends_them_all(storage: RemoteStorage) -> None:
    storage.replace(storage.draft([bytes(8 * ranges.GAP_BYTES)], "t"), NAME)
    handle = storage.open(NAME)
    Wire(storage, fates("", PermissionError("no"), verb="get"))
    with pytest.raises(PermissionError, match="no"):
        storage.read_ranges([(handle, 3 * ranges.GAP_BYTES // 2 * number, 10) for number in range(5)])


def test_listings_are_whole_and_strange_keys_are_nobodys(storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03d}" for number in range(7)]
    for name in names:
        storage.replace(storage.draft([b"x"], "t"), f"vectors/{name}")
        storage.replace(storage.draft([b"x"], "t"), f"f{name}/x")
    fs, (bucket, root, _) = storage._filesystem, storage._filesystem.split_path(storage._root)
    for key in (f"{root}/vectors//a", f"{root}/vectors/../b", f"{root}/vectors/.", f"{root}/vectors/"):
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
    page = S3Backend._page
    pages: list[str] = []

    def small(self: Any, folder: str, prefix: str, **more: Any) -> Any:
        pages.append(folder)
        return page(self, folder, prefix, **{"MaxKeys": 2, **more})

    monkeypatch.setattr(S3Backend, "_page", small)
    assert storage.list("vectors") == names and pages.count("vectors") > 2
    assert storage.folders("vectors") == []
    assert storage.folders("") == [*(f"f{name}" for name in names), "vectors"]
    assert storage.list("") == [] and storage.kind() == "folder"


# -- signs of life ------------------------------------------------------------------------------------------------------

class Board:
    """Signs in memory, with a clock that the test winds."""

    def __init__(self) -> None:
        self.clock, self.signs, self.fails = 1000.0, dict[str, float](), 0
        self.touched = threading.Semaphore(0)

    def touch(self, name: str) -> None:
        self.touched.release()
        if self.fails:
            self.fails -= 1
            raise OSError("no network")
        self.signs[name] = self.clock

    def stamps(self, folder: str) -> dict[str, float]:
        return {name.rpartition("/")[2]: at for name, at in self.signs.items() if name.rpartition("/")[0] == folder}

    def now(self) -> float:
        return self.clock

    def remove(self, name: str) -> None:
        self.signs.pop(name, None)


def test_signs_are_fresh_for_a_minute_of_the_servers_clock() -> None:
    board = Board()
    looker = leases.Leases(board)
    board.signs["live/7/a"] = 1000.0
    board.signs["live/70/b"] = 1000.0
    assert looker.try_exclusive("live/8") is not None and not looker.is_held("live/8")
    board.clock += leases.STALE_S - 1
    assert looker.is_held("live/7") and looker.try_exclusive("live/7") is None
    assert looker.try_exclusive("live/7") is None
    board.clock += 1
    assert not looker.is_held("live/7") and looker.try_exclusive("live/7") is not None
    board.signs["live/7/a"] = board.clock + 30          # dated ahead: another server of the service
    assert looker.try_exclusive("live/7") is None


@pytest.mark.parametrize("sign", ["a", "b"])
def test_a_sign_that_is_renewed_while_we_look_ends_the_wait(sign: str) -> None:
    board = Board()
    looker = leases.Leases(board)
    board.signs["live/7/a"] = 1000.0
    assert looker.try_exclusive("live/7") is None
    board.clock += 20
    assert looker.try_exclusive("live/7") is None
    board.signs[f"live/7/{sign}"] = board.clock
    with pytest.raises(Renewed):
        looker.try_exclusive("live/7")


def test_a_sign_is_renewed_through_failures_until_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    board = Board()
    lease = leases.Leases(board).share("live/7")
    assert board.touched.acquire(timeout=30)
    board.fails, board.clock = 3, 1020.0
    for _ in range(6):
        assert board.touched.acquire(timeout=30)
    assert list(board.signs.values()) == [1020.0]
    lease.release()
    assert board.signs == {}
    lease.release()
    time.sleep(0.1)
    assert board.signs == {}, "renewed after it was released"


def test_signs_on_s3(storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = "_zstore/live/7", another(storage)
    first, second = storage.share_live(name), other.share_live(name)
    assert len(storage.list(name)) == 2
    assert storage.is_held(name) and storage.try_exclusive_live(name) is None
    first.release()
    first.release()
    assert other.is_held(name)
    second.release()
    assert storage.list(name) == [] and not storage.is_held(name)
    alone = storage.try_exclusive_live(name)
    assert alone is not None
    alone.release()


def test_a_childs_release_is_not_the_parents(storage: RemoteStorage) -> None:
    name = "_zstore/live/7"
    lock = storage.share_live(name)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        lock.release()
        os._exit(0 if storage.is_held(name) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.is_held(name)
    lock.release()
    assert not storage.is_held(name)


def test_a_killed_holder_is_dead_once_its_sign_is_stale(s3: Any, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "STALE_S", 3.0)
    url = s3.url()
    child = children.start("""
        import sys, time
        from zstore.storage import leases, open_storage
        leases.RENEW_S = 0.5
        lock = open_storage(sys.argv[1], eval(sys.argv[2])).share_live("_zstore/live/7")
        print("held", flush=True)
        time.sleep(60)
    """, url, repr(s3.options))
    storage = open_storage(url, s3.options)
    assert children.line(child) == "held"
    assert storage.try_exclusive_live("_zstore/live/7") is None
    with pytest.raises(Renewed):
        for _ in range(100):
            assert storage.try_exclusive_live("_zstore/live/7") is None
            time.sleep(0.1)
    children.kill(child)
    for _ in range(100):
        try:
            if storage.try_exclusive_live("_zstore/live/7") is not None:
                return
        except Renewed:         # a last renewal, just before
            pass
        time.sleep(0.1)
    pytest.fail("a dead holder was taken for alive")


def test_a_forked_child_reads_and_writes(storage: RemoteStorage) -> None:
    storage.replace(storage.draft([b"parent"], "t"), NAME)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        done = storage.read(NAME) == b"parent" and create(storage, b"child", f"of/{uuid.uuid4().hex}")
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(storage.list("of")) == 1


def test_a_failed_answer_over_http_is_not_an_absent_object(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has a bad minute must not make a store look older, or empty."""
    import http.server

    import numpy as np

    import zstore

    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    bad: list[str] = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def send_head(self) -> Any:
            if any(part in self.path for part in bad):
                self.send_error(503)
                return None
            return super().send_head()

        def log_message(self, *args: Any) -> None:
            pass

    with zstore.Writer(tmp_path / "a.zarr") as writer:
        writer.append([1, 2], np.ones((2, 4), np.float32))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/a.zarr"
            assert len(zstore.Reader(url)) == 2
            for part in ("zarr.json", "0001.json", "0000.json"):
                bad[:] = ["zarr.json", part]
                if part == "zarr.json":
                    assert len(zstore.Reader(url)) == 2         # only a hint
                else:
                    with pytest.raises(OSError, match=r"commits/0+[01]\.json") as caught:
                        zstore.Reader(url)
                    assert not isinstance(caught.value, FileNotFoundError)
        finally:
            server.shutdown()
            thread.join()


def test_what_was_written_for_good_is_not_asked_for(s3: Any, storage: RemoteStorage) -> None:
    storage.replace(storage.draft([b"0123456789"], "t"), NAME, once=True)
    s3.requests()
    assert storage.open(NAME).read(2, 3) == b"234" and storage.open(NAME, 4).size == 10 and s3.requests() == []
    storage.replace(storage.draft([b"ab"], "t"), NAME)                  # against its word
    assert storage.open(NAME, 2).read(0, 2) == b"ab"
    storage.replace(storage.draft([b"0123456789"], "t"), NAME, once=True)
    storage.delete(NAME)
    with pytest.raises(FileNotFoundError):
        storage.open(NAME)


def test_what_is_kept_of_it_is_bounded() -> None:
    fresh = Fresh()
    for number in range(5):
        fresh.put(str(number), bytes(MOST_BYTES // 4))
    assert fresh.get("0") is None and all(fresh.get(str(number)) is not None for number in range(1, 5))
    fresh.put("1", b"x")        # now the latest
    fresh.put("5", bytes(MOST_BYTES // 4 - 1))
    assert fresh.get("2") is not None and fresh.get("1") == b"x"


def test_much_comes_over_many_connections_little_over_few() -> None:
    assert [ranges.share(total) for total in (1, 16 << 20, 64 << 20, 1 << 30)] == [1 << 20, 1 << 20, 4 << 20, 8 << 20]
    chunks = [(number, number << 14, number + 1 << 14) for number in range(1024)]
    pieces = ranges.merged(chunks, ranges.share(16 << 20))
    assert len(pieces) == 16 and {piece.stop - piece.start for piece in pieces} == {1 << 20}
