#!/usr/bin/env bash
# The store's contract and the end-to-end tests on a PostgreSQL of their own: the machine's, or the one in the wheel.
# With `-m postgres`: what needs PostgreSQL whatever the other tests' database is, several servers on one above all.
# A Redis comes the same way, for the tests of news between servers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/databases.sh
PERDURE_TEST_DATABASE=postgres exec .venv/bin/python -m pytest tests/contract/store tests/e2e \
    -m "not engine and not slow and not postgres" -n auto --dist loadfile "$@"
