"""What is remembered of domains: whatever one thread wrote, another's older view never undoes."""

from __future__ import annotations

from autoscale.domain_xml import Identity
from autoscale.known import Known, KnownDomains

OURS = Known("web-1", Identity("ours", "web", "g", 8080, 0.4, 1.0))
THEIRS = Known("database", None)


def test_a_limit_set_during_a_listing_stands() -> None:
    known = KnownDomains()
    known.learn("u1", OURS)
    seen = {"u1": OURS, "u2": THEIRS}
    known.change("u1", limit_cores=0.4)
    known.listed(seen)
    found = known.get("u1")
    assert found is not None
    assert found.limit_cores == 0.4


def test_who_is_not_listed_any_more_is_forgotten() -> None:
    known = KnownDomains()
    known.learn("u1", OURS)
    known.listed({"u2": THEIRS})
    assert known.get("u1") is None
    known.change("u1", limit_cores=0.1)
    assert known.get("u1") is None, "nothing is known of it: the next listing reads it"
    known.forget()
    assert known.get("u2") is None


def test_only_what_is_known_to_be_somebody_elses_is_foreign() -> None:
    known = KnownDomains()
    known.listed({"u1": OURS, "u2": THEIRS})
    assert [known.is_foreign(u) for u in ("u1", "u2", "u3")] == [False, True, False]
