"""Providers that users add: kept in the database with their keys sealed, used by the registry of every server process.

Invariant: what the registry uses is what the database says, a moment ago at most: each change is loaded here at once and told to
the other processes, and before a provider is refused as unknown, the database is asked.
"""

import asyncio
import logging

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.core.errors import Conflict, Invalid, ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.providers import AddedProvider
from perdure.core.vault import PROVIDER_KEY, Vault, WrongKey
from perdure.providers.added import checked_name, config_of, kind_of
from perdure.providers.configs import ProviderConfig
from perdure.providers.registry import Registry
from perdure.store import providers as provider_store
from perdure.store.base import Store
from perdure.store.signals import Kind

log = logging.getLogger(__name__)


class ProviderSpec(Struct, frozen=True, kw_only=True):
    """A provider as a user describes it; keys in plain text."""

    name: str
    provider_type: str
    api_key: str = ""
    access_key: str = ""
    base_url: str | None = None
    region: str | None = None
    api_version: str | None = None
    models: tuple[str, ...] | None = None
    context_window: int | None = None


class ProviderChange(Struct, frozen=True, kw_only=True):
    """UNSET: unchanged. A provider keeps its name and type: agents' handles begin with it."""

    api_key: str | UnsetType = UNSET
    access_key: str | UnsetType = UNSET
    base_url: str | UnsetType | None = UNSET
    region: str | UnsetType | None = UNSET
    api_version: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    context_window: int | UnsetType | None = UNSET


class Providers:
    """The added providers of this process."""

    def __init__(self, store: Store, registry: Registry, vault: Vault) -> None:
        self._store = store
        self._registry = registry
        self._vault = vault
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.load()
        self._registry.look_again = self.load
        await self._store.signals.start(self._heard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def load(self) -> None:
        """Have the registry use what the database says now."""
        async with self._loading:
            await self._registry.set_added(self._configs(await self.all()))

    async def all(self) -> list[AddedProvider]:
        return await self._store.read(provider_store.all_providers)

    async def get(self, provider_id: str) -> AddedProvider:
        return await self._store.read(lambda: provider_store.provider_by_id(provider_id))

    async def create(self, spec: ProviderSpec) -> AddedProvider:
        """Invalid for what is missing, or for a key the provider refuses; Conflict for a name that is taken.

        A provider that cannot be reached now is kept: it may not have been started yet.
        """
        name = checked_name(spec.name)
        now = now_us()
        provider = AddedProvider(
            id=new_id("provider"),
            name=name,
            kind=kind_of(spec.provider_type),
            api_key=self._vault.seal(spec.api_key, PROVIDER_KEY),
            access_key=self._vault.seal(spec.access_key, PROVIDER_KEY),
            base_url=spec.base_url or None,
            region=spec.region or None,
            api_version=spec.api_version or None,
            models=spec.models,
            context_window=spec.context_window,
            created_us=now,
            updated_us=now,
        )
        if name in (config.name for config in self._registry.base):
            raise Conflict(f"name: {name!r} is a provider this server was configured with. Choose another name.")
        provider = await self._asked(provider)
        await self._store.write(lambda: provider_store.insert_provider(provider))
        await self._changed()
        return provider

    async def update(self, provider_id: str, change: ProviderChange) -> AddedProvider:
        before = await self.get(provider_id)
        moved = change.base_url is not UNSET and (change.base_url or None) != before.base_url
        if moved and before.api_key and change.api_key is UNSET:
            raise Invalid(
                "api_key: give it again with a new base_url; a key goes only to the address it was given for."
            )
        fields = {key: value for key in change.__struct_fields__ if (value := getattr(change, key)) is not UNSET}
        for key in {"api_key", "access_key"} & fields.keys():
            fields[key] = self._vault.seal(fields[key], PROVIDER_KEY)
        for key in {"base_url", "region", "api_version"} & fields.keys():
            fields[key] = fields[key] or None
        after = await self._asked(msgspec.structs.replace(before, **fields, updated_us=now_us()))
        await self._store.write(lambda: provider_store.replace_provider(after))
        await self._changed()
        return after

    async def delete(self, provider_id: str) -> None:
        """Agents that use its models stay; a message to them says that the provider is gone."""
        await self._store.write(lambda: provider_store.delete_provider(provider_id))
        await self._changed()

    async def check(self, provider_id: str) -> AddedProvider:
        """Ask it for its models. ProviderError when it does not answer or refuses the key."""
        provider = await self.get(provider_id)
        await self._registry.ask(self._config(provider))
        synced = msgspec.structs.replace(provider, synced_us=now_us())
        await self._store.write(lambda: provider_store.replace_provider(synced))
        return synced

    async def check_spec(self, spec: ProviderSpec) -> None:
        """As `check`, of one that is not added. Invalid for what is missing."""
        provider = AddedProvider(
            id="",
            name=spec.provider_type,
            kind=kind_of(spec.provider_type),
            base_url=spec.base_url or None,
            region=spec.region or None,
            api_version=spec.api_version or None,
        )
        await self._registry.ask(config_of(provider, api_key=spec.api_key, access_key=spec.access_key))

    async def _asked(self, provider: AddedProvider) -> AddedProvider:
        config = self._config(provider)
        try:
            await self._registry.ask(config)
        except ProviderError as error:
            if error.kind == "llm_authentication":
                raise Invalid(f"api_key: {provider.name} refuses it: {error.message}") from error
            log.warning("the provider %s was added, but does not answer: %s", provider.name, error.message)
            return provider
        return msgspec.structs.replace(provider, synced_us=now_us())

    def _config(self, provider: AddedProvider) -> ProviderConfig:
        key, access = (self._vault.open(value, PROVIDER_KEY) for value in (provider.api_key, provider.access_key))
        return config_of(provider, api_key=key, access_key=access)

    def _configs(self, providers: list[AddedProvider]) -> list[ProviderConfig]:
        """Of all that can be used; the log says what is wrong with the others."""
        found: list[ProviderConfig] = []
        shadowing = {config.name for config in self._registry.base}
        for provider in providers:
            if provider.name in shadowing:
                log.warning("the added provider %s is not used: one is configured by that name", provider.name)
                continue
            try:
                found.append(self._config(provider))
            except (Invalid, WrongKey) as error:
                log.warning("the added provider %s is not used: %s", provider.name, error.message)
        return found

    async def _changed(self) -> None:
        await self.load()
        self._store.signals.publish("providers", "")

    def _heard(self, kind: Kind, _id: str) -> None:
        if kind not in ("providers", "resync"):
            return
        task = asyncio.get_running_loop().create_task(self._load_in_background())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_in_background(self) -> None:
        try:
            await self.load()
        except Exception as error:
            # The database is away: it is asked again with the next news, or for an unknown handle.
            log.warning("the added providers could not be read: %s: %s", type(error).__name__, error)
