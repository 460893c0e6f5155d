"""The server's vault: its keys from the settings or a file, held to the database they belong to.

Invariant: a server starts only with the key its database's secrets were sealed by, so none is ever sealed by a second one.
"""

import base64
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from perdure.core.vault import KEY_BYTES, Vault, WrongKey, key_of
from perdure.store.base import Store
from perdure.store.sealing import seal_agents_anew, seal_providers_anew, sealing_key, set_sealing_key

log = logging.getLogger(__name__)

KEY_FILE = "encryption.key"


def open_vault(keys: Sequence[str], data_dir: Path) -> Vault:
    """`keys` as the settings have them; with none, the data directory's own, made where there is none. WrongKey for a key file
    that cannot be read or made."""
    return Vault([key_of(text) for text in keys] or [_key_of_file(data_dir / KEY_FILE)])


def _key_of_file(path: Path) -> bytes:
    try:
        if not path.exists():
            _make(path)
        key = key_of(path.read_text(encoding="ascii").strip() or "?")
    except (OSError, UnicodeDecodeError) as cause:
        raise WrongKey(
            f"The key that secrets are sealed by cannot be kept in {path}: {cause}. Make the folder writable, or set "
            "PERDURE_ENCRYPTION_KEY."
        ) from cause
    return key


def _make(path: Path) -> None:
    """Whole or not at all, readable by its owner alone; another process may be making it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        made.unlink()
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            made.replace(path)
            return
    made.unlink()


async def check_vault(store: Store, vault: Vault) -> None:
    """Hold the vault to its database: WrongKey if that has another key; seal all of it anew if it has an older one of ours."""
    key_id = await store.read(sealing_key)
    if key_id is None:
        key_id = await store.write(lambda: set_sealing_key(vault.key_id))
    if key_id not in vault.key_ids:
        raise WrongKey(
            f"The secrets in this database are sealed by key {key_id}; this server has {', '.join(sorted(vault.key_ids))}. Set "
            "PERDURE_ENCRYPTION_KEY to that key (servers on one database need the same one; without the setting it is kept in "
            f"{KEY_FILE} of the data directory)."
        )
    if key_id != vault.key_id:
        done = await seal_anew(store, vault)
        await store.write(lambda: set_sealing_key(vault.key_id, before=key_id))
        log.warning("sealed the secrets of %d agents and providers anew, by key %s", done, vault.key_id)


async def seal_anew(store: Store, vault: Vault) -> int:
    """Everything that another key sealed, and what was stored before there was encryption. Answers how many had such secrets."""
    done = await store.write(lambda: seal_providers_anew(vault))
    after: str | None = ""
    while after is not None:
        start = after
        count, after = await store.write(lambda start=start: seal_agents_anew(vault, start))
        done += count
    return done
