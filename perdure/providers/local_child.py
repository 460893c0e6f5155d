"""The embedded engine's process: llama.cpp's own server (the package xllamacpp) on a free loopback port.

Run as a file, never imported by the server; imports nothing of ours, so it starts in well under a second. It reads one line
of JSON from stdin and answers one line on stdout. Invariant: it never outlives its parent: the kernel kills it when the
parent's thread ends (Linux), and the end of stdin ends it everywhere.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    die_with_parent(parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the engine prints must not get between the lines the parent reads
    line = sys.stdin.readline()
    if not line:
        return
    settings = json.loads(line)
    threading.Thread(target=exit_at_end_of_stdin, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # before the server starts its threads
    server = start(settings)
    print(json.dumps({"url": server.listening_address}), file=answers, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    os._exit(0)  # the engine's threads hold nothing that needs an orderly end


def start(settings: dict[str, Any]) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = settings["gguf"]
    params.model_alias = {settings["name"]}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [settings["api_key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["window"] * settings["slots"]  # divided among the slots
    params.kv_unified = False
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["batch_threads"]
    params.cache_ram_mib = settings["cache_mib"]
    # so that a prompt read in one batch and the same ids read one by one differ by no more than the weights' quantised kernels
    # do: by nothing or by a tenth of a nat, as the processor has it
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.use_jinja = True
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1
    return xllamacpp.Server(params)


def die_with_parent(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


def exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
