#!/usr/bin/env bash
# Exports loaded by the libraries they are for, in environments that have nothing of ours.
#   test_exports.sh          tinker, agentlightning, verifiers and datasets, into .cache/exports
#   test_exports.sh torch    trl, verl and skyrl, which need torch (no GPU), into .cache/exports-torch: 1.7 GB, 4 minutes
set -uo pipefail
cd "$(dirname "$0")/.."
place=.cache/exports
packages=(tinker agentlightning datasets verifiers)
bare=()
if [ "${1-}" = torch ]; then
    shift
    place=.cache/exports-torch
    # without all they ask for, engines and trackers among it: what their data types and collators import
    bare=(verl skyrl)
    packages=(torch==2.13.0 trl ray hydra-core "tensordict<=0.10" codetiming torchdata dill pylatexenc pillow cachetools uvicorn
        fastapi jaxtyping loguru "transformers>=5.6.1,<5.8.1")
fi
[ -x "$place/bin/python" ] || .venv/bin/python -m venv "$place"
install() {
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}
if [ ${#bare[@]} -gt 0 ]; then
    install "${packages[@]}" || echo "skipped: what trl, verl and skyrl need does not install here"
    packages=()
fi
for package in "${packages[@]}"; do
    install "$package" || echo "skipped: $package does not install here"
done
for package in "${bare[@]}"; do
    install --no-deps "$package" || echo "skipped: $package does not install here"
done
PERDURE_EXPORTS_PYTHON="$PWD/$place/bin/python" exec .venv/bin/python -m pytest tests/contract/exports -rs "$@"
