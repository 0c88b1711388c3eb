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
from tests.tools.install import GO, PROMETHEUS

pytestmark = pytest.mark.anyio

FILE = DEPLOY / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES = COMPOSE["services"]
SCRAPE = DEPLOY / "compose" / "prometheus.yml"
BALANCER = DEPLOY / "compose" / "haproxy.cfg"
REPLICAS = ["bridge-1", "bridge-2"]
PASSWORD = "0123456789abcdef"
GIVEN = {
    "BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode(),
    "GRAFANA_PASSWORD": "x",
    "BRIDGE_ENGINE_PASSWORD": PASSWORD,
}
PROFILES = {"stack": "preflight", "valkey": "preflight-valkey"}


def _filled(text: str) -> str:
    """`${NAME:-default}` as Compose reads it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: GIVEN.get(found[1], found[2]), str(text))


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
    assert len(images) == 4
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)


def test_secrets_have_no_default_and_stay_out_of_git() -> None:
    text = FILE.read_text("utf-8")
    assert not re.search(r"\$\{\w+:?\?", text), "Compose would ask for it in every profile"
    secret = "BRIDGE_TOKEN_SECRETS|GRAFANA_PASSWORD|BRIDGE_ENGINE_PASSWORD"
    defaults = dict(re.findall(rf"\$\{{({secret}):-([^}}]*)\}}", text))
    assert defaults == {"BRIDGE_TOKEN_SECRETS": "[]", "GRAFANA_PASSWORD": "", "BRIDGE_ENGINE_PASSWORD": ""}
    example = (DEPLOY / "compose" / "env.example").read_text("utf-8")
    assert set(GIVEN) <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


@pytest.mark.parametrize(
    ("profile", "name"),
    [(profile, name) for name, one in SERVICES.items() for profile in one["profiles"] if profile in PROFILES],
)
def test_nothing_starts_before_its_secrets_were_checked(profile: str, name: str) -> None:
    def before(service: str) -> set[str]:
        needs = SERVICES[service].get("depends_on", [])
        return {service, *(one for need in needs for one in before(need))}

    assert name == "simulator" or PROFILES[profile] in before(name)


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("preflight", {"BRIDGE_TOKEN_SECRETS": "[]"}),
        ("preflight", {"GRAFANA_PASSWORD": ""}),
        ("preflight-valkey", {"GRAFANA_PASSWORD": ""}),
        ("preflight-valkey", {"BRIDGE_ENGINE_PASSWORD": ""}),
    ],
    ids=str,
)
def test_the_check_says_which_secret_is_missing(check: str, wrong: dict[str, str], tmp_path: Path) -> None:
    done = _preflight(check, _variables(check) | wrong, tmp_path / "token")
    assert (done.returncode, done.stdout) == (2, "")
    (name,) = wrong
    assert done.stderr == f"{name} is not set in deploy/.env: see deploy/compose/env.example\n"


def config(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `docker compose config` says in a folder, by the loader of Compose itself."""
    reader = shutil.which("compose-config", path=GO)
    if reader is None:
        missing("compose-config")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | variables
    return subprocess.run(
        [reader, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of a fresh clone that Compose reads; no `.env`."""
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns(".env"))
    return tmp_path


@pytest.mark.parametrize("below", [".", "deploy"])
def test_the_demo_needs_no_setting_and_nothing_else_starts_with_it(clone: Path, below: str) -> None:
    done = config(clone / below, "--profile", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    project = orjson.loads(done.stdout)
    assert project["name"] == "task-event-bridge"
    (demo,) = project["services"].values()
    assert demo["command"] == ["demo"]
    (port,) = demo["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8080", 8080)
    assert demo["build"]["context"] == str(clone)


def test_the_stack_is_what_starts_once_the_example_is_copied(clone: Path) -> None:
    assert "no service" in config(clone, "--file", "deploy/compose.yaml").stderr or not orjson.loads(
        config(clone, "--file", "deploy/compose.yaml").stdout
    ).get("services")
    shutil.copy(DEPLOY / "compose" / "env.example", clone / "deploy" / ".env")
    with (clone / "deploy" / ".env").open("a") as file:
        file.write("GRAFANA_PASSWORD=secret\n")
    done = config(clone, "--file", "deploy/compose.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    services = orjson.loads(done.stdout)["services"]
    assert set(services) == {"bridge", "grafana", "preflight", "prometheus", "simulator"}
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "secret"
    assert "BRIDGE_ENGINE" not in services["bridge"]["environment"]
    demo = config(clone, "--file", "deploy/compose.yaml", "--profile", "demo")
    assert set(orjson.loads(demo.stdout)["services"]) == {"demo"}


def test_two_bridges_that_share_a_valkey_are_what_starts_with_its_profile(clone: Path) -> None:
    done = config(clone, "--file", "deploy/compose.yaml", "--profile", "valkey", **GIVEN)
    assert (done.returncode, done.stderr) == (0, "")
    services = orjson.loads(done.stdout)["services"]
    others = {"balancer", "valkey", "preflight-valkey", "simulator", "prometheus", "grafana"}
    assert set(services) == {*REPLICAS, *others}
    for name in REPLICAS:
        one = services[name]
        assert one["environment"]["BRIDGE_ENGINE_PASSWORD"] == PASSWORD
        assert (one.get("ports"), one.get("volumes")) == (None, None)
        assert set(one["networks"]) == {"edge", "engine", "operations"}
    assert set(services["valkey"]["networks"]) == {"engine"}
    assert {port["published"] for port in services["balancer"]["ports"]} == {"8080"}
    assert PASSWORD not in str(services["valkey"]["entrypoint"])  # other users of the machine see arguments


@pytest.mark.parametrize("name", [name for name, one in SERVICES.items() if "valkey" in one["profiles"]])
def test_every_service_of_that_profile_has_a_health_check(name: str) -> None:
    if name in {"simulator", "preflight-valkey"}:
        return  # the image has one for a bridge, which they are not
    from_image = "HEALTHCHECK" in (ROOT / "Dockerfile").read_text("utf-8") and "build" in SERVICES[name]
    assert from_image or SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", ["bridge", *REPLICAS])
def test_a_stop_is_given_the_time_of_the_longest_submit_and_a_drain(name: str) -> None:
    assert seconds(SERVICES[name]["stop_grace_period"]) >= STOP_SECONDS


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_finds_its_settings_right(name: str) -> None:
    image = {k: v for k, v in stages(ROOT / "Dockerfile")[-1].environment.items() if k.startswith("BRIDGE_")}
    settings = effective(image | _variables(name))
    host, _, port = settings["engine"].removeprefix("redis://bridge@").partition(":")
    assert (host, port) == ("valkey", "6379")
    assert host in SERVICES
    assert settings["engine_password"] == "***"
    assert set(SERVICES[name]["networks"]) & set(SERVICES["valkey"]["networks"]) == {"engine"}
    lines = [line.split() for line in BALANCER.read_text("utf-8").splitlines()]
    servers = {words[2] for words in lines if words[:1] == ["server"]}
    assert servers == {f"{one}:{settings['port']}" for one in REPLICAS}


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
    (found,) = job["dns_sd_configs"]
    assert (found["type"], [str(found["port"])]) == ("A", [_variables("bridge")["BRIDGE_ADMIN_PORT"]])
    assert found["names"] == ["bridge"]  # a service, and in the other profile what two are called
    for name in REPLICAS:
        assert SERVICES[name]["networks"]["operations"]["aliases"] == found["names"]
        assert _variables(name)["BRIDGE_ADMIN_PORT"] == str(found["port"])
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


def _preflight(check: str, variables: dict[str, str], to: Path) -> subprocess.CompletedProcess[str]:
    """Run the service's own command."""
    script = SERVICES[check]["entrypoint"][-1].replace("/token/prometheus", str(to)).replace("$$", "$")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-ec", script],
        env={"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("check", PROFILES.values())
async def test_the_token_that_is_written_for_prometheus_opens_the_metrics(check: str, tmp_path: Path) -> None:
    """The service's own command, and the bridge with the service's own settings, on this machine."""
    done = _preflight(check, _variables(check), tmp_path / "token")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "token").stat().st_mode & 0o444 == 0o444  # Prometheus is another user
    token = (tmp_path / "token").read_text().strip()
    own = {name: value for name, value in _variables("bridge").items() if "UPSTREAMS" not in name}
    own |= {"BRIDGE_ADMIN_HOST": "127.0.0.1", "BRIDGE_ADMIN_PORT": "0"}
    async with running_bridge({"qingbo": {}}, environment=own) as bridge, aiohttp.ClientSession() as http:
        assert bridge.process.stdout is not None
        operations = (await bridge.process.stdout.readline()).decode().split()[-1]
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with http.get(f"{operations}/metrics", headers=headers) as answer:
                assert answer.status == status
