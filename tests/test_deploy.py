"""What is shipped to run it: every name in it has to exist, and the real tools have to take it."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart, lint
from lacking import lacking
from serving import Local

from service.cli import app
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DEPLOY, CHART = ROOT / "deploy", ROOT / "deploy" / "helm" / "staydown"
ALL = {
    "worker": {"enabled": True}, "withdrawals": {"existingClaim": "w"}, "env": {"STAYDOWN_MAX_IN_FLIGHT": "5"},
    "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]},
    "serviceMonitor": {"enabled": True, "keySecretName": "k"},
}  # fmt: skip
NO_METRICS = {"up"}  # Prometheus' own


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def expressions() -> dict[str, str]:
    """Return every expression of the dashboard and of the alert rules."""
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "staydown.json").read_text())
    found = {f"{panel['title']} {target['refId']}": target["expr"] for panel in board["panels"]
             for target in panel["targets"]}  # fmt: skip
    groups = read(DEPLOY / "prometheus" / "rules.yml")["groups"]
    return found | {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def names(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without)\s*\([^)]*\)", "", expression)
    return set(re.findall(r"\b(?:staydown|process)_\w+|\bup\b", bare))


def served(local: Local) -> str:
    admin = local.api()
    admin.post("/v1/check/hashes", {"signals": [{"signal_type": "pdq", "hash": "0f" * 32}]})
    admin.get("/v1/nothing")
    return admin.get("/metrics").body.decode()


def test_dashboard_and_alerts_ask_for_metrics_that_are_served(local: Local) -> None:
    samples = {re.split(r"[{ ]", line)[0] for line in served(local).splitlines() if not line.startswith("#")}
    asked = {name for expression in expressions().values() for name in names(expression)}
    assert len(asked) >= 12
    assert asked - NO_METRICS <= samples, asked - NO_METRICS - samples


def test_every_metric_of_ours_is_shown(local: Local) -> None:
    ours = set(re.findall(r"^# TYPE (staydown_\w+?)(?:_total|_created)? ", served(local), re.MULTILINE))
    text = " ".join(expressions().values())
    assert {name for name in ours if name not in text} == set()


def test_labels_that_are_asked_for_are_served(local: Local) -> None:
    text = served(local)
    known = set(re.findall(r'[{,](\w+)="', text)) | {"le", "job", "code"}
    asked = {label for expression in expressions().values() for group in re.findall(r"by \(([^)]*)\)", expression)
             for label in group.replace(" ", "").split(",")}  # fmt: skip
    assert asked <= known


def test_the_metrics_say_how_current_the_process_is(local: Local) -> None:
    local.api().bank()  # a change
    values = dict(line.rsplit(" ", 1) for line in served(local).splitlines() if not line.startswith("#"))
    assert float(values["staydown_record_revision"]) > 0
    assert float(values["staydown_ready"]) == float(values["staydown_store_reached"]) == 1
    assert float(values["process_resident_memory_bytes"]) > 1e7


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        lacking("no promtool: apt-get install prometheus")
    done = subprocess.run([promtool, "check", "rules", DEPLOY / "prometheus" / "rules.yml"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    groups = read(DEPLOY / "prometheus" / "rules.yml")["groups"]
    assert f"SUCCESS: {sum(len(group['rules']) for group in groups)} rules found" in done.stdout


def test_helm_takes_the_chart() -> None:
    assert lint(str(CHART))["errors"] == []


@pytest.mark.parametrize("values", [{}, ALL], ids=["default", "all"])
def test_a_rendered_pod_gives_nothing_away(values: dict[str, Any]) -> None:
    made = [one for text in Chart.load(CHART).render(values).values() for one in yaml.safe_load_all(text) if one]
    kinds = sorted(one["kind"] for one in made)
    usual = ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"]
    assert kinds == sorted([*usual, "Deployment", "ServiceMonitor"] if values else usual)
    for pod in (one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert settings_of(one["name"] for one in container["env"])
        assert not [one for one in container["env"] if "DATABASE" in one["name"] and "value" in one]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def settings_of(given: Any) -> bool:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(given) <= known, set(given) - known
    return True


def test_a_pod_is_given_the_time_that_it_takes_to_end() -> None:
    text = Chart.load(CHART).render({"drainSeconds": 7, "graceSeconds": 11})["staydown/templates/deployment.yaml"]
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert (env["STAYDOWN_SHUTDOWN_DRAIN_S"], env["STAYDOWN_SHUTDOWN_GRACE_S"]) == ("7", "11")
    assert pod["terminationGracePeriodSeconds"] > 7 + 11 + 2


def test_what_compose_names_is_there() -> None:
    compose = read(ROOT / "compose.yaml")
    for name, service in compose["services"].items():
        settings_of(each for each in service.get("environment", {}) if each.startswith(PREFIX))
        for part in ("networks", "secrets"):
            assert set(service.get(part, [])) <= set(compose[part]), name
        assert set(service.get("depends_on", [])) <= set(compose["services"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"], volume
    assert (ROOT / compose["configs"]["with-database"]["file"]).exists()
    replicas = [name for name in compose["services"] if name.startswith("staydown-")]
    for text in (
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
        (DEPLOY / "prometheus" / "prometheus.yml").read_text(),
    ):
        assert set(re.findall(r"staydown-\w+(?=:8000)", text)) == set(replicas)


def test_the_image_has_the_commands_that_compose_and_the_chart_run() -> None:
    (extras,) = re.findall(r"pip install .*'\.\[(.+)\]'", (ROOT / "Dockerfile").read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"postgres", "queue"} <= set(extras.split(",")) <= set(known)
    commands = {service["command"][0] for service in read(ROOT / "compose.yaml")["services"].values()
                if service.get("image") == "staydown:0.1.0"}  # fmt: skip
    assert commands | {"worker"} <= {
        command.name or command.callback.__name__ for command in app.registered_commands
    } | {group.name for group in app.registered_groups}


def test_grafana_finds_its_source() -> None:
    (source,) = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "staydown.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    (provider,) = read(DEPLOY / "grafana" / "provisioning" / "dashboards" / "staydown.yml")["providers"]
    mounts = read(ROOT / "compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts


def test_the_start_script_gives_the_address_and_hides_it(tmp_path: Path) -> None:
    secret, program = tmp_path / "password", tmp_path / "staydown"
    secret.write_text("abc123\n")
    program.write_text('#!/bin/sh\necho "$STAYDOWN_DATABASE_URL" "$@"\n')
    program.chmod(0o700)
    script = (DEPLOY / "with-database").read_text().replace("/run/secrets/database_password", str(secret))
    done = subprocess.run(["sh", "-c", script, "sh", "serve", "--port", "1"], capture_output=True, text=True,
                          env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)  # fmt: skip
    assert done.stdout == "postgresql://staydown:abc123@database/staydown serve --port 1\n"
