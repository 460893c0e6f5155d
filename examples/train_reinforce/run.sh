#!/usr/bin/env bash
# The whole example on a CPU: installs SGLang (3 GB, once), makes the policy, starts SGLang and Perdure, trains, draws, verifies.
#   run.sh [TRAINER_ARG..]      for example: run.sh --iterations 20
# TRAIN_SEED (default: 1) is the seed of the policy's first weights and of its warm start.
# Engines are kept in the folder PERDURE_ENGINES names (default: .cache/engines; its path may have 55 characters at most), what
# the example makes in TRAIN_OUT (default: .cache/train_reinforce). Needs `make setup`, Python 3.11 and npm (for the tokenizer).
set -euo pipefail
cd "$(dirname "$0")/../.."

example=examples/train_reinforce
engines=${PERDURE_ENGINES:-$PWD/.cache/engines}
out=${TRAIN_OUT:-$PWD/.cache/train_reinforce}
tokenizer=.cache/tokenizers/qwen3
seed=${TRAIN_SEED:-1}
policy=$out/seed-$seed/policy
python=$engines/sglang/venv/bin/python
mkdir -p "$engines" "$out"
export WHEELS=$engines/wheels HF_HUB_OFFLINE=1
# two servers and a trainer share the cores: threads that wait for each other by spinning would take them from the others
export OMP_NUM_THREADS=1

[[ -s $tokenizer/tokenizer.json ]] || bash scripts/fetch_tokenizers.sh qwen3
bash scripts/engines/sglang-cpu.sh install "$engines/sglang"
[[ -s $policy/model.safetensors ]] || "$python" $example/model.py "$tokenizer" "$policy" "$seed"

free_port() { .venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; wait 2>/dev/null || true' EXIT

# wait_for NAME PID URL
wait_for() {
    for _ in $(seq 600); do
        curl -sf "$3" >/dev/null && return
        kill -0 "$2" 2>/dev/null || break
        sleep 0.5
    done
    echo "$1 did not start; see $out/$1.log" >&2
    exit 1
}

sglang=http://127.0.0.1:$(free_port)
bash scripts/engines/sglang-cpu.sh serve "$engines/sglang" "$policy" "${sglang##*:}" --sleep-on-idle >"$out/sglang.log" 2>&1 &
servers+=($!)
wait_for sglang $! "$sglang/health"

perdure=http://127.0.0.1:$(free_port)
SGLANG_BASE_URL=$sglang .venv/bin/python -m perdure serve --port "${perdure##*:}" --data-dir "$out/data" >"$out/perdure.log" 2>&1 &
servers+=($!)
wait_for perdure $! "$perdure/v1/health/"

"$python" $example/trainer.py --perdure "$perdure" --sglang "$sglang" --model "$policy" --out "$out" --seed "$seed" "$@"
.venv/bin/python $example/plot.py "$out/train.svg" "$out/log.jsonl"
.venv/bin/python -m perdure trajectory verify "$out/last.jsonl" --engine "$sglang"
echo "The log, the plot and the last rollouts are in $out."
