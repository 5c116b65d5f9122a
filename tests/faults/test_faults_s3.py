"""A bad network between s3fs and the server: no acknowledged commit is lost, no row appears that nobody took, nothing waits
for ever, and an error names the object. The store is then copied to this machine, and read and verified as it is."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

import fsspec
from fault_life import Life
from test_faults_local import MEMORY

import zstore
from zstore.commits import publish
from zstore.storage import leases, patience
from zstore.testing.proxy import ACTIONS, Proxy
from zstore.testing.wire import Request

pytestmark = pytest.mark.timeout(240)       # of a life that waited for ever

QUICK = tuple(action for action in ACTIONS if "black" not in action)
READS = ("500", "503", "reset", "torn reply", "lost 500", "slow", "black hole")
WRITES = tuple(action for action in ACTIONS if action not in ("stale", "lost 503", "late 503"))
KINDS = ("claim", "shard", "over", "run", "record", "tag", "live", "document", "list", "GET shard", "GET run", "GET record",
         "HEAD record", "GET document", "GET claim", "HEAD claim", "HEAD run", "DELETE live")
LOOKING = ("GET", "HEAD")


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the client and the server; time-outs are short, for the server is near."""
    monkeypatch.setattr(patience, "_FIRST_S", 0.005)
    monkeypatch.setattr(leases, "STALE_S", 2.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.5)
    monkeypatch.setattr(publish, "IN_DOUBT_S", 0.2)
    with Proxy(s3.endpoint) as between:
        yield between


@pytest.fixture
def options(s3: Any, proxy: Proxy) -> dict[str, Any]:
    """Of a client that asks the proxy."""
    return {**s3.options, "endpoint_url": proxy.endpoint, "config_kwargs": {"connect_timeout": 2, "read_timeout": 1}}


@pytest.fixture
def copied(s3: Any) -> Iterator[Callable[[str], str]]:
    """The store at this URL, in a local folder: what is there, past the proxy and past our own client."""
    folder = tempfile.mkdtemp(dir=MEMORY)

    def copy(url: str) -> str:
        target = tempfile.mkdtemp(dir=folder)
        fsspec.filesystem("s3", **s3.options, skip_instance_cache=True).get(url.removeprefix("s3://") + "/", target,
                                                                            recursive=True)
        return target
    yield copy
    shutil.rmtree(folder)


def fits(action: str, request: Request) -> bool:
    """Such a thing can happen to such a request."""
    if action == "stale":
        return request.what == "list"
    if request.method in LOOKING:
        return action in READS and not (action == "torn reply" and request.method == "HEAD")
    if request.method == "PUT":
        conditional = bool(request.header("if-match") or request.header("if-none-match"))
        return action in WRITES and (conditional or action not in ("409", "412", "lost 409"))
    return action in ("500", "503", "reset", "lost 500", "lost reset", "slow", "twice")


class Rotation:
    """The first request for an object by a method, and every third after it, suffers the next action that fits."""

    def __init__(self, offset: int, actions: tuple[str, ...] = ACTIONS) -> None:
        self.done: Counter[tuple[str, str]] = Counter()
        self._times: Counter[tuple[str, str]] = Counter()
        self._turns: Counter[str] = Counter()
        self._offset, self._actions = offset, actions

    def __call__(self, request: Request) -> str:
        which = request.method, request.target if request.what != "other" else ""       # no probe has a name twice
        times = self._times[which]
        self._times[which] += 1
        fitting = [action for action in self._actions if fits(action, request)]
        if times % 3 or not fitting:
            return "pass"
        turn = self._turns[request.what]
        self._turns[request.what] += 1
        action = fitting[(turn * 5 + self._offset) % len(fitting)]
        self.done[request.what, action] += 1
        return action


@pytest.mark.parametrize("offset", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow),
                                    pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", ["lossless", pytest.param("raw", marks=pytest.mark.slow)])
def test_one_try_in_three_fails(offset: int, codec: str, s3: Any, proxy: Proxy, options: Any, copied: Any) -> None:
    """Every request of a life fails, in one way or another, and is tried again: no error at all comes up."""
    proxy.plan = rotation = Rotation(offset, ACTIONS if offset else QUICK)
    life = Life(s3.url(), codec, options)
    life.live("a_day")
    proxy.plan = lambda request: "pass"
    assert life.errors == []
    proxy.deliver_late()
    life.check(copied(life.url))
    assert len(rotation.done) > 50


@pytest.mark.parametrize("after", [1, 10**6, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 10, 40, 100))])
@pytest.mark.parametrize("codec", ["raw", pytest.param("lossless", marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ["late 500", pytest.param("late twice", marks=pytest.mark.slow)])
def test_a_copy_of_every_write_comes_late(action: str, after: int, codec: str, s3: Any, proxy: Proxy, options: Any,
                                          copied: Any) -> None:
    """Claims, shards, tails, runs, records, tags, documents: each first try is done later, over what came after it."""
    tried: set[tuple[str, bytes]] = set()

    def plan(request: Request) -> str:
        which = request.key, request.body
        # A sign of life may come late: it keeps a polite opener waiting. Probes ("other") have no name twice.
        if request.method != "PUT" or request.what in ("live", "other") or which in tried:
            return "pass"
        tried.add(which)
        return action
    proxy.plan, proxy.after = plan, after
    life = Life(s3.url(), codec, options)
    life.live("a_day")
    assert life.errors == []
    held = proxy.deliver_late()
    assert held if after == 10**6 else len(tried) > 30
    proxy.plan = lambda request: "pass"
    life.last_visit()
    life.check(copied(life.url))


class Outage:
    """From the ``nth`` request of a kind on this happens to all of them, until it is mended."""

    def __init__(self, kind: str, nth: int, action: str) -> None:
        self.kind, self.nth, self.action, self.seen, self.struck, self.mended = kind, nth, action, 0, 0, False

    def __call__(self, request: Request) -> str:
        if request.what != self.kind or self.mended or not fits(self.action, request):
            return "pass"
        self.seen += 1
        self.struck += self.seen > self.nth
        return self.action if self.seen > self.nth else "pass"

    def mend(self) -> None:
        self.mended = True


def live_through(outage: Outage, codec: str, s3: Any, proxy: Proxy, options: Any, copied: Any) -> None:
    proxy.plan = outage
    life = Life(s3.url(), codec, options, heal=outage.mend)
    try:
        life.live("a_day")
        proxy.deliver_late()
        life.check(copied(life.url))
    except BaseException as error:
        error.add_note(f"{outage.action} at {outage.kind} from {outage.nth} on, codec {codec}, errors {life.errors}")
        raise


@pytest.mark.parametrize(("kind", "nth", "action"), [
    ("record", 1, "lost 500"), ("record", 2, "reset"), ("over", 0, "lost reset"), ("run", 0, "black hole"),
    ("HEAD record", 4, "503"),
])
def test_a_service_that_stays_away(kind: str, nth: int, action: str, s3: Any, proxy: Proxy, options: Any, copied: Any,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience ends: one error, or InDoubt; after that everything goes on."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    outage = Outage(kind, nth, action)
    live_through(outage, "lossless", s3, proxy, options, copied)
    assert outage.struck


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", [action for action in ACTIONS if action not in ("slow", "stale", "twice")])
def test_every_outage(kind: str, action: str, s3: Any, proxy: Proxy, options: Any, copied: Any,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    nth = 0
    while True:
        outage = Outage(kind, nth, action)
        live_through(outage, "raw" if nth % 2 else "lossless", s3, proxy, options, copied)
        if not outage.struck:
            break
        nth += 1 if outage.seen < 12 else 5


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))])
def test_a_network_of_chance(seed: int, s3: Any, proxy: Proxy, options: Any, copied: Any,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 1.5)
    chance = random.Random(seed)
    proxy.after = chance.choice([1, 4, 20, 100])
    share = chance.choice([0.05, 0.1, 0.3])

    def plan(request: Request) -> str:
        fitting = [action for action in ACTIONS if fits(action, request) and "black" not in action]
        return chance.choice(fitting) if fitting and chance.random() < share else "pass"

    proxy.plan = plan
    life = Life(s3.url(), chance.choice(["raw", "lossless"]), options, tries=40)
    try:
        life.live("a_day")
        proxy.plan = lambda request: "pass"
        proxy.deliver_late()
        life.last_visit()
        life.check(copied(life.url))
    except BaseException as error:
        error.add_note(f"seed {seed}, share {share}, errors {life.errors}")
        raise


def test_a_reader_meets_what_a_writer_meets(s3: Any, proxy: Proxy, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading through faults gives the rows or an error that names the object, never other rows."""
    life = Life(s3.url(), "lossless", options)
    life.live("a_day")
    proxy.plan = rotation = Rotation(0, READS)
    life.look()
    assert life.errors == [] and len(rotation.done) > 5
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    proxy.plan = lambda request: "torn reply" if request.what == "GET shard" else "pass"
    with pytest.raises(OSError, match=f"{life.url}/[a-z]+/c\\."), zstore.Reader(life.url, storage_options=options) as reader:
        reader.field("epoch")
