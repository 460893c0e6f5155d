#!/usr/bin/env bash
# The tests against a real SGLang server on the CPU.
exec bash "$(dirname "$0")/run-tests.sh" sglang
