"""A worker's reply becomes a result, whatever a tool wrote into it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tools.sandbox.result import CallLimits, Reply, result_of

LIMITS = CallLimits(timeout_s=3, memory_mb=256, max_processes=64, return_char_limit=100)


def answered(**answer: object) -> Reply:
    return Reply("exit", 0, answer=json.dumps(answer).encode())


def test_a_value() -> None:
    result = result_of(answered(value="[1]", is_json=True, chars=3), "f", LIMITS)
    assert (result.status, result.value, result.is_json, result.error) == ("success", "[1]", True, None)
    assert result.stdout == result.stderr == []


@pytest.mark.parametrize("value", ["{", "1", '"x"', "null", "", "[1], [2]", "[NaN]", "[" * 5000])
def test_what_is_no_json_document_is_not_called_one(value: str) -> None:
    result = result_of(answered(value=value, is_json=True, chars=1), "f", LIMITS._replace(return_char_limit=10_000))
    assert (result.status, result.value, result.is_json) == ("success", value, False)


def test_a_value_longer_than_it_says_is_cut_all_the_same() -> None:
    result = result_of(answered(value="x" * 500, chars=1), "f", LIMITS)
    assert result.value == "x" * 100 + "... [NOTE: the return was cut: it has 500 characters, the limit is 100]"


def test_an_error_with_its_traceback_after_what_was_printed() -> None:
    reply = answered(error="ValueError: no", traceback="Traceback...")._replace(stdout=b"o", stderr=b"e\n")
    result = result_of(reply, "f", LIMITS)
    assert (result.status, result.error) == ("error", "Error executing function f: ValueError: no")
    assert (result.stdout, result.stderr) == (["o"], ["e\nTraceback..."])


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply("timeout"), "TimeoutError: no result within 3 s"),
        (Reply("memory"), "held more than 256 MB"),
        (Reply("processes"), "more than 64 processes"),
        (Reply("flooded"), "far beyond the limit"),
        (Reply("signal", 11), "crashed (SIGSEGV)"),
        (Reply("signal", 9), "killed (SIGKILL)"),
        (Reply("signal", 24), "more CPU time than it may"),
        (Reply("signal", 99), "killed (signal 99)"),
        (Reply("exit", 3), "ended its own process (exit status 3)"),
        (Reply("exit", 0, answer=b"\xff"), "an answer that cannot be read"),
        (Reply("exit", 0, answer=b"[]"), "an answer that cannot be read"),
        (Reply("exit", 0, answer=b"{}"), "an answer that cannot be read"),
        (answered(unprepared="no seccomp"), "could not confine the tool, so it was not run: no seccomp"),
        (Reply("unprepared", detail="no memory"), "could not be prepared, so the tool was not run: no memory"),
        (Reply("lost"), "the sandbox went away while the tool ran"),
        (Reply("anything else"), "the sandbox went away"),
    ],
)
def test_a_call_without_an_answer_says_what_happened(reply: Reply, told: str) -> None:
    result = result_of(reply, "f", LIMITS)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.startswith("Error executing function f: ")
    assert told in result.error


def test_output_beyond_the_limit_is_counted() -> None:
    result = result_of(answered(value="", chars=0)._replace(stdout=b"abc\xff", dropped=(7, 0)), "f", LIMITS)
    assert result.stdout == ["abc\ufffd\n[7 more bytes were not kept]\n"]


@given(answer=st.binary(max_size=200), stdout=st.binary(max_size=50), code=st.integers(0, 255))
def test_no_answer_breaks_the_server(answer: bytes, stdout: bytes, code: int) -> None:
    result = result_of(Reply("exit", code, answer=answer, stdout=stdout), "f", LIMITS)
    assert result.status in ("success", "error")
    assert (result.error is None) == (result.status == "success")
