#!/usr/bin/env bash
# Runs the Python tests:
#   scripts/pytest.sh BIN [ARGUMENTS OF PYTEST...]
#
# Without arguments all of them run, in three processes: most of their time is waiting. The tests of a file stay in one
# process, so that its servers start once. Many tests bound the time that something takes, and the machine may be too busy
# for a moment: what fails beside others has to pass by itself.
set -uo pipefail

bin=${1:?usage: scripts/pytest.sh BIN [ARGUMENTS]}
shift
if [ $# -gt 0 ]; then
  exec "$bin/pytest" "$@"
fi

"$bin/pytest" -n 3 --dist loadfile
status=$?
failed=$("$bin/pytest" --lf --lfnf=none --collect-only -q 2>/dev/null | grep -c '::' || true)
# 1: tests failed; anything else is no matter of time. Many failures are none either.
if [ $status -ne 1 ] || [ "$failed" -eq 0 ] || [ "$failed" -gt 8 ]; then
  exit $status
fi
echo "==> $failed tests failed beside others: once more, one by one"
exec "$bin/pytest" --lf --lfnf=none
