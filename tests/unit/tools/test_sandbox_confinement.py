"""What can be said of the confinement without starting anything: the seccomp program, the mounts, the command lines."""

import errno
import os
import socket
import struct
import sys
from pathlib import Path

import pytest

from perdure.tools.sandbox import isolation
from perdure.tools.sandbox.inside import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def refused(code: int) -> int:
    return 0x00050000 | code


def decide(program: bytes, arch: int, number: int, argument: int = 0) -> int:
    """Run a classic BPF program over one system call, as the kernel would."""
    data = struct.pack("<IIQQ", number, arch, 0, argument)
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif kind == 0x15:
            at += if_true if accumulator == value else if_false
        elif kind == 0x35:
            at += if_true if accumulator >= value else if_false
        elif kind == 0x45:
            at += if_true if accumulator & value else if_false
        elif kind == 0x06:
            return value
        else:
            raise AssertionError(f"no such instruction: {kind:#x}")


@pytest.mark.parametrize(
    ("machine", "calls"),
    [
        ("x86_64", {"read": 0, "ptrace": 101, "mount": 165, "unshare": 272, "bpf": 321, "clone": 56, "clone3": 435}),
        ("aarch64", {"read": 63, "ptrace": 117, "mount": 40, "unshare": 97, "bpf": 280, "clone": 220, "clone3": 435}),
    ],
)
def test_the_filter_refuses_what_tools_do_not_need(machine: str, calls: dict[str, int]) -> None:
    program = seccomp.program(allow_network=False, machine=machine)
    assert program is not None
    arch = ARCH[machine]
    assert decide(program, arch, calls["read"]) == ALLOW
    for name in ("ptrace", "mount", "unshare", "bpf"):
        assert decide(program, arch, calls[name]) == refused(errno.EPERM)
    assert decide(program, arch, calls["clone"], 0x01200011) == ALLOW  # fork
    assert decide(program, arch, calls["clone"], 0x003D0F00) == ALLOW  # a thread
    for namespace in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x08000000):
        assert decide(program, arch, calls["clone"], namespace | 17) == refused(errno.EPERM)
    assert decide(program, arch, calls["clone3"]) == refused(errno.ENOSYS)


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 41), ("aarch64", 198)])
def test_the_filter_takes_the_network_away(machine: str, number: int) -> None:
    without = seccomp.program(allow_network=False, machine=machine)
    with_network = seccomp.program(allow_network=True, machine=machine)
    assert without is not None and with_network is not None
    for family in (socket.AF_INET, socket.AF_INET6):
        assert decide(without, ARCH[machine], number, family) == refused(errno.ENETUNREACH)
        assert decide(with_network, ARCH[machine], number, family) == ALLOW
    for program in (without, with_network):
        assert decide(program, ARCH[machine], number, socket.AF_UNIX) == ALLOW
        for odd in (17, 29, 31, 38, 40):  # packet, CAN, Bluetooth, crypto, vsock
            assert decide(program, ARCH[machine], number, odd) == refused(errno.EAFNOSUPPORT)


@pytest.mark.parametrize(("machine", "fork", "socket_"), [("x86_64", 56, 41), ("aarch64", 220, 198)])
def test_the_filter_refuses_exactly_what_it_lists(machine: str, fork: int, socket_: int) -> None:
    program = seccomp.program(allow_network=False, machine=machine)
    assert program is not None
    refused_numbers = {
        number
        for number in range(600)
        if number not in (fork, socket_, 435) and decide(program, ARCH[machine], number) == refused(errno.EPERM)
    }
    column = list(ARCH).index(machine)
    assert refused_numbers == {numbers[column] for numbers in seccomp.REFUSED.values()} - {None}
    rest = set(range(600)) - refused_numbers - {fork, socket_, 435}
    assert all(decide(program, ARCH[machine], number) == ALLOW for number in rest)


def test_the_filter_is_not_fooled_by_another_architectures_numbers() -> None:
    program = seccomp.program(allow_network=False, machine="x86_64")
    assert program is not None
    assert decide(program, 0x40000003, 26) == KILL  # 32-bit
    assert decide(program, ARCH["x86_64"], 0x40000000 | 101) == refused(errno.ENOSYS)  # x32
    assert seccomp.program(allow_network=False, machine="riscv64") is None


def test_only_what_python_needs_is_mounted() -> None:
    mounted = isolation.mounts(sys.executable, allow_network=False)
    assert any(sys.base_prefix == path or sys.base_prefix.startswith(path + "/") for path in mounted)
    for path in ("/", "/home", "/root", "/var", "/tmp", "/etc", "/etc/shadow", "/etc/ssl", "/proc", "/sys", "/run"):
        assert path not in mounted
    assert not any(path in ("/etc/resolv.conf", "/etc/hosts") for path in mounted)
    inner = [path for path in mounted for other in mounted if path.startswith(other + "/")]
    assert inner == []


def test_every_hop_to_a_virtual_environments_python_is_mounted(tmp_path: Path) -> None:
    real = tmp_path / "cpython" / "bin" / "python3"
    hop = tmp_path / "current"
    own = tmp_path / "venv" / "bin" / "python"
    real.parent.mkdir(parents=True)
    real.write_text("", encoding="ascii")
    own.parent.mkdir(parents=True)
    hop.symlink_to(tmp_path / "cpython")
    own.symlink_to(hop / "bin" / "python3")
    mounted = isolation.mounts(str(own), allow_network=False)
    assert {str(tmp_path / name) for name in ("cpython", "current", "venv")} <= set(mounted)


def test_a_worker_gets_nothing_of_the_servers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert set(isolation.environment()) == {"PATH", "LANG", "HOME", "MALLOC_ARENA_MAX", "LD_BIND_NOW"}
    assert isolation.environment()["HOME"] == "/"


def test_weaknesses_are_said_in_words() -> None:
    strict = isolation.Plan(isolation="strict")
    process = isolation.Plan(isolation="process")
    assert isolation.weaknesses(strict, {}, "") is None
    bare = isolation.weaknesses(process, {}, "namespaces need Linux, and this is darwin")
    assert (
        bare is not None and "this is darwin" in bare and "its database included" in bare and "use the network" in bare
    )
    kept = isolation.weaknesses(process, {"landlock": 7, "seccomp": True}, "no bubblewrap")
    assert kept is not None and kept.endswith("no bubblewrap.")


def test_without_free_user_ids_root_maps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "why_not_strict", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(isolation, "_can_map", lambda first, count: False)
    plans = list(isolation.plans(sys.executable))
    assert plans[0].isolation == "strict"
    assert all(not plan.mapped for plan in plans)
