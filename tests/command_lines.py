"""Would our programs take this command line? Asked without carrying anything out.

`check_line` asks click and the run script; `check_mentioned` the same of what prose shortens.
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator, Sequence

import click

from lb.cli import cli as lbctl
from lb.commands.rollout import WithDefault
from loadtest.cli import cli as loadtest
from loadtest.plan import Plan, parse_rate
from loadtest.plan import parse_duration as parse_phase_duration
from tests.markdown import ROOT, Block, blocks

SHELLS = ("", "sh", "console")


def run_commands() -> set[str]:
    """What ./run accepts: the first words of its last `case … in`."""
    script = (ROOT / "run").read_text(encoding="utf-8")
    accepted = re.search(r"^  (\w+(?: \| \w+)+)\) ;;$", script, re.MULTILINE)
    assert accepted, "./run has no list of commands that this test can read"
    return set(accepted[1].split(" | "))


def command_lines(block: Block) -> Iterator[list[str]]:
    """Each command of a shell block as words; comments, prompts and pipes taken apart."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":  # what has no prompt is output
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|&;"):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def our_lines() -> list[tuple[str, list[str]]]:
    """(where, words) of each line that starts one of our programs."""
    ours = ("lbctl", "loadtest", "./run")
    lines = [(str(block), words) for block in blocks(*SHELLS) for words in command_lines(block)]
    return [(where, words) for where, words in lines if words and words[0] in ours]


def check_line(words: Sequence[str]) -> None:
    """Raises where the program would not take this command line. Nothing is carried out."""
    program, *arguments = words
    if program == "./run":
        assert arguments, "./run needs a command"
        command, *arguments = arguments
        assert command in run_commands(), f"./run has no command {command}"
        if command == "test":
            check_pytest(arguments)
            return
        if command == "bench":
            assert (ROOT / "bench" / f"{arguments[0]}.py").is_file(), f"no benchmark {arguments[0]}"
            return
        if command not in ("lbctl", "loadtest", "demo"):
            assert not arguments, f"./run {command} takes no arguments"
            return
        if command == "demo":
            command, arguments = "lbctl", ["demo", *arguments]
        program = command
    check_click(lbctl if program == "lbctl" else loadtest, arguments, None)


def check_click(
    command: click.Command, arguments: Sequence[str], parent: click.Context | None
) -> None:
    if isinstance(command, click.Group):
        context = click.Context(
            command, parent=parent, info_name=command.name, **command.context_settings
        )
        options, rest, _ = command.make_parser(context).parse_args(list(arguments))
        if not rest:
            alone = command.invoke_without_command or options.get("help") or options.get("version")
            assert alone, f"{command.name} needs a command"
            return
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        check_click(found, rest, context)
        return
    with command.make_context(command.name, list(arguments), parent=parent) as context:
        given = context.params
        if given.get("plan_text"):
            Plan.parse(given["plan_text"])
        if given.get("rate"):
            parse_rate(given["rate"])
        if given.get("duration"):
            parse_phase_duration(given["duration"])


def check_pytest(arguments: Sequence[str]) -> None:
    """Files exist, and markers are known."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    markers = {line.partition(":")[0] for line in setup["tool:pytest"]["markers"].split("\n")}
    words = iter(arguments)
    for word in words:
        if word == "-m":
            unknown = set(next(words).split()) - {"not", "and", "or"} - markers
            assert not unknown, f"no marker {unknown}"
        elif word == "-k":
            next(words)
        elif not word.startswith("-"):
            assert (ROOT / word.partition("::")[0]).exists(), f"no {word}"


def check_mentioned(command: click.Command, words: Sequence[str], where: str) -> None:
    """Prose shortens (`config check|show`, `[-c FILE]`): follow the names, look at the options."""
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        alternatives = re.sub(r"[\[\],]", "", word).split("|")
        if isinstance(command, click.Group) and alternatives[0] in command.commands:
            for other in alternatives:
                assert other in command.commands, f"{where}: no command {other}"
            command = command.commands[alternatives[0]]
            options |= {option for parameter in command.params for option in parameter.opts}
        elif isinstance(command, WithDefault):
            command = command.commands[WithDefault.DEFAULT]
            options |= {option for parameter in command.params for option in parameter.opts}
        elif alternatives[0].startswith("-"):
            assert alternatives[0] in options, f"{where}: no option {alternatives[0]}"
        elif isinstance(command, click.Group) and alternatives[0].islower():
            raise AssertionError(f"{where}: no command {alternatives[0]}")
