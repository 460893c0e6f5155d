#!/usr/bin/env bash
# The tests against a real SGLang server on the CPU: a dense model, then a mixture of experts.
set -euo pipefail
here=$(dirname "$0")
bash "$here/run-tests.sh" sglang
exec bash "$here/run-tests.sh" sglang moe
