"""What is asked of a guest's agent, and where its socket is."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from autoscale.agent import AgentSockets, time_of, wake_command
from autoscale.embedded import LONGEST_SOCKET_PATH


def test_the_words_that_wake_a_copy() -> None:
    asked = json.loads(wake_command("web-b", bytes(range(32))))
    assert asked["execute"] == "lbctl-wake"
    assert asked["arguments"]["name"] == "web-b"
    assert base64.b64decode(asked["arguments"]["seed"]) == bytes(range(32))
    assert set(asked["arguments"]) == {"name", "seed"}


def test_a_wall_clock_in_libvirts_two_parts() -> None:
    assert time_of(1_700_000_000_123_456_789) == {"seconds": 1_700_000_000, "nseconds": 123_456_789}


def test_a_socket_has_a_folder_only_we_may_enter(tmp_path: Path) -> None:
    sockets = AgentSockets(tmp_path / "agent")
    path = Path(sockets.prepare("web-1"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text("")
    sockets.remove("web-1")
    sockets.remove("web-1")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("too_many", "fits"), [(0, True), (1, False)])
def test_a_folder_too_deep_for_sockets_is_told_before_any_guest(too_many: int, fits: bool) -> None:
    name = "service-abcd-3f9a11"  # the longest there is
    folder = Path("/" + "x" * (LONGEST_SOCKET_PATH - 2 - len(name) + too_many))
    assert AgentSockets(folder).fit == fits
    if not fits:
        assert AgentSockets(folder).prepare(name) == "", "a guest does without, and boots"
