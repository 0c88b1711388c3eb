"""Deployment and operations, followed literally in a fresh clone: every command of the pages is typed.

What needs an engine, a cluster or systemd is noted by a stand-in; what it would run inside, runs here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.conftest import missing
from tests.deploy.dockerfile import stages
from tests.deploy.manifests import effective, tool
from tests.deploy.tokens import SECRET
from tests.docs.pages import ROOT, snippets
from tests.docs.recipes import needed
from tests.grafana.prometheus import program
from tests.tools.install import GO

DEPLOYMENT, OPERATIONS = "docs/deployment.md", "docs/operations.md"
CLONED = ("bridge", "deploy", "grafana", "task_event_bridge")
SINGLE = ("Dockerfile", "LICENSE", "README.md", "compose.yaml", "hatch_build.py", "pyproject.toml")
STOOD_IN = ("docker", "helm", "kubectl", "systemctl")


@dataclass
class Clone:
    """A fresh clone, and the machine of an operator around it.

    Attributes:
        more: What stands in the environment besides.
    """

    folder: Path
    calls: Path
    environment: dict[str, str] = field(default_factory=dict)

    def types(self, text: str, **more: str) -> str:
        """Type what a page shows; what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.placed(text)],
            cwd=self.folder,
            env=self.environment | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def placed(self, text: str) -> str:
        """A text of the page, with absolute places below the folder of the test."""
        root = self.folder.parent
        return re.sub(r"(?<![\w.])/(?=(usr/local/lib|etc|backups)/)", f"{root}/", text)

    def called(self, program: str) -> list[list[str]]:
        """The words of each call of a program."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [one["words"] for one in map(json.loads, lines) if one["program"] == program]

    def given(self, program: str) -> str:
        """What the last call of a program read."""
        lines = [json.loads(line) for line in self.calls.read_text().splitlines()]
        return [one["stdin"] for one in lines if one["program"] == program][-1]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone without a `bridge.toml`, a `.env` or anything else of an operator."""
    folder, programs = tmp_path / "clone", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name in CLONED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    for name in SINGLE:
        shutil.copy(ROOT / name, folder)
    git = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    for words in (("init",), ("commit", "--allow-empty", "--message", "all")):
        subprocess.run([needed("git"), *git, *words], cwd=folder, check=True, capture_output=True)
    shim = f"#!{sys.executable}\n" + Path(__file__).with_name("operators_shim.py").read_text("utf-8")
    for name in STOOD_IN:
        (programs / name).write_text(shim)
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {
        name: value
        for name, value in os.environ.items()
        if "proxy" in name.lower() or name.startswith("SSL_")
    }
    environment = kept | {
        "PATH": path,
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "UV_SYSTEM_CERTS": "true",
        "COMPOSE_CONFIG": shutil.which("compose-config", path=GO) or "",
        "HELM": shutil.which("helm", path=GO) or shutil.which("helm") or "",
        "KUBECTL": str(tool("kubectl") or ""),
    }
    return Clone(folder, tmp_path / "calls", environment)


def shown(page: str, part: str) -> str:
    """The one block of a page that has a text in it."""
    (found,) = (one.text for one in snippets("sh", "toml", "yaml", page=page) if part in one.text)
    return found


def literals(words: list[str]) -> dict[str, str]:
    """What `kubectl create secret` is given by --from-literal."""
    pairs = (word.removeprefix("--from-literal=") for word in words if word.startswith("--from-literal="))
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def test_the_image_is_built_and_run_with_the_file_of_the_page(clone: Clone) -> None:
    text = shown(DEPLOYMENT, "[upstreams.fal]").replace("the output of openssl rand -base64 32", SECRET)
    (clone.folder / "bridge.toml").write_text(text)
    clone.types(shown(DEPLOYMENT, "docker run --read-only"))
    built, run = clone.called("docker")
    revision = next(word for word in built if word.startswith("REVISION="))
    assert re.fullmatch(r"REVISION=[0-9a-f]{40}", revision)
    assert built[-1] == "."
    mounted = [word.split(":") for before, word in pairwise(run) if before == "--volume"]
    assert Path(mounted[1][0]).is_file()  # an engine makes a folder of what is not there
    (variable,) = (word for word in run if word.startswith("BRIDGE_CONFIG="))
    assert variable.partition("=")[2] == mounted[1][1]
    image = {k: v for k, v in stages(ROOT / "Dockerfile")[-1].environment.items() if k.startswith("BRIDGE_")}
    found = effective(image | {"BRIDGE_CONFIG": mounted[1][0]})
    assert (found["host"], found["auth"]) == ("0.0.0.0", "token")


def test_an_image_of_two_platforms_is_one_command(clone: Clone) -> None:
    clone.types(shown(DEPLOYMENT, "docker buildx build"))
    (words,) = clone.called("docker")
    assert words[words.index("--platform") + 1] == "linux/amd64,linux/arm64"


def test_newer_dependencies_are_locked_by_the_commands_of_the_page(clone: Clone) -> None:
    if tool("uv") is None:
        missing("uv")
    clone.types(shown(DEPLOYMENT, "uv pip compile"))
    for lock in (clone.folder / "deploy" / "image").glob("*.txt"):
        assert "--hash=sha256:" in lock.read_text(), lock.name


def test_compose_starts_the_demo_without_and_the_stack_with_the_secrets(clone: Clone) -> None:
    if not clone.environment["COMPOSE_CONFIG"]:
        missing("compose-config")
    clone.types(shown(DEPLOYMENT, "docker compose --profile demo up"))
    copy, _, rest = shown(DEPLOYMENT, "cp deploy/compose/env.example").partition("\n")
    clone.types(copy)
    file = clone.folder / "deploy" / ".env"
    secret = subprocess.run(["openssl", "rand", "-base64", "32"], capture_output=True, text=True, check=True)
    text = file.read_text().replace("PUT THE OUTPUT HERE", secret.stdout.strip())
    file.write_text(text.replace("GRAFANA_PASSWORD=", "GRAFANA_PASSWORD=secret"))
    project = subprocess.run(
        [clone.environment["COMPOSE_CONFIG"], "--file", "deploy/compose.yaml"],
        cwd=clone.folder, env=clone.environment, capture_output=True, check=True,
    )  # fmt: skip
    bridge = orjson.loads(project.stdout)["services"]["bridge"]["environment"]
    token = clone.types(rest, **bridge)  # `exec` runs in the environment of the service
    assert token.count(".") == 2


def test_compose_starts_two_bridges_on_one_valkey_and_one_of_them_is_killed(clone: Clone) -> None:
    if not clone.environment["COMPOSE_CONFIG"]:
        missing("compose-config")
    file = clone.folder / "deploy" / ".env"
    shutil.copy(clone.folder / "deploy" / "compose" / "env.example", file)
    with file.open("a") as more:
        more.write("GRAFANA_PASSWORD=a\nBRIDGE_ENGINE_PASSWORD=b\n")
    text = shown(DEPLOYMENT, "--profile valkey")
    # the stand-in reads the file for `up` only
    clone.types(text.replace("--profile valkey kill", "--profile valkey up --no-start"))
    assert "kill bridge-1" in text


def test_the_manifests_are_applied_and_prometheus_gets_its_token(clone: Clone) -> None:
    if not clone.environment["KUBECTL"]:
        missing("kubectl")
    clone.types(shown(DEPLOYMENT, "kubectl apply --kustomize"), QINGBO_API_KEY="a-key")
    keys = literals(clone.called("kubectl")[1])
    (secret,) = orjson.loads(keys["BRIDGE_TOKEN_SECRETS"])
    assert len(secret) >= 32
    assert keys["BRIDGE_UPSTREAMS__QINGBO__API_KEY"] == "a-key"
    inside = {"BRIDGE_AUTH": "token", "BRIDGE_TOKEN_ISSUER": "x"} | keys
    clone.types(shown(DEPLOYMENT, "task-event-bridge-prometheus"), **inside)
    assert not (clone.folder / "token").exists()
    clone.types(shown(DEPLOYMENT, "kind: PrometheusRule"))
    rule = yaml.safe_load(clone.given("kubectl"))
    assert rule["spec"] == yaml.safe_load((ROOT / "grafana/rules/bridge.rules.yaml").read_text("utf-8"))


def test_the_chart_is_installed_with_the_secret_that_was_made(clone: Clone) -> None:
    if not clone.environment["HELM"]:
        missing("helm")
    clone.types(shown(DEPLOYMENT, "helm upgrade"), FAL_KEY="a-key")
    made = clone.called("kubectl")[1]
    assert literals(made)["BRIDGE_UPSTREAMS__FAL__API_KEY"] == "a-key"
    (installed,) = clone.called("helm")
    assert f"existingSecret={made[made.index('generic') + 1]}" in installed


def test_systemd_finds_program_settings_and_unit_where_the_unit_says(clone: Clone) -> None:
    text = shown(DEPLOYMENT, "systemctl enable")
    (clone.folder / "bridge.toml").write_text("[upstreams.fal]\napi_key = 'a-key'\n")
    root = clone.folder.parent
    (root / "etc/systemd/system").mkdir(parents=True)
    published = (
        f"--quiet --no-deps {clone.folder}"  # what the index does not have yet; and without its dependencies
    )
    install = text.replace("pip install task-event-bridge", f"pip install {published}")
    clone.types(install)
    unit = (root / "etc/systemd/system/task-event-bridge.service").read_text()
    (started,) = re.findall(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert (root / started.lstrip("/")).is_file()
    (file,) = re.findall(r"^LoadCredential=\S+:(\S+)$", unit, re.MULTILINE)
    assert stat.S_IMODE((root / file.lstrip("/")).stat().st_mode) == 0o600
    assert clone.called("systemctl") == [["enable", "--now", "task-event-bridge"]]


def test_a_journal_is_copied_and_put_back(clone: Clone) -> None:
    folder, backups = clone.folder, clone.folder.parent / "backups"
    backups.mkdir()
    journal_of(folder / "bridge.db")
    clone.types(shown(OPERATIONS, "taskbridge backup"))
    (copy,) = backups.iterdir()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    if shutil.which("sqlite3") is None:
        missing("sqlite3")
    clone.types(shown(OPERATIONS, "VACUUM INTO"))
    clone.types(shown(OPERATIONS, "install --mode 600 /backups"))
    assert {"bridge.db", "old", "copy.db"} <= {path.name for path in folder.iterdir()}
    assert (folder / "bridge.db").read_bytes() == copy.read_bytes()


def journal_of(path: Path) -> None:
    """A journal as a bridge leaves it behind."""
    settings = {
        "PATH": os.environ["PATH"],
        "BRIDGE_PORT": "0",
        "BRIDGE_JOURNAL": f"sqlite:{path}",
        "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "a-key",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve"],
        cwd=ROOT,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert b"listening" in process.stdout.readline()
        process.terminate()
        assert process.wait(30) == 0


def test_prometheus_takes_the_rules_with_the_operators_runbooks(clone: Clone) -> None:
    clone.types(shown(OPERATIONS, "runbook_url"))
    config: dict[str, Any] = yaml.safe_load(shown(OPERATIONS, "scrape_configs"))
    (clone.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    checked = subprocess.run(
        [program("promtool"), "check", "config", "prometheus.yml"],
        cwd=clone.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "rules found" in checked.stdout


def test_the_deploy_hook_of_certbot_hands_the_pair_over(clone: Clone, tmp_path: Path) -> None:
    for name in ("fullchain.pem", "privkey.pem"):
        (tmp_path / name).write_text(name)
    (target := clone.folder / "tls").mkdir()
    script = shown(DEPLOYMENT, "RENEWED_LINEAGE")
    for part, here in (("-o bridge ", ""), ("/etc/bridge/tls/", f"{target}/")):  # no such user here
        assert part in script
        script = script.replace(part, here)
    clone.types(script, RENEWED_LINEAGE=str(tmp_path))
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        name: name for name in ("fullchain.pem", "privkey.pem")
    }
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o400}


def test_every_command_of_the_two_pages_is_typed_here() -> None:
    source = Path(__file__).read_text("utf-8")
    parts = re.findall(r'shown\((?:DEPLOYMENT|OPERATIONS), "([^"]+)"\)', source)
    for page in (DEPLOYMENT, OPERATIONS):
        for one in snippets("sh", page=page):
            assert any(part in one.text for part in parts), one.text
