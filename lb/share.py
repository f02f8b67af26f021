"""One worker's part of the limits that the configuration sets for all of them together. Pure.

A limit of 64 over three workers is 22, 21 and 21. No part is below 1, where the whole is not: a
backend that may run one request still gets it from each worker, so two workers make that two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lb.config import ProxyConfig, ServiceConfig


@dataclass(frozen=True, slots=True)
class Share:
    """Of worker `number`, from 0, of `of` workers."""

    number: int = 0
    of: int = 1

    def count(self, whole: int) -> int:
        """Its part of so many: rounded down, what is left over to the first ones; at least 1 of 1
        or more."""
        part, left = divmod(whole, self.of)
        return max(part + (self.number < left), min(whole, 1))

    def service(self, config: ServiceConfig) -> ServiceConfig:
        """The same with its part of what a backend runs at a time, and of the queue."""
        if self.of == 1:
            return config
        queue = config.queue.model_copy(update={"length": self.count(config.queue.length)})
        most = self.count(config.max_in_flight)
        return config.model_copy(update={"max_in_flight": most, "queue": queue})

    def proxy(self, config: ProxyConfig) -> ProxyConfig:
        """The same with its part of the connections, of clients and to backends. Those of one
        client are counted by each worker for itself: the kernel deals them out by chance, and a
        part of ten may be one too few while another worker has none."""
        if self.of == 1:
            return config
        most = self.count(config.limits.connections)
        return config.model_copy(
            update={
                "limits": config.limits.model_copy(update={"connections": most}),
                "upstream_connections": self.count(config.upstream_connections),
            }
        )


WHOLE: Final = Share()
"""Of one worker: all of it."""
