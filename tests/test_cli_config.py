"""lbctl with files: configurations, images, the home folder; and how figures read."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lb.config
import lb.home
from autoscale.rollout import Rollout
from guest import image as guest_image
from lb import figures
from lb.admin.control import RefusedError
from lb.commands import render
from lb.commands.config import to_toml
from lb.config import parse_config
from tests import cli_harness, disks
from tests.cli_harness import lbctl, says
from tests.fake_control import VM, FakeControl

home, control = cli_harness.home, cli_harness.control


# ── configuration, images, log ───────────────────────────────────────────────────────────────────


def test_config_check(tmp_path: Path) -> None:
    assert lbctl("config", "check").exit_code == 0
    file = tmp_path / "lb.toml"
    file.write_text('[proxy]\nlisten = "here"\n')
    assert "proxy.listen" in says(lbctl("config", "check", "-c", str(file)), 2)
    assert "proxy.listen" in says(lbctl("up", "-c", str(file)), 2)
    file.write_text("[proxy\n")
    assert "not valid TOML" in says(lbctl("config", "check", "-c", str(file)), 2)
    assert "cannot read" in says(lbctl("config", "check", "-c", str(tmp_path / "none")), 2)


def test_config_check_reads_the_files_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text('[service.web.error_pages]\n503 = "busy.html"')
    said = says(lbctl("config", "check", "-c", str(path)), 2)
    assert said.startswith(f"{path}: service.web.error_pages.503: cannot read")
    (tmp_path / "busy.html").touch()
    assert lbctl("config", "check", "-c", str(path)).exit_code == 0
    path.write_text('[proxy]\ntls = {cert = "a.pem", key = "a.key"}')
    assert "a.pem" in says(lbctl("config", "check", "-c", str(path)), 2)


def test_the_shown_config_is_the_config(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(
        '[[hypervisor]]\nname = "a"\n[[hypervisor]]\nname = "b"\nuri = "qemu:///system"\n'
        '[service.my-app]\nbackends = ["h:1"]\n[service.my-app.vm]\n'
        "[service.my-app.scale]\nmax = 7\ngrow_limit = {percent = 10}\n"
        "[[service.my-app.scale.step]]\ncpu_above = 0.9\nadd = 2\n"
        "[[service.my-app.scale.schedule]]\nstart = '0 8 * * *'\nend = '0 9 * * *'\nreplicas = 3\n"
    )
    for args in ((), ("-c", str(file))):
        shown = parse_config(tomllib.loads(lbctl("config", "show", *args).stdout))
        assert shown == lb.config.load_config(file if args else None)
        as_json = json.loads(lbctl("config", "show", "--json", *args).stdout)
        assert parse_config(as_json) == shown


WHOLE = """
[proxy]
listen = ["127.0.0.1:8080", "[::1]:8080"]
trusted_proxies = ["10.0.0.0/8"]
tls = {cert = "a.pem", key = "a.key"}
[[hypervisor]]
[[service.web.backends]]
address = "a:1"
weight = 3
[[service.web.backends]]
address = "b:1"
[service.web]
policy = "consistent_hash"
hash = {by = "header", name = "X-User"}
error_pages = {"503" = "busy.html", "5xx" = "é\\u007f😀.html"}
[service.web.sticky]
max_age = "1h"
[service.api]
retry = {on_status = [502, 503]}
[service.api.vm]
[[route]]
host = "*.example.org"
service = "web"
[[route]]
host = "api.example.org"
path = "/v1"
service = "api"
timeouts = {whole = "5s"}
request = {remove = ["X-Debug"], set = {"X-A" = "1"}}
[[route]]
path = "/old"
redirect = "https://new.example.org{path}"
"""


def test_a_whole_config_is_shown_as_one_that_means_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(WHOLE, encoding="utf-8")
    meant = lb.config.load_config(file)
    for args, read in (((), tomllib.loads), (("--json",), json.loads)):
        shown = lbctl("config", "show", "-c", str(file), *args)
        assert shown.exit_code == 0
        again = parse_config(read(shown.stdout))
        assert again.service == meant.service
        assert again.route == meant.route
        assert again.hypervisor == meant.hypervisor
        assert again.proxy.listen == meant.proxy.listen


_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_plain = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | _words
_tables = st.recursive(
    st.dictionaries(_words, _plain | st.lists(_plain, max_size=3) | st.none(), max_size=3),
    lambda inner: st.dictionaries(
        _words, _plain | inner | st.lists(inner, min_size=1, max_size=3), max_size=3
    ),
    max_leaves=8,
)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


@given(_tables.filter(lambda values: "inf" not in repr(values)))
def test_toml_text_reads_back_whatever_it_holds(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == _without_none(values)


def test_config_apply_sends_the_file_and_says_what_changed(
    control: FakeControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lb.toml"
    path.write_text('[service.api]\nbackends = ["127.0.0.1:1"]')
    monkeypatch.chdir(tmp_path)
    result = lbctl("config", "apply", "-c", "lb.toml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "service api is new", "admin changed: needs a restart", "applied",
    ]  # fmt: skip
    text, folder, dry_run = control.applied.pop()
    assert (text or "").rstrip() == path.read_text()
    assert (folder, dry_run) == (tmp_path, False)

    result = lbctl("config", "apply", "-c", "lb.toml", "--dry-run", "--json")
    answer = json.loads(result.stdout)
    assert (answer["dry_run"], answer["changes"]) == (True, ["service api is new"])
    assert control.applied.pop()[2]
    assert "nothing was changed" in lbctl("config", "apply", "--dry-run").stdout
    assert control.applied.pop() == (None, None, True), "the file that it was started with"


def test_an_empty_file_is_no_missing_one(control: FakeControl, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").touch()
    assert lbctl("config", "apply", "-c", str(tmp_path / "lb.toml")).exit_code == 0
    assert control.applied.pop()[:2] == ("\n", tmp_path)


def test_config_apply_says_what_is_wrong(control: FakeControl, tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    assert "cannot read" in says(lbctl("config", "apply", "-c", str(path)), 2)
    path.write_text("[proxy]\nlisten = 1")
    assert "proxy.listen" in says(lbctl("config", "apply", "-c", str(path)), 2)
    path.write_text("")
    assert control.applied == []
    control.failure = lb.config.ConfigError("service.web.error_pages.503: cannot read x.html")
    assert says(lbctl("config", "apply", "-c", str(path)), 2) == f"{path}: {control.failure}"
    control.failure = RefusedError("127.0.0.1:80 is taken")
    assert says(lbctl("config", "apply", "-c", str(path)), 1) == "127.0.0.1:80 is taken"


def test_the_schema_is_one(home: Path) -> None:
    assert "proxy" in json.loads(lbctl("config", "schema").stdout)["properties"]


def make_image(home: Path, **facts: object) -> None:
    folder = home / "images" / "webapp"
    folder.mkdir(parents=True)
    for file in (guest_image.DISK, guest_image.KERNEL, guest_image.INITRD):
        (folder / file).write_bytes(b"x")
    known = {
        "name": "webapp",
        "cmdline": "ro",
        "checksum": "c" * 64,
        "recipe": guest_image.recipe(),
        "size_bytes": 404 * 1024 * 1024,
        "built_at": "2025-01-01T00:00:00+00:00",
        "boot_parts": {"kernel": 1.25, "units": 3.0},
    }
    (folder / guest_image.FACTS).write_text(json.dumps({**known, **facts}))


def test_images_are_listed_with_the_parts_of_their_boot(home: Path) -> None:
    assert "lbctl image build" in lbctl("image", "list").stderr
    make_image(home)
    (_, row) = lbctl("image", "list").stdout.splitlines()
    assert "404 MiB  cccccccccccc  yes" in row
    assert row.endswith("kernel 1.2 s, units 3.0 s")
    (as_json,) = json.loads(lbctl("image", "list", "--json").stdout)
    assert as_json["boot_parts"] == {"kernel": 1.25, "units": 3.0}
    assert as_json["current"] is True


def test_an_own_image_is_added_listed_and_removed(home: Path, tmp_path: Path) -> None:
    file, seed = tmp_path / "cloud.qcow2", tmp_path / "user-data"
    file.write_bytes(disks.qcow2(disks.boot_sector()))
    seed.write_text("#cloud-config\npassword: secret\n")
    make_image(home)
    (row,) = json.loads(
        lbctl("image", "add", "cloud", str(file), "--user-data", str(seed), "--json").stdout
    )
    assert (row["name"], row["kind"], row["path"]) == ("cloud", "own", str(file))
    both = lbctl("image", "list")
    assert [line.split()[:2] for line in both.stdout.splitlines()[1:]] == [
        ["cloud", "own"],
        ["webapp", "built"],
    ]
    assert str(file) in both.stdout
    assert "secret" not in both.stdout + lbctl("image", "list", "--json").stdout
    assert "--force" in says(lbctl("image", "add", "cloud", str(file)), 1)
    file.write_bytes(b"KDMV" + bytes(508))
    assert "no: add again" in lbctl("image", "list").stdout
    assert "qemu-img convert" in says(lbctl("image", "add", "new", str(file)), 1)
    file.unlink()
    assert "no: its file is gone" in lbctl("image", "list").stdout
    assert lbctl("image", "remove", "cloud").stdout == "image cloud is forgotten\n"
    assert "no image 'cloud'" in says(lbctl("image", "remove", "cloud"), 1)
    assert [one["name"] for one in json.loads(lbctl("image", "list", "--json").stdout)] == [
        "webapp"
    ]
    rollout = Rollout("webapp", "webapp", "webapp", "c" * 64, 1.0)
    (home / "rollouts.json").write_text(json.dumps({"web": asdict(rollout)}))
    told = says(lbctl("image", "remove", "webapp"), 1)
    assert "image 'webapp' is used by the rollout of web: --force removes it" in told
    assert (home / "images" / "webapp").is_dir()
    assert "are deleted" in lbctl("image", "remove", "webapp", "--force").stdout
    assert not (home / "images" / "webapp").exists()


def test_an_image_that_a_vm_runs_is_kept(home: Path, control: FakeControl) -> None:
    make_image(home)
    control.vm_rows = [replace(VM, image="c" * 12, image_name="webapp")]
    told = says(lbctl("image", "remove", "webapp"), 1)
    assert f"image 'webapp' is used by VM {VM.name}: --force removes it" in told
    control.vm_rows = []
    assert lbctl("image", "remove", "webapp").exit_code == 0


def test_an_image_that_cannot_be_built_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LBCTL_HOME", "/proc/none")
    result = lbctl("image", "build")
    assert result.exit_code == 1
    assert result.stderr.startswith("lbctl: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "x" * 33])
def test_an_image_is_named_like_everything_else(home: Path, name: str) -> None:
    for command in (("build", name), ("add", name, "file"), ("remove", name)):
        assert f"{name!r} is not a name" in says(lbctl("image", *command), 2)
    assert [file.name for file in home.iterdir()] == ["token"]


def test_a_home_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBCTL_HOME", "/proc/none")
    assert "set it to a folder you can write" in says(lbctl("up"), 1)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (render.span(4.2), "4s"),
        (render.span(65), "1m05s"),
        (render.span(3725), "1h02m"),
        (render.span(3 * 86400), "3d"),
        (figures.milliseconds(0.0123), "12.3 ms"),
        (figures.milliseconds(2.0), "2000 ms"),
        (render.size(10), "10 B"),
        (render.size(3 * 1024**3), "3.0 GiB"),
        (figures.percent(1.25), "125%"),
    ],
)
def test_how_figures_read(shown: str, expected: str) -> None:
    assert shown == expected
