"""Where a client's connection stands: the words of its state machine, whose steps are
`client_connection`'s."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    HEAD = "head"
    """Between two requests, or within a head."""
    BODY = "body"
    """An exchange runs, and its body is still coming."""
    ANSWER = "answer"
    """An exchange runs, and its request is here."""
    TUNNEL = "tunnel"
    DEAF = "deaf"
    """Nothing more will be answered here; what comes is thrown away."""
