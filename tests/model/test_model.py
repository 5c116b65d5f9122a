"""The protocol's model: sound as FORMAT.md has it, and broken without any one of its rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from model_scripts import SCRIPTS, Stage, gc_of_a_tail

from zstore.testing.model import World
from zstore.testing.model_actors import Writer, collect
from zstore.testing.model_runs import every_order, run
from zstore.testing.model_words import RULES, Broken, Steps

EVERYDAY, LONG = 1000, 10_000
WHERE = pytest.mark.parametrize("distant", [False, True], ids=["local", "distant"])
# So rare at random that only their interleaving proves them. "next" is the chief of the rest: seen at once.
RARE = {"lock to the record", "topmost", "all trailers", "head's tail", "own shard", "judge at head", "joiners take none"}


@WHERE
def test_random_lives_keep_the_promise(distant: bool) -> None:
    for seed in range(EVERYDAY):
        run(seed, distant=distant)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@WHERE
@pytest.mark.parametrize("steps", [60, 120, 240])
def test_many_random_lives_keep_the_promise(distant: bool, steps: int) -> None:
    for seed in range(LONG):
        run(10**6 + seed, distant=distant, steps=steps)


def is_broken(seed: int, rule: str) -> bool:
    """Locally, or else on a distant storage, this life goes wrong without the rule."""
    for distant in (False, True):
        try:
            run(seed, distant=distant, without=[rule])
        except Broken:
            return True
    return False


@pytest.mark.parametrize("rule", sorted(RULES.keys() - RARE))
def test_without_a_rule_random_lives_break(rule: str) -> None:
    assert any(is_broken(seed, rule) for seed in range(600)), RULES[rule]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rule", sorted(RARE))
def test_without_a_rare_rule_some_life_breaks(rule: str) -> None:
    assert any(is_broken(seed, rule) for seed in range(20_000)), RULES[rule]


NAMES = [f"{rule}-{script.__name__}" for rule, _, script in SCRIPTS]


@pytest.mark.parametrize(("rule", "distant", "script"), SCRIPTS, ids=NAMES)
def test_an_interleaving_breaks_only_without_its_rule(rule: str, distant: bool, script: Callable[[Stage], None]) -> None:
    world = World(distant=distant)
    script(Stage(world))
    world.check()
    broken = World(distant=distant, without=frozenset([rule]))
    with pytest.raises(Broken):
        script(Stage(broken))
        broken.check()


def test_gc_leaves_a_tail_that_was_taken_over_within() -> None:
    for distant in (False, True):
        world = World(distant=distant)
        gc_of_a_tail(Stage(world))
        world.check()


def test_every_rule_has_an_interleaving() -> None:
    assert {rule for rule, _, _ in SCRIPTS} == set(RULES)


# -- every order of two actors --------------------------------------------------------------------------------------

OWN = ["write 0", "write 1", "resume tail", "claim above?", "trailer 0", "trailer 1", "let go"]


def two_committers(distant: bool, without: frozenset[str] = frozenset()) -> tuple[World, list[Steps]]:
    """Two members of one session commit a row each."""
    world = World(distant=distant, without=without)
    stage = Stage(world)
    one, two = stage.opened(token=-1), stage.opened(token=-1)
    stage.go(one.append([0]))
    stage.go(two.append([1]))
    return world, [one.commit(), two.commit()]


@WHERE
def test_every_order_of_two_committers(distant: bool) -> None:
    orders = 0
    for world in every_order(lambda: two_committers(distant), [*OWN, "door"] if distant else OWN):
        head = world.records[-1]
        assert head.version == 2 and head.extents.bit_count() == 2 and world.root == 2
        orders += 1
    assert orders > 1000


def opener_and_joiner(without: frozenset[str] = frozenset()) -> tuple[World, list[Steps]]:
    """The session is dead; one member comes back while another launch opens the store."""
    world = World(without=without)
    stage = Stage(world)
    stage.gone(stage.wrote(0, token=-1))
    return world, [Writer(world).open(), Writer(world, token=-1).open()]


def two_openers(without: frozenset[str] = frozenset()) -> tuple[World, list[Steps]]:
    """Two take-overs, with a tail to take, and what they write then."""
    world = World(without=without)
    Stage(world).closed(0)

    def steps(key: int) -> Steps:
        writer = Writer(world, takeover=True)
        yield from writer.open()
        yield from writer.append([key, key])
    return world, [steps(1), steps(2)]


def gc_and_opener(without: frozenset[str] = frozenset()) -> tuple[World, list[Steps]]:
    """gc, while the next session opens, takes a tail, writes and commits."""
    world = World(without=without)
    stage = Stage(world)
    stage.closed(0)
    stage.gone(stage.opened(takeover=True, at=0))

    def steps() -> Steps:
        writer = Writer(world)
        yield from writer.open()
        yield from writer.append([1, 2, 3])
        yield from writer.commit()
    return world, [collect(world), steps()]


@pytest.mark.parametrize(("make", "rule"), [
    (opener_and_joiner, "lock to the record"), (opener_and_joiner, "joiner looks again"), (two_openers, "tail anew"),
    (gc_and_opener, "gc: head's")], ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_every_order_of_two(make: Callable[..., tuple[World, list[Steps]]], rule: str) -> None:
    assert sum(1 for _ in every_order(make, OWN)) > 50
    with pytest.raises(Broken):
        for _ in every_order(lambda: make(frozenset([rule])), OWN):
            pass
