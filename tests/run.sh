#!/usr/bin/env bash
# Set up everything that the tests need, in a virtual environment beside this checkout, and run them with coverage.
# Arguments go to pytest: `tests/run.sh tests/engine -x`. `tests/run.sh --quick` runs what needs neither processes nor a
# database, in a minute: pure functions, and the engine in memory. `tests/run.sh --install` sets up and runs nothing.
set -euo pipefail
# Handlers and settings that the tests write must be closed to the group, as the daemon asks for.
umask 022
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-test}
if [ ! -e "$venv/ready" ] || [ tests/constraints.txt -nt "$venv/ready" ] || [ .build/constraints.txt -nt "$venv/ready" ] \
    || [ pyproject.toml -nt "$venv/ready" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
    python3 -m venv "$venv"
    # Compiled is what the tests import, and then.
    install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
    "${install[@]}" --require-hashes --only-binary :all: -r .build/constraints.txt
    "${install[@]}" --require-hashes --no-build-isolation --only-binary :all: --no-binary alibabacloud-tea -r tests/constraints.txt
    "${install[@]}" --no-deps --no-build-isolation --editable .
    touch "$venv/ready"
fi
if [ "${1:-}" = --install ]; then
    exit
fi
if [ "${1:-}" = --quick ]; then
    shift
    exec "$venv/bin/python" -m pytest -m "not alone and not slow" --numprocesses 2 --dist worksteal "$@" \
        tests/test_*.py tests/{functions,handlers,in_memory,message,ops,plugin,settings} \
        tests/engine/test_{breaker,invoke,lease_state,outcome,slots}.py \
        tests/store/test_store_ledger.py -k 'not postgres and not pooled'
fi
"$venv/bin/coverage" erase
if [ $# -gt 0 ]; then
    "$venv/bin/coverage" run -m pytest "$@"
else
    # Most tests wait more than they work, so several run side by side; what measures time comes after them.
    # By `worksteal` neighbours share a worker and their fixtures, and a worker that a hung test ended is replaced;
    # `loadfile` would give the same file to the next worker, until none is left.
    # A test that fails in that crowd is run once more by itself: what lacked only a processor passes there.
    if [ ! -e tests/__pycache__ ]; then
        # Once, or each worker would do it: compile all tests, and let hypothesis read the constants of all modules,
        # as its first text does. An error shows when the workers collect the tests.
        "$venv/bin/python" -m pytest --quiet -k test_every_delay_is_one_that_mns_takes >/dev/null || true
    fi
    status=0
    "$venv/bin/coverage" run -m pytest --cache-clear -m "not alone" --numprocesses 5 --dist worksteal --timeout 60 || status=$?
    if [ "$status" = 1 ]; then
        echo 'tests failed side by side: they run once more, one after another, and must pass' >&2
        "$venv/bin/coverage" run -m pytest -m "not alone" --last-failed --last-failed-no-failures none
    elif [ "$status" != 0 ]; then
        exit "$status"
    fi
    # Only the files that have such tests: to collect all others takes longer than to run these.
    mapfile -t alone < <(grep -rlE 'mark\.alone' --include='test_*.py' tests)
    status=0
    "$venv/bin/coverage" run -m pytest -m alone "${alone[@]}" || status=$?
    if [ "$status" = 1 ]; then
        # A virtual machine pauses now and then, but rarely twice in the same test.
        echo 'tests that run alone failed: they run once more and must pass' >&2
        "$venv/bin/coverage" run -m pytest -m alone --last-failed --last-failed-no-failures none "${alone[@]}"
    elif [ "$status" != 0 ]; then
        exit "$status"
    fi
fi
"$venv/bin/coverage" combine --quiet
if [ $# -eq 0 ]; then
    # A part of the tests covers a part of the code: only the whole is held to the floor.
    "$venv/bin/coverage" report --fail-under=95
fi
