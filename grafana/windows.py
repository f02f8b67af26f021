"""Before and after the last scale event, in PromQL alone.

`@` takes no expression, only a number or `start()` and `end()`. But the time of the last event is
itself a metric: taken `@ end()` it is the same at every point of a query, also within a subquery,
and comparing it with `time()` leaves of any expression the points of one window. So nothing needs
to be typed in, and with a time range that ends earlier an earlier event is the last one.
"""

from __future__ import annotations

from typing import Final

from grafana.promql import of_service

_EVENTS: Final = of_service("autoscaler_last_scale_timestamp_seconds", 'direction=~"$direction"')
EVENT: Final = f"scalar(max({_EVENTS} @ end()))"
_CLOCK: Final = "vector(time())"
_BEFORE: Final = f"({_CLOCK} >= {EVENT} - $window < {EVENT})"
_AFTER: Final = f"({_CLOCK} >= {EVENT} + $settle < {EVENT} + $settle + $window)"


def before(expression: str) -> str:
    """Its points in the `$window` seconds that end with the event."""
    return f"({expression}) and on () {_BEFORE}"


def after(expression: str) -> str:
    """Its points in the `$window` seconds that begin `$settle` seconds after the event."""
    return f"({expression}) and on () {_AFTER}"


def mean(windowed: str) -> str:
    """Of those points; for a query that is asked once, at the end. A point for each scrape:
    `$__interval` grows with the time shown, to five minutes at a day, where a window has none."""
    return f"avg_over_time(({windowed})[$__range:5s])"
