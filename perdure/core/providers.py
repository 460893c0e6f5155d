"""Providers that users add while the server runs, beside those it was configured with."""

from msgspec import Struct


class AddedProvider(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`kind`: how it is spoken to. `api_key`, `access_key`: sealed. `synced_us`: when it last told its models.

    `base_url`: one address, or several with commas between. `models`, `context_window`: instead of asking it.
    """

    id: str
    name: str
    kind: str
    api_key: str = ""
    access_key: str = ""
    base_url: str | None = None
    region: str | None = None
    api_version: str | None = None
    models: tuple[str, ...] | None = None
    context_window: int | None = None
    created_us: int = 0
    updated_us: int = 0
    synced_us: int | None = None

    def __repr__(self) -> str:  # keys are sealed, and still have no place in logs
        return f"AddedProvider(id={self.id!r}, name={self.name!r}, kind={self.kind!r}, base_url={self.base_url!r})"
