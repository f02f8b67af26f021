"""What every command shares: its settings, its way to fail, its way to the admin API.

Owns the exit codes. Imported at each start of lbctl, so it imports click and little else.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from lb.errors import LbError
from lb.home import home_folder

if TYPE_CHECKING:
    from lb.client import AdminClient
    from lb.config import Config

FINE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells expect of a command that Ctrl-C ended before it was done."""


class FailedError(LbError):
    """The command cannot do what it was asked: exit 1."""


class WrongUsageError(LbError):
    """The command line or the config is wrong: exit 2."""


class _ReaderLeftError(Exception):
    """Nobody reads our stdout any more."""


@dataclass
class Settings:
    """The global options; click hands it to every command as `ctx.obj`."""

    debug: bool = False
    admin: str | None = None
    home: Path = field(default_factory=home_folder)

    def client(self) -> AdminClient:
        """--admin or LBCTL_ADMIN, else where `lbctl up` with this home says it listens."""
        from lb.admin import access
        from lb.client import DEFAULT_URL, AdminClient, AdminError

        url = self.admin or access.read_address(self.home) or DEFAULT_URL
        try:
            return AdminClient(url, access.read_token(self.home))
        except AdminError as error:
            raise WrongUsageError(f"--admin: {error}") from error

    def config(self, path: Path | None) -> Config:
        from lb.config import ConfigError, load_config

        try:
            return load_config(path)
        except ConfigError as error:
            raise WrongUsageError(str(error)) from error


pass_settings = click.make_pass_decorator(Settings)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The configuration (lb.toml); without it the defaults.",
)


class Lbctl(click.Group):
    """The outermost group: turns whatever ends a command into one line and an exit code."""

    def main(  # type: ignore[override]  # it never returns, in either mode
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        settings = Settings()
        extra["obj"] = settings
        try:
            code = super().main(args, prog_name or "lbctl", standalone_mode=False, **extra)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001 — whatever it is, it ends here, told
            code = _exit_code(error, settings)
        sys.exit(code if isinstance(code, int) else FINE)

    def invoke(self, ctx: click.Context) -> Any:
        # click itself ends with 1 on a broken pipe; under another name it lets it through
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderLeftError from error


def _exit_code(error: BaseException, settings: Settings) -> int:
    """Tell the error, unless it is nobody's news, and say what to exit with."""
    if isinstance(error, _ReaderLeftError | BrokenPipeError):
        # The reader left, as in `lbctl events | head`: it has what it wanted. Python would
        # complain at its end about what it cannot flush any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FINE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return WRONG_USAGE
    if settings.debug:
        traceback.print_exception(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "lbctl"
        _say(f"{_sentence(error.format_message())}: see `{command} --help`")
        return WRONG_USAGE
    if isinstance(error, click.ClickException):
        _say(error.format_message())
        return error.exit_code
    if isinstance(error, WrongUsageError):
        _say(str(error))
        return WRONG_USAGE
    if isinstance(error, LbError):
        _say(str(error))
        return FAILED
    hint = "" if settings.debug else " (a bug: `lbctl --debug …` shows where)"
    _say(f"{type(error).__name__}: {error}{hint}")
    return FAILED


def _say(message: str) -> None:
    click.echo(f"lbctl: {' '.join(message.split())}", err=True)


def _sentence(message: str) -> str:
    """click's own messages begin with a capital and end with a full stop; ours do not."""
    text = message.strip().removesuffix(".")
    return text[:1].lower() + text[1:]


def only_service(client: AdminClient) -> str:
    """The one that is served, where nobody said which is meant."""
    services: list[str] = client.pool()["services"]
    if len(services) != 1:
        raise WrongUsageError(f"say which service: {', '.join(services)}")
    return services[0]
