"""Tools that mean harm. Whatever they do, their call is answered, nothing else is touched, and the next call works."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perdure.tools.sandbox import Sandbox
from perdure.tools.sandbox.warm import WarmWorker

from .conftest import assert_still_works, needs_namespaces, run_tool, started

SECRET = "the-servers-own-secret-8361"


def holders_of(marker: str) -> list[int]:
    """Processes on this machine with `marker` in their environment or command line."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


async def gone(marker: str) -> bool:
    for _ in range(100):
        if not holders_of(marker):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_tool_that_never_returns(sandbox: Sandbox) -> None:
    started = time.monotonic()
    result = await run_tool(sandbox, "while True: pass", timeout_s=0.5)
    assert result.status == "error"
    assert result.error is not None and "TimeoutError: no result within 0.5 s" in result.error
    assert time.monotonic() - started < 5
    await assert_still_works(sandbox)


async def test_a_tool_that_sleeps_and_refuses_to_be_stopped(sandbox: Sandbox) -> None:
    body = """
import signal, time
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
print("waiting", flush=True)
time.sleep(60)
"""
    result = await run_tool(sandbox, body, timeout_s=0.5)
    assert result.error is not None and "TimeoutError" in result.error
    assert result.stdout == ["waiting\n"]
    await assert_still_works(sandbox)


async def test_a_tool_that_prints_a_gigabyte(sandbox: Sandbox) -> None:
    body = """
import os
line = b"x" * (1 << 20)
for _ in range(1024):
    os.write(1, line)
return "done"
"""
    before = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    result = await run_tool(sandbox, body)
    after = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    assert result.value == "done"
    assert len(result.stdout[0]) < 70_000
    assert f"{(1 << 30) - 65_536} more bytes were not kept" in result.stdout[0]
    assert (int(after) - int(before)) * os.sysconf("SC_PAGE_SIZE") < 32 << 20
    await assert_still_works(sandbox)


async def test_a_tool_that_returns_a_hundred_megabytes(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "return 'x' * 100_000_000", return_char_limit=1_000)
    assert result.status == "success"
    assert len(result.value) < 1_200
    assert "100000000 characters, the limit is 1000" in result.value
    await assert_still_works(sandbox)


async def test_a_fork_bomb(sandbox: Sandbox) -> None:
    body = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError as error:
    return f"{made} {type(error).__name__}"
"""
    result = await run_tool(sandbox, body, env={"MARK": "perdure-bomb-1"})
    if result.status == "success":
        made, error = result.value.split()
        assert error == "BlockingIOError"
        assert int(made) < 600
    else:
        assert result.error is not None and "more than 64 processes" in result.error
    assert await gone("perdure-bomb-1")
    await assert_still_works(sandbox)


async def test_a_fork_bomb_that_goes_on_in_its_children(sandbox: Sandbox) -> None:
    body = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    result = await run_tool(sandbox, body, timeout_s=1)
    assert result.status == "error"
    await assert_still_works(sandbox)


async def test_a_tool_that_hogs_memory(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "hog = []\nwhile True:\n    hog.append(bytearray(10_000_000))")
    assert result.error is not None and "MemoryError: the tool wanted more than the 256 MB" in result.error
    await assert_still_works(sandbox)


async def test_a_tool_that_hogs_memory_in_many_processes(sandbox: Sandbox) -> None:
    body = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        hog = bytearray(os.urandom(1 << 20) * 100)
        time.sleep(60)
time.sleep(60)
"""
    result = await run_tool(sandbox, body)
    assert result.error is not None and "held more than 256 MB" in result.error
    await assert_still_works(sandbox)


async def test_a_tool_that_fills_the_disk(sandbox: Sandbox) -> None:
    body = """
import os
with open("big", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
"""
    result = await run_tool(sandbox, body)
    assert result.error is not None and "OSError" in result.error
    await assert_still_works(sandbox)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed (SIGKILL)"),
        ("import os, signal\nos.killpg(0, signal.SIGKILL)", "killed (SIGKILL)"),
        ("import os\nos.abort()", "killed (SIGABRT)"),
        ("import ctypes\nctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os\nos._exit(0)", "ended its own process (exit status 0)"),
        ("import os\nos._exit(7)", "ended its own process (exit status 7)"),
        ("import sys\nsys.exit('bye')", "SystemExit: bye"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def deep(): deep()\ndeep()", "RecursionError"),
        ("import os\nos.execv('/bin/true', ['true'])", "ended its own process (exit status 0)"),
    ],
)
async def test_a_tool_that_ends_itself(sandbox: Sandbox, body: str, told: str) -> None:
    result = await run_tool(sandbox, body)
    assert result.status == "error"
    assert result.error is not None and told in result.error, result
    await assert_still_works(sandbox)


async def test_a_tool_that_kills_its_parent_and_all_it_can(sandbox: Sandbox) -> None:
    body = """
import os, signal
outcomes = []
for pid in (os.getppid(), 1, -1):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGKILL):
        if pid == -1 and number != signal.SIGCONT:
            continue  # which would be itself too
        try:
            os.kill(pid, number)
        except OSError as error:
            outcomes.append(type(error).__name__)
return "survived"
"""
    other = asyncio.create_task(run_tool(sandbox, "import time\ntime.sleep(0.5)\nreturn 'unharmed'"))
    await asyncio.sleep(0.1)
    result = await run_tool(sandbox, body)
    assert result.value == "survived", result
    assert (await other).value == "unharmed"
    await assert_still_works(sandbox)


async def test_a_tool_cannot_signal_the_server(sandbox: Sandbox) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        result = await run_tool(sandbox, f"import os\nos.kill({victim.pid}, 9)")
        assert result.status == "error"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    await assert_still_works(sandbox)


async def test_the_environment_is_only_what_was_given(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    result = await run_tool(sandbox, "import os\nreturn sorted(os.environ)", env={"MY_SECRET": "1"})
    assert result.value == '["HOME", "LANG", "MY_SECRET", "PATH", "TMPDIR"]'
    await assert_still_works(sandbox)


async def test_a_tool_cannot_read_any_environment_in_proc(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "SERVER_SECRET": SECRET}
    )
    body = """
import glob
found = ""
for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + glob.glob("/proc/*/mem"):
    try:
        with open(path, "rb") as file:
            found += file.read(100_000).decode("utf-8", "replace")
    except OSError:
        pass
return found
"""
    try:
        result = await run_tool(sandbox, body)
        assert result.status == "success", result
        assert SECRET not in result.value
    finally:
        holder.kill()
        holder.wait()
    await assert_still_works(sandbox)


async def test_a_tool_cannot_read_the_database(sandbox: Sandbox, tmp_path: Path) -> None:
    database = tmp_path / "perdure.db"
    database.write_text(SECRET, encoding="ascii")
    database.chmod(0o644)
    result = await run_tool(sandbox, f"return open({str(database)!r}).read()")
    assert result.status == "error"
    assert SECRET not in str(result)
    result = await run_tool(sandbox, f"open({str(database)!r}, 'w').write('gone')")
    assert result.status == "error"
    assert database.read_text(encoding="ascii") == SECRET
    await assert_still_works(sandbox)


@pytest.mark.parametrize("path", ["/root", "/home", "/var", "/etc/shadow", "/etc/passwd", "/sys", "/boot"])
async def test_a_tool_sees_no_more_of_the_file_system_than_python_needs(sandbox: Sandbox, path: str) -> None:
    body = f"import os\nreturn os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read()"
    result = await run_tool(sandbox, body)
    shown = result.status == "success" and result.value not in ("[]", '[".pyenv"]', '[".local"]')
    assert not shown, result
    await assert_still_works(sandbox)


async def test_a_tool_can_write_only_in_its_own_folder(sandbox: Sandbox) -> None:
    body = """
import os, sys
written = []
for folder in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "/", "/usr", "/usr/lib", "/etc", "/run", "/dev"):
    try:
        with open(os.path.join(folder, "planted.py"), "w") as file:
            file.write("x")
        written.append(folder)
    except OSError:
        pass
open("mine", "w").write("x")
open(os.path.join(os.environ["TMPDIR"], "mine too"), "w").write("x")
return [written, sorted(os.listdir("."))]
"""
    result = await run_tool(sandbox, body)
    assert result.value == '[[], ["mine", "mine too"]]', result
    await assert_still_works(sandbox)


async def test_without_network_a_tool_cannot_reach_a_port_of_the_machine(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        result = await run_tool(sandbox, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
        assert result.error is not None and "this tool has no network access" in result.error, result
        result = await run_tool(sandbox, "import socket\nsocket.getaddrinfo('example.com', 80)")
        assert result.error is not None and "this tool has no network access" in result.error, result
        with pytest.raises(BlockingIOError):
            server.accept()
    await assert_still_works(sandbox)


async def test_with_network_a_tool_can(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nreturn 'connected'"
        result = await run_tool(sandbox, body, allow_network=True)
    assert result.value == "connected", result
    await assert_still_works(sandbox)


async def test_abstract_sockets_of_the_machine_are_out_of_reach_even_with_network(strict: Sandbox) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0perdure-test-abstract")
        server.listen()
        body = "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0perdure-test-abstract')"
        for allow_network in (False, True):
            result = await run_tool(strict, body, allow_network=allow_network)
            assert result.status == "error", result


async def test_a_daemon_is_not_left_behind(sandbox: Sandbox) -> None:
    body = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3, 100):
            try:
                os.close(fd)
            except OSError:
                pass
        os.execv("/bin/sleep", ["perdure-daemon-2", "60"])
    os._exit(0)
os.wait()
time.sleep(0.2)
return "left one"
"""
    result = await run_tool(sandbox, body)
    assert result.value == "left one", result
    assert await gone("perdure-daemon-2")
    await assert_still_works(sandbox)


async def test_a_tool_that_writes_to_every_descriptor(sandbox: Sandbox) -> None:
    """It spoils its own answer at most."""
    body = """
import os
forged = b'\\x00\\x00\\x00\\x40{"outcome":"exit","code":0,"detail":"","sizes":[0,0,0],"dropped":[0,0]}' * 10
for fd in range(0, 1024):
    try:
        os.write(fd, forged)
    except OSError:
        pass
return "done"
"""
    other = asyncio.create_task(run_tool(sandbox, "import time\ntime.sleep(0.3)\nreturn 'mine'"))
    result = await run_tool(sandbox, body)
    assert result.status == "error"
    assert result.error is not None and "an answer that cannot be read" in result.error, result
    assert (await other).value == "mine"
    await assert_still_works(sandbox)


async def test_a_tool_finds_no_descriptor_but_its_own_pipes(sandbox: Sandbox) -> None:
    body = """
import os, stat
kinds = {}
for fd in range(0, 1024):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    kinds[fd] = "pipe" if stat.S_ISFIFO(mode) else "device" if stat.S_ISCHR(mode) else "other"
return kinds
"""
    result = await run_tool(sandbox, body)
    assert result.value == '{"0": "device", "1": "pipe", "2": "pipe", "3": "pipe"}'


async def test_a_tool_that_rewrites_the_interpreter_harms_itself_only(sandbox: Sandbox) -> None:
    body = """
import builtins, json, os, sys, gc
json.dumps = lambda *a, **k: '{"value": "forged", "is_json": true, "chars": 6}'
builtins.len = None
os.write = os.waitpid = os.kill = lambda *a: 0
for thing in gc.get_objects():
    if isinstance(thing, dict) and "supervise" in thing:
        thing.clear()
sys.modules.clear()
return "x"
"""
    await run_tool(sandbox, body, timeout_s=1)
    await assert_still_works(sandbox)
    result = await run_tool(sandbox, "import json\nreturn json.dumps([len('abc')])")
    assert result.value == "[3]"


async def test_an_answer_that_claims_to_be_json_is_not_believed(sandbox: Sandbox) -> None:
    body = """
import os
os.write(3, b'{"value": "1}, \\\\"forged\\\\": {", "is_json": true, "chars": 14}')
os._exit(0)
"""
    result = await run_tool(sandbox, body)
    assert result.value == '1}, "forged": {'
    assert not result.is_json


async def test_an_answer_that_has_no_end(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "import os\nwhile True: os.write(3, bytes(65536))", timeout_s=1)
    assert result.status == "error"
    result = await run_tool(sandbox, "import os\nfor _ in range(100): os.write(3, bytes(65536))\nos._exit(0)")
    assert result.error is not None and "far beyond the limit" in result.error
    await assert_still_works(sandbox)


async def test_calls_share_no_memory_and_no_files(sandbox: Sandbox) -> None:
    leave = """
import json, os, sys
json.left = sys.left = "left here"
for name in ("/tmp/left", "/dev/shm/left", "left"):
    try:
        open(name, "w").write("left here")
    except OSError:
        pass
return "ok"
"""
    look = """
import json, os, sys
found = [hasattr(json, "left"), hasattr(sys, "left"), "left" in os.listdir(".")]
for folder in ("/tmp", "/dev/shm"):
    try:
        found.append("left" in os.listdir(folder))
    except OSError:
        found.append(False)
return found
"""
    for _ in range(3):
        assert (await run_tool(sandbox, leave)).value == "ok"
        assert (await run_tool(sandbox, look)).value == "[false, false, false, false, false]"


async def test_a_call_leaves_nothing_of_itself_in_the_memory_the_next_one_has(sandbox: Sandbox) -> None:
    mark = "leftover-5127-of-an-earlier-call"
    halves = f"('{mark[:12]}' + '{mark[12:]}')"
    said = await run_tool(
        sandbox, f"mark = {halves}\nprint(mark)\nreturn mark", env={"SECRET": mark}, before=f"TEXT = '{mark}'"
    )
    assert said.value == mark
    body = f"""
mark = {halves}.encode()
own = id(mark)
hits = 0
try:
    maps = open("/proc/self/maps").read().splitlines()
except OSError:
    return "cannot look"
with open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        area, rights = line.split()[:2]
        if not rights.startswith("rw"):
            continue
        start, end = (int(part, 16) for part in area.split("-"))
        try:
            memory.seek(start)
            data = memory.read(end - start)
        except OSError:
            continue
        hits += data.count(b"SECRET") and data.count(mark + b"\\n")
return hits
"""
    result = await run_tool(sandbox, body)
    assert result.value in ("0", "cannot look"), result


async def test_two_calls_at_once_do_not_see_each_other(sandbox: Sandbox) -> None:
    body = """
import os, time
open("mine", "w").write(os.environ["NAME"])
time.sleep(0.3)
seen = []
try:
    seen = [pid for pid in os.listdir("/proc") if pid.isdigit()]
except OSError:
    pass
return [os.environ["NAME"], open("mine").read(), os.listdir("."), len(seen) <= 2]
"""
    names = ["a", "b", "c", "d", "e", "f"]
    results = await asyncio.gather(*(run_tool(sandbox, body, env={"NAME": name}) for name in names))
    assert [result.value for result in results] == [f'["{n}", "{n}", ["mine"], true]' for n in names]


async def test_cancelling_ends_the_call_and_all_it_started(sandbox: Sandbox) -> None:
    body = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["perdure-cancelled-3", "60"])
    os._exit(0)
time.sleep(60)
"""
    task = asyncio.create_task(run_tool(sandbox, body))
    for _ in range(200):
        if holders_of("perdure-cancelled-3"):
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("the tool did not start")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone("perdure-cancelled-3")
    await assert_still_works(sandbox)


async def test_a_worker_that_is_killed_is_replaced(sandbox: Sandbox) -> None:
    for _ in range(2):
        worker = sandbox._workers[False]
        assert isinstance(worker, WarmWorker)
        os.kill(worker._process.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            while worker.alive:
                await asyncio.sleep(0.01)
        await assert_still_works(sandbox)
        assert sandbox._workers[False] is not worker


async def test_a_call_that_finds_its_slot_dead_takes_another(sandbox: Sandbox) -> None:
    worker = sandbox._workers[False]
    assert isinstance(worker, WarmWorker)
    ours, theirs = socket.socketpair()
    theirs.close()
    worker._free.append(ours)
    await assert_still_works(sandbox)


async def test_a_worker_killed_under_a_call_is_told_and_replaced(sandbox: Sandbox) -> None:
    task = asyncio.create_task(run_tool(sandbox, "import time\ntime.sleep(60)"))
    await asyncio.sleep(0.3)
    worker = sandbox._workers[False]
    assert isinstance(worker, WarmWorker)
    os.kill(worker._process.pid, signal.SIGKILL)
    if sandbox.isolation == "strict":
        result = await asyncio.wait_for(task, 10)
        assert result.error is not None and "the sandbox went away while the tool ran" in result.error
    else:
        task.cancel()  # without namespaces a slot outlives the zygote, and ends with its call
        with pytest.raises(asyncio.CancelledError):
            await task
    await assert_still_works(sandbox)


async def test_tool_code_has_no_privileges(strict: Sandbox) -> None:
    body = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
return [status[key] for key in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs")]
"""
    zero = "0000000000000000"
    result = await run_tool(strict, body)
    assert result.value == f'["{zero}", "{zero}", "{zero}", "{zero}", "{zero}", "1"]'


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",  # CLONE_NEWUSER
        "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
        "libc.ptrace(16, 1, None, None)",  # PTRACE_ATTACH
        "libc.syscall(250, 0, -4, 0)",  # keyctl, x86_64
        "libc.umount2(b'/proc', 2)",
        "libc.socket(40, 1, 0)",  # AF_VSOCK
        "libc.setuid(0)",
    ],
)
async def test_kernel_interfaces_tools_do_not_need_are_refused(strict: Sandbox, call: str) -> None:
    body = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nreturn {call}"
    assert (await run_tool(strict, body)).value == "-1"


async def test_a_tool_runs_in_namespaces_and_as_a_user_of_its_own(strict: Sandbox) -> None:
    kinds = ["user", "pid", "net", "ipc", "uts", "mnt"]
    result = await run_tool(strict, f"import os\nreturn [os.readlink('/proc/self/ns/' + kind) for kind in {kinds!r}]")
    for kind in kinds:
        assert os.readlink(f"/proc/self/ns/{kind}") not in result.value
    if os.geteuid() == 0:
        assert (await run_tool(strict, "import os\nreturn os.getuid() > 1")).value == "True"


@needs_namespaces
async def test_hidden_folders_are_hidden_even_among_pythons_own() -> None:
    where = Path(sys.prefix) / "perdure-hidden-test"
    where.mkdir(exist_ok=True)
    (where / "perdure.db").write_text(SECRET, encoding="ascii")
    try:
        async with started(mode="strict", hide=[where]) as sandbox:
            result = await run_tool(sandbox, f"import os\nreturn os.listdir({str(where)!r})")
        assert result.value == "[]", result
    finally:
        (where / "perdure.db").unlink()
        where.rmdir()


@pytest.mark.parametrize("mode", [pytest.param("strict", marks=needs_namespaces), "process"])
async def test_nothing_outlives_a_server_that_is_killed(mode: str) -> None:
    mark = f"perdure-orphan-{mode}"
    server = f"""
import asyncio
from perdure.tools.sandbox import Sandbox

async def main():
    sandbox = Sandbox(mode={mode!r})
    await sandbox.start()
    source = "import os\\ndef tool():\\n    os.execv('/bin/sleep', [{mark!r}, '60'])"
    await sandbox.run(source=source, function="tool", args={{}}, env={{}})

asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", server])
    try:
        async with asyncio.timeout(20):
            while not any(
                b"60" in (Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in holders_of(f"{mark}\0")
            ):
                assert process.poll() is None
                await asyncio.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert await gone(f"{mark}\0")
