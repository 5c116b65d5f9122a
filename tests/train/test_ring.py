"""The ring: order, bound, problems that are told before anything is lost, and waits that an interrupt ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from zstore.train.ring import GivenUp, Ring


class Box:
    value = 0


def ring_of(size: int, sink: Any) -> Ring[Box]:
    return Ring([Box() for _ in range(size)], sink)


def put(ring: Ring[Box], value: int) -> None:
    ring.wait_for_room()
    slot = ring.free()
    assert slot is not None
    slot.value = value
    ring.put()


def test_all_goes_through_in_order_over_the_same_slots() -> None:
    seen: list[int] = []
    slots: set[int] = set()

    def sink(box: Box) -> None:
        slots.add(id(box))
        seen.append(box.value)

    ring = ring_of(3, sink)
    for value in range(2000):
        put(ring, value)
    ring.drain()
    assert seen == list(range(2000)) and len(slots) == 3 and ring.waiting == 0
    assert ring.end() == []


def test_a_full_ring_has_no_slot_and_none_is_touched_while_it_waits() -> None:
    gate = threading.Event()
    seen: list[int] = []

    def sink(box: Box) -> None:
        gate.wait()
        seen.append(box.value)

    ring = ring_of(2, sink)
    put(ring, 1)
    put(ring, 2)
    assert ring.free() is None and ring.waiting == 2
    gate.set()
    put(ring, 3)
    ring.drain()
    assert seen == [1, 2, 3]
    ring.end()


def test_a_problem_keeps_its_slot_until_it_was_told() -> None:
    full, seen = [True], []

    def sink(box: Box) -> None:
        if full[0]:
            raise OSError("no space")
        seen.append(box.value)

    ring = ring_of(4, sink)
    for value in range(3):
        put(ring, value)
    ring.drain()
    assert isinstance(ring.take_problem(), OSError)
    ring.drain()                                        # tried again, told again
    full[0] = False
    assert isinstance(ring.take_problem(), OSError)
    ring.drain()
    assert ring.take_problem() is None and seen == [0, 1, 2]
    ring.end()


def test_what_a_sink_gives_up_is_told_and_passed_over() -> None:
    seen: list[int] = []

    def sink(box: Box) -> None:
        if box.value == 1:
            raise GivenUp from ValueError("bad batch")
        seen.append(box.value)

    ring = ring_of(4, sink)
    for value in range(3):
        put(ring, value)
    ring.drain()
    assert str(ring.take_problem()) == "bad batch"
    ring.drain()
    assert seen == [0, 2]
    ring.end()


def test_the_end_does_not_wait_for_a_sink_that_hangs_and_says_what_is_left() -> None:
    gate = threading.Event()
    ring = ring_of(3, lambda box: gate.wait())
    put(ring, 7)
    put(ring, 8)
    begin = time.monotonic()
    assert [box.value for box in ring.end()] == [7, 8]
    assert time.monotonic() - begin < 30
    gate.set()


@pytest.mark.parametrize("wait", ["wait_for_room", "drain"])
def test_an_interrupt_ends_a_wait_and_the_ring_works_on(wait: str) -> None:
    gate, seen = threading.Event(), []

    def sink(box: Box) -> None:
        gate.wait()
        seen.append(box.value)

    ring = ring_of(2, sink)
    put(ring, 1)
    put(ring, 2)
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        getattr(ring, wait)()
    killer.join()
    gate.set()
    put(ring, 3)
    ring.drain()
    assert seen == [1, 2, 3]
    ring.end()


def test_interrupts_at_any_place_lose_and_repeat_nothing() -> None:
    seen: list[int] = []
    ring = ring_of(2, lambda box: seen.append(box.value))
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.0007):
            os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=disturb)
    value = 0

    def handler(number: int, frame: Any) -> None:
        if frame is not None and frame.f_code.co_filename.endswith("ring.py"):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        killer.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            taken = ring._put
            try:
                put(ring, value)
            except KeyboardInterrupt:
                pass
            value += ring._put - taken          # in, or not in
    finally:
        stop.set()
        killer.join()
        signal.signal(signal.SIGINT, before)
    ring.drain()
    assert seen == list(range(value)) and value > 100
    ring.end()
