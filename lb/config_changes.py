"""What a new configuration changes, in sentences for an operator, and what of it has to wait.

Pure. Compares two configurations key by key; `service` puts the new one in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from lb.config import Config, ServiceConfig

SHORT: Final = 60
"""Characters of a value that are shown; a longer one has simply changed."""


@dataclass(frozen=True, slots=True)
class Changes:
    """One sentence each."""

    made: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    """For a restart."""


def changes(old: Config, new: Config, *, hosts_open: bool) -> Changes:
    """From `old`, in force, to `new`. `hosts_open`: there are connections to hypervisors; they
    stay as they are."""
    fixed = {"workers"}
    made = [
        *_diff("proxy", _values(old.proxy, fixed), _values(new.proxy, fixed)),
        *_services(old, new),
    ]
    if old.route != new.route:
        made.append(f"routes: {len(old.route)} before, {len(new.route)} now")
    waiting = [
        f"{sentence}: needs a restart"
        for sentence in (
            *_diff("admin", _values(old.admin), _values(new.admin)),
            *_diff("proxy", {"workers": old.proxy.workers}, {"workers": new.proxy.workers}),
            *(["hypervisor changed"] if hosts_open and old.hypervisor != new.hypervisor else []),
        )
    ]
    return Changes(tuple(made), tuple(waiting))


def _services(old: Config, new: Config) -> Iterator[str]:
    for name in old.service:
        if name not in new.service:
            ended = " and its VMs are retired" if old.service[name].vm is not None else ""
            yield f"service {name} leaves: its requests finish{ended}"
    for name, part in new.service.items():
        before = old.service.get(name)
        if before is None:
            yield f"service {name} is new"
        else:
            yield from _service(f"service.{name}", before, part)


def _service(where: str, old: ServiceConfig, new: ServiceConfig) -> Iterator[str]:
    before = {backend.address: backend.weight for backend in old.backends}
    after = {backend.address: backend.weight for backend in new.backends}
    for address, weight in after.items():
        if address not in before:
            yield f"{where}: backend {address} joins"
        elif before[address] != weight:
            yield f"{where}: backend {address} weighs {weight}, not {before[address]}"
    yield from (f"{where}: backend {address} leaves" for address in before if address not in after)
    if old.vm is not None and new.vm is None:
        yield f"{where}: it has no VMs any more, those there are retire"
    elif old.vm is None and new.vm is not None:
        yield f"{where}: it gets VMs"
    told = {"backends", "vm", *({"scale"} if (old.vm is None) != (new.vm is None) else ())}
    yield from _diff(where, _values(old, told), _values(new, told))
    if old.vm is not None and new.vm is not None:
        for sentence in _diff(f"{where}.vm", _values(old.vm), _values(new.vm)):
            yield sentence if "_timeout" in sentence else f"{sentence}, for new VMs"


def _values(table: Any, without: set[str] | None = None) -> dict[str, Any]:
    return dict(table.model_dump(mode="json", exclude=without))


def _diff(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _diff(f"{where}.{key}", before, after)
            continue
        if _are_tables(before) and _are_tables(after):
            yield from _diff_of_tables(f"{where}.{key}", before, after)
            continue
        texts = _text(before), _text(after)
        if max(map(len, texts)) > SHORT:
            yield f"{where}.{key} changed"
        else:
            yield f"{where}.{key}: {texts[0]} → {texts[1]}"


def _are_tables(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _diff_of_tables(
    where: str, old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> Iterator[str]:
    """Repeated tables have no names: by number where there are as many, and else how many."""
    if len(old) != len(new):
        yield f"{where}: {len(old)} before, {len(new)} now"
        return
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        yield from _diff(f"{where}.{number}", before, after)


def _text(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
