"""Writes what the Helm chart repeats of the rest: its schema, the table of its values, alerts and dashboard.

Run `python deploy/make_chart.py` after a change of settings, of the chart's values.yaml or of grafana/; a
test fails if a file differs from its output.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bridge.config.settings import Settings

CHART = Path(__file__).parent / "helm"
GRAFANA = Path(__file__).parents[1] / "grafana"
# Kubernetes checks the content of these, or a person chooses the names in them.
OPEN = {
    "affinity", "annotations", "behavior", "labels", "livenessProbe", "nodeSelector", "podAnnotations",
    "podLabels", "podSecurityContext", "readinessProbe", "resources", "secretEnv", "securityContext",
    "startupProbe",
}  # fmt: skip
# What a value may be, where its default does not say it.
EXACT: dict[str, dict[str, Any]] = {
    "replicaCount": {"type": "integer", "minimum": 0},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.targetCPUUtilizationPercentage": {"type": "integer", "minimum": 0},
    "autoscaling.targetConnections": {"type": "integer", "minimum": 0},
    "engine.secret.urlKey": {"type": "string", "minLength": 1},
    "networkPolicy.enginePort": {"type": "integer", "minimum": 1, "maximum": 65535},
    "preStopSeconds": {"type": "integer", "minimum": 1},
    "terminationGracePeriodSeconds": {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "maxLength": 0}]
    },
    "image.repository": {"type": "string", "minLength": 1},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.tag": {"type": "string"},
    "ingress.tls": {"type": "array", "items": {"type": "object"}},
    "ingress.hosts": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "host": {"type": "string"},
                "paths": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["path"],
                        "properties": {
                            "path": {"type": "string", "pattern": "^/"},
                            "pathType": {"enum": ["Exact", "Prefix", "ImplementationSpecific"]},
                        },
                    },
                },
            },
        },
    },
    "httpRoute.hostnames": {"type": "array", "items": {"type": "string"}},
    "metrics.runbookUrl": {"type": "string", "pattern": "^(https?://\\S+)?$"},
    "persistence.accessModes": {
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]},
    },
    "secretEnv": {"type": "object", "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}},
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "service.type": {"enum": ["ClusterIP", "LoadBalancer", "NodePort"]},
}
_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
_PLACE = re.compile(r"(<!-- generated: values -->\n).*?(<!-- end -->)", re.DOTALL)
_KEY = re.compile(r"( *)([\w./-]+):")


def schema() -> dict[str, Any]:
    """The JSON Schema of the values: no other name is accepted, and `config` holds settings of the bridge."""
    made = _schema_of(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), "")
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs")
    # The secret of a webhook may be in the environment, as the key of an upstream: `existingSecret` has it.
    definitions["WebhookSettings"]["required"].remove("secret")
    made["properties"]["global"] = {"type": "object"}  # Helm adds it when another chart includes this one
    made["properties"]["config"] = settings
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made, "$defs": definitions}


def _schema_of(values: dict[str, Any], path: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, value in values.items():
        here = f"{path}{name}"
        if here in EXACT:
            properties[name] = EXACT[here]
        elif isinstance(value, dict) and name not in OPEN:
            properties[name] = _schema_of(value, f"{here}.")
        else:
            properties[name] = {"type": _TYPES[type(value)]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def table() -> str:
    """The rows of every value, from the comments that begin with `# --`."""
    lines = ["| value | default | means |", "| --- | --- | --- |"]
    lines += [f"| `{path}` | {default} | {text} |" for path, default, text in documented()]
    return "\n".join(lines) + "\n"


def documented() -> Iterator[tuple[str, str, str]]:
    """Path, default and explanation of each value."""
    text = (CHART / "values.yaml").read_text("utf-8")
    values = yaml.safe_load(text)
    above: list[tuple[int, str]] = []
    comment: list[str] | None = None
    shown: str | None = None
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("# -- "):
            comment, shown = [words[5:]], None
        elif words.startswith("# @default -- "):
            shown = words[14:]
        elif words.startswith("# ") and comment is not None:
            comment.append(words[2:])
        elif found := _KEY.match(line):
            depth = len(found[1])
            above = [(at, name) for at, name in above if at < depth] + [(depth, found[2])]
            if comment is not None:
                names = [name for _, name in above]
                yield ".".join(names), shown or f"`{json.dumps(_at(values, names))}`", " ".join(comment)
            comment = None


def _at(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return values


def files() -> dict[Path, str]:
    """Every file of the chart that is written here, and its content."""
    readme = CHART / "README.md"
    board = json.loads((GRAFANA / "dashboards" / "bridge.json").read_text("utf-8"))
    return {
        CHART / "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        readme: _PLACE.sub(lambda match: match[1] + table() + match[2], readme.read_text("utf-8")),
        # Helm reads no file outside of the chart.
        CHART / "files" / "bridge.rules.yaml": (GRAFANA / "rules" / "bridge.rules.yaml").read_text("utf-8"),
        CHART / "files" / "dashboard.json": json.dumps(board, ensure_ascii=False, separators=(",", ":"))
        + "\n",
    }


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
