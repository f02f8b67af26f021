"""Further images of the web application: the same, and ones that are no good, made from the first.

Each is a folder of links to the files of `webapp`; what differs is a copy of its own. The checksum
in its facts is another one, as a build of something else would have.
"""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import subprocess
from pathlib import Path

from guest import image

APP = "/usr/lib/webapp/webapp.pyc"
RENDER = """low=1, high=MAX_WORK)
        states, seconds"""


class Images:
    """A folder of images with `webapp` in it, and whatever is added."""

    def __init__(self, images: Path, folder: Path) -> None:
        self._good = image.load(images.parent, "webapp")
        self.folder = folder / "images"
        self.folder.mkdir()
        (self.folder / "webapp").symlink_to(images / "webapp")

    def add(self, name: str, *, boots: str = "", render: str = "") -> str:
        """`boots`: words added to the kernel's command line. `render`: a line that runs in each
        request to /render, after its query was read."""
        good, folder = self._good, self.folder / name
        folder.mkdir()
        for path in (good.disk, good.kernel, good.initrd):
            assert path is not None
            (folder / path.name).symlink_to(path)
        if render:
            self._edit(folder, render)
        facts = dict(image.to_facts(good))
        checksum = hashlib.sha256(f"{good.checksum} {name}".encode()).hexdigest()
        facts.update(name=name, cmdline=f"{good.cmdline} {boots}".strip(), checksum=checksum)
        (folder / image.FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return name

    def _edit(self, folder: Path, render: str) -> None:
        source = (Path(image.__file__).parent / "webapp.py").read_text(encoding="utf-8")
        assert source.count(RENDER) == 1, "the application has changed: so must this"
        first, then = RENDER.split("\n        ")
        changed = source.replace(RENDER, f"{first}\n        {render}\n        {then}")
        script, compiled, disk = folder / "app.py", folder / "app.pyc", folder / image.DISK
        script.write_text(changed, encoding="utf-8")
        py_compile.compile(
            str(script), str(compiled), doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip
        disk.unlink()
        shutil.copyfile(self._good.disk, disk)
        for request in (f"rm {APP}", f"write {compiled} {APP}"):
            _debugfs(disk, request)
        size = _debugfs(disk, f"stat {APP}")
        assert f"Size: {compiled.stat().st_size}" in size, "debugfs did not change the image"
        script.unlink()
        compiled.unlink()


def _debugfs(disk: Path, request: str) -> str:
    tool = shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert tool, "apt-get install e2fsprogs"
    done = subprocess.run(
        [tool, "-w", "-R", request, disk], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout
