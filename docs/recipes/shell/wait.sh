#!/usr/bin/env bash
# Waits for tasks. Each new state is a line on standard error, each final state a JSON document on standard output.
#
#   BRIDGE_URL=http://127.0.0.1:8080 ./wait.sh qingbo/ONE vapi/TWO > ended.ndjson
#
# Exit code: 0 all completed, 1 one did not, 2 the bridge refuses, 3 it is out of reach. Needs curl and jq.
set -euo pipefail

bridge=${BRIDGE_URL:-http://127.0.0.1:8080}
tries=${TRIES:-8} # in a row without a word from the bridge
[ $# -gt 0 ] || { echo "usage: $0 UPSTREAM/TASK_ID..." >&2; exit 2; }

body=$(jq --null-input --compact-output '{tasks: $ARGS.positional}' --args "$@")

# The token goes in by a file descriptor: every user of a machine can read the arguments of its programs.
credential() { [ -z "${BRIDGE_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$BRIDGE_TOKEN"; }

# The lines of one connection, and a last one of our own with the status.
connection() {
  curl --silent --no-buffer --connect-timeout 10 --keepalive-time 15 --max-time 700 --config <(credential) \
    --header 'Accept: application/x-ndjson' --header 'Content-Type: application/json' --data "$body" \
    --write-out '\n{"event":"closed","status":%{http_code}}\n' \
    "$bridge/v1/events?last_event_id=$cursor" || true # how it went stands in that last line
}

# What a line is, in words that `read` can take apart; a page instead of JSON is nothing.
words='fromjson? | objects | [.event // (if has("cursor") then "state" else "problem" end), .cursor // "-", .task // "-",
  .status // "-", .progress // "-", (if has("retriable") then .retriable else "-" end),
  .reason // .code // "-", .detail // .message // "-", tojson] | map(tostring | gsub("[\u001f\n]"; " ")) | join("\u001f")'

# A stream of many tasks may repeat a state: each end is told once.
tell() {
  case " $told " in *" $task "*) return ;; esac
  told="$told $task"
  echo "$document"
}

cursor=
told=
failures=0
code=0
while [ "$failures" -lt "$tries" ]; do
  failures=$((failures + 1))
  while IFS=$'\x1f' read -r event at task status progress retriable reason detail document; do
    case $event in
      state)
        failures=0 cursor=$at
        echo "$task $status $progress" >&2
        case $status in
          completed) tell ;;
          failed | cancelled | lost) code=1 && tell ;;
        esac
        ;;
      notice)
        if [ "$reason" != over_capacity ]; then failures=0; fi
        if [ "$reason" = task_not_found ]; then echo "$task: $detail" >&2 && code=2; fi
        ;;
      end) exit "$code" ;;
      problem) if [ "$retriable" = false ]; then echo "$status: $detail" >&2 && exit 2; fi ;;
      closed) if [ "$status" = 204 ]; then exit "$code"; fi ;; # our cursor says that we have seen everything
    esac
  done < <(connection | jq --raw-input --raw-output --unbuffered "$words")
  sleep "$((RANDOM % (failures < 5 ? 2 ** failures : 30) + 1))"
done
echo "no word from $bridge" >&2
exit 3
