"""The Recorder at the door, and when the disk is slow, full, or taken by another: one clear message, training goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.small_disk import SmallDisk
from torch import nn

import zstore
from zstore.errors import Conflict, InDoubt, StaleWriter
from zstore.train import Recorder, start
from zstore.train import recorder as module
from zstore.train.staging import Slot


def vectors(count: int = 2, value: float = 1.0) -> Any:
    return np.full((count, 3), value, np.float32)


@pytest.mark.parametrize("ids", [["a", "b"], ("a", "b"), (name for name in "ab"), np.array(["a", "b"]), iter(["a", "b"])])
def test_ids_of_any_kind(url: str, ids: Any, rows_of: Any) -> None:
    with Recorder(url) as recorder:
        recorder.append(ids, vectors())
    assert set(rows_of(url)) == {("a", 0), ("b", 0)}


@pytest.mark.parametrize("ids", [torch.tensor([3, 4]), np.array([3, 4], np.int32), range(3, 5)])
def test_ids_that_are_numbers(url: str, ids: Any, rows_of: Any) -> None:
    with Recorder(url) as recorder:
        recorder.append(ids, vectors(), epoch=torch.tensor([0, 1]))
    assert set(rows_of(url)) == {(3, 0), (4, 1)}


@pytest.mark.parametrize("given", [
    lambda: torch.ones(2, 3, requires_grad=True), lambda: [torch.ones(3), torch.ones(3, requires_grad=True)],
    lambda: [[1.0, 1, 1], [1, 1, 1]], lambda: torch.ones(1, 3).expand(2, 3), lambda: torch.ones(3, 2).T,
    lambda: np.ones((3, 2), "f4").T, lambda: torch.ones(2, 3, dtype=torch.bfloat16),
    lambda: torch.ones(2, 3).neg().neg(), lambda: nn.Parameter(torch.ones(2, 3))])
def test_vectors_of_any_kind(url: str, given: Callable[[], Any], rows_of: Any) -> None:
    with Recorder(url) as recorder:
        recorder.append([1, 2], given())
    assert rows_of(url) == {(1, 0): [1, 1, 1], (2, 0): [1, 1, 1]}


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_arrays_and_ids_may_be_changed_as_soon_as_it_returns(url: str, on_full: Any, rows_of: Any) -> None:
    ids, tensor, array = ["a", "b"], torch.ones(2, 3), np.zeros(2)
    with Recorder(url, on_full=on_full, ring=64) as recorder:
        for step in range(20):
            ids[:] = [f"a{step}", f"b{step}"]
            tensor.fill_(step)
            array[:] = step
            recorder.append(ids, tensor, loss=array)
            ids[:] = ["wrong", "wrong"]
            tensor.fill_(-1)
            array[:] = -1
    assert rows_of(url) == {(f"{name}{step}", 0): [step] * 3 for name in "ab" for step in range(20)}
    with zstore.Reader(url) as reader:
        assert reader.field("loss").tolist() == [step for step in range(20) for _ in "ab"]


def test_what_is_no_batch(url: str) -> None:
    layer = nn.Linear(3, 3)
    with Recorder(url) as recorder:
        with pytest.raises(TypeError, match="ids is one string"):
            recorder.append("ab", vectors())
        with pytest.raises(TypeError, match="ids is one number"):
            recorder.append(torch.tensor(3), vectors())
        with pytest.raises(ValueError, match="2 ids and 3 rows of 'vectors'; pass one id per row"):
            recorder.append([1, 2], vectors(3))
        with pytest.raises(ValueError, match="nothing is watched"), recorder.batch([1]):
            pass
        recorder.watch(layer, field="hidden")
        with pytest.raises(ValueError, match="field hidden is watched already"):
            recorder.watch(layer, field="hidden")
        with pytest.raises(ValueError, match='every row has "vectors", and there is only hidden'), recorder.batch([1, 2]):
            layer(torch.ones(2, 3))
        with pytest.raises(ValueError, match="hidden: a watched module gives this field"), recorder.batch([1, 2], hidden=1):
            layer(torch.ones(2, 3))
        with pytest.raises(ValueError, match="ids is no field to set"), recorder.batch([1, 2]) as rows:
            layer(torch.ones(2, 3))
            rows.set(ids=[3, 4])
        with pytest.raises(RuntimeError, match="do not nest"), recorder.batch([1, 2]), recorder.batch([1, 2]):
            pass
        with recorder.batch([1, 2]) as rows:            # and all is as it was
            rows.set(vectors=layer(torch.ones(2, 3)))
        with recorder.batch([]):
            pass
        recorder.append([], np.zeros((0, 3), np.float32))
        with pytest.raises(ValueError, match=r"the store has no field 'loss'.*add_field"):
            recorder.append([5, 6], vectors(), hidden=vectors(), loss=1.0)
        assert recorder.recorded == 2 and recorder.dropped == 0
    with pytest.raises(ValueError, match="is closed"):
        recorder.append([1], vectors(1))
    recorder.close()
    for wrong in ({"start": "again"}, {"on_full": "wait"}, {"on_error": "ignore"}, {"ring": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Recorder(url, **wrong)


def test_an_exception_in_the_block_records_nothing_and_is_the_callers(url: str, rows_of: Any) -> None:
    layer = nn.Linear(3, 3)
    with Recorder(url) as recorder:
        recorder.watch(layer)
        with pytest.raises(KeyError, match="mine"), recorder.batch([1, 2]):
            layer(torch.ones(2, 3))
            raise KeyError("mine")
        with recorder.batch([3, 4]):
            layer(torch.ones(2, 3))
    assert set(rows_of(url)) == {(3, 0), (4, 0)}


def test_the_end_of_an_epoch_names_what_is_amiss(url: str) -> None:
    with Recorder(url) as recorder:
        recorder.append([0, 1, 1, 7], vectors(4), epoch=2)
        with pytest.warns(UserWarning, match=r"1 missing \(2\), 1 twice \(1\), 1 unknown \(7\)"):
            found = recorder.end_epoch(2, expected=3)
    assert not found.exact and found.rows == 4


def test_a_loss_that_is_not_a_number_is_stored_and_told(url: str) -> None:
    with Recorder(url) as recorder:
        recorder.append([1, 2], vectors(value=float("nan")))
        with pytest.warns(UserWarning, match="2 of 2 rows hold a NaN"):
            recorder.commit()
    with zstore.Reader(url) as reader:
        assert np.isnan(reader.vectors).all()


def test_rows_without_an_id_are_refused(url: str, rows_of: Any) -> None:
    layer, ids = nn.Linear(3, 3), iter([1, 2])
    with Recorder(url) as recorder:
        recorder.append(ids, vectors())
        for rows in (vectors(), torch.ones(2, 3), vectors().tolist()):
            with pytest.raises(ValueError, match="0 ids and 2 rows of 'vectors'"):
                recorder.append(ids, rows, epoch=1)         # read already
        recorder.watch(layer)
        with pytest.raises(ValueError, match="gave 4 vectors in this batch, and there are 0 ids"), recorder.batch([]):
            layer(torch.ones(4, 3))
        with recorder.batch([]):
            layer(torch.ones(0, 3))
        with recorder.batch([], loss=1.0):
            pass
        assert recorder.recorded == 2
    assert set(rows_of(url)) == {(1, 0), (2, 0)}


def test_numbers_of_any_kind_and_no_others(url: str) -> None:
    with Recorder(url) as recorder:
        recorder.append([0], vectors(1), epoch=torch.tensor(3), step=torch.tensor(7))
        recorder.append([0], vectors(1), epoch=np.int64(4), step=np.int32(8))
        for epoch in (torch.tensor(3), np.int64(4)):
            assert recorder.end_epoch(epoch, expected=1).exact          # type: ignore[arg-type]
        for wrong in (3.7, "3", np.float32(3)):
            with pytest.raises(TypeError, match="step is an integer, not"):
                recorder.append([1], vectors(1), step=wrong)            # type: ignore[arg-type]
            with pytest.raises(TypeError, match="epoch is an integer, not"):
                recorder.end_epoch(wrong)                               # type: ignore[arg-type]
    with zstore.Reader(url) as reader:
        assert reader.field("step").tolist() == [7, 8]


class Gate:
    """A disk that is held up, and lets go when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, append = threading.Event(), zstore.Writer.append

        def held(*given: Any, **more: Any) -> None:
            while not self.open.wait(0.01):
                pass
            append(*given, **more)

        monkeypatch.setattr(zstore.Writer, "append", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    held = Gate(monkeypatch)
    yield held
    held.open.set()             # a test that failed must not hold up the end of the process


def test_a_disk_that_is_behind_drops_what_does_not_fit_and_says_so(url: str, gate: Gate) -> None:
    recorder = Recorder(url, on_full="drop", ring=3)
    with pytest.warns(UserWarning, match=r"3 batches wait for the disk already") as told:
        for step in range(10):
            recorder.append([2 * step, 2 * step + 1], vectors())
    assert len(told) == 1 and recorder.dropped == 14 and recorder.recorded == 6
    gate.open.set()
    with pytest.warns(UserWarning, match=r"14 missing .*; 14 rows were dropped"):
        assert not recorder.end_epoch(0, expected=20).exact
    with pytest.warns(UserWarning, match="not recorded whole; 14 rows were dropped"):
        recorder.close()


def test_a_disk_that_is_behind_raises_where_asked(url: str, gate: Gate, rows_of: Any) -> None:
    recorder = Recorder(url, on_full="raise", ring=2)
    recorder.append([0], vectors(1))
    recorder.append([1], vectors(1))
    with pytest.raises(RuntimeError, match=r"2 batches wait for the disk already.*take a larger ring="):
        recorder.append([2], vectors(1))
    gate.open.set()
    with pytest.warns(UserWarning, match="1 rows were dropped"):
        recorder.close()
    assert set(rows_of(url)) == {(0, 0), (1, 0)}


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_an_interrupt_while_the_disk_hangs_is_raised_at_once(url: str, on_full: Any, gate: Gate, rows_of: Any) -> None:
    recorder = Recorder(url, on_full=on_full, ring=4)
    killer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        for step in range(2):
            recorder.append([step], vectors(1))
        recorder.commit()                               # drains
    killer.join()
    gate.open.set()
    recorder.append([9], vectors(1))
    recorder.close()
    assert (9, 0) in rows_of(url)


class Broken:
    """A disk that refuses every append with this error, until told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.error: Exception | None = error
        append = zstore.Writer.append

        def refusing(*given: Any, **more: Any) -> None:
            if self.error is not None:
                raise self.error
            append(*given, **more)

        monkeypatch.setattr(zstore.Writer, "append", refusing)


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_a_disk_that_refuses_raises_and_nothing_is_lost(url: str, on_full: Any, monkeypatch: pytest.MonkeyPatch,
                                                        rows_of: Any) -> None:
    layer = nn.Linear(3, 3)
    with Recorder(url, on_full=on_full) as recorder:
        recorder.watch(layer)
        broken = Broken(monkeypatch, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            with recorder.batch([0, 1]):                # kept: the step was made, and can't be made again
                layer(torch.ones(2, 3))
            recorder.commit()
        broken.error = None
        for _ in range(3):
            try:
                recorder.append([2, 3], vectors())      # in the ring's case, told once more at most
                break
            except OSError:
                time.sleep(0.05)
        recorder.commit()
    assert set(rows_of(url)) == {(n, 0) for n in range(4)} and recorder.dropped == 0


@pytest.mark.parametrize("on_full", ["block", "drop"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), StaleWriter("taken over"), InDoubt("who knows")])
def test_a_disk_that_refuses_may_be_a_warning(url: str, on_full: Any, error: Exception,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(url, on_full=on_full, on_error="warn", ring=64)
    recorder.append([0], vectors(1))
    recorder.commit()
    mark = recorder.state_dict()
    broken = Broken(monkeypatch, error)
    with pytest.warns(UserWarning, match="rows are not recorded, and the training goes on") as told:
        for step in range(1, 30):
            recorder.append([step], vectors(1))
        recorder.commit()
    assert len(told) == 1
    assert recorder.dropped == 29 and recorder.recorded == 1 and recorder.state_dict() == mark
    broken.error = None
    with pytest.warns(UserWarning, match="29 missing .*29 rows were dropped"):
        recorder.end_epoch(0, expected=30)
    with pytest.warns(UserWarning, match="not recorded whole; 29 rows"):
        recorder.close()


def disk_full(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_rows_that_no_commit_takes_are_dropped(url: str, monkeypatch: pytest.MonkeyPatch, rows_of: Any) -> None:
    recorder = Recorder(url, on_error="warn")
    recorder.append([0], vectors(1))
    recorder.commit()
    with monkeypatch.context() as patch:
        patch.setattr(zstore.Writer, "_commit", disk_full)
        with pytest.warns(UserWarning, match="No space left"):
            for step in range(1, 20):
                recorder.append([step], vectors(1))
                recorder.commit()
        assert recorder.dropped == 0                        # a later commit may take them
        with pytest.warns(UserWarning, match="19 rows that were appended .* are not committed"), \
                pytest.warns(UserWarning, match="not recorded whole; 19 rows were dropped"):
            recorder.close()
    assert (recorder.recorded, recorder.dropped, len(rows_of(url))) == (1, 19, 1)


def test_a_disk_that_recovers_and_fails_again_is_told_of_again(url: str, monkeypatch: pytest.MonkeyPatch, rows_of: Any) -> None:
    recorder = Recorder(url, on_error="warn")
    recorder.append([0], vectors(1))
    with monkeypatch.context() as patch:
        patch.setattr(zstore.Writer, "_commit", disk_full)
        with pytest.warns(UserWarning, match="No space left"):
            recorder.commit()
    recorder.commit()
    recorder.append([1], vectors(1))
    with monkeypatch.context() as patch:
        patch.setattr(zstore.Writer, "_commit", disk_full)
        with pytest.warns(UserWarning, match="No space left.*1 rows that"), \
                pytest.warns(UserWarning, match="1 rows were dropped"):
            recorder.close()
    assert set(rows_of(url)) == {(0, 0)}


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_what_a_takeover_costs_is_counted(url: str, on_error: Any, given: bool, children: Any, rows_of: Any) -> None:
    writer = zstore.Writer(url) if given else None
    recorder = Recorder(writer or url, on_error=on_error)
    recorder.append([0], vectors(1))
    recorder.commit()
    recorder.append([1, 2], vectors())
    children.run("import sys, zstore\nzstore.Writer(sys.argv[1], takeover=True).close()", url)
    if on_error == "warn":
        with pytest.warns(UserWarning, match="was taken over") as told:
            recorder.commit()
            recorder.append([3], vectors(1))
        assert len(told) == 1 and (recorder.recorded, recorder.dropped) == (1, 3)
        with pytest.warns(UserWarning, match="3 rows were dropped"):
            recorder.close()
    else:
        for call in (recorder.commit, recorder.close):
            with pytest.raises(StaleWriter, match="was taken over"):
                call()
        assert (recorder.recorded, recorder.dropped) == (1, 2)
    if writer is not None:
        with pytest.raises(StaleWriter):
            writer.close()
    assert set(rows_of(url)) == {(0, 0)}


@pytest.mark.parametrize("error", [ValueError("no such field"), StaleWriter("taken over"), InDoubt("who knows")])
def test_a_block_that_is_refused_for_good_is_counted(url: str, error: Exception, monkeypatch: pytest.MonkeyPatch,
                                                     rows_of: Any) -> None:
    layer = nn.Linear(3, 3)
    recorder = Recorder(url)
    recorder.watch(layer)
    recorder.append([0], vectors(1))
    recorder.commit()
    broken = Broken(monkeypatch, error)
    with pytest.raises(type(error)), recorder.batch([1, 2]):
        layer(torch.ones(2, 3))
    with pytest.raises(type(error)):
        recorder.append([3], vectors(1))                    # which may be passed again
    broken.error = None
    assert recorder.dropped == 2 and recorder.recorded == 1
    with pytest.warns(UserWarning, match="2 rows were dropped"):
        recorder.close()
    assert set(rows_of(url)) == {(0, 0)}


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_batch_that_memory_refuses(url: str, on_error: Any, monkeypatch: pytest.MonkeyPatch, rows_of: Any) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("out of pinned memory")

    recorder = Recorder(url, on_full="drop", on_error=on_error)
    recorder.append([0], vectors(1))
    with monkeypatch.context() as patch:
        patch.setattr(Slot, "_fill", refused)
        if on_error == "raise":
            with pytest.raises(RuntimeError, match="out of pinned memory"):
                recorder.append([1], vectors(1))
        else:
            with pytest.warns(UserWarning, match="the training goes on: out of pinned memory"):
                recorder.append([1], vectors(1))
    assert recorder.dropped == (on_error == "warn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorder.close()
    assert set(rows_of(url)) == {(0, 0)}


def test_an_epoch_that_can_not_be_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for on_error in ("raise", "warn"):
        with Recorder(url, on_error=on_error, start="continue") as recorder:         # type: ignore[arg-type]
            recorder.append([0], vectors(1), epoch=int(on_error == "warn"))
            with monkeypatch.context() as patch:
                patch.setattr(start, "Reader", disk_full)
                if on_error == "raise":
                    with pytest.raises(OSError, match="No space"):
                        recorder.end_epoch(0, expected=1)
                else:
                    with pytest.warns(UserWarning, match="the rows of epoch 0 can't be read, so nothing is known of them"):
                        assert not recorder.end_epoch(0, expected=1).exact
            assert recorder.end_epoch(0, expected=1).exact


def test_first_rows_of_several_threads(url: str, monkeypatch: pytest.MonkeyPatch, rows_of: Any) -> None:
    placed = module.placed

    def slowly(*given: Any, **more: Any) -> Any:
        found = placed(*given, **more)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(module, "placed", slowly)
    with Recorder(url) as recorder:
        threads = [threading.Thread(target=recorder.append, args=([n], vectors(1))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recorder.recorded == 4
    assert set(rows_of(url)) == {(n, 0) for n in range(4)}


def trained(recorder: Recorder | None) -> tuple[list[float], list[Any]]:
    """The losses and last weights of a training with dropout, on its own seed."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(64, 1024), nn.Dropout(0.2), nn.Linear(1024, 4))
    optimizer, losses = torch.optim.Adam(net.parameters()), []
    if recorder is not None:
        recorder.watch(net[0])
    for step in range(40):
        optimizer.zero_grad()
        x = torch.randn(128, 64)
        if recorder is None:
            loss = net(x).square().mean()
        else:
            with recorder.batch(range(128 * step, 128 * step + 128), step=step):
                loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [weight.detach().clone() for weight in net.parameters()]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path, "tmpfs")
    yield disk
    disk.close()


def test_a_full_disk_leaves_the_training_as_it_is(small: SmallDisk, url: str) -> None:
    wanted = trained(None)
    recorder = Recorder(str(small.folder / "run.zarr"), on_error="warn", codec="raw", rows_per_shard=1024)      # 4 MiB each
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = trained(recorder)
        recorder.commit()
        state = recorder.state_dict()
    said = [str(warning.message) for warning in told]
    assert any("No space left" in line for line in said) and len(said) <= 2, said
    assert isinstance(state["version"], int)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        recorder.close()
    with Recorder(url) as whole:
        recorded = trained(whole)
    for losses, weights in (found, recorded):
        assert losses == wanted[0] and all(map(torch.equal, weights, wanted[1]))


def _in_child(recorder: Recorder, answer: Any) -> None:
    try:
        recorder.append([5], np.zeros((1, 3), np.float32))
    except Conflict as error:
        answer.put(str(error))
    recorder.close()
    answer.put("closed")


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_in_a_forked_child_it_is_inert(url: str, on_full: Any, rows_of: Any) -> None:
    context = multiprocessing.get_context("fork")
    with Recorder(url, on_full=on_full) as recorder:
        recorder.append([1], vectors(1))
        answer = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(recorder, answer))
        child.start()
        assert "belongs to the parent process" in answer.get() and answer.get() == "closed"
        child.join(30)
        assert child.exitcode == 0
        recorder.append([2], vectors(1))
    assert set(rows_of(url)) == {(1, 0), (2, 0)}


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_what_is_left_at_exit_is_committed(url: str, on_full: str, children: Any, rows_of: Any) -> None:
    children.run("""
        import sys
        import numpy as np
        from zstore.train import Recorder
        recorder = Recorder(sys.argv[1], on_full=sys.argv[2], ring=64)
        for n in range(50):
            recorder.append([n], np.zeros((1, 3), np.float32))
    """, url, on_full)
    assert len(rows_of(url)) == 50
