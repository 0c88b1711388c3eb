"""Reads the files of `deploy/` and checks the bridge's part of them with the bridge."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import yaml

from bridge.config.effective import stop_seconds
from bridge.config.settings import Settings
from tests.conftest import missing
from tests.docs.pages import ROOT

DEPLOY = ROOT / "deploy"
DEFAULTS = Settings.model_validate({"upstreams": {"qingbo": {}}})
STOP_SECONDS = stop_seconds(DEFAULTS)


def tool(name: str) -> Path | None:
    """A program of the tests' Python environment."""
    found = Path(sys.executable).with_name(name)
    return found if found.exists() else None


def effective(variables: Mapping[str, str]) -> dict[str, Any]:
    """The bridge's settings with these variables; it must find no error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "check-config", "--json"],
        env=inherited | dict(variables),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {name: setting["value"] for name, setting in orjson.loads(done.stdout).items()}


def seconds(text: str) -> float:
    """A time as Compose and systemd write it."""
    (number,) = re.findall(r"^(\d+)s?$", str(text))
    return float(number)


CUSTOM = ("monitoring.coreos.com/", "gateway.networking.k8s.io/")  # resources that an operator brings


def of(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """All objects of a kind."""
    return [one for one in objects if one["kind"] == kind]


def workload(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The one object that makes pods: a StatefulSet for one bridge, a Deployment for several."""
    (found,) = (*of(objects, "StatefulSet"), *of(objects, "Deployment"))
    return found


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Its pod."""
    return workload(objects)["spec"]["template"]["spec"]


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Its one container."""
    (found,) = pod(objects)["containers"]
    return found


def assert_valid(objects: list[dict[str, Any]], folder: Path) -> None:
    """Judge every object by the schemas of Kubernetes, which know no custom resource."""
    validate = tool("kubernetes-validate")
    if validate is None:
        missing("kubernetes-validate")
    known = [one for one in objects if not one["apiVersion"].startswith(CUSTOM)]
    (folder / "all.yaml").write_text(yaml.safe_dump_all(known))
    done = subprocess.run(
        [validate, "--strict", folder / "all.yaml"], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("passed for resource") == len(known), said


def assert_harmless(objects: list[dict[str, Any]]) -> None:
    """A pod may nothing that it need not."""
    inside, allowed = pod(objects), container(objects)["securityContext"]
    assert inside["securityContext"]["runAsNonRoot"]
    assert inside["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert allowed == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert inside["automountServiceAccountToken"] is False
    assert inside["enableServiceLinks"] is False  # a Service called `bridge` would set BRIDGE_PORT


def assert_probed(objects: list[dict[str, Any]]) -> None:
    """Each probe asks the path that answers its question, at a port of the container."""
    one = container(objects)
    asked = {kind: one[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness", "startup")}
    paths = {kind: get["path"] for kind, get in asked.items()}
    assert paths == {"liveness": "/livez", "readiness": "/readyz", "startup": "/livez"}
    assert {get["port"] for get in asked.values()} <= {port["name"] for port in one["ports"]}
