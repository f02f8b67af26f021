"""What the parts of a decision are fed in tests: replicas by what they use, at one instant."""

from __future__ import annotations

from typing import Any

from autoscale.model import Fleet, Path, Signal, Way
from autoscale.parts.reading import Reading, read
from autoscale.signals import Signals

NOW = 1000.0
COLD = (Way(Path.COLD, 10.0),)


def replicas(*utilisations: float | None, now: float = NOW, **others: Any) -> Signals:
    """They serve; None: no sample of that one."""
    names = tuple(f"web-{i}" for i in range(len(utilisations)))
    cpu = {
        name: Signal(name, now, used, used, used, None, 1.0)
        for name, used in zip(names, utilisations, strict=True)
        if used is not None
    }
    return Signals(cpu=cpu, serving=names, **others)


def reading(*utilisations: float | None, now: float = NOW) -> Reading:
    return read(replicas(*utilisations, now=now), 2.5, now)


def fleet(ready: int = 1, booting: int = 0, **others: Any) -> Fleet:
    return Fleet("web", ready=ready, booting=booting, existing=ready + booting, **others)
