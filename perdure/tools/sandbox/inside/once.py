"""A call in a process of its own, for systems that cannot fork (Windows): request on standard input, answer into a file."""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH123

import os
import sys

from . import execute


def main() -> None:
    answer_path = sys.argv[1]
    request = sys.stdin.buffer.read()
    sys.path[:] = sys.path[1:]
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP", "PATH", "LANG") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    data = execute.answer(request)
    with open(answer_path, "wb") as file:
        file.write(data)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
