"""Batches of a window: every text once, the budget kept, little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstore.embed.budget import Budget
from zstore.embed.plan import padded, plan

LENGTHS = st.lists(st.integers(0, 300), max_size=200).map(lambda found: np.array(found, np.int64))


@given(LENGTHS, st.integers(1, 4000), st.booleans())
def test_every_text_once_within_the_budget(lengths: np.ndarray, budget: int, exact: bool) -> None:
    batches = plan(lengths, budget, exact)
    assert sorted(at for batch in batches for at in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or padded(lengths[batch]) <= budget or lengths[batch].max() == 0
        assert not exact or len(set(lengths[batch].tolist())) == 1
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS, st.integers(1, 4000))
def test_no_batch_that_could_take_the_next_text(lengths: np.ndarray, budget: int) -> None:
    batches = plan(lengths, budget)
    for batch in batches[:-1]:
        assert max(int(lengths[batch].max()), 1) * (len(batch) + 1) > budget


def test_padding_is_small() -> None:
    """Lengths like those of real corpora: a few long ones, most short."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(3.8, 0.9, 4096).astype(np.int64) + 3, 256)
    for budget, most in ((1024, 1.02), (8192, 1.06)):
        given = sum(padded(lengths[batch]) for batch in plan(lengths, budget))
        assert 1 <= given / lengths.sum() < most
    assert sum(padded(lengths[batch]) for batch in plan(lengths, 8192, exact=True)) == lengths.sum()


def test_nothing_and_no_budget() -> None:
    assert plan(np.array([], np.int64), 8) == [] and padded(np.array([], np.int64)) == 0
    for make in (lambda: plan(np.array([1]), 0), lambda: Budget(0)):
        with pytest.raises(ValueError, match="1 token at least"):
            make()


def test_the_budget_is_halved_remembered_and_grows_back_slowly() -> None:
    budget = Budget(8192)
    budget.fitted(8192)
    assert budget.now == 8192
    budget.failed(8000)
    assert budget.now == 4000
    budget.failed(1000)         # a part of the batch that did not fit
    assert budget.now == 500
    for _ in range(10_000):
        budget.fitted(10)       # small batches prove nothing
    assert budget.now == 500
    grown, steps = [500], 0
    while budget.now < 8192:
        budget.fitted(budget.now)
        steps += 1
        if budget.now != grown[-1]:
            grown.append(budget.now)
    assert all(after <= before * 1.25 for before, after in pairwise(grown))
    assert steps > 64 * len(grown) / 2 and budget.now == budget.most


def until_it_grows(budget: Budget) -> int:
    now, count = budget.now, 0
    while budget.now == now:
        budget.fitted(now)
        count += 1
    return count


def test_each_growth_that_failed_makes_the_next_trial_later() -> None:
    budget = Budget(1 << 20)
    for _ in range(3):              # one descent is one failure
        budget.failed(budget.now)
    first = until_it_grows(budget)
    assert until_it_grows(budget) == first
    budget.failed(budget.now)
    second = until_it_grows(budget)
    budget.failed(budget.now)
    assert first < second < until_it_grows(budget)


def test_a_long_text_alone_says_nothing_of_the_budget() -> None:
    budget = Budget(8192)
    for _ in range(14):
        budget.failed(9000)
    assert budget.now == 8192


def test_a_budget_never_falls_below_one() -> None:
    budget = Budget(2)
    for _ in range(5):
        budget.failed(1)
    assert budget.now == 1
