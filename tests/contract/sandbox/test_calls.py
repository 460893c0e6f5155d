"""Ordinary calls: what a tool may rely on, and how its return, its output and its errors come back."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.tools.sandbox import IsolationUnavailable, Sandbox, SandboxResult
from perdure.tools.sandbox import pool as pool_module
from perdure.tools.sandbox.isolation import Surroundings
from perdure.tools.sandbox.single import SingleUseWorker

from .conftest import assert_still_works, run_tool, started


async def call(sandbox: Sandbox, source: str, function: str = "tool", /, **args: Any) -> SandboxResult:
    return await sandbox.run(source=source, function=function, args=args, env={})


@pytest.mark.parametrize(
    ("returned", "value", "is_json"),
    [
        ("None", "None", False),
        ("3", "3", False),
        ("'text'", "text", False),
        ("'é\\udcff'", "é?", False),
        ("{'a': [1, None, 'é']}", '{"a": [1, null, "é"]}', True),
        ("[]", "[]", True),
        ("(1, 2)", "(1, 2)", False),
        ("{'at': __import__('datetime').date(2026, 1, 2)}", '{"at": "2026-01-02"}', True),
        ("[float('nan')]", "[nan]", False),
        ("{(1, 2): 3}", "{(1, 2): 3}", False),
    ],
)
async def test_returns(sandbox: Sandbox, returned: str, value: str, is_json: bool) -> None:
    result = await run_tool(sandbox, f"return {returned}")
    assert (result.status, result.value, result.is_json) == ("success", value, is_json)


async def test_a_long_return_is_cut_with_both_numbers(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "return ['x' * 100]", return_char_limit=50)
    assert result.value.startswith('["xxx')
    assert "it has 104 characters, the limit is 50" in result.value
    assert not result.is_json


async def test_output_is_kept_and_a_traceback_ends_stderr(sandbox: Sandbox) -> None:
    body = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nraise ValueError('no good')"
    result = await run_tool(sandbox, body)
    assert result.status == "error"
    assert result.error == "Error executing function tool: ValueError: no good"
    assert result.stdout == ["out\n"]
    assert result.stderr[0].startswith("err\nTraceback (most recent call last):\n")
    assert "raise ValueError('no good')" in result.stderr[0]
    assert "execute.py" not in result.stderr[0]


async def test_a_long_error_is_cut(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "raise ValueError('x' * 5000)")
    assert result.error is not None and len(result.error) == 1000


async def test_the_named_function_is_called_among_several(sandbox: Sandbox) -> None:
    source = "import math\ndef helper(n):\n    return math.floor(n)\ndef tool(n: float):\n    return helper(n)\ndef last(): ...\n"
    assert (await call(sandbox, source, n=3.7)).value == "3"
    result = await call(sandbox, source, "other")
    assert result.error is not None and "functions it defines: helper, tool, last" in result.error


async def test_asynchronous_functions(sandbox: Sandbox) -> None:
    source = "import asyncio\nasync def tool(n: int):\n    await asyncio.sleep(0)\n    return n + 1\n"
    assert (await call(sandbox, source, n=1)).value == "2"


async def test_a_source_that_is_no_python(sandbox: Sandbox) -> None:
    result = await call(sandbox, "def tool(:\n")
    assert result.error is not None and "SyntaxError" in result.error
    await assert_still_works(sandbox)


SIGNATURE = "from typing import Optional\ndef tool(a: int, b: Optional[str], *, c: int = 3):\n    return [a, b, c]\n"


@pytest.mark.parametrize(
    ("args", "value"),
    [({"a": 1, "b": "x"}, '[1, "x", 3]'), ({"a": 1}, "[1, null, 3]"), ({"a": 2.0, "c": 4}, "[2, null, 4]")],
)
async def test_arguments_go_by_name(sandbox: Sandbox, args: dict[str, Any], value: str) -> None:
    assert (await call(sandbox, SIGNATURE, **args)).value == value


PLAIN = "def tool(a: int, b: float = 0.5, c: list = [], *rest, **more):\n    return [a, b, c, sorted(more)]\n"


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ({"a": 1}, "[1, 0.5, [], []]"),
        ({"c": [2], "a": 1, "b": 0.25}, "[1, 0.25, [2], []]"),
        ({"a": 3.0}, "[3, 0.5, [], []]"),
        ({"a": True, "b": 2}, "[true, 2, [], []]"),
        ({"a": 1, "z": 2}, '[1, 0.5, [], ["z"]]'),
    ],
)
async def test_arguments_of_plain_types(sandbox: Sandbox, args: dict[str, Any], value: str) -> None:
    assert (await call(sandbox, PLAIN, **args)).value == value
    result = await call(sandbox, PLAIN, b=1.0)
    assert result.error == "Error executing function tool: TypeError: missing argument(s) a"


async def test_arguments_cannot_be_given_to_positional_only_parameters(sandbox: Sandbox) -> None:
    result = await call(sandbox, "def tool(a: int, /):\n    return a\n", a=1)
    assert result.error is not None and "positional-only" in result.error


async def test_arguments_that_are_no_unicode_arrive_as_they_are(sandbox: Sandbox) -> None:
    source = "def tool(text: str):\n    return [len(text), ord(text[0])]\n"
    assert (await call(sandbox, source, text="\ud800x")).value == "[2, 55296]"


async def test_an_environment_that_cannot_be_set_is_told(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "return 1", env={"A=B": "1", "C": "\0"})
    assert result.error is not None and "ValueError" in result.error


async def test_arguments_that_do_not_fit_are_named(sandbox: Sandbox) -> None:
    result = await call(sandbox, SIGNATURE, a=1, z=2)
    assert result.error == (
        "Error executing function tool: TypeError: unexpected argument(s) z. Arguments it takes: a, b, c"
    )
    result = await call(sandbox, SIGNATURE)
    assert result.error == "Error executing function tool: TypeError: missing argument(s) a"


async def test_agent_state_is_said_not_to_be_passed(sandbox: Sandbox) -> None:
    result = await call(sandbox, "def tool(agent_state, n: int):\n    return n\n", n=1)
    assert result.error is not None and "agent_state is not passed" in result.error
    assert (await call(sandbox, "def tool(self, n: int):\n    return n\n", n=1)).value == "1"


async def test_values_json_has_no_type_for_are_made(sandbox: Sandbox) -> None:
    source = """
import enum
from pydantic import BaseModel

class Size(enum.Enum):
    SMALL = "s"

class Place(BaseModel):
    city: str

class Person(BaseModel):
    name: str
    places: list[Place] = []

def tool(person: Person, others: list[Person], size: Size, pair: tuple[int, int], tags: set[str]):
    kinds = [type(x).__name__ for x in (person, person.places[0], others[0], size, pair, tags)]
    return {"kinds": kinds, "person": person.model_dump()}
"""
    person = {"name": "Ann", "places": [{"city": "Rome"}]}
    result = await call(sandbox, source, person=person, others=[person], size="s", pair=[1, 2], tags=["a"])
    assert '"kinds": ["Person", "Place", "Person", "Size", "tuple", "set"]' in result.value, result
    result = await call(sandbox, source, person={"nam": 1}, others=[], size="s", pair=[1, 2], tags=[])
    assert result.error is not None and "argument 'person' does not fit: name: Field required" in result.error
    result = await call(sandbox, source, person=person, others=[], size="xl", pair=[1, 2], tags=[])
    assert result.error is not None and "argument 'size' must be one of 's', not 'xl'" in result.error


async def test_missing_packages_are_named_only_if_the_import_fails(sandbox: Sandbox) -> None:
    wanted = [{"name": "no-such-package", "version": "1.0"}]
    result = await run_tool(sandbox, "import no_such_package", pip_requirements=wanted)
    assert result.error is not None
    assert "asks for no-such-package==1.0, and this server does not install packages" in result.error
    assert (await run_tool(sandbox, "import json\nreturn 1", pip_requirements=wanted)).value == "1"


async def test_what_tools_usually_need_works(sandbox: Sandbox) -> None:
    body = """
import concurrent.futures, dataclasses, hashlib, pathlib, sqlite3, subprocess, tempfile, zoneinfo
@dataclasses.dataclass
class Point:
    x: int
with concurrent.futures.ThreadPoolExecutor(20) as threads:
    total = sum(threads.map(lambda n: n, range(100)))
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "x")
    path.write_text("text")
    text = path.read_text()
database = sqlite3.connect("my.db")
database.execute("create table t (x)")
said = subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True).stdout
return [total, text, said, Point(1).x, hashlib.sha256(b"").hexdigest()[:4], zoneinfo.ZoneInfo("Europe/Rome").key]
"""
    result = await run_tool(sandbox, body)
    assert result.value == '[4950, "text", "hello\\n", 1, "e3b0", "Europe/Rome"]', result


async def test_random_numbers_are_new_in_each_call_and_in_each_process_of_one(sandbox: Sandbox) -> None:
    body = """
import os, random
drawn = [random.random()]
random.seed(7)
random.gauss(0, 1)  # which keeps its second number for the next time
for _ in range(2):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, repr([random.random(), random.gauss(0, 1)]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    drawn += eval(os.read(reader, 200))
return drawn + [random.random()]
"""
    first, second = [json.loads((await run_tool(sandbox, body)).value) for _ in range(2)]
    assert first.pop() == second.pop()  # a seed of its own holds
    assert len({*first, *second}) == len(first) + len(second) == 10


async def test_a_call_finds_nothing_of_how_the_worker_was_made_ready(sandbox: Sandbox) -> None:
    body = """
import gc, linecache, os, sys, types
gc.unfreeze()
functions = [thing for thing in gc.get_objects() if isinstance(thing, types.FunctionType)]
files = {function.__code__.co_filename for function in functions} | set(linecache.cache)
sources = [name for name in files if name.startswith("<tool")]
return [sources, sorted(os.environ), hasattr(sys.modules["tool"], "tool")]
"""
    result = await run_tool(sandbox, body)
    assert json.loads(result.value) == [["<tool tool>"], ["HOME", "LANG", "PATH", "TMPDIR"], True]


async def test_a_full_answer_and_full_outputs_come_back_whole(sandbox: Sandbox) -> None:
    body = """
import sys
sys.stdout.write("o" * 65_536)
sys.stderr.write("e" * 65_536)
return ["r" * 49_000]
"""
    result = await run_tool(sandbox, body)
    assert (result.stdout, result.stderr) == (["o" * 65_536], ["e" * 65_536])
    assert result.value == '["' + "r" * 49_000 + '"]'


async def test_calls_run_side_by_side_and_the_rest_wait_their_turn() -> None:
    async with started(mode="auto", workers=3) as sandbox:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        results = await asyncio.gather(*(run_tool(sandbox, "import time\ntime.sleep(0.4)\nreturn 1") for _ in range(6)))
        took = loop.time() - begun
    assert [result.value for result in results] == ["1"] * 6
    assert 0.75 < took < 2.2


async def test_isolation_is_reported(sandbox: Sandbox) -> None:
    assert sandbox.isolation in ("strict", "process")
    assert (sandbox.warning is None) == (sandbox.isolation == "strict")
    if sandbox.warning is not None:
        assert "process isolation only" in sandbox.warning


async def test_strict_where_it_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.tools.sandbox.isolation.find_bwrap", lambda: None)
    with pytest.raises(IsolationUnavailable, match=r"bubblewrap is missing.*PERDURE_TOOL_ISOLATION=auto"):
        await Sandbox(mode="strict").start()
    async with started(mode="auto") as sandbox:
        assert sandbox.isolation == "process"
        assert sandbox.warning is not None and "bubblewrap is missing" in sandbox.warning
        await assert_still_works(sandbox)


async def test_a_bubblewrap_that_fails_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setattr("perdure.tools.sandbox.isolation.find_bwrap", lambda: str(fake))
    with pytest.raises(IsolationUnavailable, match="No permissions to create new namespace"):
        await Sandbox(mode="strict").start()


async def test_without_a_user_of_its_own_a_call_is_kept_in_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a server that is not root: the sandbox has one user id."""
    plans = [plan for plan in pool_module.plans(sys.executable) if plan.isolation == "strict" and plan.uids is None]
    if not plans:
        pytest.skip("no namespaces here")
    monkeypatch.setattr(pool_module, "plans", lambda _python: iter(plans))
    async with started(mode="strict") as sandbox:
        body = """
import os, signal
outcomes = []
for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/fd/3"):
    try:
        open(path, "rb").read(10)
        outcomes.append(path)
    except OSError:
        pass
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP):
    try:
        os.kill(1, number)
    except OSError:
        pass
return outcomes
"""
        assert (await run_tool(sandbox, body)).value == "[]"
        bomb = "import os\nwhile True:\n    os.fork()"
        assert (await run_tool(sandbox, bomb, timeout_s=1)).status == "error"
        await assert_still_works(sandbox)


async def test_single_use_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What systems that cannot fork get."""
    worker = SingleUseWorker(Surroundings(python=sys.executable, home=tmp_path), 1_000)
    async with started(mode="process") as sandbox:
        for kind, old in sandbox._workers.items():
            await old.close()
            sandbox._workers[kind] = worker
        result = await run_tool(sandbox, "import os\nprint('out')\nreturn sorted(os.environ)", env={"A": "1"})
        assert result.stdout == ["out\n"]
        assert result.is_json and '"A"' in result.value and "HOME" not in result.value
        assert (await run_tool(sandbox, "while True: pass", timeout_s=0.5)).error is not None
        gone = await run_tool(sandbox, "import os\nos._exit(3)")
        assert gone.error is not None and "exit status 3" in gone.error
        loud = await run_tool(sandbox, "print('x' * 1_000_000)")
        assert "999001 more bytes were not kept" in loud.stdout[0]
        assert list(tmp_path.iterdir()) == []
        await assert_still_works(sandbox)


async def test_nothing_is_left_when_a_sandbox_closes(sandbox: Sandbox) -> None:
    task = asyncio.create_task(run_tool(sandbox, "import time\ntime.sleep(60)"))
    await asyncio.sleep(0.2)
    assert sandbox._around is not None
    home = sandbox._around.home
    worker = sandbox._workers[False]
    await sandbox.close()
    assert home is None or not home.exists()
    assert worker._process.poll() is not None  # type: ignore[union-attr]
    async with asyncio.timeout(5):
        assert (await task).status == "error"
