"""Shared by the drivers: prints each event of the library as one line of JSON."""

import json
import sys

URL = sys.argv[1]
UNTIL_END = sys.argv[2:] != ["204"]  # else until the library stops by itself


def report(name, last_id, data):
    """Tell the test what came, whatever it holds."""
    sys.stdout.write(json.dumps({"name": name or "message", "id": last_id or None, "data": data}) + "\n")
    sys.stdout.flush()


def is_last(name):
    """Whether the user leaves now."""
    return name == "end" and UNTIL_END
