"""The files a result goes to: CSV, interval logs, the page; and reports made of them."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import io
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtest import page as page_module
from loadtest.errors import InputError, LoadtestError
from loadtest.interval_log import (
    Interval,
    intervals_of,
    merge_logs,
    read_log,
    to_text,
    whole,
    write_log,
)
from loadtest.outputs import KINDS, check_writable, write
from loadtest.page import to_html
from loadtest.result import Result
from loadtest.series_csv import to_csv
from loadtest.stats import MAX_US, Tally
from tests.loadtest_servers import OK, Peer, always_ok, serving
from tests.test_loadtest_cli import ended, loadtest
from tests.test_loadtest_merge import part

TIMES = [0.001 * n for n in range(1, 60)] + [5.0]


def tally(*values: float) -> Tally:
    counted = Tally()
    for value in values:
        counted.record(value)
    return counted


# ── interval logs ────────────────────────────────────────────────────────────────────────────────


def test_the_library_reads_our_log(tmp_path: Path) -> None:
    found = part(TIMES)
    file = tmp_path / "a.hlog"
    write([("", found)], {"hlog": file})
    reader = HistogramLogReader(str(file), HdrHistogram(1, MAX_US, 3))
    intervals = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        intervals.append(histogram)
    assert len(intervals) == len(found.series)
    assert sum(histogram.get_total_count() for histogram in intervals) == found.latency_s.count
    assert [h.get_start_time_stamp() for h in intervals] == [1_000_000 + 1000 * n for n in range(5)]
    assert max(h.get_max_value() for h in intervals) == round(found.latency_s.max * 1e6)
    reader.close()


def test_our_log_reads_back_and_sums_up_to_the_result(tmp_path: Path) -> None:
    found = part(TIMES)
    file = tmp_path / "a.hlog"
    write_log(list(intervals_of(found)), file)
    log = read_log(file)
    assert [(interval.start, interval.length) for interval in log] == [
        (1000.0 + row.t, row.span) for row in found.series
    ]
    assert whole(log).summary() == found.latency_s


def test_tags_relative_times_and_other_ranges_are_read(tmp_path: Path) -> None:
    file = tmp_path / "other.hlog"
    other = HdrHistogram(1, 10_000_000, 3)
    other.record_value(1234)
    text = other.encode().decode()
    file.write_text(
        "#[StartTime: 1700000000.5 (seconds since epoch), x]\n"
        f'"StartTimestamp",…\nTag=A,0.127,1.007,2.769,{text}\n'
    )
    (interval,) = read_log(file)
    assert interval.start == pytest.approx(1700000000.627)
    assert interval.latency.counts == {1234: 1}


def test_logs_merge_by_the_clock() -> None:
    a = [Interval(100.0 + n, 1.0, tally(0.001)) for n in range(3)]
    b = [Interval(100.9996 + n, 1.0, tally(0.002)) for n in range(3)]
    merged = merge_logs([a, b])
    assert [(round(i.start, 3), len(i.latency)) for i in merged] == [
        (100.0, 1), (101.0, 2), (102.0, 2), (103.0, 1),
    ]  # fmt: skip
    assert len(whole(merged)) == 6
    half = merge_logs([a, [Interval(100.5 + n, 1.0, tally(0.002)) for n in range(3)]])
    assert [(i.start, i.length, len(i.latency)) for i in half] == [
        (100.0, 1.0, 2), (101.0, 1.0, 2), (102.0, 1.0, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no interval"),
        ("0.1,1,2,nonsense\n", "bad.hlog:1: not an interval"),
        ("#x\n0.1,1\n", "bad.hlog:2: not an interval"),
    ],
)
def test_a_bad_log_says_where(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.hlog"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_log(file)


def test_histograms_that_do_not_fit_are_refused() -> None:
    coarse = HdrHistogram(1, 1000, 2)
    coarse.record_value(5)
    with pytest.raises(ValueError, match="2 digits"):
        Tally.decode(coarse.encode().decode())
    good = tally(0.5).encode()
    for bad in (good[:-8], good[:30] + "AAAA" + good[34:], "AAAA"):
        with pytest.raises(ValueError, match="not an HdrHistogram"):
            Tally.decode(bad)


def test_an_old_result_has_no_intervals() -> None:
    found = part([])
    old = replace(found, series=[replace(row, latency_us="") for row in found.series])
    with pytest.raises(InputError, match="old one"):
        to_text(list(intervals_of(old)))


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────


def test_csv_has_a_row_a_second() -> None:
    found = part(TIMES)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(rows) == len(found.series)
    assert sum(int(row["completed"]) for row in rows) == found.counts.completed
    assert float(rows[0]["p50_s"]) == found.series[0].p50_s
    assert rows[-1]["p50_s"] == ""
    assert "timeout=1" in [row["error_kinds"] for row in rows]


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.outside: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            if name.startswith("xmlns"):  # names, not addresses
                continue
            if value and re.search(r"(?:https?:)?//|url\((?!#)", value):
                self.outside.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_page_needs_nothing_else() -> None:
    found = replace(part(TIMES), reasons=["send lag <b>x</b>"], trustworthy=False)
    page = Tags()
    page.feed(to_html([("a.json", found)]))
    assert page.outside == []
    assert not {"script", "link", "img", "iframe", "b"} & set(page.seen)
    assert page.seen.count("svg") == 4
    assert "Not trustworthy: send lag <b>x</b>" in page.text
    for word in ("low", "high", "timeout", "5 s", "intended", "p99.9", "99 %"):
        assert word in page.text


def test_a_page_of_several_compares_them() -> None:
    page = Tags()
    page.feed(to_html([("a.json", part(TIMES)), ("b.json", part([0.5] * 60))]))
    assert page.outside == []
    assert "×" in page.text
    assert "b.json" in page.text
    assert page.seen.count("svg") == 7


# ── as a user meets them ─────────────────────────────────────────────────────────────────────────


async def test_run_writes_all_of_them_and_report_reads_them(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"a.{kind}" for kind in KINDS}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    async with serving(always_ok) as url:
        code, _, err = await loadtest("run", url, "--rate", "50", "--duration", "1200ms", *options)
    assert (code, err) == (0, "")
    found = Result.read(files["json"])
    assert files["csv"].read_text() == to_csv(found)
    assert whole(read_log(files["hlog"])).summary() == found.latency_s
    assert "<svg" in files["html"].read_text()
    both, log = tmp_path / "both.json", tmp_path / "both.hlog"
    name = str(files["json"])
    code, out, err = await loadtest(
        "report", name, name, "--merge", "--json", str(both), "--hlog", str(log)
    )
    assert (code, err) == (0, "")
    assert Result.read(both).counts.completed == 2 * found.counts.completed
    assert len(whole(read_log(log))) == 2 * found.latency_s.count
    again = tmp_path / "again.hlog"
    code, out, err = await loadtest(
        "report", str(files["hlog"]), str(log), "--merge", "--hlog", str(again)
    )
    assert (code, err) == (0, "")
    assert str(3 * found.latency_s.count) in out
    assert len(whole(read_log(again))) == 3 * found.latency_s.count
    code, out, _ = await loadtest("report", str(files["hlog"]), str(log))
    assert code == 0
    assert out.count("a.hlog") == 1
    page = tmp_path / "two.html"
    code, out, _ = await loadtest("report", name, str(both), "--html", str(page))
    assert code == 0
    assert "×2.00" in page.read_text()


async def test_reports_that_cannot_be_say_so(tmp_path: Path) -> None:
    file, log = tmp_path / "a.json", tmp_path / "a.hlog"
    found = part(TIMES)
    write([("", found)], {"json": file, "hlog": log})
    for words, says in (
        ([str(file), str(log)], "either results or interval logs"),
        ([str(log), "--csv", str(tmp_path / "x")], "hold latencies only"),
        ([str(log), str(log), "--hlog", str(tmp_path / "x")], "say --merge"),
        ([str(file), str(file), "--csv", str(tmp_path / "x")], "say --merge"),
        ([str(file), "--html", "/none/x"], "--html /none/x: cannot write there"),
    ):
        code, out, err = await loadtest("report", *words)
        assert code == 2, words
        assert says in err
        assert out == ""


def test_what_cannot_be_written_is_found_before_or_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--csv"):
        check_writable({"csv": tmp_path})
    with pytest.raises(LoadtestError, match="--hlog"):
        write_log([Interval(0, 1, Tally())], tmp_path)


def test_a_file_that_cannot_be_written_costs_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> str:
        raise ValueError("no font")

    monkeypatch.setattr(page_module, "to_html", broken)
    found = part(TIMES)
    html, csv_file, json_file = tmp_path / "a.html", tmp_path, tmp_path / "a.json"
    failed = write([("", found)], {"html": html, "csv": csv_file, "json": json_file})
    assert failed == [f"--csv {csv_file}: Is a directory", f"--html {html}: no font"]
    assert Result.read(json_file) == found
    assert not html.exists()


async def test_an_output_that_fails_is_told_after_all_that_did_not(tmp_path: Path) -> None:
    gone, files = tmp_path / "gone", {kind: tmp_path / f"a.{kind}" for kind in ("json", "html")}
    gone.mkdir()

    async def removing(peer: Peer) -> None:
        await peer.request()
        gone.rmdir()  # after the check, before the end
        await peer.answer(OK)
        await always_ok(peer)

    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    async with serving(removing) as url:
        code, out, err = await loadtest(
            "run", url, "--rate", "10", "--duration", "100ms", "--csv", str(gone / "x"), *options
        )
    assert (code, err) == (1, f"loadtest: --csv {gone / 'x'}: No such file or directory\n")
    assert "completed 1" in out
    assert Result.read(files["json"]).counts.completed == 1
    assert "<svg" in files["html"].read_text()


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    fifo, file, link = tmp_path / "fifo", tmp_path / "folder" / "a.csv", tmp_path / "link"
    os.mkfifo(fifo)
    file.parent.mkdir()
    file.write_text("old")
    link.symlink_to(file)
    found = part(TIMES)
    outputs = {"json": fifo, "csv": link}
    check_writable(outputs)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # so that the writer need not wait
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)  # and holds all of it
        assert write([("", found)], outputs) == []
        assert Result.from_json(os.read(reader, 1 << 20).decode(), "fifo") == found
    finally:
        os.close(reader)
    assert fifo.is_fifo()
    assert link.is_symlink()
    assert file.read_text() == to_csv(found)
    new = tmp_path / "new"
    new.symlink_to(tmp_path / "folder" / "new.csv")
    assert write([("", found)], {"csv": new}) == []
    assert new.is_symlink()
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.csv", "new.csv"]


@pytest.mark.parametrize("options", [(), ("--quiet",)])
async def test_a_reader_that_has_gone_takes_no_result_along(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "out.json"
    reader, writer = os.pipe()
    async with serving(always_ok) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtest", "run", url, "--rate", "50", "--duration", "2100ms",
            "--json", str(file), *options, stdout=writer, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(writer)
        os.close(reader)
        _, _, err = await ended(process)
    assert err == ""
    result = Result.read(file)
    assert (result.counts.completed, result.stopped_by) == (105, "plan")
