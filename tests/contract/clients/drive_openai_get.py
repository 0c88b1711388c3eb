"""The `openai` client's raw `get`, as people poll with it today: only the base URL is another."""

import json
import time

import openai
from report import URL, report

BETWEEN_LOOKS = 0.02

client = openai.OpenAI(base_url=URL.partition("/v1/")[0] + "/v1", api_key="any")
path = URL.partition("/v1")[2].removesuffix("/events")
have, status = None, "unknown"
while status not in {"completed", "failed", "cancelled", "lost"}:
    state = client.get(path, cast_to=dict[str, object])
    if state["cursor"] != have:
        have, status = state["cursor"], state["status"]
        report(None, have, json.dumps(state))
    time.sleep(BETWEEN_LOOKS)
