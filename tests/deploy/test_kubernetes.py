"""The manifests: rendered, checked against the schemas and against the bridge itself."""

from __future__ import annotations

import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from bridge.config.effective import LAST_SECONDS
from tests.conftest import missing
from tests.deploy.dockerfile import stages
from tests.deploy.manifests import (
    DEPLOY,
    assert_harmless,
    assert_probed,
    assert_valid,
    container,
    effective,
    of,
    pod,
    tool,
    workload,
)
from tests.deploy.tokens import SECRET
from tests.docs.pages import PAGES, ROOT, snippets

KUBERNETES = DEPLOY / "kubernetes"
ENGINE = "redis://bridge@valkey:6379"
ONE = ["base", "overlays/example"]
SEVERAL = ["replicas", "overlays/example-replicas"]
PLACES = [*ONE, *SEVERAL]
MIB = 1024 * 1024
EMPTY_PROCESS = 120 * MIB
CONNECTION = 20 * 1024  # a WebSocket, docs/benchmarks.md
KEPT = 2.0  # as much again for clients that read slowly, docs/deployment.md


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    """What kustomize makes of each place."""
    kubectl = tool("kubectl")
    if kubectl is None:
        missing("kubectl")
    made = {}
    for place in PLACES:
        done = subprocess.run([kubectl, "kustomize", KUBERNETES / place], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        made[place] = list(yaml.safe_load_all(done.stdout))
    return made


@pytest.fixture(params=PLACES)
def objects(
    request: pytest.FixtureRequest, rendered: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """All objects of one place."""
    return rendered[request.param]


def test_every_object_is_valid_for_the_cluster(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    assert_valid(objects, tmp_path)


def test_a_pod_may_nothing_that_it_need_not(objects: list[dict[str, Any]]) -> None:
    assert_harmless(objects)


def test_the_pod_is_who_the_image_says(objects: list[dict[str, Any]]) -> None:
    context = pod(objects)["securityContext"]
    final = stages(ROOT / "Dockerfile")[-1]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == final.says["USER"]
    mounts = [mount["mountPath"] for mount in container(objects)["volumeMounts"]]
    assert (final.words("VOLUME")[0] in mounts) == (workload(objects)["kind"] == "StatefulSet")


def test_a_pod_is_given_the_time_of_its_longest_submit_and_a_drain(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = _settings(objects, tmp_path)
    before = float(container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    submits = [value for name, value in settings.items() if name.endswith(".submit_timeout_seconds")]
    needed = before + max(submits) + settings["drain_seconds"] + LAST_SECONDS
    assert pod(objects)["terminationGracePeriodSeconds"] >= needed


def test_probes_ask_what_they_should(objects: list[dict[str, Any]]) -> None:
    assert_probed(objects)


_known: dict[str, dict[str, Any]] = {}


def _settings(objects: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """What the bridge of the pod makes of its configuration, given the Secret."""
    (config,) = of(objects, "ConfigMap")
    text = config["data"]["bridge.toml"]
    if text not in _known:
        _known[text] = _asked(text, tmp_path, shared=workload(objects)["kind"] == "Deployment")
    return _known[text]


def _asked(text: str, tmp_path: Path, *, shared: bool) -> dict[str, Any]:
    (tmp_path / "bridge.toml").write_text(text)
    image = {k: v for k, v in stages(ROOT / "Dockerfile")[-1].environment.items() if k.startswith("BRIDGE_")}
    secret = {"BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode()}
    if shared:
        secret |= {"BRIDGE_ENGINE": ENGINE, "BRIDGE_ENGINE_PASSWORD": "a-password"}
    return effective(image | secret | {"BRIDGE_CONFIG": str(tmp_path / "bridge.toml")})


def test_the_configuration_is_right_and_listens_where_the_pod_says(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = _settings(objects, tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert ports == {"http": settings["port"], "operations": settings["admin_port"]}
    assert (settings["auth"], settings["admin_host"]) == ("token", "0.0.0.0")
    if workload(objects)["kind"] == "StatefulSet":
        assert (settings["engine"], settings["journal"]) == ("embedded", "sqlite:/data/bridge.db")
    else:
        assert settings["engine"] == ENGINE


def test_the_memory_has_room_for_as_many_connections_as_are_let_in(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    limit = container(objects)["resources"]["limits"]["memory"]
    room = int(limit.removesuffix("Gi")) * 1024 * MIB
    assert EMPTY_PROCESS + _settings(objects, tmp_path)["max_connections"] * CONNECTION * KEPT <= room


def test_everything_finds_the_pods_by_the_same_labels(objects: list[dict[str, Any]]) -> None:
    made = workload(objects)
    labels = made["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in of(objects, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of(objects, "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of(objects, "NetworkPolicy")]
    selectors += [made["spec"]["selector"]["matchLabels"]]
    assert len(selectors) == (6 if made["kind"] == "StatefulSet" else 5)
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    (policy,) = of(objects, "NetworkPolicy")
    (names,) = (rule for rule in policy["spec"]["egress"] if rule["ports"][0]["port"] == 53)
    assert [peer["podSelector"]["matchLabels"] for peer in names["to"]] == [{"k8s-app": "kube-dns"}]
    if made["kind"] == "StatefulSet":
        assert made["spec"]["serviceName"] in [one["metadata"]["name"] for one in of(objects, "Service")]


def test_several_bridges_are_the_same_pod_without_a_volume(rendered: dict[str, list[dict[str, Any]]]) -> None:
    one, several = (deepcopy(pod(rendered[place])) for place in ("base", "replicas"))
    (alone,), (shared,) = one["containers"], several["containers"]
    assert shared.pop("volumeMounts") == [
        mount for mount in alone.pop("volumeMounts") if mount["name"] != "data"
    ]
    assert shared == alone
    assert [volume["name"] for volume in several["volumes"]] == ["config"]
    for name in ("containers", "volumes", "topologySpreadConstraints"):
        one.pop(name, None)
        several.pop(name)
    assert several == one


@pytest.mark.parametrize("place", SEVERAL)
def test_a_deploy_never_has_fewer_bridges_than_before(
    place: str, rendered: dict[str, list[dict[str, Any]]]
) -> None:
    spec = workload(rendered[place])["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in spec  # or each `kubectl apply` would undo what the autoscaler did


@pytest.mark.parametrize("place", SEVERAL)
def test_the_autoscaler_finds_the_deployment_and_scales_by_what_is_there(
    place: str, rendered: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    objects = rendered[place]
    (scaler,) = of(objects, "HorizontalPodAutoscaler")
    made = workload(objects)
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": made["metadata"]["name"],
    }
    assert scaler["spec"]["minReplicas"] >= 2
    by = {one["type"]: one for one in scaler["spec"]["metrics"]}
    share = by["Resource"]["resource"]["target"]["averageUtilization"] / 100
    requested = int(container(objects)["resources"]["requests"]["cpu"].removesuffix("m")) / 1000
    assert share * requested < 0.7  # of the one core that a bridge can use
    settings = _settings(objects, tmp_path)
    window = scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > settings["max_connection_age_seconds"]  # until then connections are not spread
    if place != "replicas":
        assert by["Pods"]["pods"]["metric"]["name"] == "bridge_connections"
        assert int(by["Pods"]["pods"]["target"]["averageValue"]) * 2 <= settings["max_connections"]


@pytest.mark.parametrize("place", SEVERAL)
def test_a_bridge_may_call_the_engine_and_nothing_is_sticky(
    place: str, rendered: dict[str, list[dict[str, Any]]]
) -> None:
    objects = rendered[place]
    (policy,) = of(objects, "NetworkPolicy")
    assert [rule["to"] for rule in policy["spec"]["egress"] if rule["ports"][0]["port"] == 6379] == [
        [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "valkey"}}}]
    ]
    assert "hash" not in str([one["metadata"] for one in of(objects, "Ingress")])
    assert all(one["spec"].get("sessionAffinity", "None") == "None" for one in of(objects, "Service"))


def test_a_budget_that_lets_a_node_be_emptied_although_there_is_one_replica(
    objects: list[dict[str, Any]],
) -> None:
    (budget,) = of(objects, "PodDisruptionBudget")
    assert {"maxUnavailable": 1}.items() <= budget["spec"].items()
    assert "minAvailable" not in budget["spec"]


@pytest.mark.parametrize("place", ["overlays/example", "overlays/example-replicas"])
def test_the_operator_scrapes_the_operations_port_under_the_jobs_name(
    place: str, rendered: dict[str, list[dict[str, Any]]]
) -> None:
    objects = rendered[place]
    (monitor,) = of(objects, "ServiceMonitor")
    (service,) = (
        one
        for one in of(objects, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "bridge"
    assert endpoint["authorization"]["credentials"]["name"] in PAGES["docs/deployment.md"]


def test_the_command_of_the_page_makes_an_object_of_the_rules() -> None:
    (snippet,) = (one for one in snippets("sh", page="docs/deployment.md") if "PrometheusRule" in one.text)
    command = snippet.text.partition("| kubectl")[0]
    done = subprocess.run(["/bin/sh", "-ec", command], cwd=ROOT, capture_output=True, check=True)
    made = yaml.safe_load(done.stdout)
    rules = yaml.safe_load((ROOT / "grafana" / "rules" / "bridge.rules.yaml").read_text("utf-8"))
    assert (made["kind"], made["spec"]) == ("PrometheusRule", rules)
