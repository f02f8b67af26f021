"""The errors a user sees, each one line; the command line alone turns them into exit codes."""

from __future__ import annotations


class LoadtestError(Exception):
    """It failed: exit code 1."""

    exit_code = 1


class InputError(LoadtestError):
    """What was given cannot be used (plan, URL, header, file): exit code 2, nothing was sent."""

    exit_code = 2


class PlanError(InputError):
    """A plan that does not parse or cannot be sent; the message says which part of it."""


class ShiftError(LoadtestError):
    """A shift the running test refuses: unknown phase, rate out of range, already over."""
