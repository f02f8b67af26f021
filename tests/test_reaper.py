"""Guests that die are let go of at once, other processes are left to whoever started them.

In processes of their own: whoever adopts orphans does so for good.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoscale import reaper

USE = f"import {reaper.__name__} as reaper"
BEGINNING = """
import os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])

def orphan():
    '''One that sleeps, its parent gone, in a session of its own: a daemon.'''
    shell = ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]
    said = subprocess.run(shell, stdout=subprocess.PIPE, start_new_session=True).stdout
    return int(said)

def gone(pid):
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > until:
            sys.exit(f"{pid} is still there")
        time.sleep(0.01)
"""


def run(folder: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", USE + BEGINNING + script, folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_guest_that_dies_is_adopted_and_let_go_of(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
reaper.guests.watch(folder)
guest = orphan()
(folder / "web-1.pid").write_text(f"{guest}\\n")
ours = int(open(f"/proc/{guest}/stat").read().rpartition(")")[2].split()[1]) == os.getpid()
os.kill(guest, signal.SIGKILL)
gone(guest)
print(ours)
""",
    )
    assert said == "True"


def test_another_orphan_is_let_go_of_too_and_the_next_guest_after_it(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
reaper.guests.watch(folder)
stranger, guest = orphan(), orphan()
(folder / "web-1.pid").write_text(str(guest))
os.kill(stranger, signal.SIGKILL)
os.kill(guest, signal.SIGKILL)
gone(stranger)
gone(guest)
""",
    )


def test_an_orphan_does_not_wait_for_a_dead_leader_of_a_session(tmp_path: Path) -> None:
    """As QEMU leaves two: who led the session is not known to be an orphan, the daemon is."""
    run(
        tmp_path,
        """
reaper.guests.watch(folder)
daemon = "import os, sys; os.setsid(); pid = os.fork(); pid and print(pid);"
daemon += "pid or os.execvp('sleep', ['sleep', '1000'])"
for _ in range(2):
    leader = subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE)
    orphan = int(leader.stdout.readline())
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    os.kill(orphan, signal.SIGKILL)
    gone(orphan)
""",
    )


def test_a_dead_one_that_nobody_ever_waits_for_goes_in_the_end(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
now = 0.0
there = reaper.Reaper(lambda seconds: None, lambda: now)
leader = subprocess.Popen(["true"], start_new_session=True)
os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
for now in (0.0, reaper.GRACE_S - 1, reaper.GRACE_S):
    there.turn()
    print(os.path.exists(f"/proc/{leader.pid}"), end=" ")
""",
    )
    assert said == "True True False"


def test_whoever_waits_for_his_own_child_gets_its_exit_code(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
reaper.guests.watch(folder)
print([subprocess.run(["sh", "-c", f"exit {n}"]).returncode for n in range(20)])
""",
    )
    assert said == str(list(range(20)))


@pytest.mark.parametrize("own_session", [False, True])
def test_whoever_waits_late_gets_it_too_and_no_guest_waits_for_him(
    tmp_path: Path, own_session: bool
) -> None:
    said = run(
        tmp_path,
        f"""
reaper.guests.watch(folder)
ours = [subprocess.Popen(["sh", "-c", f"exit {{n}}"], start_new_session={own_session})
        for n in range(3)]
for one in ours:
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
for number in range(3):
    guest = orphan()
    (folder / "web.pid").write_text(str(guest))
    os.kill(guest, signal.SIGKILL)
    gone(guest)
print([one.wait() for one in ours])
""",
    )
    assert said == "[0, 1, 2]"


@pytest.mark.parametrize("folders", [1, 2])
def test_every_folder_counts(tmp_path: Path, folders: int) -> None:
    run(
        tmp_path,
        f"""
reaper.is_orphan = lambda pid: False  # only guests
for number in range({folders}):
    (folder / str(number)).mkdir()
    reaper.guests.watch(folder / str(number))
for number in range({folders}):
    guest = orphan()
    (folder / str(number) / "web.pid").write_text(str(guest))
    (folder / str(number) / "broken.pid").write_bytes(b"\\xff")
    (folder / str(number) / "group.pid").write_text("-1")
    os.kill(guest, signal.SIGKILL)
    gone(guest)
""",
    )
