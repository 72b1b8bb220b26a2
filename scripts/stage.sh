#!/usr/bin/env bash
# Runs a command with a line before and after it that says what it is and how long it took:
#   scripts/stage.sh "what it is" COMMAND ARGUMENTS...
set -uo pipefail

name=$1
shift
echo "==> $name"
start=$SECONDS
# A shell that runs this in the background makes everything below it deaf to SIGINT, which tests send to themselves.
env --default-signal=INT "$@" </dev/null
status=$?
if [ $status -eq 0 ]; then
  echo "==> $name: ok, $((SECONDS - start)) s"
else
  echo "==> $name: FAILED with status $status after $((SECONDS - start)) s" >&2
fi
exit $status
