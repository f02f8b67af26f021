"""VMs that no service owns: each is told of once, shown while it is there, and never touched."""

from __future__ import annotations

from autoscale.domain_xml import Identity
from autoscale.model import Happening, Reason
from lb.strays import Strays
from tests.fakes import OURS, FakeClock, FakeHypervisor, Saved


def identity(service: str, instance: str = OURS) -> Identity:
    return Identity(
        instance=instance, service=service, generation="c" * 64, app_port=8080, cpu_limit=1.0,
        created_at=0.0,
    )  # fmt: skip


class Place:
    """One host with VMs, and who looks at it."""

    def __init__(self, *services: str) -> None:
        self.host = FakeHypervisor(FakeClock())
        self.served = {"web"}
        self.told: list[Happening] = []
        self.strays = Strays({"local": self.host}, lambda: self.served, self.told.append)
        for service in services:
            self.host.add_foreign(f"{service}-1", identity(service))

    def shown(self) -> list[str]:
        return [row.name for row in self.strays.rows()]


async def test_each_is_told_of_once_and_shown() -> None:
    place = Place("web", "api")
    place.host.add_foreign("other", identity("api", instance="another lbctl's"))
    place.host.add_foreign("nobody's")
    assert place.shown() == []
    for _ in range(2):
        await place.strays.look()
    (happening,) = place.told
    assert (happening.kind, happening.service, happening.subject) == ("vm.stray", "api", "api-1")
    assert happening.reason is Reason.UNKNOWN_SERVICE
    assert "[service.api.vm]" in happening.message
    (row,) = place.strays.rows()
    assert (row.name, row.service, row.state, row.host) == ("api-1", "api", "stray", "local")
    assert row.libvirt_state == "running"
    assert place.strays.services == {"api"}
    assert {verb for verb, _ in place.host.calls} == {"observe"}


async def test_what_was_saved_for_a_service_that_is_no_more_goes() -> None:
    place = Place()
    place.host.guests = {"web~1": Saved("web-a", 1), "api~1": Saved("api-a", 1)}
    await place.strays.look()
    assert set(place.host.guests) == {"web~1"}


async def test_one_whose_service_is_configured_is_none_any_more() -> None:
    place = Place("api")
    await place.strays.look()
    place.served.add("api")
    assert place.shown() == []
    place.served.remove("api")
    del place.host.domains["api-1"]
    await place.strays.look()
    assert place.shown() == []


async def test_a_host_that_does_not_answer_shows_what_it_showed() -> None:
    place = Place("api")
    await place.strays.look()
    place.host.unreachable = True
    await place.strays.look()
    assert place.shown() == ["api-1"]
