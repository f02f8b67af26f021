"""The documentation says what is so: commands parse, settings validate, links lead somewhere, and
whatever a user can meet (keys, metrics, reasons, errors, files) is listed with its real values."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import annotated_types as limits
import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoscale.model import Reason
from autoscale.vm import TRANSITIONS as VM_TRANSITIONS
from lb.backend import TRANSITIONS as BACKEND_TRANSITIONS
from lb.cli import cli as lbctl
from lb.config import Config, ConfigError, load_config, parse_config, parse_duration
from lb.config_types import parse_size
from lb.errors import ClientFaultError, NoBackendError, RequestError, UpstreamError
from lb.metrics import Metrics
from loadtest.cli import cli as loadtest
from tests.command_lines import check_line, check_mentioned, command_lines, our_lines
from tests.markdown import (
    DOCS,
    PAGES,
    ROOT,
    Block,
    blocks,
    codes,
    named,
    prose,
    rows,
    sections,
    slug,
    without_code,
)

PACKAGES = ("lb", "autoscale", "guest", "loadtest")


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "words"), [pytest.param(w, x, id=f"{w} {' '.join(x)}") for w, x in our_lines()]
)
def test_every_command_line_shown_is_one_that_parses(where: str, words: list[str]) -> None:
    check_line(words)


@pytest.mark.parametrize(
    "line",
    [
        "./run nonsense",
        "./run check --fast",
        "./run test -m slow",
        "./run test tests/test_nothing.py",
        "./run lbctl",
        "./run lbctl pool --wach",
        "lbctl up -c",
        "lbctl pool add",
        "lbctl events --limit 0",
        "loadtest run",
        "loadtest run http://127.0.0.1/ --rate fast",
        "loadtest run http://127.0.0.1/ --plan high",
    ],
)
def test_a_wrong_command_line_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:  # whatever says no
        check_line(shlex.split(line))
    assert not isinstance(caught.value, AttributeError | TypeError | KeyError)


def test_pipes_prompts_comments_and_continued_lines_are_understood() -> None:
    block = Block(ROOT / "x.md", 1, "sh", "a -b 'c d' # e\nf \\\n g | h && i; j\n")
    assert list(command_lines(block)) == [["a", "-b", "c d"], ["f", "g"], ["h"], ["i"], ["j"]]
    block = Block(ROOT / "x.md", 1, "console", "$ a b\noutput\n")
    assert list(command_lines(block)) == [["a", "b"]]


def test_commands_in_the_text_exist_and_have_the_options_named_with_them() -> None:
    checked = 0
    for page in PAGES:
        for code in codes(prose(page)):
            for program, root in (("lbctl", lbctl), ("loadtest", loadtest)):
                words = code.removeprefix("./run ").split()
                if words[:1] == [program] and len(words) > 1:
                    check_mentioned(root, words[1:], f"{page.name}: {code}")
                    checked += 1
    assert checked > 20


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_is_a_configuration(block: Block) -> None:
    parse_config(tomllib.loads(block.text))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_every_example_is_a_configuration(path: Path) -> None:
    load_config(path)


def test_the_first_configuration_in_readme_is_the_example() -> None:
    example = (ROOT / "examples" / "lb.toml").read_text(encoding="utf-8")
    first = blocks("toml", pages=[ROOT / "README.md"])[0]
    assert first.text in example
    assert "vm" in tomllib.loads(first.text)["service"]["web"], "it would start no machine"


def tables(model: type[BaseModel] = Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """(heading, model) of each table of the schema, such as ("[service.NAME.vm]", VmConfig)."""
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            continue
        where = f"{path}.{name}" if path else name
        if get_origin(field.annotation) is dict:
            where += ".NAME"
        brackets = "[[{}]]" if get_origin(field.annotation) is tuple else "[{}]"
        yield brackets.format(where), inner
        yield from tables(inner, where)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A table's own keys, without the tables in it."""
    return {k: f for k, f in model.model_fields.items() if _model_in(f.annotation) is None}


def documented() -> dict[str, dict[str, list[str]]]:
    """Rows by key, by table."""
    page = sections(DOCS / "configuration.md")
    headings = {heading.strip("`"): text for heading, text in page.items() if "[" in heading}
    return {
        heading: {codes(row[0])[0]: row for row in rows(text)} for heading, text in headings.items()
    }


class Bounds(NamedTuple):
    """What a number may be; an excluded bound is marked."""

    low: float
    low_excluded: bool
    high: float
    high_excluded: bool


def real_bounds(field: FieldInfo) -> Bounds | None:
    lows, highs = [], []
    for limit in field.metadata:
        match limit:
            case limits.Ge(ge=value):
                lows.append((_number(value), False))
            case limits.Gt(gt=value):
                lows.append((_number(value), True))
            case limits.Le(le=value):
                highs.append((_number(value), False))
            case limits.Lt(lt=value):
                highs.append((_number(value), True))
    return Bounds(*max(lows), *min(highs)) if lows and highs else None


def said_bounds(cell: str) -> Bounds | None:
    """`1` to `9`; `0` to below `1`; above `0`, up to `1`; above `0`, below `1`."""
    said = re.fullmatch(r"(above )?`([^`]+)`(?: to |, up to |(?: to|,) (below) )`([^`]+)`", cell)
    if said is None:
        return None
    return Bounds(_number(said[2]), bool(said[1]), _number(said[4]), said[3] == "below")


def _number(value: Any) -> float:
    if isinstance(value, str) and not re.fullmatch(r"[\d.]+", value):
        value = parse_size(value) if value.endswith("B") else parse_duration(value)
    return float(value)


def said_default(cell: str) -> Any:
    """The value that the first code of a cell is in TOML, which has no word for None: `unset`."""
    word = codes(cell)[0]
    return None if word == "unset" else tomllib.loads(f"x = {word}")["x"]


def read_by(model: type[BaseModel], key: str, value: Any) -> Any:
    """What the table makes of a value at this key; its other keys may be needed beside it."""
    field = model.model_fields[key]
    kind: Any = field.annotation
    if field.metadata:
        kind = Annotated[kind, *field.metadata]
    value = tuple(value) if isinstance(value, list) else value
    return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)


def test_the_tables_of_the_schema_are_the_headings_of_the_page() -> None:
    assert set(documented()) == {heading for heading, _ in tables()}


@pytest.mark.parametrize(("heading", "model"), list(tables()), ids=[h for h, _ in tables()])
def test_every_key_is_documented_with_its_real_default_and_bounds(
    heading: str, model: type[BaseModel]
) -> None:
    page = documented()[heading]
    assert list(page) == list(keys(model)), "keys, in the order of the schema"
    for key, field in keys(model).items():
        _, default, allowed, meaning = page[key]
        assert len(meaning) > 20, f"{key}: what is it?"
        if field.default is PydanticUndefined:
            assert codes(default) == ["required"], key
        else:
            assert read_by(model, key, said_default(default)) == field.default, key
        if choices := get_args(field.annotation):
            if all(isinstance(choice, str) for choice in choices):
                assert codes(allowed) == list(choices), key
        elif field.annotation in (int, float):
            assert said_bounds(allowed) == real_bounds(field), key
            assert said_bounds(allowed) is not None, f"{key}: bounds are missing"
        assert allowed, key


def test_bounds_are_read_as_they_are_written() -> None:
    assert said_bounds("`1` to `9`") == (1, False, 9, False)
    assert said_bounds("above `0`, up to `1`") == (0, True, 1, False)
    assert said_bounds("above `0`, below `1`") == (0, True, 1, True)
    assert said_bounds("`0` to below `1`") == (0, False, 1, True)
    assert said_bounds("`50ms` to `1m`") == (0.05, False, 60, False)
    assert said_bounds("`128B` to `1MiB`") == (128, False, 1024**2, False)
    assert said_bounds("any number") is None


def test_what_the_page_warns_of_is_so() -> None:
    with pytest.raises(ConfigError, match="scale needs VMs"):
        parse_config({"service": {"web": {"scale": {"max": 2}}}})
    with pytest.raises(ConfigError, match=r"no \[\[route\]\] leads to service a, b"):
        parse_config({"service": {"a": {}, "b": {}}})


# --- links ---------------------------------------------------------------------------------------


def links() -> list[tuple[Path, str]]:
    found = []
    for page in PAGES:
        targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)", without_code(page))
        found += [(page, target) for target in targets if not re.match(r"\w+:", target)]
    return found


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(p, t, id=f"{p.name} {t}") for p, t in links()]
)
def test_every_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = page.parent / path if path else page
    assert there.exists(), f"{page.name} points to {path}"
    if anchor:
        assert anchor in map(slug, sections(there)), f"no heading #{anchor} in {there.name}"


def test_every_page_is_reached_from_readme() -> None:
    targets = {(page.parent / target.partition("#")[0]).resolve() for page, target in links()}
    assert {page.resolve() for page in PAGES if page.name != "README.md"} <= targets


def test_every_picture_says_what_it_shows() -> None:
    pictures = [found for page in PAGES for found in re.findall(r"!\[([^\]]*)\]\(", prose(page))]
    assert pictures
    assert all(len(words) > 40 for words in pictures)


# --- files ---------------------------------------------------------------------------------------


def sources() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


def test_architecture_names_every_module_and_no_other() -> None:
    page = DOCS / "architecture.md"
    listed = {name for name in named(page) if name.endswith(".py")}
    assert listed == sources()
    assert all(len(row[1]) > 10 for name, row in named(page).items() if name in listed)


@pytest.mark.parametrize(
    "page", [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_every_file_named_in_the_text_exists(page: Path) -> None:
    files = {
        code
        for code in codes(prose(page))
        if re.fullmatch(r"[\w./-]+/[\w.-]*\.?\w*", code) and "X" not in code
    }
    assert files
    assert not {file for file in files if file != "/" and not (ROOT / file).exists()}


def test_what_is_called_pure_imports_nothing_that_acts() -> None:
    """The full rules are test_architecture's; here: the page does not say pure of what is not."""
    acting = re.compile(r"^(?:import|from) (asyncio|libvirt|aiohttp|time|random)\b", re.MULTILINE)
    pure = [
        name for name, row in named(DOCS / "architecture.md").items() if row[1].endswith("Pure")
    ]
    assert len(pure) > 10
    for name in pure:
        assert not acting.search((ROOT / name).read_text(encoding="utf-8")), name


# --- what a user can meet ------------------------------------------------------------------------


def test_every_metric_is_listed_with_its_type_and_no_other() -> None:
    exposition = Metrics().render()[0].decode()
    real = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    listed = {codes(row[0])[0]: row[1] for row in rows(sections(DOCS / "operating.md")["Metrics"])}
    assert listed == real


def test_the_labels_in_the_list_of_metrics_are_those_in_the_code() -> None:
    files = ("metrics.py", "autoscaler_metrics.py", "vm_metrics.py")
    source = "".join((ROOT / "lb" / file).read_text(encoding="utf-8") for file in files)
    real = {
        name: re.findall(r'"(\w+)"', labels)
        for name, labels in re.findall(r'"(\w+)",\s*"[^"]*",\s*labels=\(([^)]*)\)', source)
    }
    assert len(real) > 10
    for row in rows(sections(DOCS / "operating.md")["Metrics"]):
        name = codes(row[0])[0]
        assert codes(row[2]) == real.get(name, ["service"]), name


def test_every_reason_is_explained_and_no_other() -> None:
    told = sections(DOCS / "operating.md")["Events"].partition("The reasons")[2]
    assert {name for row in rows(told) for name in codes(row[0])} == {
        reason.value for reason in Reason
    }


def test_every_kind_of_event_is_explained() -> None:
    told = {
        name for row in rows(sections(DOCS / "operating.md")["Events"]) for name in codes(row[0])
    }
    files = ("fleet.py", "life.py", "machines.py", "controller.py")
    source = "".join((ROOT / "autoscale" / file).read_text() for file in files)
    noted = set(re.findall(r'"((?:vm|host|breaker|snapshot)\.\w+)"', source))
    assert len(noted) > 8
    assert noted <= told
    assert {f"backend.{state.value}" for state in BACKEND_TRANSITIONS} <= told


def test_every_error_a_client_can_see_is_listed_with_its_status() -> None:
    families = {ClientFaultError, UpstreamError, NoBackendError}
    real = {c.reason: c.status for c in _all_below(RequestError) if c not in families}
    table = rows(sections(DOCS / "operating.md")["When a request cannot be answered"])
    assert {codes(row[0])[0]: int(row[1]) for row in table} == real


def _all_below(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all_below(below)


def test_the_life_of_a_vm_is_the_table_in_the_code() -> None:
    table = rows(sections(DOCS / "how-it-works.md")["The life of a VM"])
    told = {codes(row[0])[0]: set(codes(row[2])) for row in table}
    assert told == {
        state.value: {after.value for after in following}
        for state, following in VM_TRANSITIONS.items()
    }


def test_the_changelog_has_the_version_and_something_under_it() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = re.search(rf"^## \[{re.escape(version)}\].*?(?=^## |\Z)", changes, re.M | re.S)
    assert entry, f"no entry for {version}"
    assert re.search(r"^### (Added|Changed|Deprecated|Removed|Fixed|Security)$", entry[0], re.M)
    assert re.search(r"^- \S", entry[0], re.M)
    assert re.search(r"^## \[Unreleased\]$", changes, re.M)


def test_the_readmes_sample_event_is_of_its_own_configuration() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (target,) = re.findall(r"^target_cpu = ([\d.]+)", readme, re.MULTILINE)
    (sentence,) = re.findall(r"CPU ([\d.]+) of target ([\d.]+) over [\d.]+ s on 1 replica", readme)
    assert float(sentence[1]) == float(target) < float(sentence[0])
