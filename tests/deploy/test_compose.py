"""compose.yaml: its shape, its paths, and that the bridge in it starts and is scraped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest
import yaml

from tests.conftest import missing
from tests.deploy.dockerfile import stages
from tests.deploy.manifests import DEPLOY, STOP_SECONDS, effective, seconds, tool
from tests.deploy.tokens import SECRET
from tests.docs.pages import ROOT
from tests.harness import running_bridge
from tests.tools.install import PROMETHEUS

pytestmark = pytest.mark.anyio

FILE = DEPLOY / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES = COMPOSE["services"]
SCRAPE = DEPLOY / "compose" / "prometheus.yml"
GIVEN = {"BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode(), "GRAFANA_PASSWORD": "x"}


def _filled(text: str) -> str:
    """`${NAME:-default}` and `${NAME:?why}` as Compose reads them."""
    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", lambda found: GIVEN.get(found[1], found[3]), str(text))


def _variables(service: str) -> dict[str, str]:
    return {name: _filled(value) for name, value in SERVICES[service]["environment"].items()}


def test_it_has_the_shape_of_a_compose_file() -> None:
    check = tool("check-jsonschema")
    if check is None:
        missing("check-jsonschema")
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_no_client_is_refused_for_the_name_it_calls_the_bridge_by_until_names_are_set() -> None:
    settings = effective(_variables("bridge"))
    assert settings["auth"] == "token"  # so every route asks for a credential
    assert settings["allowed_hosts"] == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there_or_is_a_volume(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], mount


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_images_of_others_are_pinned_to_a_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(images) == 3
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)


def test_secrets_are_asked_for_and_have_no_default() -> None:
    text = FILE.read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == {"BRIDGE_TOKEN_SECRETS", "GRAFANA_PASSWORD"}
    example = (DEPLOY / "compose" / "env.example").read_text("utf-8")
    assert asked <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_a_stop_is_given_the_time_of_the_longest_submit_and_a_drain() -> None:
    assert seconds(SERVICES["bridge"]["stop_grace_period"]) >= STOP_SECONDS


def test_the_bridge_finds_its_settings_right() -> None:
    image = {k: v for k, v in stages(ROOT / "Dockerfile")[-1].environment.items() if k.startswith("BRIDGE_")}
    settings = effective(image | _variables("bridge"))
    assert (settings["auth"], settings["host"]) == ("token", "0.0.0.0")
    assert [f"{settings['port']}:{settings['port']}"] == [
        port.removeprefix("127.0.0.1:") for port in SERVICES["bridge"]["ports"]
    ]
    host, _, port = settings["upstreams.qingbo.base_url"].removeprefix("http://").partition(":")
    assert port.partition("/")[0] == SERVICES[host]["command"][-1]


def test_prometheus_and_grafana_look_where_the_others_are() -> None:
    scrape = yaml.safe_load(SCRAPE.read_text("utf-8"))
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "bridge"
    ((target,),) = (one["targets"] for one in job["static_configs"])
    assert target == f"bridge:{_variables('bridge')['BRIDGE_ADMIN_PORT']}"
    places = [mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]]
    assert any(place.startswith(str(Path(scrape["rule_files"][0]).parent)) for place in places)
    assert str(Path(job["authorization"]["credentials_file"]).parent) in places
    provisioning = ROOT / "grafana" / "provisioning"
    boards = yaml.safe_load(next(provisioning.glob("dashboards/*.yaml")).read_text("utf-8"))
    into = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert all(one["options"]["path"] in into for one in boards["providers"])
    sources = yaml.safe_load(next(provisioning.glob("datasources/*.yaml")).read_text("utf-8"))
    assert [one["url"] for one in sources["datasources"]] == ["http://prometheus:9090"]


def test_promtool_finds_the_scrape_configuration_right(tmp_path: Path) -> None:
    promtool = shutil.which("promtool") or str(PROMETHEUS / "promtool")
    if not Path(promtool).exists():
        missing("promtool")
    (tmp_path / "prometheus").write_text("token")
    text = SCRAPE.read_text("utf-8").replace("/etc/prometheus/rules", str(ROOT / "grafana" / "rules"))
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/token", str(tmp_path)))
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def _write_token(variables: dict[str, str], to: Path) -> str:
    """Run the service's own command."""
    script = SERVICES["metrics-token"]["entrypoint"][-1].replace("/token/prometheus", str(to))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-ec", script], env={"PATH": path} | variables, check=True)
    assert to.stat().st_mode & 0o444 == 0o444  # Prometheus is another user
    return to.read_text().strip()


async def test_the_token_that_is_written_for_prometheus_opens_the_metrics(tmp_path: Path) -> None:
    """The service's own command, and the bridge with the service's own settings, on this machine."""
    variables = _variables("metrics-token")
    token = _write_token(variables, tmp_path / "token")
    own = {name: value for name, value in variables.items() if "UPSTREAMS" not in name}
    own |= {"BRIDGE_ADMIN_HOST": "127.0.0.1", "BRIDGE_ADMIN_PORT": "0"}
    async with running_bridge({"qingbo": {}}, environment=own) as bridge, aiohttp.ClientSession() as http:
        assert bridge.process.stdout is not None
        operations = (await bridge.process.stdout.readline()).decode().split()[-1]
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with http.get(f"{operations}/metrics", headers=headers) as answer:
                assert answer.status == status
