"""The Helm chart: linted and rendered by Helm, its objects checked by schemas and by the bridge itself."""

from __future__ import annotations

import runpy
import shlex
import shutil
import subprocess
import tomllib
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from bridge.config.effective import LAST_SECONDS, stop_seconds
from bridge.config.settings import Settings
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
    workload,
)
from tests.deploy.tokens import SECRET
from tests.docs.pages import PAGES, ROOT, snippets
from tests.tools.install import GO, PROMETHEUS

CHART = DEPLOY / "helm"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "rel", "video"
SCALED = "engine.enabled=true,config.engine=redis://v,autoscaling.enabled=true"
ENGINE_SECRET = {"url": "redis://bridge@valkey:6379", "password": "a-password"}
RULES = ROOT / "grafana" / "rules" / "bridge.rules.yaml"


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Helm, built by `tests/tools/install.py --extended`."""
    program = shutil.which("helm", path=GO) or shutil.which("helm")
    if program is None:
        missing("helm")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def rendered(*words: str | Path) -> list[dict[str, Any]]:
    """The objects of the chart."""
    done = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


_known: dict[Path, list[dict[str, Any]]] = {}


@pytest.fixture(params=VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def values(request: pytest.FixtureRequest) -> Path:
    """One file of values."""
    return request.param


@pytest.fixture
def objects(values: Path) -> list[dict[str, Any]]:
    """What the chart makes of it."""
    if values not in _known:
        _known[values] = rendered("--values", values)
    return _known[values]


@pytest.fixture
def everything() -> list[dict[str, Any]]:
    """The objects of the file that switches everything on."""
    return rendered("--values", CHART / "ci" / "everything-values.yaml")


def toml(objects: list[dict[str, Any]]) -> str:
    """The file of settings that the pod mounts."""
    (volume,) = (one for one in pod(objects)["volumes"] if one["name"] == "config")
    (secret,) = (
        one for one in of(objects, "Secret") if one["metadata"]["name"] == volume["secret"]["secretName"]
    )
    return secret["stringData"]["bridge.toml"]


def settings(objects: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What the bridge of the pod makes of its settings, with the keys of a Secret."""
    (folder / "bridge.toml").write_text(toml(objects))
    image = {k: v for k, v in stages(ROOT / "Dockerfile")[-1].environment.items() if k.startswith("BRIDGE_")}
    keys = {"BRIDGE_UPSTREAMS__FAL__API_KEY": "a-key"}
    secret = {"BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode()}
    (source, *_) = [one["secretRef"]["name"] for one in container(objects)["envFrom"]]
    for made in of(objects, "Secret"):
        if made["metadata"]["name"] == source:
            secret |= made["stringData"]
    for variable in container(objects)["env"]:
        if "valueFrom" in variable:
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "bridge-engine"
            secret[variable["name"]] = ENGINE_SECRET[variable["valueFrom"]["secretKeyRef"]["key"]]
    return effective(image | keys | secret | {"BRIDGE_CONFIG": str(folder / "bridge.toml")})


def test_every_value_is_explained() -> None:
    script = runpy.run_path(str(DEPLOY / "make_chart.py"))
    explained = {path for path, _, _ in script["documented"]()}

    def paths(found: dict[str, Any], above: str) -> set[str]:
        names: set[str] = set()
        for name, value in found.items():
            here = f"{above}{name}"
            inner = isinstance(value, dict) and here not in explained
            names |= paths(value, f"{here}.") if inner and value else {here}
        return names

    assert paths(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), "") == explained


def test_helm_finds_nothing_to_object_to(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_object_is_valid_for_a_cluster(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    assert_valid(objects, tmp_path)
    assert {one["metadata"]["namespace"] for one in objects} == {NAMESPACE}
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)


def test_the_pod_is_the_one_of_the_plain_manifests(objects: list[dict[str, Any]]) -> None:
    assert_harmless(objects)
    assert_probed(objects)
    (plain,) = (
        one["spec"]["template"]["spec"]
        for one in yaml.safe_load_all((DEPLOY / "kubernetes/base/stateful-set.yaml").read_text("utf-8"))
    )
    assert pod(objects)["securityContext"] == plain["securityContext"]
    (theirs,) = plain["containers"]
    assert container(objects)["resources"] == theirs["resources"]
    assert container(objects)["lifecycle"] == theirs["lifecycle"]


def test_the_bridge_finds_its_settings_right_and_listens_where_the_pod_says(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = settings(objects, tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert ports == {"http": found["port"], "operations": found["admin_port"] or found["port"] + 1}
    assert found["admin_host"] == "0.0.0.0"
    if workload(objects)["kind"] == "StatefulSet":
        assert (found["engine"], found["journal"]) == ("embedded", "sqlite:/data/bridge.db")
    else:
        assert found["engine"].startswith(("redis://bridge@", "rediss://bridge@"))
        assert found["engine_password"] == "***"
        assert "journal" not in toml(objects)
    assert "e+" not in toml(objects)
    assert ".0\n" not in toml(objects)


def test_a_pod_is_given_the_time_of_its_longest_submit_and_a_drain(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = settings(objects, tmp_path)
    before = float(container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    submits = [value for name, value in found.items() if name.endswith(".submit_timeout_seconds")]
    assert pod(objects)["terminationGracePeriodSeconds"] >= (
        before + max(submits) + found["drain_seconds"] + LAST_SECONDS
    )


def test_without_values_a_stop_takes_what_the_bridge_says_and_pre_stop() -> None:
    needed = stop_seconds(Settings.model_validate({"upstreams": {"qingbo": {}}}))
    assert pod(rendered())["terminationGracePeriodSeconds"] == needed + 5


def test_everything_finds_the_pod_by_the_same_labels(objects: list[dict[str, Any]]) -> None:
    made = workload(objects)
    labels = made["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in of(objects, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of(objects, "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of(objects, "NetworkPolicy")]
    selectors += [made["spec"]["selector"]["matchLabels"]]
    assert all(len(selector) == 2 and selector.items() <= labels.items() for selector in selectors)
    if made["kind"] == "StatefulSet":
        assert made["spec"]["serviceName"] in [one["metadata"]["name"] for one in of(objects, "Service")]
    for route in [*of(objects, "Ingress"), *of(objects, "HTTPRoute")]:
        assert made["metadata"]["name"] in str(route["spec"])


def test_a_change_of_settings_restarts_the_pod() -> None:
    def checksum(*words: str) -> str:
        made = workload(rendered(*words))
        return made["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum("--set", "image.tag=2.0.0")
    assert checksum() != checksum("--set", "config.log_level=debug")
    assert checksum() != sha256(b"").hexdigest()


def test_clients_may_use_the_names_of_the_ingress(everything: list[dict[str, Any]], tmp_path: Path) -> None:
    assert settings(everything, tmp_path)["allowed_hosts"] == [
        "bridge.example.com", "events.example.com", "gateway.example.com", f"*.{NAMESPACE}", "*.svc",
        "*.svc.cluster.local",
    ]  # fmt: skip
    named = rendered("--set", "config.allowed_hosts={a.example.com}", "--set", "ingress.enabled=true")
    assert tomllib.loads(toml(named))["allowed_hosts"] == ["a.example.com"]
    any_name = rendered("--values", CHART / "ci" / "upstream-key-values.yaml")
    assert "allowed_hosts" not in tomllib.loads(toml(any_name))


def test_an_ingress_does_not_buffer_streams_and_waits_longer_than_any_of_them_is_silent() -> None:
    (ingress,) = of(rendered("--set", "ingress.enabled=true"), "Ingress")
    annotations = {
        name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()
    }
    assert annotations["proxy-buffering"] == "off"
    assert float(annotations["proxy-read-timeout"]) >= 600
    assert annotations["enable-access-log"] == "false"
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == f"{RELEASE}-task-event-bridge"


def test_keys_come_from_a_secret_that_must_be_there_if_nobody_could_be_authenticated_without() -> None:
    def sources(*words: str) -> list[dict[str, Any]]:
        return [one["secretRef"] for one in container(rendered(*words))["envFrom"]]

    assert sources() == [{"name": f"{RELEASE}-task-event-bridge"}]
    assert sources("--set", "existingSecret=mine") == [{"name": "mine"}]
    by_url = ("--set", "existingSecret=mine,config.token_jwks_url=https://id.example.com/keys")
    assert sources(*by_url) == [{"name": "mine", "optional": True}]
    given = rendered("--values", CHART / "ci" / "ephemeral-values.yaml")
    (source,) = container(given)["envFrom"]
    (secret,) = (one for one in of(given, "Secret") if one["metadata"]["name"] == source["secretRef"]["name"])
    assert secret["stringData"]["BRIDGE_TOKEN_SECRETS"] == '["a secret of the tests, 32 bytes long"]'


def test_a_key_among_the_settings_is_in_no_config_map_and_in_no_argument() -> None:
    made = rendered("--set", "config.upstreams.fal.api_key=top-secret-key")
    holders = [one["kind"] for one in made if "top-secret-key" in str(one)]
    assert holders == ["Secret"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("replicaCount=2", "replicaCount is 2, but without a shared engine only one pod works"),
        ("autoscaling.enabled=true", "autoscaling.enabled needs engine.enabled"),
        ("config.engine=redis://valkey", "config.engine needs engine.enabled"),
        ("engine.enabled=true", "engine.enabled needs the URL of the engine"),
        ("engine.enabled=true,config.engine=redis://v,engine.secret.name=s", "are both set"),
        ("engine.enabled=true,engine.url=redis://v", "'url' not allowed"),
        (
            f"{SCALED},autoscaling.targetCPUUtilizationPercentage=0",
            "autoscaling.enabled needs something to scale by",
        ),
        (
            f"{SCALED},autoscaling.minReplicas=9",
            "autoscaling.minReplicas is above autoscaling.maxReplicas",
        ),
        ("replicas=2", "'replicas' not allowed"),
        ("config.prot=80", "'prot' not allowed"),
        ("config.port=eighty", "/config/port"),
        ("config.auth=basic", "/config/auth"),
        ("config.upstreams.fal.api_kee=x", "'api_kee' not allowed"),
        ("image.digest=abc", "/image/digest"),
        ("service.port=http", "/service/port"),
        ("httpRoute.enabled=true", "httpRoute.enabled needs httpRoute.parentRefs"),
        ("metrics.runbookUrl=docs/operations.md", "/metrics/runbookUrl"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(words: str, sentence: str) -> None:
    done = helm("template", RELEASE, CHART, "--set", words)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.fixture
def replicas() -> list[dict[str, Any]]:
    """The objects of several bridges that share an engine."""
    return rendered("--values", CHART / "ci" / "replicas-values.yaml")


def test_several_bridges_are_a_deployment_without_a_volume_that_never_has_fewer_pods(
    replicas: list[dict[str, Any]],
) -> None:
    made = workload(replicas)
    assert (made["kind"], "replicas" in made["spec"]) == ("Deployment", False)  # the autoscaler sets them
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert [volume["name"] for volume in pod(replicas)["volumes"]] == ["config"]
    assert [mount["name"] for mount in container(replicas)["volumeMounts"]] == ["config"]
    assert [one["metadata"]["name"] for one in of(replicas, "Service")] == [
        f"{RELEASE}-task-event-bridge",
        f"{RELEASE}-task-event-bridge-operations",
    ]
    (budget,) = of(replicas, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    shared = rendered("--values", CHART / "ci" / "shared-values.yaml")
    assert workload(shared)["spec"]["replicas"] == 3
    assert [one["topologyKey"] for one in pod(shared)["topologySpreadConstraints"]] == [
        "topology.kubernetes.io/zone"
    ]


def test_pods_are_the_ones_of_the_plain_manifests_in_both_shapes(replicas: list[dict[str, Any]]) -> None:
    plain = yaml.safe_load((DEPLOY / "kubernetes/replicas/deployment.yaml").read_text("utf-8"))
    assert workload(replicas)["spec"]["strategy"] == plain["spec"]["strategy"]
    (scaler,) = of(replicas, "HorizontalPodAutoscaler")
    theirs = yaml.safe_load((DEPLOY / "kubernetes/replicas/autoscaler.yaml").read_text("utf-8"))
    for name in ("minReplicas", "maxReplicas", "behavior"):
        assert scaler["spec"][name] == theirs["spec"][name]
    assert scaler["spec"]["metrics"][0] == theirs["spec"]["metrics"][0]
    assert scaler["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    assert scaler["spec"]["scaleTargetRef"]["name"] == workload(replicas)["metadata"]["name"]


def test_the_engine_may_be_called_and_no_other_address_of_the_network(replicas: list[dict[str, Any]]) -> None:
    def inside(objects: list[dict[str, Any]]) -> list[Any]:
        (policy,) = of(objects, "NetworkPolicy")
        return [one for one in policy["spec"]["egress"] if one["ports"][0]["port"] not in {53, 443}]

    assert inside(replicas) == [
        {"to": [{"ipBlock": {"cidr": "10.20.0.0/24"}}], "ports": [{"port": 6380, "protocol": "TCP"}]}
    ]
    assert inside(rendered()) == []


def test_a_password_of_the_engine_is_in_no_config_map_and_in_no_argument() -> None:
    made = rendered("--values", CHART / "ci" / "shared-values.yaml")
    assert [one["kind"] for one in made if "a-password" in str(one)] == ["Secret"]


def test_the_operator_scrapes_the_admin_port_under_the_jobs_name(everything: list[dict[str, Any]]) -> None:
    (monitor,) = of(everything, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (one for one in of(everything, "Service") if wanted <= one["metadata"]["labels"].items())
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "bridge"
    assert endpoint["authorization"]["credentials"] == {"name": "bridge-prometheus", "key": "token"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_alerts_are_ours_and_lead_to_the_runbooks_of_the_operator(
    everything: list[dict[str, Any]], tmp_path: Path
) -> None:
    (rule,) = of(everything, "PrometheusRule")
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
    for one in alerts:
        assert one["annotations"]["runbook_url"].startswith("https://docs.example.com/bridge/operations.md#")
    ours = yaml.safe_load(RULES.read_text("utf-8"))
    assert [one["expr"] for one in alerts] == [
        one["expr"] for group in ours["groups"] for one in group["rules"] if "alert" in one
    ]
    (plain,) = of(rendered("--set", "metrics.prometheusRule.enabled=true"), "PrometheusRule")
    assert plain["spec"] == ours
    promtool = shutil.which("promtool") or str(PROMETHEUS / "promtool")
    if not Path(promtool).exists():
        missing("promtool")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", tmp_path / "rules.yaml"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_dashboard_is_ours_and_its_links_lead_to_the_operators_pages(
    everything: list[dict[str, Any]],
) -> None:
    (found,) = of(everything, "ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    board = orjson.loads(found["data"]["task-event-bridge.json"])
    ours = orjson.loads((ROOT / "grafana" / "dashboards" / "bridge.json").read_bytes())
    assert [one["title"] for one in board["panels"]] == [one["title"] for one in ours["panels"]]
    (docs,) = (one for one in board["templating"]["list"] if one["name"] == "docs")
    assert docs["query"] == docs["current"]["value"] == "https://docs.example.com/bridge"


def test_the_notes_print_commands_for_what_is_still_missing(tmp_path: Path) -> None:
    """`helm install` asks a cluster even for a dry run, so the notes are rendered as an object."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    asked = 'notes: |\n{{ include (print $.Template.BasePath "/NOTES.txt") . | indent 2 }}\n'
    (copy / "templates" / "notes.yaml").write_text(asked)
    given = "existingSecret=mine,metrics.serviceMonitor.enabled=true,config.upstreams.our-fal.preset=fal"
    words = ("--set", given)
    done = helm("template", RELEASE, copy, *words, "--show-only", "templates/notes.yaml")
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["notes"]
    assert "create secret generic mine" in notes
    assert "BRIDGE_UPSTREAMS__OUR-FAL__API_KEY=" in notes  # the name in the settings, dash and all
    assert "--scope admin --name prometheus" in notes
    assert f"create secret generic {RELEASE}-task-event-bridge-prometheus --from-file=token=token" in notes
    assert "one pod with its journal" in notes
    several = (*words[:1], f"{given},engine.enabled=true,engine.secret.name=eng,replicaCount=3")
    done = helm("template", RELEASE, copy, *several, "--show-only", "templates/notes.yaml")
    notes = yaml.safe_load(done.stdout)["notes"]
    assert "3 pods that share an engine" in notes
    assert "create secret generic eng" in notes
    assert f"rollout status deployment/{RELEASE}-task-event-bridge" in notes


def test_the_example_of_its_page_renders(tmp_path: Path) -> None:
    page = (CHART / "README.md").read_text("utf-8")
    (tmp_path / "my-values.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    kinds = {one["kind"] for one in rendered("--values", tmp_path / "my-values.yaml")}
    assert {"Ingress", "ServiceMonitor", "PrometheusRule", "ConfigMap"} <= kinds


def test_the_page_of_deployments_installs_it_with_values_that_exist() -> None:
    (snippet,) = (one for one in snippets("sh", page="docs/deployment.md") if "helm upgrade" in one.text)
    assert "deploy/helm" in snippet.text
    words = shlex.split(snippet.text.partition("helm upgrade")[2])
    given = [word for before, word in pairwise(words) if before == "--set"]
    assert given
    rendered(*(word for one in given for word in ("--set", one)))
    assert "(../deploy/helm" in PAGES["docs/deployment.md"]
