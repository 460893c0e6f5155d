#!/usr/bin/env bash
# Exports loaded by the libraries they are for. Those install without a GPU into .cache/exports, beside nothing of ours.
set -uo pipefail
cd "$(dirname "$0")/.."
place=.cache/exports
[ -x "$place/bin/python" ] || .venv/bin/python -m venv "$place"
for package in tinker agentlightning datasets verifiers; do
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check "$package" || echo "skipped: $package does not install here"
done
PERDURE_EXPORTS_PYTHON="$PWD/$place/bin/python" exec .venv/bin/python -m pytest tests/contract/exports -rs "$@"
