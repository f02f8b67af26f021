"""A name for the user's own file: added, listed, replaced, forgotten, and never written to."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from guest import image as built_image
from guest.image import ImageError
from guest.own import image as own_image
from guest.own.image import LARGEST_USER_DATA, OwnImage, add, everything, find, remove
from tests import disks
from tests.disks import MIB, boot_sector


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloud.qcow2"
    path.write_bytes(disks.qcow2(boot_sector(), virtual=8 * MIB))
    return path


def quiet(_what: str, _done: float) -> None:
    pass


def seed(folder: Path, text: str | bytes = "#cloud-config\n") -> Path:
    path = folder / "user-data"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def build(home: Path, name: str) -> None:
    """What `guest.image` finds, without building it."""
    folder = home / "images" / name
    folder.mkdir(parents=True)
    for part in (built_image.DISK, built_image.KERNEL, built_image.INITRD):
        (folder / part).touch()
    image = built_image.Image(
        name, folder, folder, folder, folder, "quiet", "c", "r", 1, "2026-01-01", {}
    )
    (folder / built_image.FACTS).write_text(json.dumps(built_image.to_facts(image)))


def test_an_image_refers_to_the_file_where_it_lies(home: Path, file: Path, tmp_path: Path) -> None:
    before = file.read_bytes(), file.stat().st_mtime_ns
    said: list[float] = []
    added = add("cloud", file, home, lambda _, done: said.append(done), user_data=seed(tmp_path))
    assert added.disk.path == str(file)
    assert (added.disk.format, added.virtual_bytes) == ("qcow2", 8 * MIB)
    assert added.size_bytes == file.stat().st_size
    assert added.checksum == hashlib.sha256(file.read_bytes() + b"#cloud-config\n").hexdigest()
    assert find(home, "cloud") == added
    assert said == sorted(said)
    assert said[-1] == 1.0
    assert [path.name for path in (home / "images").iterdir()] == ["cloud"]
    facts = home / "images" / "cloud" / own_image.FACTS
    assert facts.stat().st_mode & 0o077 == 0, "user-data may hold a password"
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_another_user_data_is_another_generation(home: Path, file: Path, tmp_path: Path) -> None:
    one = add("a", file, home, quiet, user_data=seed(tmp_path))
    other = add("b", file, home, quiet, user_data=seed(tmp_path, "#!/bin/sh\n"))
    assert len({one.checksum, other.checksum, add("c", file, home, quiet).checksum}) == 3


def test_a_file_below_counts_too(home: Path, file: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.write_bytes(disks.qcow2_over(str(file)))
    added = add("cloud", top, home, quiet)
    assert [layer.path for layer in added.layers] == [str(top), str(file)]
    os.utime(file, ns=(1, 1))
    with pytest.raises(ImageError, match=r"cloud\.qcow2 has changed since it was added"):
        find(home, "cloud")


def test_a_file_that_changed_or_went_says_how_to_add_it_anew(
    home: Path, file: Path, tmp_path: Path
) -> None:
    words = seed(tmp_path)
    add("cloud", file, home, quiet, user_data=words)
    again = f"run `lbctl image add cloud {file} --user-data {words} --force`"
    os.utime(file, ns=(1, 1))
    with pytest.raises(ImageError) as caught:
        find(home, "cloud")
    assert str(caught.value) == f"image 'cloud': {file} has changed since it was added: {again}"
    (listed,) = everything(home)
    assert isinstance(listed, OwnImage), "it is listed all the same"
    assert listed.trouble() == str(caught.value)
    file.unlink()
    with pytest.raises(ImageError) as caught:
        find(home, "cloud")
    assert str(caught.value) == (
        f"image 'cloud': {file} is not there: put it back, or run"
        " `lbctl image add cloud FILE --force` with another"
    ), "what is gone cannot be added"


@pytest.mark.parametrize("url", ["https://cloud.debian.org/a.qcow2", "file:///a.qcow2"])
def test_a_url_is_to_be_downloaded_first(home: Path, url: str) -> None:
    with pytest.raises(ImageError, match="not a URL: download it first"):
        add("cloud", Path(url), home, quiet)


def test_a_name_is_taken_until_it_is_forced(home: Path, file: Path, tmp_path: Path) -> None:
    first = add("cloud", file, home, quiet)
    with pytest.raises(ImageError, match="--force"):
        add("cloud", file, home, quiet)
    second = add("cloud", file, home, quiet, user_data=seed(tmp_path), force=True)
    assert find(home, "cloud") == second != first
    assert [path.name for path in (home / "images" / "cloud").iterdir()] == [own_image.FACTS]


def test_a_replacement_that_fails_leaves_the_one_before(home: Path, file: Path) -> None:
    first = add("cloud", file, home, quiet)
    (file.parent / "bad").write_bytes(b"KDMV" + bytes(2000))
    with pytest.raises(ImageError, match="VMDK"):
        add("cloud", file.parent / "bad", home, quiet, force=True)
    assert find(home, "cloud") == first


def test_an_own_image_that_cannot_be_read_is_replaced_by_force(home: Path, file: Path) -> None:
    add("cloud", file, home, quiet)
    facts = home / "images" / "cloud" / own_image.FACTS
    for broken in ("{}", "[]", "not json", '{"layers": []}', '{"layers": [{}]}', "7"):
        facts.write_text(broken)
        with pytest.raises(ImageError, match="run `lbctl image add cloud FILE --force`"):
            find(home, "cloud")
        assert everything(home) == []
    assert add("cloud", file, home, quiet, force=True) == find(home, "cloud")


def test_built_images_and_own_ones_never_take_each_others_place(home: Path, file: Path) -> None:
    build(home, "webapp")
    with pytest.raises(ImageError, match="none of your own images"):
        add("webapp", file, home, quiet, force=True)
    added = add("cloud", file, home, quiet)
    with pytest.raises(ImageError, match="is no image"):
        built_image.build("cloud", home, quiet)
    found = find(home, "webapp")
    assert isinstance(found, built_image.Image)
    assert [one.name for one in everything(home)] == ["cloud", "webapp"]
    assert find(home, "cloud") == added


def test_an_image_that_is_nowhere_says_so(home: Path) -> None:
    with pytest.raises(ImageError, match="no image 'cloud'"):
        find(home, "cloud")
    with pytest.raises(ImageError, match="no image 'cloud'"):
        remove(home, "cloud")
    assert everything(home) == []


def test_forgetting_leaves_the_file(home: Path, file: Path) -> None:
    add("cloud", file, home, quiet)
    build(home, "webapp")
    assert remove(home, "cloud") == f"image cloud is forgotten; {file} stays where it is"
    folder = home / "images" / "webapp"
    assert remove(home, "webapp") == f"image webapp and its files in {folder} are deleted"
    assert file.exists()
    assert list((home / "images").iterdir()) == []


def test_a_folder_that_is_no_image_is_never_touched(home: Path, file: Path) -> None:
    theirs = home / "images" / "photos"
    theirs.mkdir(parents=True)
    (theirs / "one.jpg").touch()
    with pytest.raises(ImageError):
        add("photos", file, home, quiet, force=True)
    with pytest.raises(ImageError):
        remove(home, "photos")
    assert (theirs / "one.jpg").exists()


@pytest.mark.parametrize("name", ["", "../x", "/etc", "Up", "a_b", ".hidden", "x" * 40])
def test_a_name_is_one_plain_word(home: Path, file: Path, name: str) -> None:
    with pytest.raises(ImageError, match="not a name"):
        add(name, file, home, quiet)
    with pytest.raises(ImageError, match="not a name"):
        remove(home, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"packages: [nginx]\n", "#cloud-config"),
        (b"\x1f\x8b\x08\0", "no text|#cloud-config"),
        (b"#!\xff", "no text in UTF-8"),
        (b"#" * (LARGEST_USER_DATA + 1), "at most"),
    ],
)
def test_user_data_that_cloud_init_would_not_read_is_refused(
    home: Path, file: Path, tmp_path: Path, text: bytes, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        add("cloud", file, home, quiet, user_data=seed(tmp_path, text))
    with pytest.raises(ImageError, match="cannot be read"):
        add("cloud", file, home, quiet, user_data=tmp_path / "missing")
    assert not (home / "images").exists()


def test_a_file_that_is_written_to_meanwhile_is_refused(home: Path, file: Path) -> None:
    def touch(_what: str, done: float) -> None:
        if done > 0.5:
            os.utime(file, ns=(7, 7))

    with pytest.raises(ImageError, match="something writes to it"):
        add("cloud", file, home, touch)
    assert everything(home) == []


def test_a_home_that_cannot_be_written_says_so(home: Path, file: Path) -> None:
    home.write_text("a file")
    with pytest.raises(ImageError, match="set LBCTL_HOME"):
        add("cloud", file, home, quiet)
