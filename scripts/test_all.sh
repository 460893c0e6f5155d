#!/usr/bin/env bash
# The long tests: PostgreSQL, real engines, the TypeScript SDK, kill -9. Starts what it needs, says what it skipped.
# TEST_ALL_SECONDS: stop starting new parts after that long (0: never).
set -uo pipefail
cd "$(dirname "$0")/.."

budget="${TEST_ALL_SECONDS:-0}"
failed=0
skipped=()

part() { # part NAME SECONDS COMMAND...: run it if it fits
    local name="$1" seconds="$2"
    shift 2
    if [ "$budget" -gt 0 ] && [ $((SECONDS + seconds)) -gt "$budget" ]; then
        skipped+=("$name (needs about ${seconds} s, $((budget - SECONDS)) s left)")
        return
    fi
    echo "== $name"
    "$@" || failed=1
}

part "several servers on one PostgreSQL, and Redis beside it" 180 bash scripts/test_postgres.sh -m postgres
part "real tokenizers" 60 bash scripts/fetch_tokenizers.sh
part "renderers beside the models' own templates" 120 .venv/bin/python -m pytest tests/contract/renderers
part "letta-evals" 60 .venv/bin/python -m pip install --quiet --disable-pip-version-check "letta-evals>=0.26"
part "exports loaded by the libraries they are for" 180 bash scripts/test_exports.sh
part "exports loaded by trainers on torch (installs 1.7 GB on the first run)" 420 bash scripts/test_exports.sh torch
part "Ray (installs about 300 MB on the first run)" 120 .venv/bin/python -m pip install --quiet --disable-pip-version-check "ray[serve]>=2.40,<3"
part "slow tests" 120 .venv/bin/python -m pytest tests -m "slow and not engine" --ignore tests/chaos
chaos_runs="${PERDURE_CHAOS_RUNS:-40}" chaos_seconds=480
if [ "$budget" -gt 0 ] && [ $((SECONDS + chaos_seconds)) -gt "$budget" ]; then
    chaos_runs=12 chaos_seconds=300
fi
part "chaos, $chaos_runs runs a course (the long form: PERDURE_CHAOS_RUNS=200 PERDURE_PROMISES=long)" "$chaos_seconds" \
    env PERDURE_CHAOS_RUNS="$chaos_runs" bash scripts/test_chaos.sh
if command -v npm >/dev/null; then
    part "TypeScript SDK" 90 bash scripts/test_typescript.sh
else
    skipped+=("TypeScript SDK (npm is not installed)")
fi
part "everything else on PostgreSQL" 480 bash scripts/test_postgres.sh
part "llama.cpp" 60 .venv/bin/python -m pytest tests/engines -m engine -k llamacpp
part "a long conversation in a small window" 900 .venv/bin/python -m pytest tests/engines/test_long_conversation.py
part "SGLang on CPU (installs about 3 GB on the first run)" 1080 bash scripts/engines/test_sglang.sh
part "vLLM on CPU (installs about 3 GB on the first run)" 900 bash scripts/engines/test_vllm.sh

for name in "${skipped[@]:-}"; do
    [ -n "$name" ] && echo "skipped: $name"
done
exit "$failed"
