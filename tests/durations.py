"""How long the tests take: stored per file, used to start the longest files first, and held to a budget per tier.

``--store-durations`` writes what a run has measured into ``tests/durations.json``. ``--check-budgets`` fails a run in
which the tests of ``poe test`` took more than one and a half times their tier's budget, in seconds of the machine that
stored them: the run measures its own machine by the same loop. Meant for CI; a laptop under load need not ask.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("durations.json")
ALLOWED_EXCESS = 1.5
LEFT_OUT = ("slow", "nightly")
"""Markers of the tests that ``poe test`` leaves out."""
_LOOPS = 2_000_000


def read_durations() -> dict[str, Any]:
    """Return what was stored: seconds per file, seconds per tier, and the seconds of the measuring loop."""
    stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return stored


def measure_machine() -> float:
    """Return the seconds of a fixed loop: the best of five, so that a moment's load does not count."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(_LOOPS):
            pass
        best = min(best, time.perf_counter() - started)
    return best


def allow(seconds: float) -> float:
    """Return a deadline for what takes less than ``seconds`` on an idle machine: longer where this one is slow just now."""
    loops = 3
    started = time.perf_counter()
    for _ in range(loops * _LOOPS):
        pass
    return seconds * max(1.0, (time.perf_counter() - started) / loops / read_durations()["loop"])


class Durations:
    """Adds up what the tests of a run take. Registered where reports arrive: in the process that was started by hand."""

    def __init__(self, *, store: bool, check: bool) -> None:
        self._store = store
        self._check = check
        self._files: Counter[str] = Counter()
        self._tiers: Counter[str] = Counter()
        self._exceeded: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        self._files[file] += report.duration
        if not any(marker in report.keywords for marker in LEFT_OUT):
            self._tiers[Path(file).parts[1]] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._check:
            self._exceeded = self._compare()
            if self._exceeded and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._store:
            self._write()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self._exceeded:
            terminalreporter.write_line(line, red=True)

    def _compare(self) -> list[str]:
        stored = read_durations()
        factor = max(1.0, measure_machine() / stored["loop"])
        return [
            f"Tests of {tier} took {self._tiers[tier] / factor:.0f} s, more than {ALLOWED_EXCESS:g} times their budget "
            f"of {budget} s: make them quicker, mark what is heavy, or store durations anew (--store-durations)"
            for tier, budget in stored["budgets"].items()
            if self._tiers[tier] > ALLOWED_EXCESS * budget * factor
        ]

    def _write(self) -> None:
        """Replace the seconds of the files that ran, and the budgets of tiers that ran as a whole."""
        stored = read_durations()
        files = {**stored["files"], **{file: round(seconds) for file, seconds in self._files.items()}}
        kept = {
            file: seconds for file, seconds in files.items() if seconds and (FILE.parents[1] / file).exists()
        }
        missed = {Path(file).parts[1] for file in kept.keys() - self._files.keys()}
        # A part of a tier says nothing about the whole.
        measured = {tier: round(seconds) for tier, seconds in self._tiers.items() if tier not in missed}
        budgets = {**stored["budgets"], **measured}
        content = {
            "loop": round(measure_machine(), 4),
            "budgets": dict(sorted(budgets.items())),
            "files": dict(sorted(kept.items())),
        }
        FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
