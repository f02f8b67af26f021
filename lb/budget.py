"""How many retries are there room for? A share of the traffic, so that retries cannot double it.

When a whole fleet fails, every request would be sent `attempts` times to backends that are down
already; a budget holds that to a fifth more. Pure: the time is an argument.
"""

from __future__ import annotations

from typing import Final

from lb.config_service import RetryConfig
from lb.rolling import Rolling

WINDOW_S: Final = 10


class RetryBudget:
    """Retries of the last ten seconds ≤ budget × requests of these + ten × min_per_second.

    Finagle's and Linkerd's retry budget, with exact counts in place of their expiring tokens. With
    the defaults 60 requests/s leave room for 0.2 × 600 + 10 × 3 = 150 retries in ten seconds.
    Where the seconds of counting do not fall together with those asked about, it errs on the side
    of fewer: requests are counted over nine to ten seconds, retries over ten to eleven.
    """

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self._requests = Rolling(1.0, WINDOW_S)
        self._retries = Rolling(1.0, WINDOW_S + 1)

    def request(self, now: float) -> None:
        """A request was sent for the first time; its retries are not told here."""
        self._requests.add(now)

    def allow(self, now: float) -> bool:
        """Whether one more retry is in the budget; if so it is taken off it."""
        config = self.config
        room = config.budget * self._requests.total(now) + config.min_per_second * WINDOW_S
        if self._retries.total(now) + 1 > room:
            return False
        self._retries.add(now)
        return True
