"""Every source module has a test file that covers it, and that file really comes to it.

By name: tests/test_STEM.py or tests/test_PACKAGE_STEM.py imports it, itself or by a fake it uses;
PACKAGE is the outermost or the innermost.
What is tested with another module stands in the table, with the file to look into.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lb", "autoscale", "guest", "loadtest")

COVERED_BY = {
    "autoscale.changes": "test_hypervisor",
    "autoscale.host": "test_hypervisor",
    "autoscale.life": "test_fleet",
    "autoscale.machines": "test_fleet",
    "autoscale.model": "test_policy",
    "autoscale.threads": "test_hypervisor",
    "guest.boottime": "test_image",
    "guest.debian": "test_image",
    "guest.initrd": "test_image",
    "guest.rootfs": "test_image",
    "lb.attempts": "test_attempts",
    "lb.client_server": "test_client_connection",
    "lb.client_phase": "test_client_connection",
    "lb.dial": "test_upstream",
    "lb.journey": "test_journey",
    "lb.pour": "test_pour",
    "lb.relay": "test_relay",
    "lb.request_metrics": "test_metrics",
    "lb.tunnel": "test_tunnel",
    "lb.admin.access": "test_admin",
    "lb.admin.api": "test_admin",
    "lb.admin.console": "test_admin",
    "lb.admin.control": "test_admin",
    "lb.admin.guard": "test_admin",
    "lb.admin.problems": "test_admin",
    "lb.admin.rollout_routes": "test_admin_rollouts",
    "lb.admin.scale_routes": "test_admin",
    "lb.admin.stream": "test_admin",
    "lb.admin.vm_routes": "test_admin",
    "lb.autoscaler_metrics": "test_metrics",
    "lb.by_service": "test_overrides",
    "lb.change": "test_pool",
    "lb.commands.pauses": "test_cli",
    "lb.lease": "test_pool",
    "lb.slate": "test_balance",
    "lb.commands.base": "test_cli",
    "lb.commands.config": "test_cli",
    "lb.commands.decisions": "test_cli",
    "lb.commands.events": "test_cli",
    "lb.commands.image": "test_cli",
    "lb.commands.machines": "test_cli",
    "lb.commands.pool": "test_cli",
    "lb.commands.render": "test_cli",
    "lb.commands.scale": "test_cli",
    "lb.commands.rollout": "test_admin_rollouts",
    "lb.fleet_orders": "test_scaler_rollout",
    "lb.scaler_rollout": "test_scaler_rollout",
    "lb.config_fleet": "test_config",
    "lb.config_proxy": "test_config",
    "lb.config_service": "test_config",
    "lb.config_types": "test_config",
    "lb.demo": "e2e/test_demo",
    "lb.demo_acts": "test_demo_encore",
    "lb.demo_config": "test_demo_encore",
    "lb.figures": "test_cli",
    "lb.histogram": "test_metrics",
    "lb.home": "test_config",
    "lb.hosts": "test_service",
    "lb.journal_file": "test_journal",
    "lb.series_file": "test_series",
    "lb.pool_state": "test_follower",
    "lb.proxy": "test_proxy",
    "lb.served": "test_reload",
    "lb.worker_process": "test_workers",
    "loadtest.__main__": "test_loadtest_cli",
    "loadtest.asked": "test_loadtest_targets",
    "loadtest.closed": "test_loadtest_engine",
    "loadtest.connect": "test_loadtest_engine",
    "loadtest.connection": "test_loadtest_engine",
    "loadtest.core_wait": "test_loadtest_views",
    "loadtest.control": "test_loadtest_cli",
    "loadtest.errors": "test_loadtest_plan",
    "loadtest.har": "test_loadtest_targets",
    "loadtest.ledger": "test_loadtest_engine",
    "loadtest.live": "test_loadtest_views",
    "loadtest.log_lines": "test_loadtest_targets",
    "loadtest.hdr_codec": "test_loadtest_stats",
    "loadtest.member": "test_loadtest_crew",
    "loadtest.outcome": "test_loadtest_merge",
    "loadtest.status": "test_loadtest_crew",
    "loadtest.mix": "test_loadtest_targets",
    "loadtest.interval_log": "test_loadtest_results",
    "loadtest.outputs": "test_loadtest_results",
    "loadtest.page": "test_loadtest_results",
    "loadtest.series_csv": "test_loadtest_results",
    "loadtest.listen": "test_loadtest_metrics",
    "loadtest.pool": "test_loadtest_engine",
    "loadtest.remote": "test_loadtest_cli",
    "loadtest.priority": "test_loadtest_cli",
    "loadtest.profiles": "test_loadtest_plan",
    "loadtest.report": "test_loadtest_views",
    "loadtest.result": "test_loadtest_engine",
    "loadtest.request": "test_loadtest_target",
    "loadtest.signals": "test_loadtest_cli",
    "loadtest.tasks": "test_loadtest_engine",
    "loadtest.thresholds": "test_loadtest_views",
    "loadtest.trace": "test_loadtest_plan",
    "loadtest.worker": "test_loadtest_cli",
}
BY_COMMAND = {"lb.demo": '"lbctl", "demo"', "loadtest.__main__": '"loadtest",'}
"""Those that no test imports: it starts them by this word."""


def dotted(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


MODULES = {
    dotted(path): path
    for package in (*PACKAGES, "tests")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
}
SOURCES = [module for module in MODULES if module.partition(".")[0] in PACKAGES]


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that it imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found & MODULES.keys())


@cache
def reaches(module: str, only: tuple[str, ...]) -> frozenset[str]:
    """What it imports, and what those imports that begin with `only` import, and so on."""
    seen: set[str] = set()
    ahead = [module]
    while ahead:
        for found in imports(ahead.pop()) - seen:
            seen.add(found)
            if found.startswith(only):
                ahead.append(found)
    return frozenset(seen)


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_has_its_test_file(module: str) -> None:
    package, _, stem = module.partition(".")
    inner, _, stem = stem.rpartition(".")
    names = dict.fromkeys((f"test_{stem}", f"test_{package}_{stem}", f"test_{inner}_{stem}"))
    named = [name for name in names if is_test(name)]
    by_name = [name for name in named if module in reaches(f"tests.{name}", ("tests.",))]
    if by_name:
        assert module not in COVERED_BY, f"{by_name[0]} covers it by its name: out of the table"
        return
    assert module in COVERED_BY, (
        f"no test file covers {module}: write tests/test_{package}_{stem}.py,"
        " or say in COVERED_BY which one does"
    )
    test = "tests." + COVERED_BY[module].replace("/", ".")
    assert test in MODULES, f"{test} is gone"
    if module in BY_COMMAND:
        assert BY_COMMAND[module] in MODULES[test].read_text(encoding="utf-8")
        return
    assert module in reaches(test, ("tests.", *PACKAGES)), f"{test} never comes to {module}"


def is_test(name: str) -> bool:
    return f"tests.{name}" in MODULES


def test_the_table_names_only_what_exists() -> None:
    assert set(COVERED_BY) <= set(SOURCES)
    assert set(BY_COMMAND) <= set(COVERED_BY)
