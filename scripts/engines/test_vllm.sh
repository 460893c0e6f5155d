#!/usr/bin/env bash
# The tests against a real vLLM server on the CPU.
exec bash "$(dirname "$0")/run-tests.sh" vllm
