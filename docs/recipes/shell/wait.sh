#!/usr/bin/env bash
# Waits for tasks. Prints each new state on standard error, and each final state as JSON on standard output.
#
#   BRIDGE_URL=http://127.0.0.1:8080 ./wait.sh qingbo/ONE vapi/TWO > ended.ndjson
#
# Exit code: 0 all completed, 1 at least one did not, 2 rejected by the bridge, 3 unreachable. Needs curl and jq.
set -euo pipefail

bridge=${BRIDGE_URL:-http://127.0.0.1:8080}
tries=${TRIES:-8} # consecutive attempts without a response
[ $# -gt 0 ] || { echo "usage: $0 UPSTREAM/TASK_ID..." >&2; exit 2; }

body=$(jq --null-input --compact-output '{tasks: $ARGS.positional}' --args "$@")

# The token is passed through a file descriptor: all users of a machine can read the arguments of its processes.
credential() { [ -z "${BRIDGE_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$BRIDGE_TOKEN"; }

# The lines of one connection, and a last line of our own with the HTTP status.
connection() {
  curl --silent --no-buffer --connect-timeout 10 --keepalive-time 15 --max-time 700 --config <(credential) \
    --header 'Accept: application/x-ndjson' --header 'Content-Type: application/json' --data "$body" \
    --write-out '\n{"event":"closed","status":%{http_code}}\n' \
    "$bridge/v1/events?last_event_id=$cursor" || true # the last line reports the result
}

# Converts a line to fields that `read` can split; lines that are not JSON (an HTML page) are dropped.
fields='fromjson? | objects | [.event // (if has("cursor") then "state" else "problem" end), .cursor // "-", .task // "-",
  .status // "-", .progress // "-", (if has("retriable") then .retriable else "-" end),
  .reason // .code // "-", .detail // .message // "-", tojson] | map(tostring | gsub("[\u001f\n]"; " ")) | join("\u001f")'

# A stream of many tasks may repeat a state: print each final state once.
print_once() {
  case " $printed " in *" $task "*) return ;; esac
  printed="$printed $task"
  echo "$document"
}

cursor=
printed=
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
          completed) print_once ;;
          failed | cancelled | lost) code=1 && print_once ;;
        esac
        ;;
      notice)
        if [ "$reason" != over_capacity ]; then failures=0; fi
        if [ "$reason" = task_not_found ]; then echo "$task: $detail" >&2 && code=2; fi
        ;;
      end) exit "$code" ;;
      problem) if [ "$retriable" = false ]; then echo "$status: $detail" >&2 && exit 2; fi ;;
      closed) if [ "$status" = 204 ]; then exit "$code"; fi ;; # everything before this cursor has been delivered
    esac
  done < <(connection | jq --raw-input --raw-output --unbuffered "$fields")
  sleep "$((RANDOM % (failures < 5 ? 2 ** failures : 30) + 1))"
done
echo "no response from $bridge" >&2
exit 3
