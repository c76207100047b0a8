"""Alerts and dashboard as code: every metric exists, every runbook is there, every rule fires when it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "orderflow.json").read_text())
USED = re.compile(r"orderflow_[a-z_]+")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def promtool(*arguments: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian package prometheus): alert rules are not tested")
    run = subprocess.run([found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_has_a_test() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {rule["alertname"] for test in tests for rule in test["alert_rule_test"] if rule["exp_alerts"]}
    quiet = {rule["alertname"] for test in tests for rule in test["alert_rule_test"] if not rule["exp_alerts"]}
    names = {alert["alert"] for alert in ALERTS}
    assert fired == names
    assert quiet == names - {"OrderflowParkedRising"}  # whose quiet side is a second series in its test


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_what_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"]
    page = (ROOT / alert["annotations"]["runbook"]).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    for heading in ("## What it means", "## What customers notice", "## Look", "## Do", "## Afterwards"):
        assert heading in page, heading


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {f"docs/runbooks/{page.name}" for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages == {alert["annotations"]["runbook"] for alert in ALERTS}


def test_every_metric_used_exists() -> None:
    names = Metrics().names()
    for alert in ALERTS:
        assert set(USED.findall(alert["expr"])) <= names, alert["alert"]
    for panel in panels():
        for target in panel["targets"]:
            found = set(USED.findall(target["expr"]))
            assert found and found <= names, (panel["title"], found - names)
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        assert set(USED.findall(page.read_text())) <= names, page.name


def test_every_label_used_exists() -> None:
    text = "\n".join([alert["expr"] for alert in ALERTS] + [target["expr"] for panel in panels() for target in panel["targets"]])
    labels = {"instance", "le"}
    for family in vars(Metrics()).values():
        labels |= set(getattr(getattr(family, "metric", None), "_labelnames", ()))
    used = set(re.findall(r'([a-z_]+)=~?"', text))
    for group in re.findall(r"by \(([^)]*)\)", text):
        used |= {label.strip() for label in group.split(",")}
    assert used <= labels


def test_panels_are_told_apart_and_explained() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) and len(panels()) >= 20
    for panel in panels():
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]


def test_the_rules_are_well_formed() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")
