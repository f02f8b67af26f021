"""The tables of `bench reaction`: medians and worst rounds, for a terminal and for a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.parts.reaction_figures import TARGETS, Rounds, seconds, values

BEGIN, END = "<!-- bench reaction: begin -->", "<!-- bench reaction: end -->"
BY = {
    "standby": "a standby is woken",
    "wake": "a standby is woken, without any load",
    "snapshot": "a saved guest is copied",
    "cold": "one boots",
}
OVERLOAD = {
    "decided": "onset → decision",
    "answered": "decision → first answer",
    "relief": "onset → relief",
}
KILL = {
    "ejected": "kill -9 → out of the pool",
    "replaced": "kill -9 → replaced",
    "started": "call → first answer",
}
EC2 = (
    ("EC2 Auto Scaling, from its warm pool", "36 s"),
    ("EC2 Auto Scaling, a cold instance", "243 s"),
)
"""AWS's own figures: from the launch until the instance serves."""


def page(rounds: Rounds, capacities: Mapping[str, float], unix: float) -> str:
    """Markdown: every table with its rounds and targets, and when that was measured."""
    day = time.strftime("%Y-%m-%d", time.gmtime(unix))
    served = ", ".join(f"{rate:.0f}/s ({way})" for way, rate in capacities.items())
    published = [[who, "", "", took, ""] for who, took in EC2]
    return "\n\n".join(
        [
            f"Measured on {day}; one replica served {served}. Each figure is the median, in"
            " brackets the worst round.",
            "An overload, and the way that help comes:",
            "\n".join([_rows(OVERLOAD, rounds, "overload"), *map(_line, published)]),
            "A killed replica, the only one, and the way that another comes:",
            _rows(KILL, rounds, "kill"),
            "The targets:",
            _targets(rounds),
        ]
    )


def table(rounds: Rounds) -> str:
    """The same without its frame."""
    parts = [_rows(OVERLOAD, rounds, "overload"), _rows(KILL, rounds, "kill")]
    return "\n\n".join([*parts, _targets(rounds)])


def write(into: Path, tables: str) -> None:
    """Put the tables between the page's markers."""
    text = into.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"reaction: {into} has no lines {BEGIN} and {END}")
    into.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


def _rows(columns: Mapping[str, str], rounds: Rounds, kind: str) -> str:
    lines = [["way", "rounds", *columns.values()], ["---", *["--:"] * (len(columns) + 1)]]
    for way, words in BY.items():
        found = [values(rounds, f"{kind}.{way}.{name}") for name in columns]
        if found[0]:
            cells = [f"{seconds(median(f))} ({seconds(max(f))})" for f in found]
            lines.append([words, str(len(found[0])), *cells])
    return "\n".join(map(_line, lines))


def _targets(rounds: Rounds) -> str:
    lines = [["target", "at most", "measured", "rounds"], ["---", "--:", "--:", "--:"]]
    for target in TARGETS:
        found = values(rounds, target.of)
        if found:
            measured = seconds(target.value(found))
            lines.append([target.what, seconds(target.seconds), measured, str(len(found))])
    return "\n".join(map(_line, lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
