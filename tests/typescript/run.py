"""Starts a server on the OpenAI double and runs the TypeScript tests against it; exits as they do."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.doubles.openai_chat import OpenAIDouble, Turn, calls, text
from tests.e2e.conftest import ServerProcess


def answer(body: dict[str, Any]) -> Turn:
    """Says what it was told, or makes the calls it is told to make: "call" and a JSON list of [id, name, arguments]."""
    last = body["messages"][-1]["content"]
    word, _, wanted = last.partition(" ")
    if word == "call":
        return calls([(call_id, name, arguments) for call_id, name, arguments in json.loads(wanted)])
    return text(f"You said: {last}")


def main() -> int:
    engine = OpenAIDouble()
    engine.default = answer
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test"})
        try:
            here = Path(__file__).parent
            return subprocess.run(
                ["node", "--test", *sorted(file.name for file in here.glob("*.test.mjs"))],
                cwd=here,
                env={"PATH": os.environ["PATH"], "PERDURE_BASE_URL": server.url},
                check=False,
            ).returncode
        finally:
            server.stop()
            engine.close()


if __name__ == "__main__":
    sys.exit(main())
