"""Starts a server on the OpenAI double and runs the TypeScript tests against it; exits as they do."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess


def main() -> int:
    engine = OpenAIDouble()
    engine.default = lambda body: text("You said: " + body["messages"][-1]["content"])
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test"})
        try:
            here = Path(__file__).parent
            return subprocess.run(
                ["node", "--test", "sdk.test.mjs"],
                cwd=here,
                env={"PATH": os.environ["PATH"], "PERDURE_BASE_URL": server.url},
                check=False,
            ).returncode
        finally:
            server.stop()
            engine.close()


if __name__ == "__main__":
    sys.exit(main())
