"""A world whose replicas answer requests, well or badly by the image they run; and its rollouts."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from autoscale.host import ImageUnavailable
from autoscale.model import Answers
from autoscale.rollout import Rollout
from autoscale.rules import Mode, Override, Rules
from autoscale.vm import BootFiles, VmShape
from lb.latency import BOUNDS_S
from tests.world import FILES, World, rules, shape

OLD, NEW = "generation-1", "generation-2"


def fixed(count: int, high: int = 4) -> Rules:
    """So many, whatever the load."""
    return rules(0, high, override=Override(Mode.FIXED, count, None))


class RolloutWorld(World):
    """`old` is what the configuration names; `new` is another image beside it."""

    def __init__(
        self, wanted: Rules | None = None, *, vm: VmShape | None = None, **more: Any
    ) -> None:
        self.rate = 20.0
        """Requests a second, spread evenly over whoever serves."""
        self.bad: dict[str, float] = {}
        """By generation, the share of requests that fail."""
        self.seconds: dict[str, float] = {}
        """By generation, how long an answer takes; 0.05 where nothing is said."""
        self.gone: set[str] = set()
        """Images that were removed."""
        self.least = 99
        """The fewest that ever served since it was set."""
        super().__init__(wanted or fixed(3), vm=vm or shape(image="old"), **more)
        self.images = {"old": FILES, "new": replace(FILES, generation=NEW)}

    def _files(self, image: str) -> BootFiles:
        if image in self.gone:
            raise ImageUnavailable(f"no image {image!r}")
        return super()._files(image)

    async def tick(self) -> None:
        self._answer()
        await super().tick()
        self.least = min(self.least, len(self.pool.available))

    def _answer(self) -> None:
        serving = [backend.name for backend in self.pool.available]
        for name in serving:
            domain, before = self.domain(name), self.answers.get(name, Answers())
            if domain is None or domain.identity is None:
                continue  # it crashed, and the pool does not know yet
            generation = domain.identity.generation
            many = max(1, round(self.rate / len(serving))) if self.rate else 0
            counts = list(before.durations or (0,) * (len(BOUNDS_S) + 1))
            counts[bisect_left(BOUNDS_S, self.seconds.get(generation, 0.05))] += many
            bad = round(self.bad.get(generation, 0.0) * many)
            self.answers[name] = Answers(
                before.asked + many, before.bad + bad, tuple(counts), BOUNDS_S
            )

    async def restart(self) -> None:
        self.answers.clear()  # the proxy counts from 0 again
        await super().restart()

    def begin(self, image: str = "new", **changes: Any) -> None:
        files = self.images[image]
        self.fleet.turnover.begin(
            Rollout("old", self.standing, image, files.generation, 1.7e9, **changes)
        )

    @property
    def standing(self) -> str:
        return self.fleet.turnover.image("old")

    @property
    def phase(self) -> str:
        rollout = self.fleet.turnover.rollout
        return rollout.phase.value if rollout is not None else ""

    def generations(self) -> list[str]:
        """Of those that serve or will, in order."""
        found = (self.fleet.get(status.name) for status in self.fleet.statuses())
        return sorted(vm.generation for vm in found if vm is not None and vm.serves_or_will)

    async def settled(self, count: int) -> None:
        await self.until(lambda: len(self.pool.available) == count)
        self.least = 99

    def rebuild(self, image: str, generation: str) -> None:
        self.images[image] = replace(self.images[image], generation=generation)

    def words(self, kind: str) -> list[str]:
        return [note.message for note in self.notes if note.kind == kind]
