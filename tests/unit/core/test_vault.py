"""What is sealed opens again, for its purpose, with its key, and not otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.vault import AGENT_SECRET, MARK, PROVIDER_KEY, Vault, WrongKey, key_of

OLD, NEW = bytes(32), bytes([1]) * 32


@given(st.text())
def test_what_is_sealed_opens_again(text: str) -> None:
    vault = Vault([OLD])
    sealed = vault.seal(text, AGENT_SECRET)
    assert vault.open(sealed, AGENT_SECRET) == text
    assert vault.is_current(sealed)


def test_sealed_text_shows_nothing_and_is_never_the_same_twice() -> None:
    vault = Vault([OLD])
    once, again = (vault.seal("hunter2", AGENT_SECRET) for _ in range(2))
    assert once != again and "hunter2" not in once and once.startswith(MARK)
    assert "hunter2" not in repr(vault) and OLD.hex() not in repr(vault)


def test_a_secret_without_a_value_stays_without() -> None:
    assert Vault([OLD]).seal_all({"A": ""}) == {"A": ""}


def test_what_was_stored_in_plain_text_is_read_as_it_is() -> None:
    vault = Vault([OLD])
    assert vault.open("plain", AGENT_SECRET) == "plain"
    assert not vault.is_current("plain")


def test_another_key_is_an_error_that_names_the_setting() -> None:
    sealed = Vault([OLD]).seal("x", AGENT_SECRET)
    with pytest.raises(WrongKey, match=r"PERDURE_ENCRYPTION_KEY"):
        Vault([NEW]).open(sealed, AGENT_SECRET)


def test_a_sealed_text_cannot_be_moved_to_another_purpose_or_changed() -> None:
    vault = Vault([OLD])
    sealed = vault.seal("x", PROVIDER_KEY)
    for stored, purpose in (
        (sealed, AGENT_SECRET),
        (sealed[:-8] + "AAAAAAA=", PROVIDER_KEY),
        (sealed[:-3], PROVIDER_KEY),
    ):
        with pytest.raises(WrongKey, match="cannot be opened"):
            vault.open(stored, purpose)


def test_the_first_key_seals_and_all_open() -> None:
    sealed = Vault([OLD]).seal("x", AGENT_SECRET)
    both = Vault([NEW, OLD])
    assert both.open(sealed, AGENT_SECRET) == "x"
    assert not both.is_current(sealed)
    assert Vault([NEW]).open(both.seal("y", AGENT_SECRET), AGENT_SECRET) == "y"


def test_keys_are_bytes_as_they_are_written_or_a_passphrase() -> None:
    assert key_of("00" * 32) == OLD == key_of("A" * 43 + "=") == key_of("A" * 43)
    assert len(key_of("correct horse")) == 32 and key_of("correct horse") != key_of("correct horsf")
    with pytest.raises(ValueError, match="32 bytes"):
        Vault([b"short"])
