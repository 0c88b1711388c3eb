"""`curl -N`, read the way a shell script would: line by line, by the first word. It never reconnects."""

import subprocess

from report import URL, report

with subprocess.Popen(["curl", "-sSN", URL], stdout=subprocess.PIPE, text=True) as curl:
    seen = {}
    for line in curl.stdout:
        word, _, rest = line.rstrip("\n").partition(": ")
        if word:
            seen[word] = rest
        elif seen:
            report(seen.get("event"), seen.get("id"), seen.get("data"))
            seen = {}
raise SystemExit(curl.returncode)
