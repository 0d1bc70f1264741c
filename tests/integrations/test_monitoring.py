"""The dashboard and the alert rules: each query parses, and what it names is emitted."""

import json
import re
from typing import get_args

import promql_parser
import pytest
import yaml
from helpers.paths import ROOT
from prometheus_client import CollectorRegistry

from ratelimit import Decision, Reason
from ratelimit.decision import Detail, Source
from ratelimit.errors import Cause
from ratelimit.observability.prometheus import PrometheusMetrics

FOLDER = ROOT / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
GRAFANA = {"$__rate_interval": "5m", "$job": "all"}
TARGETS = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES = [pytest.param(target["expr"], id=f"{title}-{target['refId']}") for title, target in TARGETS]
QUERIES += [pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES]
OF_THE_SCRAPE = {"job", "instance"}
"""Labels that Prometheus itself adds."""
VALUES = {
    "result": {reason.lower() for reason in Reason},
    "source": set(get_args(Source)),
    "detail": set(get_args(Detail)),
    "type": set(get_args(Cause)),
}


def emitted():
    """The labels of each sample that the exporter emits, by its name."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    for decision in (
        Decision(Reason.ALLOWED),
        Decision(Reason.THROTTLED, "plan:gold", 1.0),
        Decision(Reason.INVALID_KEY, detail="unknown"),
        Decision(Reason.UNAVAILABLE, source="fail_closed", cause="lost"),
    ):
        metrics.record(decision, "gold", "petstore/prod", "*", 0.001)
    return {sample.name: set(sample.labels) for metric in registry.collect() for sample in metric.samples}


EMITTED = emitted()


def parsed(query):
    for variable, value in GRAFANA.items():
        query = query.replace(variable, value)
    return promql_parser.parse(query)


def nodes(query):
    found = []
    promql_parser.walk(parsed(query), found.append)
    return found, [node for node in found if isinstance(node, promql_parser.VectorSelector)]


def label_problems(query):
    """What a query names that is not emitted, or that no label can ever be."""
    everything, selectors = nodes(query)
    assert selectors
    for selector in selectors:
        if selector.name not in EMITTED:
            yield f"no metric {selector.name}"
            continue
        labels = EMITTED[selector.name] | OF_THE_SCRAPE
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                yield f"no label {matcher.name} of {selector.name}"
            yield from (
                f"{matcher.name} is never {value}"
                for value in matcher.value.split("|")
                if value and value not in VALUES.get(matcher.name, {value})
            )
        for node in everything:
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
                grouped = set(node.modifier.labels) - labels if str(selector) in str(node) else set()
                yield from (f"no label {name} of {selector.name}" for name in grouped)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_what_is_emitted(query):
    assert list(label_problems(query)) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(ratelimit_check_total)", "no metric ratelimit_check_total"),
        ('sum(rate(ratelimit_checks_total{key="x"}[5m]))', "no label key of ratelimit_checks_total"),
        ('ratelimit_checks_total{result="denied"}', "result is never denied"),
        ("sum by (method) (rate(ratelimit_checks_total[5m]))", "no label method of ratelimit_checks_total"),
        ("sum by (le) (ratelimit_check_duration_seconds_sum)", "no label le of ratelimit_check_duration_seconds_sum"),
    ],
)
def test_a_query_for_something_else_is_found(query, problem):
    """So the test above can fail."""
    assert list(label_problems(query)) == [problem]


def test_what_is_no_query_is_found():
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        parsed("sum by (rate(x[5m])")


def test_every_metric_is_on_the_dashboard():
    shown = {selector.name for _, target in TARGETS for selector in nodes(target["expr"])[1]}
    ignored = {name for name in EMITTED if name.endswith("_created")}
    assert shown == set(EMITTED) - ignored


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[title for title, _ in TARGETS])
def test_a_legend_names_labels_that_its_query_keeps(title, target):
    kept = {
        label
        for node in nodes(target["expr"])[0]
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
        for label in node.modifier.labels
    }
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, title


def test_the_dashboard_is_one_that_grafana_imports():
    """Ids of its own, a grid without overlaps, one data source that is chosen at import."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    (job,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    metric = re.fullmatch(r"label_values\((\w+), job\)", job["query"])[1]
    assert metric in EMITTED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_is_wrong_and_what_to_do(rule):
    """Its texts name labels that the query keeps."""
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["annotations"].keys() == {"summary", "remedy"}
    kept = set().union(
        *(
            node.modifier.labels
            for node in nodes(rule["expr"])[0]
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
        )
    )
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept
