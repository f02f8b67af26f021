"""`lbctl` under cProfile, for the benchmarks only: `python -m bench.parts.profiled FILE up …`.

What it finds is in FILE once the program ends, for `pstats`. Everything takes two to three times as
long meanwhile, small functions more than that: it says where the time goes, not how much there is.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from pathlib import Path


def main() -> None:
    _, file, *sys.argv[1:] = sys.argv
    import lb.service  # noqa: F401 - imported before it counts
    from lb.cli import main as lbctl

    profile = cProfile.Profile()
    try:
        profile.runcall(lbctl)
    finally:
        profile.dump_stats(file)


def top(file: Path, lines: int = 25) -> list[str]:
    """The functions that had most time of their own: share, seconds, calls, where."""
    found: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    found = vars(pstats.Stats(str(file)))["stats"]
    total = sum(own for _, _, own, _, _ in found.values()) or 1.0
    ranked = sorted(found.items(), key=lambda item: -item[1][2])[:lines]
    return [
        f"{own / total:6.1%} {own:7.2f} s {calls:>10}  {Path(path).name}:{line} {name}"
        for (path, line, name), (_, calls, own, _, _) in ranked
    ]


if __name__ == "__main__":
    main()
