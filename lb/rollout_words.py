"""What is said of one service's rollout: how far it is, and whose image holds. Pure.

Owns the sentences of `lbctl rollout status`, and what stands where a rollout and the configuration
name different images. Who may order what is `scaler_rollout`'s.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from autoscale.rollout import Phase, Rollout

NO_IMAGE: Final = (
    "there is no image {image!r}: `lbctl image list` shows those there are;"
    " `lbctl image add` takes another"
)


def sentence(
    service: str,
    rollout: Rollout,
    new: int,
    old: int,
    booting: int,
    spared: Collection[str] = (),
    ahead: tuple[str, float] | None = None,
) -> str:
    """`new` and `old` serve, `booting` do not yet; `spared` are protected and have to leave;
    `ahead` is what happens without another step, and in how many seconds."""
    words = [_how_many(new, new + old, rollout.image_to)]
    if booting:
        words.append(f", {booting} {'boots' if booting == 1 else 'boot'}")
    if rollout.phase is Phase.RUNNING:
        if rollout.tries:
            words.append(", on trial")
        elif spared:
            words.append(f"; protected: {', '.join(spared)}")
        if ahead is not None:
            words.append(f"; {ahead[0]} {ahead[1]:.0f} s")
    elif rollout.phase is not Phase.DONE and rollout.why:
        words.append(f": {rollout.why}")
    if against := holds_against(service, rollout, rollout.configured):
        words.append(f"; {against}")
    return "".join(words)


def _how_many(new: int, all_: int, image: str) -> str:
    if not all_:
        return "no replica is in service"
    replicas = "replica" if all_ == 1 else "replicas"
    return f"{new} of {all_} {replicas} in service {'is' if new == 1 else 'are'} of {image}"


def holds_against(service: str, rollout: Rollout | None, configured: str) -> str:
    """That replicas are started from another image than is `configured`, and what to do about it;
    empty where they are not."""
    if rollout is None or rollout.configured != configured or rollout.image == configured:
        return ""
    put = f"put image = {rollout.image} into the configuration"
    held = f"image {rollout.image} holds against {configured} of the configuration"
    match rollout.phase:
        case Phase.RUNNING | Phase.PAUSED:
            # now it would end the rollout half-way
            put = f"put image = {rollout.next_image} into the configuration once this is done"
            back = f"lbctl rollout undo {service}" if rollout.can_go_back else ""
        case Phase.DONE if rollout.can_go_back and rollout.image_from == configured:
            back = f"lbctl rollout undo {service}"
        case _:
            back = f"lbctl rollout {service} --image {configured}"
    return f"{held}: {put}" + (f", or go back with `{back}`" if back else "")


def gone(service: str, image: str, configured: str, why: str = "") -> str:
    """Nothing can be started from `image`, which no configuration names; `why` where it is there
    and no good."""
    trouble = f"cannot be started from ({why})" if why else "is gone"
    return (
        f"image {image!r}, which a rollout gave `{service}`, {trouble}:"
        f" `lbctl rollout {service} --image {configured}`, or build it again"
    )
