"""What importing the steps and pipelines costs beyond ZenML itself: fresh interpreters, the median of some."""

import json
import statistics
import subprocess
import sys
from typing import Any

from rich.table import Table

from benchmarks.common import ROOT, Check, console, load, show_checks

TARGET = 0.5
"""Seconds."""

_MEASURE = """
import json, sys, time
start = time.perf_counter()
import zenml
between = time.perf_counter()
before = set(sys.modules)
import steps, pipelines
end = time.perf_counter()
modules = set(sys.modules) - before
ours = [name for name in modules if name.split(".")[0] in ("steps", "pipelines", "llm_engineering")]
print(json.dumps({"zenml": between - start, "ours": end - between, "modules": len(modules), "own_modules": len(ours)}))
"""


def main(runs: int = 5) -> dict[str, Any]:
    """Measure, print a table and return the numbers. One more interpreter goes first, to warm the disk's cache."""
    samples = [_sample() for _ in range(runs + 1)][1:]
    median = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    table = Table("import", "seconds (median)", "all", title=f"Imports (load {load()})")
    for name, key in (("zenml", "zenml"), ("steps, pipelines, after it", "ours")):
        table.add_row(name, f"{median[key]:.3f}", ", ".join(f"{sample[key]:.2f}" for sample in samples))
    console.print(table)
    console.print(
        f"{median['modules']:.0f} modules are new, {median['own_modules']:.0f} of them the project's."
    )
    shown = [
        Check(
            "import steps, pipelines beyond import zenml", median["ours"], TARGET, "at most", " s"
        ).as_dict()
    ]
    show_checks("Imports", shown)
    return {"checks": shown, "load": load(), "samples": samples}


def _sample() -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    sample: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return sample
