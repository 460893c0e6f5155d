"""Ids are version-4 uuids with a prefix, and parts are found from their message's id."""

import uuid

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
