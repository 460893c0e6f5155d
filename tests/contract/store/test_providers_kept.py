"""Added providers, and which key seals a database, on every store."""

from pathlib import Path

import msgspec
import pytest

from perdure.agents.sealing import KEY_FILE, check_vault, open_vault, seal_anew
from perdure.core.agents import Agent
from perdure.core.errors import Conflict, NotFound
from perdure.core.ids import new_id
from perdure.core.providers import AddedProvider
from perdure.core.vault import AGENT_SECRET, PROVIDER_KEY, Vault, WrongKey
from perdure.store import providers as kept
from perdure.store.agents import agent_by_id
from perdure.store.base import Query, Store
from perdure.store.codec import agent_params
from perdure.store.sealing import sealing_key

OLD, NEW = Vault([bytes(32)]), Vault([bytes([1]) * 32])
BOTH = Vault([bytes([1]) * 32, bytes(32)])


def provider(name: str, **fields: object) -> AddedProvider:
    return AddedProvider(id=new_id("provider"), name=name, kind="openai", created_us=1, **fields)  # type: ignore[arg-type]


async def test_they_are_listed_changed_and_deleted(store: Store) -> None:
    one = provider("one", api_key="sealed", models=("a", "b"), base_url="http://x")
    two = msgspec.structs.replace(provider("two"), created_us=2)
    for each in (one, two):
        await store.write(lambda each=each: kept.insert_provider(each))
    assert await store.read(kept.all_providers) == [one, two]
    changed = msgspec.structs.replace(one, base_url=None, synced_us=5)
    await store.write(lambda: kept.replace_provider(changed))
    assert await store.read(lambda: kept.provider_by_id(one.id)) == changed
    await store.write(lambda: kept.delete_provider(one.id))
    assert await store.read(kept.all_providers) == [two]
    for tx in (kept.provider_by_id, kept.delete_provider):
        with pytest.raises(NotFound, match=one.id):
            await store.write(lambda tx=tx: tx(one.id))
    with pytest.raises(NotFound, match=one.id):
        await store.write(lambda: kept.replace_provider(one))


async def test_a_name_is_taken_once(store: Store) -> None:
    await store.write(lambda: kept.insert_provider(provider("one")))
    with pytest.raises(Conflict, match="'one'"):
        await store.write(lambda: kept.insert_provider(provider("one")))


async def test_a_database_keeps_to_its_key(store: Store) -> None:
    await check_vault(store, OLD)
    await check_vault(store, OLD)
    with pytest.raises(WrongKey, match="PERDURE_ENCRYPTION_KEY"):
        await check_vault(store, NEW)
    assert await store.read(sealing_key) == OLD.key_id


async def test_a_new_key_in_front_of_the_old_seals_everything_anew(store: Store) -> None:
    await check_vault(store, OLD)
    sealed = provider("one", api_key=OLD.seal("k", PROVIDER_KEY))
    await store.write(lambda: kept.insert_provider(sealed))
    agents = [
        Agent(id=new_id("agent"), name="a", secrets=OLD.seal_all({"A": "x", "B": ""})),
        Agent(id="agent-plain", name="b"),
    ]
    plain = msgspec.structs.replace(agents[0], id=new_id("agent"), secrets={"A": "from before"})
    for agent in (*agents, plain):
        await store.write(lambda agent=agent: iter_insert(agent))
    await check_vault(store, BOTH)
    assert await store.read(sealing_key) == NEW.key_id
    found = await store.read(lambda: agent_by_id(agents[0].id))
    assert NEW.open_all(found.secrets) == {"A": "x", "B": ""} and found.revision == agents[0].revision
    before = await store.read(lambda: agent_by_id(plain.id))
    assert NEW.is_current(before.secrets["A"]) and NEW.open(before.secrets["A"], AGENT_SECRET) == "from before"
    assert NEW.open((await store.read(kept.all_providers))[0].api_key, PROVIDER_KEY) == "k"
    assert await seal_anew(store, NEW) == 0


def iter_insert(agent: Agent):  # type: ignore[no-untyped-def]
    yield Query("insert_agent", agent_params(agent))


def test_a_key_file_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    made = open_vault((), tmp_path / "data")
    file = tmp_path / "data" / KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert open_vault((), tmp_path / "data").key_id == made.key_id
    assert [path.name for path in file.parent.iterdir()] == [KEY_FILE]
    assert open_vault(("a setting",), tmp_path / "data").key_id != made.key_id


def test_a_key_file_that_cannot_be_used_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(WrongKey, match="PERDURE_ENCRYPTION_KEY"):
        open_vault((), tmp_path)
