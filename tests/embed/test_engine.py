"""The engine: every text once or a reason why not, whatever the model does."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from zstore._typing import Array
from zstore.embed import engine
from zstore.embed.budget import Budget
from zstore.embed.callables import CallableEncoder
from zstore.embed.engine import vectors
from zstore.embed.hashing import HashingEncoder
from zstore.embed.types import Failure


class Fussy(HashingEncoder):
    """Runs out of memory above ``room`` padded tokens, fails at words that it does not like, and counts."""

    def __init__(self, room: int = 1 << 30, hates: Sequence[str] = (), unreadable: Sequence[str] = ()) -> None:
        super().__init__(16)
        self.room, self.hates, self.unreadable = room, [self.tokenize([word])[0][0] for word in hates], unreadable
        self.batches: list[tuple[int, int]] = []
        self.tokenizing: set[str] = set()

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        for text in texts:
            if getattr(self, "unreadable", None) and any(word in text for word in self.unreadable):
                raise TypeError("not a text")
        if hasattr(self, "tokenizing"):
            self.tokenizing.add(threading.current_thread().name)
        return super().tokenize(texts)

    def encode(self, tokens: Sequence[Any]) -> Array:
        size = max(map(len, tokens)) * len(tokens)
        self.batches.append((len(tokens), size))
        if size > self.room:
            raise MemoryError(f"{size} is too much")
        if self.hates and np.isin(np.concatenate(tokens), self.hates).any():
            raise RuntimeError("device-side nonsense")
        return super().encode(tokens)


def texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(900)}" for _ in range(rng.randint(1, longest))) for _ in range(count)]


def run(source: Sequence[str], encoder: Any, **settings: Any) -> tuple[dict[int, bytes], dict[int, Failure], list[Any]]:
    """Vectors and failures by position; every position has one of the two, once."""
    rows, failures, stats = {}, {}, []
    for found in vectors(iter(enumerate(source)), encoder, **settings):
        if isinstance(found, Failure):
            assert found.id not in failures
            failures[found.id] = found
            continue
        keys, given, said = found
        assert len(keys) == len(given) > 0 and given.dtype == encoder.dtype
        stats.append(said)
        for key, row in zip(keys, given, strict=True):
            assert key not in rows
            rows[key] = row.tobytes()
    assert sorted([*rows, *failures]) == list(range(len(source)))
    return rows, failures, stats


def wanted(source: Sequence[str]) -> dict[int, bytes]:
    encoder = HashingEncoder(16)
    return {at: row.tobytes() for at, row in enumerate(encoder.encode(encoder.tokenize(source)))}


@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"window": 7, "budget": 1}, {"window": 50, "budget": 64},
                                      {"exact": True}, {"window": 300}])
def test_every_text_once_with_its_own_vector(settings: dict[str, Any]) -> None:
    source = texts(300)
    rows, failures, stats = run(source, Fussy(), **settings)
    assert rows == wanted(source) and not failures
    assert sum(said.tokens for said in stats) == sum(len(text.split()) for text in source)
    assert all(said.tokens <= said.padded for said in stats)
    if settings.get("exact"):
        assert all(said.tokens == said.padded for said in stats)


def test_the_budget_is_kept() -> None:
    encoder = Fussy()
    run(texts(500), encoder, budget=256)
    assert all(size <= 256 for _, size in encoder.batches) and max(size for _, size in encoder.batches) > 200


def test_what_the_tokenizer_has_counted_is_told() -> None:
    source = [*texts(40), "poison"]
    _, failures, stats = run(source, Fussy(unreadable=["poison"]), window=10, budget=64)
    assert [*failures] == [40]
    assert sum(said.known[0] for said in stats) == 40
    assert sum(said.known[1] for said in stats) == sum(said.tokens for said in stats)
    assert stats[0].known[0] == 10 and stats[1].known == (0, 0)         # a window at a time


def test_nothing_gives_nothing() -> None:
    assert run([], Fussy()) == ({}, {}, [])


def test_out_of_memory_halves_and_goes_on() -> None:
    source, encoder = texts(800), Fussy(room=300)
    limit = Budget(4096)
    rows, failures, stats = run(source, encoder, budget=limit)
    assert rows == wanted(source) and not failures
    tries = [size > 300 for _, size in encoder.batches]
    assert sum(tries) <= 6 and not any(tries[6:]), "the budget that was learned is remembered"
    assert limit.now <= 300 and stats[-1].budget == limit.now
    again = Fussy(room=300)
    run(source, again, budget=limit)
    assert not any(size > 300 for _, size in again.batches), "also by the next run that is given it"


def test_the_budget_grows_back_when_there_is_room_again() -> None:
    encoder, limit = Fussy(room=300), Budget(1024)
    run(texts(200), encoder, budget=limit)
    encoder.room = 1 << 30
    run(texts(30_000, longest=20), encoder, budget=limit)
    assert limit.now == 1024


def test_one_text_that_is_too_large_is_a_failure_and_its_neighbours_are_not() -> None:
    source = texts(60, longest=20)
    source[17] = " ".join(f"big{n}" for n in range(200))
    rows, failures, _ = run(source, Fussy(room=100), budget=4096)
    assert set(failures) == {17} and "200 tokens" in failures[17].reason and failures[17].stage == "encode"
    assert failures[17].sample.startswith("big0 big1")
    assert {at: row for at, row in wanted(source).items() if at != 17} == rows


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("stage", ["encode", "tokenize"])
def test_a_poisonous_text_in_each_place(at: int, stage: str) -> None:
    source = texts(9, seed=3)
    source[at] += " poison"
    encoder = Fussy(hates=["poison"]) if stage == "encode" else Fussy(unreadable=["poison"])
    rows, failures, _ = run(source, encoder)
    assert set(failures) == {at} and failures[at].stage == stage
    assert failures[at].reason == ("RuntimeError: device-side nonsense" if stage == "encode" else "TypeError: not a text")
    assert {key: row for key, row in wanted(source).items() if key != at} == rows


def test_many_poisonous_texts_among_many() -> None:
    source = texts(2000, seed=4)
    bad = set(random.Random(1).sample(range(2000), 15))
    for at in bad:
        source[at] += " poison"
    rows, failures, _ = run(source, Fussy(room=500, hates=["poison"]), window=300, budget=2000)
    assert set(failures) == bad and {key: row for key, row in wanted(source).items() if key not in bad} == rows


def test_a_lone_surrogate_is_one_failure() -> None:
    source = texts(20)
    source[5] = "broken \ud800 text"
    _, failures, _ = run(source, HashingEncoder(16))
    assert set(failures) == {5} and failures[5].stage == "tokenize" and failures[5].sample.isascii()


def test_a_vector_that_is_no_number_is_a_failure() -> None:
    class Half(HashingEncoder):
        def encode(self, tokens: Sequence[Any]) -> Array:
            found = super().encode(tokens)
            found[[len(each) == 3 for each in tokens], 0] = np.nan
            return found
    source = texts(100, longest=6)
    rows, failures, _ = run(source, Half(16))
    assert set(failures) == {at for at, text in enumerate(source) if len(text.split()) == 3} != set()
    assert "NaN" in next(iter(failures.values())).reason and rows


@pytest.mark.parametrize("stage", ["encode", "tokenize", "memory"])
def test_many_bad_texts_in_a_row_are_not_taken_for_a_bad_model(stage: str) -> None:
    """The longest go first, and those that are too long for a model come one after another."""
    source = [f"poison {'word ' * 99}{n}" for n in range(20)] + texts(480)
    encoder = {"encode": Fussy(hates=["poison"]), "tokenize": Fussy(unreadable=["poison"]), "memory": Fussy(room=100)}[stage]
    rows, failures, _ = run(source, encoder, budget=100)
    assert set(failures) == set(range(20)) and {at: row for at, row in wanted(source).items() if at >= 20} == rows
    again, failures, _ = run(source[::-1], encoder, budget=100, window=10)      # windows that have no good one
    assert len(failures) == 20 and len(again) == 480


def test_long_texts_that_do_not_fit_alone_leave_the_budget_alone() -> None:
    source = [f"{'word ' * 400}{n}" for n in range(14)] + texts(100)
    limit, encoder = Budget(256), Fussy(room=300)
    _, failures, stats = run(source, encoder, budget=limit)
    assert set(failures) == set(range(14)) and limit.now == 256 and {said.budget for said in stats} == {256}


@pytest.mark.parametrize("stage", ["encode", "memory"])
def test_a_model_that_breaks_on_the_way_surfaces(stage: str) -> None:
    """A GPU that is gone, or that another process filled."""
    encoder, done, failed = Fussy(), 0, 0
    with pytest.raises(RuntimeError if stage == "encode" else MemoryError):
        for found in vectors(iter(enumerate(["same text"] * 5000)), encoder, window=100, budget=20):
            if isinstance(found, Failure):
                failed += 1
                continue
            done += len(found[0])
            if done >= 300:
                encoder.hates, encoder.room = (encoder.tokenize(["same"])[0], 1 << 30) if stage == "encode" else ([], 0)
    assert done < 500 and failed < 20


@pytest.mark.parametrize("stage", ["encode", "tokenize"])
def test_a_model_that_fails_at_everything_surfaces(stage: str) -> None:
    """Not a hundred thousand entries in the ledger."""
    encoder = Fussy(hates=["every"]) if stage == "encode" else Fussy(unreadable=["every"])
    with pytest.raises(RuntimeError if stage == "encode" else TypeError):
        run(["every text"] * 500, encoder)


def test_vectors_of_a_wrong_shape_surface() -> None:
    class Wide(HashingEncoder):
        def encode(self, tokens: Sequence[Any]) -> Array:
            return np.zeros((len(tokens), 3), np.float32)
    with pytest.raises(ValueError, match=r"shape \(4, 3\), not \(4, 16\)"):
        run(texts(4), Wide(16))

    class Few(HashingEncoder):
        def tokenize(self, texts: Sequence[str]) -> list[Any]:
            return super().tokenize(texts)[1:]
    with pytest.raises(ValueError, match="3 values for 4 texts"):
        run(texts(4), Few(16))


def test_a_source_that_breaks_loses_nothing_that_it_gave() -> None:
    def broken() -> Iterator[tuple[int, str]]:
        yield from enumerate(texts(25))
        raise OSError("the disk is gone")
    found, rows = vectors(broken(), HashingEncoder(16), window=10), []
    with pytest.raises(OSError, match="the disk is gone"):
        for keys, _, _ in found:    # type: ignore[misc]
            rows += keys
    assert sorted(rows) == list(range(25))


def test_a_slow_source_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gave in the time of a window has its vectors before it is asked for more."""
    monkeypatch.setattr(engine, "_WINDOW_S", 0.0)       # each text takes longer than that
    done: list[int] = []

    def source() -> Iterator[tuple[int, str]]:
        for at, text in enumerate(texts(20)):
            assert len(done) == at
            yield at, text
    for keys, _, _ in vectors(source(), HashingEncoder(16)):    # type: ignore[misc]
        done += keys
    assert done == list(range(20))


def test_a_source_that_says_that_it_will_take_a_while_is_not_waited_for() -> None:
    done: list[int] = []

    def source() -> Iterator[tuple[int, str] | None]:
        for at, text in enumerate(texts(60)):
            if at % 20 == 5:
                yield None
                assert len(done) == at
                yield None
            yield at, text
    for keys, _, _ in vectors(source(), HashingEncoder(16), window=10):     # type: ignore[misc]
        done += keys
    assert sorted(done) == list(range(60))


def test_exact_asks_no_function_for_two_texts_at_once() -> None:
    """What a function does to texts that come together, nobody knows: here each vector hangs on its neighbours."""
    def padding(given: list[str]) -> Array:
        return np.array([[len(text), max(map(len, given)), len(given)] for text in given], np.float32)
    source = texts(100)
    rows, failures, _ = run(source, CallableEncoder(padding), exact=True)
    assert not failures and rows == {at: padding([text]).tobytes() for at, text in enumerate(source)}


def tokenizers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("zstore-tokenize")]


def test_closed_early_the_thread_is_gone() -> None:
    encoder = Fussy()
    found = vectors(iter(enumerate(texts(1000))), encoder, window=10)
    next(found)
    assert tokenizers() and encoder.tokenizing - {threading.current_thread().name}
    found.close()       # type: ignore[attr-defined]
    assert not tokenizers()


@pytest.mark.parametrize("how", ["raises", "interrupted", "finished"])
def test_no_thread_outlives_a_run(how: str) -> None:
    class Interrupted(HashingEncoder):
        def encode(self, tokens: Sequence[Any]) -> Array:
            if how == "interrupted":
                raise KeyboardInterrupt
            return np.zeros((0, 0), np.float32) if how == "raises" else super().encode(tokens)
    error: Any = {"raises": ValueError, "interrupted": KeyboardInterrupt, "finished": ()}[how]
    try:
        run(texts(50), Interrupted(16), window=10)
        assert how == "finished"
    except error:
        pass
    assert not tokenizers()


def test_a_window_is_all_that_is_held() -> None:
    """Of the texts that were read, only those of three windows live."""
    class Text(str):
        pass

    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    read = 0

    def source() -> Iterator[tuple[int, str]]:
        nonlocal read
        for read, text in enumerate(texts(2000, longest=5)):
            made = Text(text)
            alive.add(made)
            yield read, made
    most = done = 0
    for found in vectors(source(), HashingEncoder(16), window=100, budget=64):
        done += len(found[0])       # type: ignore[index]
        gc.collect(0)
        most = max(most, len(alive))
        assert read - done < 300
    assert done == 2000 and most <= 301


def test_the_source_is_read_by_the_reader_of_the_batches() -> None:
    """So that a source may look at what its reader writes."""
    names: set[str] = set()

    def source() -> Iterator[tuple[int, str]]:
        for pair in enumerate(texts(50)):
            names.add(threading.current_thread().name)
            yield pair
    list(vectors(source(), HashingEncoder(16), window=10))
    assert names == {threading.current_thread().name}


def test_the_batch_that_did_not_fit_is_let_go_before_the_next() -> None:
    """A traceback that holds its tensors would keep the memory taken."""
    held: list[weakref.ref[Any]] = []

    class Large:
        pass

    class Holding(Fussy):
        def encode(self, tokens: Sequence[Any]) -> Array:
            gc.collect(0)
            assert all(ref() is None for ref in held)
            large = Large()
            held.append(weakref.ref(large))
            return super().encode(tokens)
    rows, failures, _ = run(texts(100), Holding(room=50), budget=1000)
    assert len(rows) == 100 and not failures


@pytest.mark.parametrize("make", [lambda: vectors(iter([]), HashingEncoder(16), window=0),
                                  lambda: vectors(iter([]), HashingEncoder(16), budget=0)])
def test_bad_settings_are_said_at_once(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()
