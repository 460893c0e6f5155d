"""Tools that misbehave, called by an agent: the model is told what happened, and the agent answers the next message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess

DOC = '"""A tool.\n\n    """'
TOOLS = {
    "never_returns": "while True: pass",
    "prints_a_gigabyte": "for _ in range(1024): print('x' * 2**20)",
    "forks_for_ever": "import os\n    while True: os.fork()",
    "hogs_memory": "held = []\n    while True: held.append(bytearray(2**24))",
    "kills_itself": "import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)",
    "kills_its_parent": "import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 'still here'",
    "leaves_at_once": "import os\n    os._exit(0)",
}


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory, engine: OpenAIDouble) -> Iterator[ServerProcess]:
    process = ServerProcess(
        tmp_path_factory.mktemp("hostile"),
        {
            "OPENAI_BASE_URL": engine.base_url,
            "OPENAI_API_KEY": "sk-the-servers-own-secret",
            "PERDURE_TOOL_TIMEOUT": "3",
        },
    )
    yield process
    assert process.stop() == 0, process.log()


def run_tool(server: ServerProcess, engine: OpenAIDouble, name: str, body: str) -> Any:
    """What the agent's call of the tool returned; the agent must answer afterwards."""
    client = Letta(base_url=server.url, max_retries=0)
    tool = client.tools.upsert(source_code=f"def {name}() -> str:\n    {DOC}\n    {body}\n")
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=[tool.id])
    engine.script(call(name, {}), text("I see."), text("Fine."))
    answer = client.agents.messages.create(agent_id=agent.id, input="Run it", timeout=60)
    after = client.agents.messages.create(agent_id=agent.id, input="And now?")
    assert after.messages[0].content == "Fine."
    client.agents.delete(agent.id)
    return next(m for m in answer.messages if m.message_type == "tool_return_message")


@pytest.mark.parametrize("name", list(TOOLS))
def test_a_tool_that_does_harm_hurts_only_itself(strict_server: ServerProcess, engine: OpenAIDouble, name: str) -> None:
    returned = run_tool(strict_server, engine, name, TOOLS[name])
    if name not in ("prints_a_gigabyte", "kills_its_parent"):
        assert returned.status == "error"
        assert returned.tool_return
    assert len(str(returned.stdout)) < 2_000_000


def test_a_tool_sees_no_secret_of_the_server(strict_server: ServerProcess, engine: OpenAIDouble) -> None:
    body = (
        "import glob, os\n"
        "    found = [repr(dict(os.environ))]\n"
        "    for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "        try:\n"
        "            found.append(open(path, 'rb').read().decode(errors='replace'))\n"
        "        except OSError:\n"
        "            pass\n"
        "    return '\\n'.join(found)"
    )
    returned = run_tool(strict_server, engine, "reads_environments", body)
    assert returned.status == "success"
    assert "the-servers-own-secret" not in returned.tool_return


def test_a_tool_cannot_open_the_database(strict_server: ServerProcess, engine: OpenAIDouble) -> None:
    path = Path(strict_server.data_dir) / "perdure.db"
    assert path.is_file()
    returned = run_tool(strict_server, engine, "opens_database", f"return str(len(open({str(path)!r}, 'rb').read()))")
    assert returned.status == "error"


def test_a_tool_cannot_reach_the_servers_own_api(strict_server: ServerProcess, engine: OpenAIDouble) -> None:
    url = f"{strict_server.url}/v1/health/"
    body = f"import urllib.request\n    return urllib.request.urlopen({url!r}, timeout=2).read().decode()"
    returned = run_tool(strict_server, engine, "calls_the_api", body)
    assert returned.status == "error"
