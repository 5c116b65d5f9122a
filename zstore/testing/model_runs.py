"""Running the model: at random, in every order, and by script."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from zstore.testing.model import World
from zstore.testing.model_actors import Writer, collect
from zstore.testing.model_words import Broken, Steps, Stopped

KEYS = 5
SHARED_TOKENS = (-1, -2)


@dataclass
class Actor:
    """A generator under way."""

    steps: Steps
    me: int = -1
    asleep: bool = False
    ended: bool = False
    at: str = ""                # the operation that comes next

    def until(self, *operations: str) -> None:
        """Go on until one of these comes next, or to the end."""
        while not self.ended and (self.at not in operations or not self.at):
            self.step()

    def step(self) -> None:
        """One operation, up to the next."""
        try:
            self.at = next(self.steps)
        except (StopIteration, Stopped):
            self.ended = True


def run(seed: int, *, distant: bool = False, without: Sequence[str] = (), steps: int = 120) -> None:
    """One random life of a store; Broken, saying what, where the promise does not hold."""
    Life(random.Random(seed), World(distant=distant, without=frozenset(without))).live(steps)


@dataclass
class Life:
    """Actors come, go on, sleep, wake, die and leave in an order that the dice choose."""

    dice: random.Random
    world: World
    actors: list[Actor] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)

    def live(self, steps: int) -> None:
        roll, world = self.dice.random, self.world
        world.loses = lambda: roll() < 0.03
        for _ in range(steps):
            chance = roll()
            awake = [actor for actor in self.actors if not actor.asleep]
            if not awake or (chance < 0.07 and len(self.actors) < 6):
                self._come()
            elif chance < 0.08:
                self._die(self.dice.choice(self.actors))
            elif chance < 0.12:
                self._sleep_or_wake(self.dice.choice(self.actors))
            elif chance < 0.16 and world.late:
                self.dice.choice(world.late)()
            else:
                self._step(self.dice.choice(awake), 1 + int(roll() * 6))
        self._end()

    def _end(self) -> None:
        """Zombies wake, everybody alive goes on to the end, late requests arrive, and one more writer comes and goes."""
        for _ in range(60):
            for actor in list(self.actors):
                self._step(actor, 3)
        while self.actors:
            self._die(self.actors[0])
        self.world.loses = lambda: False
        for late in self.world.late:
            late()
        self.world.check()
        self._check_acknowledged()

    def _check_acknowledged(self) -> None:
        records = self.world.records
        for writer in self.writers:
            for record in writer.acknowledged:
                if records[record.version].commit != record.commit:
                    raise Broken(f"an acknowledged commit is not in the log: {record}")

    def _step(self, actor: Actor, count: int) -> None:
        for _ in range(count):
            actor.step()
            if actor.ended:
                self._die(actor)
                return
            if actor.at == "wait":
                return

    def _die(self, actor: Actor) -> None:
        if actor in self.actors:
            actor.steps.close()
            self.actors.remove(actor)
            self.world.asleep.discard(actor.me)
            self.world.end(actor.me)

    def _sleep_or_wake(self, actor: Actor) -> None:
        actor.asleep = not actor.asleep
        (self.world.asleep.add if actor.asleep else self.world.asleep.discard)(actor.me)

    def _come(self) -> None:
        dice, world = self.dice, self.world
        kind = dice.random()
        if kind < 0.12 and world.records:
            self.actors.append(Actor(collect(world), world.number()))
            return
        takeover = dice.random() < (0.5 if not world.distant else 0.2)
        at = dice.randrange(len(world.records)) if world.records and dice.random() < 0.15 else None
        if kind < 0.24 and world.records:
            keys = frozenset(dice.sample(range(KEYS), dice.randint(1, 2))) if at is None else frozenset()
            writer = Writer(world, at=at, takeover=takeover, keys=keys)
            steps = visit(writer)
        elif kind < 0.5:
            writer = Writer(world, token=dice.choice(SHARED_TOKENS), takeover=takeover)
            steps = life(writer, dice)
        else:
            writer = Writer(world, at=at, takeover=takeover)
            steps = life(writer, dice)
        self.writers.append(writer)
        self.actors.append(Actor(steps, writer.me))


def visit(writer: Writer) -> Steps:
    """A rollback or a delete: an opening that writes no row, leaves head's tail, and goes."""
    yield from writer.open(keep_tail=True)
    yield from writer.let_go()


def life(writer: Writer, dice: random.Random) -> Steps:
    """Open, perhaps go back to an earlier mark, append and commit, and leave in one of three ways."""
    world = writer.world
    yield from writer.open()
    if not writer.shared and dice.random() < 0.2:
        yield from writer.reload(dice.randrange(len(world.records)))
    for _ in range(dice.randint(0, 3)):
        yield from writer.append([dice.randrange(KEYS) for _ in range(dice.randint(1, 4))])
        if dice.random() < 0.7:
            yield from writer.commit()
    way = dice.random()
    if way < 0.6:
        yield from writer.close()
    elif way < 0.85:
        yield from writer.commit(closing=True, drop=dice.randint(0, 2))
    yield from writer.let_go()


def every_order(make: Callable[[], tuple[World, list[Steps]]], quiet: Sequence[str] = ()) -> Iterator[World]:
    """The world after every order in which these actors can go on to their ends. ``make`` gives a fresh world with the
    same actors each time; ``quiet`` operations touch what nobody else does, so that their place in the order is all one."""
    unseen: list[list[int]] = [[]]
    while unseen:
        order = unseen.pop()
        world, steps = make()
        actors = [Actor(s) for s in steps]
        blocked: set[int] = set()
        turn = 0
        while True:
            able = [n for n, actor in enumerate(actors) if not actor.ended and n not in blocked]
            if not able:
                break
            at_rest = [n for n in able if actors[n].at in quiet]
            if turn == len(order):
                if not at_rest:
                    unseen += [[*order, other] for other in able[1:]]
                order = [*order, (at_rest or able)[0]]
            _step(actors, order[turn], blocked)
            turn += 1
        if not all(actor.ended for actor in actors):
            raise Broken(f"actors wait for each other: {order}")
        world.check()
        yield world


def _step(actors: list[Actor], number: int, blocked: set[int]) -> None:
    """One step. Who waits is able again once another has done something."""
    actor = actors[number]
    waited = actor.at == "wait"
    actor.step()
    waits = actor.at == "wait" and not actor.ended
    if not (waited and waits):
        blocked.clear()
    if waits:
        blocked.add(number)
