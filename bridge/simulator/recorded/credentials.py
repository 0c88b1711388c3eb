"""Reads who asks, from the headers in which a preset's provider wants its key."""

from collections.abc import Callable, Mapping

PLACE = "{api_key}"


def key_reader(templates: Mapping[str, str], *, one_account: bool) -> Callable[[Mapping[str, str]], str]:
    """Reads the key; an empty text is nobody.

    Args:
        templates: headers of the preset, with `{api_key}` in them.
        one_account: the credential is made anew for each call (Kling's JWT) and tells no caller from others.
    """

    def read(headers: Mapping[str, str]) -> str:
        for name, template in (templates or {"Authorization": f"Bearer {PLACE}"}).items():
            before, place, after = template.partition(PLACE)
            sent = headers.get(name, "")
            if place and sent.startswith(before) and sent.endswith(after):
                key = sent[len(before) : len(sent) - len(after)].strip()
                return "-" if one_account and key and not key.startswith("bad") else key
        return ""

    return read
