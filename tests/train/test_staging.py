"""Copies behind the loop. No GPU is here: streams and events are stand-ins that note what is asked of them, in order."""

from __future__ import annotations

import resource
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zstore.train import Recorder, delivery, staging
from zstore.train.staging import Slot, Streams


def test_what_waits_is_a_copy_of_every_kind_of_value() -> None:
    tensor, array = torch.arange(6.0).reshape(3, 2), np.arange(3)
    ids, lists = ["a", "b", "c"], [np.zeros(2), np.ones(2)]
    narrow = torch.arange(12.0).reshape(3, 4)[:, ::2]
    wide = torch.ones(1, 2).expand(3, 2)
    values = {"ids": ids, "epoch": 1, "vectors": tensor, "n": array, "lists": lists, "narrow": narrow, "wide": wide,
              "one": torch.tensor(5), "text": np.array(["x", "y", "z"], np.dtypes.StringDType())}
    slot = Slot()
    slot.fill(values, None, Streams())
    wanted = {name: np.asarray(value).copy() for name, value in values.items()}
    tensor.zero_()
    array[:] = 9
    narrow.zero_()
    ids[0] = "changed"
    lists[0][:] = 9
    slot.wait()
    for name, value in wanted.items():
        assert np.array_equal(np.asarray(slot.values[name]), value), name
    assert slot.values["wide"].is_contiguous()


def test_slots_use_their_memory_again() -> None:
    slot, places = Slot(), set()
    for rows in (8, 8, 5, 8, 1):
        vectors = torch.randn(rows, 4)
        slot.fill({"vectors": vectors, "n": np.arange(rows)}, None, Streams())
        assert torch.equal(slot.values["vectors"], vectors) and slot.values["n"].tolist() == list(range(rows))
        places.add((slot.values["vectors"].data_ptr(), slot.values["n"].ctypes.data))
    assert len(places) == 1
    slot.fill({"vectors": torch.randn(9, 4), "n": np.arange(9.0)}, None, Streams())     # larger, and of another type
    assert slot.values["n"].dtype == np.float64 and len(slot.values["vectors"]) == 9


def test_memory_of_inference_mode_is_used_again_outside_it(url: str, rows_of: Any) -> None:
    with Recorder(url, on_full="drop", ring=1) as recorder:
        for step in range(4):
            with torch.inference_mode(step % 2 == 0):
                recorder.append([step], torch.full((1, 3), float(step), dtype=torch.bfloat16))
            recorder.commit()
    assert rows_of(url) == {(step, 0): [step] * 3 for step in range(4)}


class Device:
    """What torch.cuda is asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        log = self.log

        class Stream:
            def __init__(self, device: Any = None) -> None:
                log.append("new stream")

            def wait_stream(self, other: Any) -> None:
                log.append(f"side waits for {other}")

        class Event:
            def __init__(self, blocking: bool = False) -> None:
                assert blocking

            def record(self, stream: Any) -> None:
                log.append("record event")

            def synchronize(self) -> None:
                log.append("event waited for")

        @contextmanager
        def on(stream: Any) -> Any:
            log.append("on side")
            yield
            log.append("off side")

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the training's")
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append("record_stream"))
        for module in (staging, delivery):
            monkeypatch.setattr(module, "is_on_device", lambda value: isinstance(value, torch.Tensor))
        monkeypatch.setattr(delivery, "ready", lambda value, dtype: value)      # which leaves what is on a GPU as it is
        real = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **options: real(*shape, **options))


def test_the_order_of_a_copy_from_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    slot, streams = Slot(), Streams()
    vectors = torch.randn(4, 3)
    slot.fill({"vectors": vectors, "loss": torch.ones(4)}, "float16", streams)
    one = ["side waits for the training's", "on side", "off side", "record_stream"]
    assert device.log == ["new stream", *one, *one, "record event"]
    slot.wait()
    assert device.log[-1] == "event waited for"
    assert torch.equal(slot.values["vectors"], vectors.half()) and slot.values["loss"].dtype == torch.float32


def test_a_first_batch_is_judged_without_the_gpu(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(url) as recorder:
        recorder.append([0], torch.ones(1, 3))
    Device(monkeypatch)
    with Recorder(url) as recorder, pytest.raises(ValueError, match="of shape 5 per row, but the store holds 3"):
        recorder.append([0], torch.ones(1, 5))
    assert torch.equal(staging.stand_in(torch.ones(2, 3, dtype=torch.bfloat16), None), torch.zeros(2, 3, dtype=torch.bfloat16))


def test_only_the_rings_thread_waits_for_the_gpu(url: str, monkeypatch: pytest.MonkeyPatch,
                                                 rows_of: Any) -> None:
    device = Device(monkeypatch)
    waited: deque[int] = deque()
    wait = Slot.wait
    monkeypatch.setattr(Slot, "wait", lambda slot: (waited.append(threading.get_ident()), wait(slot))[1])
    with Recorder(url) as recorder:
        for step in range(20):
            vectors = torch.full((2, 3), float(step))
            recorder.append([2 * step, 2 * step + 1], vectors)
            vectors.fill_(-1)                               # in the training's own order, behind the copy
    assert threading.get_ident() not in waited and len(waited) == 20 and device.log.count("event waited for") == 20
    found = rows_of(url)
    assert len(found) == 40 and all(found[n, 0] == [n // 2] * 3 for n in range(40))


def test_memory_stays_as_it_is_over_a_long_run(url: str) -> None:
    def rss() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    with Recorder(url, commit_every_s=None) as recorder:
        sizes = []
        for step in range(1500):
            recorder.append(np.arange(64) + 64 * step, torch.zeros(64, 384), epoch=0)
            if step in (500, 1499):
                recorder.commit()
                sizes.append(rss())
    assert sizes[1] - sizes[0] < 40 << 20, sizes            # 1,000 batches are 98 MB
