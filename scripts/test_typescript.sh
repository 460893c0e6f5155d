#!/usr/bin/env bash
# The npm SDK against a real server process.
set -euo pipefail
cd "$(dirname "$0")/.."
(cd tests/typescript && npm install --no-audit --no-fund --silent --no-package-lock)
exec .venv/bin/python -m tests.typescript.run
