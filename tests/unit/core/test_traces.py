"""Requests kept as what is new in them are read back as they would have been kept whole."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.traces import BASE_LIFE_US, KeptRequest, TraceBase, capped, kept, restored

LIMIT = 16_384
MINUTE = 60_000_000


class Kept:
    """What a conversation's requests leave behind, and how much of it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.base: TraceBase | None = None
        self.bases: dict[str, bytes] = {}
        self.stored = 0

    def keep(self, request: bytes, now: int = 0) -> KeptRequest:
        """And see that it is read back."""
        one, self.base = kept(request, self.limit, self.base, now)
        self.stored += len(one.body)
        if one.new_base is not None:
            self.bases[one.new_base.id] = one.new_base.text
            self.stored += len(one.new_base.text)
        read = one.body if one.base_id is None else restored(one.body, self.bases[one.base_id])
        assert read == capped(request, self.limit)
        return one


def request(messages: list[str], system: str = "You are kind. " * 200) -> bytes:
    listed = [{"role": "system", "content": system}, *({"role": "user", "content": text} for text in messages)]
    return msgspec.json.encode({"model": "m", "messages": listed, "stream": True, "tools": [{"name": "t" * 300}]})


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.randrange(1 << 32):x}" for _ in range(count))


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=8),
    st.sampled_from([0, 1, 64, 300, 100_000]),
)
def test_whatever_is_edited_is_read_back(edits: list[tuple[bytes, int, int]], limit: int) -> None:
    text, all_of_it = bytes(range(256)) * 12, Kept(limit)
    for new, start, length in edits:
        text = text[: start * 8] + new + text[start * 8 + length :]
        all_of_it.keep(text)


def test_a_conversation_keeps_little_more_than_what_was_said() -> None:
    all_of_it, messages = Kept(), list[str]()
    for at in range(200):  # the later requests are larger than the limit
        messages.append(words(12, at))
        all_of_it.keep(request(messages))
    assert len(request(messages)) > 1.5 * LIMIT
    assert all_of_it.stored < 200 * LIMIT / 4


@pytest.mark.parametrize("count", [40, 400])
def test_what_a_memory_edit_moves_is_found_again(count: int) -> None:
    all_of_it = Kept()
    messages = [words(12, at) for at in range(count)]
    for at in range(3):
        all_of_it.keep(request(messages, f"You are kind. Notes: {words(3 * at, at)}. " * 4))
        messages.append(words(12, count + at))
    one = all_of_it.keep(request(messages, f"You are kind. Notes: {words(30, 99)}. " + "More. " * 80))
    assert one.base_id is not None and len(one.body) < LIMIT / 6


def test_several_edits_at_once_are_found() -> None:
    all_of_it = Kept()
    messages = [words(12, at) for at in range(400)]
    notes = words(120, 1)
    for at in range(2, 6):
        one = all_of_it.keep(
            request(messages, f"Chars: {at * 7}. {notes}{' x' * at}. Updated: {at}. " + "Be kind. " * 50)
        )
        messages.append(words(12, 400 + at))
    assert one.base_id is not None and len(one.body) < LIMIT / 30


def test_the_first_requests_and_small_ones_are_kept_as_they_are() -> None:
    all_of_it = Kept()
    assert all_of_it.keep(request(["Hi"])).base_id is None
    short = Kept()
    assert [short.keep(b'{"prompt": "Hi"}').base_id for _ in range(3)] == [None] * 3


def test_a_base_is_not_used_for_longer_than_it_is_kept() -> None:
    all_of_it = Kept()
    used = [all_of_it.keep(request(["Hi"] * at), now=at * 20 * MINUTE).base_id for at in range(1, 9)]
    assert used[0] is None and used[1] == used[2] == used[3] is not None
    assert used[4] is None and used[5] not in (None, used[1])
    assert 3 * 20 * MINUTE <= BASE_LIFE_US


def test_one_that_grows_over_the_limit_begins_anew() -> None:
    all_of_it = Kept()
    assert all_of_it.keep(request(["Hi"])).base_id is None
    assert all_of_it.keep(request(["Hi", "there"])).base_id is not None
    large = all_of_it.keep(request(["Hi", "there", words(3000, 1)]))
    assert large.base_id is None and msgspec.json.decode(large.body)["truncated"]
