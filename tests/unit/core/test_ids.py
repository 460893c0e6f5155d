"""Ids are version-4 uuids with a prefix, and parts are found from their message's id."""

import os
import threading
import uuid

import pytest

from perdure.core.ids import matches, new_id, new_otid, part_otid, preceding_id


def test_ids_are_version_4_uuids() -> None:
    made = [uuid.UUID(new_otid()) for _ in range(1000)]
    assert {one.version for one in made} == {4}
    assert {one.variant for one in made} == {uuid.RFC_4122}
    assert len(set(made)) == 1000
    assert matches("agent", new_id("agent"))
    assert not matches("agent", new_id("block"))


def test_a_parts_otid_has_its_index_in_the_low_7_bits() -> None:
    for _ in range(200):
        message_id = new_id("message")
        value = uuid.UUID(message_id.removeprefix("message-")).int
        for index in (0, 1, 127):
            assert uuid.UUID(part_otid(message_id, index)).int == (value & ~0x7F) | index


def test_an_approval_request_stands_one_before_its_answer() -> None:
    message_id = new_id("message")
    before = preceding_id(message_id)
    assert uuid.UUID(before.removeprefix("message-")).int + 1 == uuid.UUID(message_id.removeprefix("message-")).int


def test_ids_are_in_the_order_of_their_making_to_the_millisecond() -> None:
    made: list[str] = []
    for _ in range(3):
        made.append(new_id("run"))
        threading.Event().wait(0.003)
    assert made == sorted(made)


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(into: list[str]) -> None:
        into.extend(new_otid() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(each,)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for each in made for one in each}) == 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_process_makes_other_ids() -> None:
    new_otid()  # some random digits are left over
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, "".join(f"{new_otid()[15:]} " for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = set(os.read(reading, 10_000).decode().split())
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 20 and not theirs & {new_otid()[15:] for _ in range(300)}
