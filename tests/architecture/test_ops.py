"""The dashboard and the alerts ask for metrics and labels that the service really exports, and for all of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.infrastructure.api.app import ServiceParts, create_app
from llm_engineering.infrastructure.api.health import Health
from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from llm_engineering.settings import ServiceSettings
from tests.fakes.index import FakeVectorIndex

OPS = Path(__file__).parents[2] / "ops"
DASHBOARD: dict[str, Any] = json.loads((OPS / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]

OF_PROMETHEUS = {"up": {"job", "instance"}}
"""What Prometheus itself writes about each target, with its labels."""
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
"""What prometheus-client tells of a process on Linux, where services run, and on no other system."""
OF_THE_SCRAPE = {"job", "instance"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
_SELECTION = re.compile(r"\b((?:twin|process)_\w+|up)\b(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


def exported() -> dict[str, set[str]]:
    """Series of the service by name, with the labels of each."""
    series: dict[str, set[str]] = {}
    metrics = ServiceMetrics()
    # The labels of a metric that has counted nothing yet stand nowhere but in the object itself.
    labels = {
        metric._name: set(metric._labelnames)
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    for family in metrics.registry.collect():
        if not family.name.startswith("twin_"):
            continue
        for suffix in SUFFIXES[family.type]:
            extra = {"le"} if suffix == "_bucket" else set()
            series[family.name + suffix] = labels[family.name] | extra | OF_THE_SCRAPE
    return series | dict.fromkeys(OF_THE_PROCESS, OF_THE_SCRAPE) | OF_PROMETHEUS


EXPORTED = exported()


@pytest.fixture(scope="module")
def routes() -> set[str]:
    """Templates of the service's routes, as its OpenAPI description names them."""
    metrics = ServiceMetrics()
    pipeline = InferencePipeline.__new__(InferencePipeline)  # routes are made without touching it
    parts = ServiceParts(pipeline, FakeVectorIndex(), health=Health((), metrics), metrics=metrics)
    return set(create_app(parts).openapi()["paths"])


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, query) of all panels and alerts."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for alert in ALERTS:
        yield f"alert {alert['alert']}", alert["expr"]


def selections(query: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that are matched) of each selection in a query."""
    for name, matchers in _SELECTION.findall(re.sub(r'"[^"]*"', '""', query)):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


@pytest.mark.parametrize(("where", "query"), list(expressions()), ids=lambda value: value[:40])
def test_a_query_asks_for_what_is_exported(where: str, query: str) -> None:
    asked = list(selections(query))
    assert asked, f"{where} names no metric"
    for name, labels in asked:
        assert name in EXPORTED, f"{where}: the service exports no {name}"
        assert labels <= EXPORTED[name], f"{where}: {name} has the labels {sorted(EXPORTED[name])} alone"
    carried = set.union(*(EXPORTED[name] for name, _ in asked))
    for names in _GROUPING.findall(query):
        grouped = {name.strip() for name in names.split(",") if name.strip()}
        assert grouped <= carried, f"{where} groups by a label that none of its metrics has"


@pytest.mark.parametrize(("where", "query"), list(expressions()), ids=lambda value: value[:40])
def test_routes_in_queries_are_routes_of_the_service(where: str, query: str, routes: set[str]) -> None:
    """A label that no request has makes a query that is silently empty, or an exclusion that excludes nothing."""
    for pattern in re.findall(r'route(?:=~|!~|!=|=)"([^"]*)"', query):
        for alternative in pattern.split("|"):
            assert any(re.fullmatch(alternative, route) for route in routes), (
                f"{where}: no route {alternative}"
            )


def test_all_that_is_exported_is_shown() -> None:
    shown = {name for _, query in expressions() for name, _ in selections(query)}
    families = {family.name: family.type for family in ServiceMetrics().registry.collect()}
    unseen = {
        name
        for name, kind in families.items()
        if name.startswith("twin_") and not shown & {name + suffix for suffix in SUFFIXES[kind]}
    }
    assert not unseen, "metrics that no panel shows are noise, or a panel is missing"


def test_the_alerts_of_the_specification_stand() -> None:
    by_name = {alert["alert"]: alert for alert in ALERTS}
    assert re.search(r"> 0\.05\s*$", by_name["TwinErrorRate"]["expr"])
    assert by_name["TwinErrorRate"]["for"] == "5m"
    assert re.search(r"histogram_quantile\(0\.95,.*> 2\s*$", by_name["TwinLatency"]["expr"], re.S)
    assert by_name["TwinNotReady"]["expr"] == "twin_ready == 0"


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "description"}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """No data source of the machine on which it was made, and no id that could meet another's."""
    assert DASHBOARD["id"] is None
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job"]
    for panel in PANELS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"]), panel["title"]


def test_panels_have_a_place_of_their_own_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"] for panel in PANELS)


def test_prometheus_looks_where_the_service_listens() -> None:
    config = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    service = ServiceSettings()
    assert job["job_name"] == "twin"
    assert job["static_configs"] == [{"targets": [f"{service.host}:{service.port}"]}]
    assert (OPS / "prometheus" / config["rule_files"][0]).is_file()
