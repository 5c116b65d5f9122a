"""Rows of a version: addresses both ways, in any order, with repeats."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zstore.format.extents import Extents
from zstore.rows import Rows

addresses = st.lists(st.integers(0, 200), max_size=60)


@given(addresses, addresses, st.integers(0, 70), st.integers(0, 70))
def test_rows_are_a_list_of_addresses(held: list[int], asked: list[int], start: int, stop: int) -> None:
    rows = Rows.of(np.array(held, np.int64))
    assert len(rows) == len(held)
    assert rows.addresses().tolist() == held
    expected = [held.index(a) if a in held else -1 for a in asked]
    assert rows.rows(np.array(asked, np.int64)).tolist() == expected
    assert rows.slice(start, stop).addresses().tolist() == held[start:stop]
    assert [rows.address(row) for row in range(len(held))] == held
    assert pickle.loads(pickle.dumps(rows)).addresses().tolist() == held
    within = Extents([(10, 50), (100, 20)])
    assert rows.within(within).addresses().tolist() == [a for a in held if 10 <= a < 60 or 100 <= a < 120]


@given(addresses.filter(bool), st.data())
def test_take_keeps_order_and_repeats(held: list[int], data: st.DataObject) -> None:
    rows = Rows.of(np.array(held, np.int64))
    chosen = data.draw(st.lists(st.integers(0, len(held) - 1), max_size=30))
    assert rows.take(np.array(chosen, np.int64)).addresses().tolist() == [held[row] for row in chosen]


def test_one_run_only_where_the_rows_are_one() -> None:
    assert Rows(Extents([(5, 10)])).one_run() == (5, 10)
    assert Rows(Extents()).one_run() == (0, 0)
    assert Rows(Extents([(0, 2), (5, 2)])).one_run() is None
    assert Rows.of(np.array([7, 8, 9])).one_run() == (7, 3)
    assert Rows.of(np.array([9, 8])).one_run() is None


def test_runs_pickle_small() -> None:
    assert len(pickle.dumps(Rows(Extents([(0, 10**9)])))) < 200
