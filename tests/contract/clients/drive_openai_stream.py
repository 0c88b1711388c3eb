"""The `openai` client's own SSE decoder over our stream.

It shows neither names nor ids, and never reconnects.
"""

import json

import openai
from report import URL, report

client = openai.OpenAI(base_url=URL.partition("/v1/")[0] + "/v1", api_key="any")
for data in client.get(
    URL.partition("/v1")[2],
    cast_to=dict[str, object],
    stream=True,
    stream_cls=openai.Stream[dict[str, object]],
):
    report(None, None, json.dumps(data))
