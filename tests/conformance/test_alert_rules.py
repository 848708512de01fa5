"""The alert rules against Prometheus's own tool: they parse, and fire on what they should and on nothing else."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OPS = Path(__file__).parents[2] / "ops"
PROMETHEUS = OPS / "prometheus"
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on the PATH (it comes with Prometheus; .ci/run installs it)"
)


def promtool(*arguments: str | Path) -> str:
    """Run promtool; returns all that it said, and fails with that if it failed."""
    run = subprocess.run(
        [PROMTOOL or "promtool", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


AMTOOL = shutil.which("amtool")


@pytest.mark.skipif(
    AMTOOL is None, reason="amtool is not on the PATH (it comes with Alertmanager; .ci/run installs it)"
)
def test_alertmanager_takes_its_configuration() -> None:
    run = subprocess.run(
        [AMTOOL or "amtool", "check-config", PROMETHEUS / "alertmanager.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 receivers" in run.stdout


def test_alerts_are_grouped_by_service_and_their_end_is_told() -> None:
    told = read("alertmanager.yml")
    assert told["route"]["group_by"] == ["job"]
    assert {receiver["name"] for receiver in told["receivers"]} == {told["route"]["receiver"]}
    assert all(one["send_resolved"] for one in told["receivers"][0]["slack_configs"])
    assert "slack_api_url" not in told["global"], "the address is a secret, and stands in a file"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))
    return content


def alerts() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]


@needs_promtool
def test_the_configuration_and_the_rules_it_names_are_valid() -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(alerts())} rules found" in said


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "alerts_test.yml")


@pytest.mark.parametrize("name", [alert["alert"] for alert in alerts()])
def test_each_alert_is_tested_to_fire_and_to_stay_silent(name: str) -> None:
    expected = [
        bool(case["exp_alerts"])
        for test in read("alerts_test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert set(expected) == {True, False}, f"alerts_test.yml says of {name}: {expected}"


@needs_promtool
def test_a_rule_that_is_loosened_is_noticed(tmp_path: Path) -> None:
    """The tests of the rules are worth something: with 7 % instead of 5 %, they fail."""
    shutil.copy(PROMETHEUS / "alerts_test.yml", tmp_path)
    rules = (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yml").write_text(rules.replace("> 0.05", "> 0.07"), encoding="utf-8")
    with pytest.raises(AssertionError, match="TwinErrorRate"):
        promtool("test", "rules", tmp_path / "alerts_test.yml")


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As rules of their own, with what Grafana fills in filled in."""
    dashboard = json.loads((OPS / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    queries = [
        target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$job", "twin")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    assert not [query for query in queries if re.search(r"\$\w", query)], (
        "a variable that this test does not know"
    )
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(queries)} rules found" in promtool("check", "rules", path)
