"""Secrets at rest: sealed when they come in, opened where they are used.

Invariant: what `seal` answers can be stored, logged and copied; only a vault with the key it names opens it, for the purpose
it was sealed for. AES-256-GCM with a random nonce, the purpose as associated data.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from perdure.core.errors import AgentError

MARK = "perdure:sealed:1:"
KEY_BYTES = 32
AGENT_SECRET = "agent secret"
PROVIDER_KEY = "provider key"
_KEPT = 4096  # opened values; keeps a busy server from opening the same one for every tool call
_SALT = b"perdure: a key from a passphrase"


class WrongKey(AgentError):
    """No key of this server opens a secret. The message names the setting."""


class Vault:
    """`keys`: the first one seals, all of them open. Each has KEY_BYTES bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a vault needs keys of {KEY_BYTES} bytes")
        self._keys = {key_id(key): key for key in keys}
        self.key_id = key_id(keys[0])
        self._ciphers: dict[str, Any] = {}
        self._opened = lru_cache(_KEPT)(self._open)

    def __repr__(self) -> str:  # never a key
        return f"Vault(key_id={self.key_id!r})"

    @property
    def key_ids(self) -> frozenset[str]:
        return frozenset(self._keys)

    def seal(self, text: str, purpose: str) -> str:
        """Nothing is sealed of an empty text: it stands for a secret that has no value yet."""
        if not text:
            return text
        nonce = os.urandom(12)
        sealed = self._cipher(self.key_id).encrypt(nonce, text.encode(), purpose.encode())
        return f"{MARK}{self.key_id}:{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, stored: str, purpose: str) -> str:
        """The text; one stored before there was encryption as it is. WrongKey."""
        return self._opened(stored, purpose) if stored.startswith(MARK) else stored

    def seal_all(self, values: Mapping[str, str], purpose: str = AGENT_SECRET) -> dict[str, str]:
        return {name: self.seal(value, purpose) for name, value in values.items()}

    def open_all(self, values: Mapping[str, str], purpose: str = AGENT_SECRET) -> dict[str, str]:
        return {name: self.open(value, purpose) for name, value in values.items()}

    def is_current(self, stored: str) -> bool:
        """Whether it is sealed by the key that seals now (or is empty)."""
        return not stored or stored.startswith(f"{MARK}{self.key_id}:")

    def _open(self, stored: str, purpose: str) -> str:
        from cryptography.exceptions import InvalidTag

        name, _, text = stored.removeprefix(MARK).partition(":")
        if name not in self._keys:
            raise WrongKey(
                f"A {purpose} was sealed by key {name}, which this server does not have (it has "
                f"{', '.join(sorted(self._keys))}). Add that key to PERDURE_ENCRYPTION_KEY."
            )
        try:
            raw = base64.urlsafe_b64decode(text)
            return self._cipher(name).decrypt(raw[:12], raw[12:], purpose.encode()).decode()
        except (InvalidTag, ValueError) as cause:
            raise WrongKey(
                f"A {purpose} cannot be opened by key {name}: it was damaged in the database, or PERDURE_ENCRYPTION_KEY was "
                "changed. Set the secret again."
            ) from cause

    def _cipher(self, name: str) -> Any:
        if (cipher := self._ciphers.get(name)) is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            cipher = self._ciphers[name] = AESGCM(self._keys[name])
        return cipher


def key_id(key: bytes) -> str:
    """Names a key without telling it."""
    return hmac.new(key, b"perdure key id", hashlib.sha256).hexdigest()[:12]


def key_of(text: str) -> bytes:
    """A key as settings have it: KEY_BYTES bytes in base64 or hexadecimal; anything else is a passphrase."""
    for decode in (bytes.fromhex, _base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == KEY_BYTES:
            return key
    return hashlib.scrypt(text.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=KEY_BYTES)


def _base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
