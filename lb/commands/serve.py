"""`lbctl up`, `lbctl demo` and `lbctl doctor`: the commands that are more than a question.

They hand over to the composition (`lb.service`, `lb.demo`, `lb.doctor`), which are imported only
here and only then: libvirt and aiohttp cost what no other command should pay.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from lb.commands.base import (
    FAILED,
    FINE,
    FailedError,
    Settings,
    WrongUsageError,
    config_option,
    json_option,
    pass_settings,
)

LIBVIRT_LOG: Final = "LIBVIRT_LOG_OUTPUTS"
LEVELS: Final = ("debug", "info", "warning", "error")


@click.command()
@config_option
@click.option("--retire-vms", is_flag=True, help="At the end, end the VMs too.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="On stderr."
)
@pass_settings
def up(settings: Settings, config_path: Path | None, retire_vms: bool, log_level: str) -> int:
    """Serve: proxy, admin API and autoscaler in one process.

    SIGTERM or Ctrl-C drains and leaves the VMs running, SIGHUP reads the configuration again.
    """
    from lb.config import ConfigError

    # All that is imported stays, and a restart shall serve within a second: looking for garbage
    # in it took 0.1 s of 0.65 s. `lb.process` enables it again.
    gc.disable()
    try:
        config = settings.config(config_path)
        log_to_stderr("debug" if settings.debug else log_level)
        _keep_libvirts_log(settings.home)
        run = libvirt_or_fail("lb.process").run
        where = config_path.absolute() if config_path is not None else None
        code: int = run(config, settings.home, retire_vms, where)
    except ConfigError as error:
        raise WrongUsageError(str(error)) from error
    finally:
        gc.enable()
    return code


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-report"),
    show_default=True,
    help="Where the report goes.",
)
@click.option("--fast", is_flag=True, help="Shorter phases, for continuous integration.")
@pass_settings
def demo(settings: Settings, out: Path, fast: bool) -> int:
    """The whole story on real VMs: low load, high load, low again; a live view and a report."""
    if settings.debug:
        log_to_stderr("debug")
    _keep_libvirts_log(settings.home)
    run = libvirt_or_fail("lb.demo").run
    code: int = run(out.absolute(), fast, settings.home)
    return code


@click.command()
@config_option
@json_option
@pass_settings
def doctor(settings: Settings, config_path: Path | None, as_json: bool) -> int:
    """Look at everything that `lbctl up` needs; a line each, and what to do where it fails."""
    import asyncio

    from lb import doctor as clinic

    config = settings.config(config_path)
    os.environ.setdefault(LIBVIRT_LOG, f"4:file:{os.devnull}")  # every fault is a check's finding
    found = asyncio.run(clinic.checks(config, settings.home))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found], indent=2, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            mark = click.style(f"{check.verdict:4}", fg=clinic.COLOURS[check.verdict], bold=True)
            click.echo(f"{mark}  {check.name.ljust(width)}  {check.finding}")
            if check.fix:
                click.echo(f"{' ' * (width + 8)}→ {check.fix}")
    return FAILED if any(check.verdict == "fail" for check in found) else FINE


def _keep_libvirts_log(home: Path) -> None:
    """libvirt's own warnings go to a file in LBCTL_HOME, not between our lines. It looks at the
    environment once, when its library is loaded: before anything of ours that imports it."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FailedError(
            f"LBCTL_HOME {home} cannot be made: {reason}: set it to a folder you can write"
        ) from error
    os.environ.setdefault(LIBVIRT_LOG, f"3:file:{home / 'libvirt.log'}")


def libvirt_or_fail(module: str) -> Any:
    """Import what needs libvirt's bindings. A machine without them is told what to do."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] in ("lb", "autoscale", "guest"):
            raise
        if isinstance(error, ModuleNotFoundError):
            what = f"the Python package {error.name} is missing"
        else:
            # a compiled one without the library it was built for, such as libvirt.so
            what = f"the Python package {error.name} cannot be loaded: {error}"
        raise FailedError(f"{what}: run `./run setup`") from error


class _OneLine(logging.Formatter):
    """One line a record, whatever the message holds; a traceback follows on the same line, unless
    a person watches."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self, fold: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._fold = fold

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 — logging's name
        return "\\n".join(super().formatMessage(record).splitlines())

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\\n".join(text.splitlines()) if self._fold else text


def log_to_stderr(level: str) -> None:
    """Every logger of this process, from `level` up, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(fold=not sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
