"""DESIGN's rules about the sources, enforced by walking them: who may import whom, and what no file
may do. An exception needs an entry in a table here, and a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lb", "autoscale", "guest", "loadtest")
LONGEST_FILE = 500

PURE = (
    "lb/balance.py", "lb/slate.py", "lb/ring.py", "lb/peak.py", "lb/slow_start.py",
    "lb/share.py", "lb/least_together.py", "lb/counted.py", "lb/pool_state.py",
    "lb/least_requests.py", "lb/round_robin.py", "lb/rota.py", "lb/draw.py",
    "lb/outlier.py", "lb/sticky.py", "lb/cookies.py", "lb/headers.py", "lb/retry.py",
    "lb/proxy_protocol.py", "lb/compression.py", "lb/access_line.py",
    "lb/routes.py", "lb/config_changes.py", "lb/exchange.py", "lb/field_names.py",
    "lb/scale_rules.py", "lb/decisions.py", "lb/rollout_words.py", "lb/sampling.py",
    "lb/demo_encore.py",
    "lb/forwarded.py", "lb/trace.py", "lb/trust.py", "lb/adaptive.py", "lb/breaker.py",
    "lb/budget.py", "lb/rolling.py", "lb/turns.py", "lb/latency.py", "lb/errors.py",
    "lb/wire/chunked.py", "lb/wire/errors.py", "lb/wire/framing.py", "lb/wire/head.py",
    "guest/own/disk_format.py", "autoscale/addresses.py", "autoscale/seed.py",
    "autoscale/iso9660.py",
    "guest/work.py", "autoscale/saved_guest.py", "autoscale/abilities.py",
    "autoscale/signals.py", "autoscale/schedule.py", "autoscale/forecast.py", "autoscale/policy.py",
    "autoscale/contention.py", "autoscale/activations.py", "autoscale/counters.py",
    "autoscale/launches.py", "autoscale/holder.py", "autoscale/limits.py", "autoscale/reserve.py",
    "autoscale/snapshots.py", "autoscale/canary.py", "autoscale/rollout.py",
    "autoscale/turnover.py", "autoscale/scene.py",
    "autoscale/rules.py", "autoscale/outlook.py", "autoscale/state.py", "autoscale/decision.py",
    "autoscale/pace.py", "autoscale/sustained.py", "autoscale/parts/reading.py",
    "autoscale/parts/capacity.py", "autoscale/parts/cpu.py", "autoscale/parts/concurrency.py",
    "autoscale/parts/queue.py", "autoscale/parts/latency.py", "autoscale/parts/scheduled.py",
    "autoscale/placement.py", "autoscale/domain_xml.py", "autoscale/windows.py",
    "autoscale/compare.py", "autoscale/rivals/course.py", "autoscale/rivals/ec2.py",
    "autoscale/rivals/knative.py", "autoscale/rivals/kubernetes.py", "autoscale/rivals/usage.py",
    "autoscale/model.py", "autoscale/backoff.py", "autoscale/verdicts.py", "loadtest/plan.py",
    "loadtest/profiles.py", "loadtest/timeline.py",
    "loadtest/mix.py", "loadtest/request.py", "loadtest/stats.py", "loadtest/thresholds.py",
    "loadtest/hdr_codec.py", "loadtest/merge.py", "loadtest/status.py", "loadtest/outcome.py",
    "loadtest/listen.py", "loadtest/page.py",
    "autoscale/simulate.py", "autoscale/simulation/scenario.py", "autoscale/simulation/shapes.py",
    "autoscale/simulation/requests.py", "autoscale/simulation/queue.py",
    "autoscale/simulation/machines.py", "autoscale/simulation/readings.py",
    "autoscale/simulation/planner.py", "autoscale/simulation/ledger.py",
    "autoscale/simulation/scoring.py", "autoscale/simulation/oracle.py",
    "autoscale/simulation/result.py",
)  # fmt: skip
NEVER_IN_PURE = {"asyncio", "libvirt", "aiohttp", "time", "random"}

MAY_KNOW_THE_REST = {
    "lb/service.py": "the composition root: builds both halves and ties them",
    "lb/scaler.py": "service's builder of a fleet and its controller",
    "lb/scale_rules.py": "scaler's rules for the planner, from the configuration",
    "lb/overrides.py": "scaler's orders of operators, as the planner takes them",
    "lb/rollouts.py": "scaler's rollouts over a restart, as the fleet takes them",
    "lb/scaler_rollout.py": "scaler's orders of operators to the fleet's turnover",
    "lb/rollout_words.py": "what scaler and rows say of the fleet's rollout",
    "lb/decisions.py": "scaler's log of what the planner decided",
    "lb/forecast_file.py": "scaler's memory of the planner's forecast",
    "lb/hosts.py": "service's connections to hypervisors",
    "lb/strays.py": "looks at hypervisors for what no service owns",
    "lb/demo.py": "runs the whole product and its load test, and tells the story",
    "lb/demo_acts.py": "demo's second half, asks a real fleet what it does",
    "lb/demo_report.py": "draws the demo's load test results",
    "lb/demo_story.py": "judges the demo's load test results",
    "lb/cli.py": "the edge: calls the composition root",
    "lb/commands/": "cli's rooms, one a group of commands",
    "lb/rows.py": "service's rows: the fleet's values folded for admin API and metrics",
    "lb/image_users.py": "looks at the images and at what lies over them, for the image command",
    "lb/doctor.py": "asks a hypervisor and the image how they are, without serving",
}
"""Files of `lb` that may import more of our packages than `lb` and `autoscale.model`."""


@dataclass(frozen=True)
class Source:
    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.path.partition("/")[0]

    def imports(self) -> Iterator[str]:
        """Every module imported anywhere in it, functions and TYPE_CHECKING blocks included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: relative imports hide who knows whom"
                module = node.module or ""
                for alias in node.names:
                    name = f"{module}.{alias.name}"
                    known = ROOT / (name.replace(".", "/") + ".py")
                    yield name if known.exists() or (known.with_suffix("").is_dir()) else module

    def calls(self) -> Iterator[str]:
        """Dotted names of what it calls, such as `asyncio.create_task`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func)

    def words(self) -> Iterator[ast.Constant]:
        """Its string constants without docstrings."""
        statements = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Constant) or id(node) in statements:
                continue
            if isinstance(node.value, str):
                yield node


def read(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text))


SOURCES = [read(p) for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.path)


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_is_walked() -> None:
    assert {source.package for source in SOURCES} == set(PACKAGES)
    assert set(PURE) <= {source.path for source in SOURCES}


@each
def test_who_may_import_whom(source: Source) -> None:
    ours = {module for module in source.imports() if top(module) in PACKAGES}
    if source.package in ("guest", "loadtest", "autoscale"):
        assert {top(m) for m in ours} <= {source.package}, "it runs without the rest"
        return
    if any(source.path.startswith(known) for known in MAY_KNOW_THE_REST):
        return
    foreign = {m for m in ours if top(m) != "lb"}
    assert foreign <= {"autoscale.model"}


def test_no_exception_without_a_need() -> None:
    for known, reason in MAY_KNOW_THE_REST.items():
        assert len(reason.split()) >= 4
        there = [source for source in SOURCES if source.path.startswith(known)]
        assert there, f"{known} is gone: take it out of the table"


@pytest.mark.parametrize("path", PURE)
def test_pure_files_have_no_clock_no_rng_and_no_io(path: str) -> None:
    (source,) = [s for s in SOURCES if s.path == path]
    assert {top(module) for module in source.imports()}.isdisjoint(NEVER_IN_PURE)


@each
def test_libvirt_stands_in_one_file(source: Source) -> None:
    if source.path == "autoscale/hypervisor.py":
        return
    imported = {top(module) for module in source.imports()}
    assert not {module for module in imported if module.startswith("libvirt")}, "libvirt_qemu too"
    named = {n.id for n in ast.walk(source.tree) if isinstance(n, ast.Name)}
    named |= {n.attr for n in ast.walk(source.tree) if isinstance(n, ast.Attribute)}
    assert "libvirtError" not in named


MAY_START_PROCESSES = {
    "lb/worker_process.py": "starts this program again as a worker, never a tool"
}


def allowed_askers() -> set[str]:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"aiohttp's client errors never leave (.+?)\.\n", page)
    return set(re.findall(r"`(lb/\w+\.py)`", rule))


def test_only_one_asks_by_aiohttp() -> None:
    assert allowed_askers() == {"lb/guestview.py"}


@each
def test_aiohttps_client_stays_with_those_who_ask(source: Source) -> None:
    """Its errors are translated where they arise, in the file that docs/architecture.md names."""
    if source.package != "lb":
        return
    uses = "aiohttp.Client" in source.text or re.search(r"\bClientError\b", source.text)
    assert not uses or source.path in allowed_askers()


@each
def test_serving_never_shells_out(source: Source) -> None:
    if source.package not in ("lb", "autoscale") or source.path in MAY_START_PROCESSES:
        return
    assert "subprocess" not in {top(module) for module in source.imports()}
    started = {
        call
        for call in source.calls()
        if call.startswith(("os.system", "os.popen", "os.spawn", "os.exec", "os.posix_spawn"))
        or "create_subprocess" in call
        or "subprocess_exec" in call
    }
    assert not started
    assert not [w.lineno for w in source.words() if w.value.split()[:1] == ["virsh"]]  # type: ignore[union-attr]


def test_what_starts_a_process_starts_this_interpreter_alone() -> None:
    for path in MAY_START_PROCESSES:
        (source,) = [s for s in SOURCES if s.path == path]
        starts = [
            node
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Call) and "subprocess_exec" in ast.unparse(node.func)
        ]
        assert [ast.unparse(start.args[0]) for start in starts] == ["sys.executable"]
        assert not [call for call in source.calls() if "subprocess_shell" in call]


@each
def test_tasks_are_made_in_one_place(source: Source) -> None:
    """`spawn` keeps a reference and logs what nobody awaited; other tasks get lost."""
    if source.path in ("lb/tasks.py", "loadtest/tasks.py"):
        return
    last = {call.rpartition(".")[2] for call in source.calls()}
    assert last.isdisjoint({"create_task", "ensure_future", "TaskGroup"})


@each
def test_every_module_begins_with_a_sentence_of_its_own(source: Source) -> None:
    """What it says, a reader judges; that there is one, whole and no other file's, this does."""
    first = begin(source)
    assert first.endswith((".", "?")), f"{source.path} does not begin with a whole sentence"
    assert [other.path for other in SOURCES if begin(other) == first] == [source.path]


def begin(source: Source) -> str:
    """The first paragraph of its docstring."""
    return (ast.get_docstring(source.tree) or "").partition("\n\n")[0]


@each
def test_files_stay_short(source: Source) -> None:
    assert len(source.text.splitlines()) <= LONGEST_FILE


@each
def test_no_module_is_named_for_nothing(source: Source) -> None:
    stem = source.path.rpartition("/")[2].removesuffix(".py")
    assert not {"utils", "util", "helper", "helpers", "manager", "misc", "common"} & set(
        stem.split("_")
    )


METRICS = (
    "lb_requests_total",
    "lb_request_duration_seconds",
    "lb_upstream_duration_seconds",
    "lb_queue_wait_seconds",
    "lb_inflight_requests",
    "lb_queued_requests",
    "lb_backend_up",
    "lb_backend_inflight_requests",
    "lb_retries_total",
    "lb_upstream_errors_total",
    "lb_backend_ejections_total",
    "lb_access_log_dropped_total",
    "autoscaler_desired_replicas",
    "autoscaler_ready_replicas",
    "autoscaler_booting_replicas",
    "autoscaler_standby_replicas",
    "autoscaler_min_replicas",
    "autoscaler_max_replicas",
    "autoscaler_signal_ratio",
    "autoscaler_decisions_total",
    "autoscaler_last_scale_timestamp_seconds",
    "autoscaler_vm_activation_seconds",
    "vm_cpu_ratio",
    "vm_cpu_seconds_total",
    "vm_memory_bytes",
)
"""As CONTRACT.md names them, the load tester's own left out."""

DECLARING = ("lb/metrics.py", "lb/autoscaler_metrics.py", "lb/vm_metrics.py")


def declared(source: Source) -> list[str]:
    """What could be a metric's name among its strings."""
    return [str(word.value) for word in source.words() if "_" in str(word.value)]


def test_every_metric_of_the_contract_is_declared_once_in_its_place() -> None:
    sources = [s for s in SOURCES if s.path in DECLARING]
    names = [name for source in sources for name in declared(source)]
    for metric in METRICS:
        # prometheus_client adds `_total` to counters
        count = sum(names.count(spelling) for spelling in {metric, metric.removesuffix("_total")})
        if metric.startswith("autoscaler_") and metric.endswith("_replicas"):
            word = metric.split("_")[1]
            (source,) = [s for s in sources if s.path == "lb/autoscaler_metrics.py"]
            assert word in {str(constant.value) for constant in source.words()}
            count = source.text.count('f"autoscaler_{word}_replicas"')
        assert count == 1, f"{metric}: declared {count} times"


@each
def test_no_other_file_names_a_metric(source: Source) -> None:
    if source.path in DECLARING or source.package in ("guest", "loadtest"):
        return
    assert not set(declared(source)) & set(METRICS)
