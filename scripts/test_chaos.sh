#!/usr/bin/env bash
# The chaos tests, with a PostgreSQL and a Redis of their own: the machine's, or those in the wheels.
# PERDURE_CHAOS_RUNS: how many runs a course has (40). The long form: PERDURE_CHAOS_RUNS=200 PERDURE_PROMISES=long
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/databases.sh
exec .venv/bin/python -m pytest tests/chaos -s "$@"
