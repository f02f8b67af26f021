"""Since when has at least so much been asked for? Pure and immutable.

A flight of steps: for each level the time since which the figure never was below it. One structure
answers both questions of a planner: what was asked for all through the last seconds (growing), and,
with the sign turned, what was never exceeded in the last minute (shrinking).
"""

from __future__ import annotations

from typing import NamedTuple


class Sustained(NamedTuple):
    """`steps` are (level, since), both ascending: at most one a level, so bounded by the levels
    there are, however long it goes on."""

    steps: tuple[tuple[int, float], ...] = ()

    def add(self, level: int, at: float) -> Sustained:
        """One more figure. Those above it have ended; it has lasted as long as the lowest of them.

        With 1, 1, 3, 2 at seconds 1 to 4: at least 1 since second 1, at least 2 since second 3.
        """
        steps = self.steps
        if not steps or steps[-1][0] < level:
            return Sustained((*steps, (level, at)))
        if steps[-1][0] == level:
            return self
        first = next(i for i, step in enumerate(steps) if step[0] >= level)
        return Sustained((*steps[:first], (level, steps[first][1])))

    def at_least(self, since: float) -> int | None:
        """The highest level that lasts since then, or longer; None where nothing does."""
        found = None
        for level, began in self.steps:
            if began > since:
                break
            found = level
        return found

    def began(self, level: int) -> float | None:
        """Since when it has been at least `level`; None where it is not."""
        for step, began in self.steps:
            if step >= level:
                return began
        return None
