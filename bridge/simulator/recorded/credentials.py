"""Reads the API key from the headers that a preset defines."""

from collections.abc import Callable, Mapping

PLACEHOLDER = "{api_key}"


def key_reader(templates: Mapping[str, str], *, one_account: bool) -> Callable[[Mapping[str, str]], str]:
    """Return a function that reads the API key; an empty string means that there is none.

    Args:
        templates: headers of the preset, containing `{api_key}`.
        one_account: the credential is generated per call (Kling's JWT), so it does not identify an account.
    """

    def read(headers: Mapping[str, str]) -> str:
        for name, template in (templates or {"Authorization": f"Bearer {PLACEHOLDER}"}).items():
            before, placeholder, after = template.partition(PLACEHOLDER)
            sent = headers.get(name, "")
            if placeholder and sent.startswith(before) and sent.endswith(after):
                key = sent[len(before) : len(sent) - len(after)].strip()
                return "-" if one_account and key and not key.startswith("bad") else key
        return ""

    return read
