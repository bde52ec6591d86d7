#!/usr/bin/env bash
# Set up everything that the tests need, in a virtual environment beside this checkout, and run them with coverage.
# Arguments go to pytest: `tests/run.sh tests/engine -x`.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-test}
if [ ! -e "$venv/ready" ] || [ tests/constraints.txt -nt "$venv/ready" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/constraints.txt
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    touch "$venv/ready"
fi
"$venv/bin/coverage" erase
"$venv/bin/coverage" run -m pytest "$@"
"$venv/bin/coverage" combine --quiet
if [ $# -eq 0 ]; then
    # A part of the tests covers a part of the code: only the whole is held to the floor.
    "$venv/bin/coverage" report --fail-under=95
fi
