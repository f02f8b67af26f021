"""`loadtest run | shift | status | report`: reads the command line, prints, sets the exit code.

Exit codes: 0 fine, 1 it failed (nothing was answered), 2 wrong usage or input, 3 a threshold was
missed. An error is one line on stderr; `loadtest --debug …` adds the traceback.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loadtest import interval_log, remote
from loadtest.asked import what
from loadtest.errors import InputError, LoadtestError
from loadtest.listen import parse_listen
from loadtest.live import Lines, View, while_seen
from loadtest.merge import merge_results
from loadtest.outputs import KINDS, Outputs, check_writable, write
from loadtest.plan import Plan, parse_duration, parse_rate
from loadtest.report import print_comparison, print_one, print_tallies
from loadtest.result import Result
from loadtest.target import Settings
from loadtest.targets import FORMATS
from loadtest.thresholds import Threshold
from loadtest.trace import read_trace

_FILE = click.Path(path_type=Path)


@click.group()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """An open-loop HTTP load tester."""


def _url_or_targets(
    context: click.Context, parameter: click.Parameter, url: str | None
) -> str | None:
    if url is None and context.params.get("targets") is None:
        raise click.UsageError("say what to ask: a URL, or --targets FILE")
    return url


@cli.command()
@click.argument("url", required=False, callback=_url_or_targets)
@click.option(
    "--targets", type=click.Path(path_type=Path), is_eager=True, help="A file of requests."
)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="auto", show_default=True)
@click.option("--rate", help="Requests per second, e.g. 50.")
@click.option("--duration", help="How long at that rate, e.g. 30s; without: until finished.")
@click.option("--plan", "plan_text", help="Phases, e.g. low=20@30s,high=60@trigger,up=10..50@1m.")
@click.option(
    "--arrivals", type=click.Choice(["constant", "poisson"]), default="constant", show_default=True
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of Poisson arrivals.")
@click.option("--max-in-flight", type=int, default=10_000, show_default=True)
@click.option("--workers", type=int, default=1, show_default=True, help="Processes, one a core.")
@click.option("--realtime", is_flag=True, help="Take the core before all others (needs root).")
@click.option("--timeout", default="60s", show_default=True, help="From the intended time.")
@click.option("--max-duration", default="1d", show_default=True, help="Ends it in any case.")
@click.option("--method", help="GET, or whatever else; not with --targets.")
@click.option("--header", "headers", multiple=True, help="'Name: value'; may be repeated.")
@click.option("--body", help="The request's body; @FILE reads it from a file.")
@click.option("--json", "json_path", help="Write the result as JSON to FILE; - is stdout.")
@click.option("--csv", type=_FILE, help="Write its seconds as CSV.")
@click.option("--hlog", type=_FILE, help="Write its latencies as an HdrHistogram interval log.")
@click.option("--html", type=_FILE, help="Write a page for a browser that needs nothing else.")
@click.option("--control", type=click.Path(path_type=Path), help="Path of the control socket.")
@click.option("--metrics-listen", "metrics", help="HOST:PORT for Prometheus to scrape /metrics.")
@click.option("--fail-if", "fail_if", multiple=True, help="E.g. 'p99>250ms', 'errors>0.1%'.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
def run(
    url: str | None,
    rate: str | None,
    duration: str | None,
    plan_text: str | None,
    headers: Sequence[str],
    json_path: str | None,
    control: Path | None,
    fail_if: Sequence[str],
    quiet: bool,
    **limits: Any,
) -> None:
    """Send requests to URL, or those of a file, at their intended times.

    With --targets a URL stands for the server to which all of the file's requests go.
    SIGUSR1 enters the plan's next phase, SIGUSR2 the previous one; Ctrl-C ends with the result
    so far.
    """
    thresholds = [Threshold.parse(text) for text in fail_if]
    asked = what(url, limits["targets"], limits["kind"], limits["method"], headers, limits["body"])
    settings = Settings(
        **asked,
        plan=_plan(rate, duration, plan_text),
        arrivals=limits["arrivals"],
        seed=limits["seed"],
        max_in_flight=limits["max_in_flight"],
        workers=limits["workers"],
        realtime=limits["realtime"],
        timeout=parse_duration(limits["timeout"]),
        max_seconds=parse_duration(limits["max_duration"]),
        control=control or remote.default_socket(),
        metrics=None if limits["metrics"] is None else parse_listen(limits["metrics"]),
    )
    outputs = _outputs(limits, json_path)
    check_writable(outputs)
    from loadtest.worker import run_here  # the engine's libraries, which `shift` can do without

    to_stdout = json_path == "-"
    console = _console(stderr=to_stdout)
    view: View | Lines = Lines(console)
    if console.is_terminal:
        view = View(console, settings.plan.seconds)
    with view:
        result = run_here(settings, None if quiet else while_seen(view.show))
    try:
        if to_stdout:
            click.echo(result.to_json())
        print_one(console, result)
    finally:  # a reader that has gone costs its own copy, not the files
        failed = write([("", result)], outputs)
    _judge(result, thresholds, failed)


@cli.command()
@click.argument("phase", required=False)
@click.option("--rate", help="A new rate for the current (or the given) phase.")
@click.option("--finish", is_flag=True, help="Send nothing more; wait for the answers.")
@click.option("--control", type=click.Path(path_type=Path), help="Which test, by its socket.")
def shift(phase: str | None, rate: str | None, finish: bool, control: Path | None) -> None:
    """Enter PHASE of a running test now, or change its rate."""
    wanted: dict[str, Any] = {}
    if phase is not None:
        wanted["phase"] = phase
    if rate is not None:
        wanted["rate"] = parse_rate(rate)
    if finish:
        wanted["finish"] = True
    if not wanted:
        raise InputError("shift: name a phase, or give --rate or --finish")
    status = _ask(control, "PATCH", wanted)
    click.echo(f"{status['state']}: phase {status['phase']} at {status['rate']:g}/s")


@cli.command()
@click.option("--control", type=click.Path(path_type=Path), help="Which test, by its socket.")
def status(control: Path | None) -> None:
    """The running test's status as JSON."""
    click.echo(json.dumps(_ask(control, "GET", None), indent=1))


@cli.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--merge", is_flag=True, help="One result of all: they ran at the same time.")
@click.option("--json", type=_FILE, help="Write the result as JSON.")
@click.option("--csv", type=_FILE, help="Write its seconds as CSV.")
@click.option("--hlog", type=_FILE, help="Write its latencies as an HdrHistogram interval log.")
@click.option("--html", type=_FILE, help="Write a page for a browser that needs nothing else.")
def report(files: Sequence[Path], merge: bool, **given: Any) -> None:
    """Print one result, or compare several with the first.

    FILES are results (JSON) or interval logs (.hlog), not both.
    """
    outputs = _outputs(given, None)
    check_writable(outputs, 1 if merge else len(files))
    console = _console()
    logs = [path for path in files if path.suffix == ".hlog"]
    if logs:
        if len(logs) < len(files):
            raise InputError("give either results or interval logs (.hlog), not both")
        _report_logs(console, logs, outputs, merge=merge)
        return
    results = [(str(path), Result.read(path)) for path in files]
    if merge:
        results = [("merged", merge_results(results))]
    failed = write(results, outputs)
    if len(results) == 1:
        print_one(console, results[0][1])
    else:
        print_comparison(console, results)
    _leave(failed, 1)


def _report_logs(console: Console, paths: Sequence[Path], outputs: Outputs, *, merge: bool) -> None:
    if set(outputs) - {"hlog"}:
        raise InputError("interval logs hold latencies only: write them with --hlog")
    logs = [(str(path), interval_log.read_log(path)) for path in paths]
    if merge:
        logs = [("merged", interval_log.merge_logs(log for _, log in logs))]
    if "hlog" in outputs:
        interval_log.write_log(logs[0][1], outputs["hlog"])
    print_tallies(console, [(name, interval_log.whole(log)) for name, log in logs])


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Always ends by SystemExit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="loadtest: %(message)s")
    try:
        cli.main(given, prog_name="loadtest", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as asked:
        asked.show()
        sys.exit(asked.exit_code)
    except (LoadtestError, click.ClickException, click.Abort, OSError, KeyboardInterrupt) as wrong:
        if "--debug" in given:
            raise
        sys.exit(_explain(wrong))
    sys.exit(0)


def _explain(wrong: BaseException) -> int:
    """One line on stderr; returns the exit code."""
    if isinstance(wrong, BrokenPipeError):
        # Whoever read our output has gone; so must the buffered rest of it, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(wrong, LoadtestError):
        text, code = str(wrong), wrong.exit_code
    elif isinstance(wrong, click.ClickException):
        text, code = wrong.format_message(), wrong.exit_code
    else:
        text, code = ("interrupted", 1) if not isinstance(wrong, OSError) else (str(wrong), 1)
    click.echo(f"loadtest: {' '.join(text.split())}", err=True)
    return code


def _console(*, stderr: bool = False) -> Console:
    # A pipe has no width, and rich's 80 columns would break the tables.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def _plan(rate: str | None, duration: str | None, text: str | None) -> Plan:
    if text is not None:
        if rate is not None or duration is not None:
            raise InputError("--plan says rate and duration itself: give either it or --rate")
        return Plan.parse(text, read_trace)
    if rate is None:
        raise InputError("say how fast: --rate 50 --duration 30s, or --plan low=20@30s,high=60@60s")
    return Plan.constant(parse_rate(rate), None if duration is None else parse_duration(duration))


def _outputs(given: dict[str, Any], json_path: str | None) -> Outputs:
    found = {kind: given[kind] for kind in KINDS if given.get(kind) is not None}
    if json_path not in (None, "-"):
        found["json"] = Path(str(json_path))
    return found


def _judge(result: Result, thresholds: Sequence[Threshold], failed: Sequence[str]) -> None:
    """Says all that is wrong; `failed` are outputs. A missed threshold is a verdict: it decides."""
    missed = [threshold.text for threshold in thresholds if threshold.missed(result)]
    wrong = [f"threshold missed: {', '.join(missed)}"] if missed else []
    if result.counts.intended and not result.counts.completed and result.counts.failed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in result.errors.items())
        wrong.append(f"not one request was answered ({kinds})")
    _leave([*wrong, *failed], 3 if missed else 1)


def _leave(wrong: Sequence[str], code: int) -> None:
    """Ends with `code`, a line on stderr for each thing that went wrong; with none, goes on."""
    for line in wrong:
        click.echo(f"loadtest: {' '.join(line.split())}", err=True)
    if wrong:
        sys.exit(code)


def _ask(control: Path | None, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
    path = control or remote.find()
    try:
        return remote.ask(path, method, body)
    except OSError as wrong:
        raise LoadtestError(f"{path}: no load test listens there ({wrong.strerror})") from None
