"""Which hosts hold a saved guest that replicas can be copied from, and where one has to be made.

Owns what is known of saved guests: their keys by host, and which hosts cannot start copies at all.
It must not save, restore or start anything: that is the fleet's.
"""

from __future__ import annotations

from collections.abc import Collection

from autoscale.vm import BootFiles, VmShape

OF = "~"
"""Between the two parts of a key; no name of a service has it."""

RETRY_S = 600.0
"""So long after one could not be made, or not be used, the same is tried again; another image or
shape at once."""

ASK_AGAIN_S = 600.0
"""So long what a host said it has is believed."""


def key_of(service: str, files: BootFiles, shape: VmShape) -> str:
    """Image and shape: a copy has the memory, the vCPUs and the software of what was saved. And the
    service: each makes its own anew when its image changes, and no other's goes with the old one.
    """
    guest = f"{files.generation[:16]}-{shape.vcpus}x{shape.memory_mib}-{shape.app_port}"
    return f"{service}{OF}{guest}"


def service_of(key: str) -> str:
    """Whose replicas are started as copies of it."""
    return key.partition(OF)[0]


class Snapshots:
    """One service's view of the saved guests on all hosts. Mutable, and only `fleet` writes it."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}
        self._asked_at: dict[str, float] = {}
        self._not_before: dict[str, tuple[str, float]] = {}
        self._never: dict[str, str] = {}

    def found(self, host: str, keys: Collection[str], now: float) -> None:
        """What a host says it has. One that was no good stays so until it was made anew."""
        failed, _ = self._not_before.get(host, (None, now))
        self._keys[host] = frozenset(key for key in keys if key != failed)
        self._asked_at[host] = now

    def silent(self, host: str, now: float) -> None:
        """It did not say: what was known before counts."""
        self._keys.setdefault(host, frozenset())
        self._asked_at[host] = now

    def asked(self, host: str, now: float) -> bool:
        """Whether it was asked, and not too long ago: somebody may have cleaned up there."""
        return host in self._asked_at and now - self._asked_at[host] < ASK_AGAIN_S

    def knows(self, host: str) -> bool:
        """Whether it ever said."""
        return host in self._keys

    def made(self, host: str, key: str) -> None:
        """One was saved; those before it are gone."""
        self._keys[host] = frozenset({key})
        self._not_before.pop(host, None)

    def failed(self, host: str, key: str, now: float) -> None:
        """It could not be made, or not be used: another way has to do for a while."""
        self._keys[host] = self._keys.get(host, frozenset()) - {key}
        self._not_before[host] = key, now + RETRY_S

    def never(self, host: str, why: str) -> bool:
        """This host can start no copies. Returns whether that is news."""
        news = host not in self._never
        self._never[host] = why
        return news

    def has(self, host: str, key: str) -> bool:
        return host not in self._never and key in self._keys.get(host, frozenset())

    def to_make(self, hosts: Collection[str], key: str, now: float) -> str | None:
        """A host that could have one and has none; None where there is nothing to do."""
        for host in sorted(hosts):
            failed, not_before = self._not_before.get(host, (None, now))
            if (
                host not in self._never
                and self.knows(host)
                and key not in self._keys[host]
                and (failed != key or now >= not_before)
            ):
                return host
        return None
