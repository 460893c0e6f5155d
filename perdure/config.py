"""Settings: the environment and the command line, read once into one frozen object and passed in."""

import os
import secrets
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

DEFAULT_PORT = 8283


class SettingsError(Exception):
    """A setting is wrong; the text names it and says what it should be."""


class Settings(Struct, frozen=True, kw_only=True):
    """`database`: a SQLite file's path or a postgresql:// URL; None is `perdure.db` in the data directory.

    `password`: None means that everyone may call. `env` is kept for the providers, which have their own variables.
    Sizes are in bytes, times in seconds; `approval_expiry_s` None: approval requests wait for ever.
    `encryption_keys`: the first seals secrets, all open them; none: one is kept in a file of the data directory.
    `ray`: the address of the Ray cluster that tools and rollouts run on, `ray_workers` processes for each.
    `keep_...`: how long what has ended is kept, None for ever: runs' event logs, steps' traces, callbacks, schedules' ticks,
    batches.
    `runs`: whether this process drives runs, at most `max_runs` at once, or only accepts them. `max_backlog`: how many may wait
    before no more are accepted. `cache_bytes`: what conversations and agents that nothing runs on at the moment may take of the
    memory. `redis_url`: where news travels between servers besides PostgreSQL.
    `batch_via`: how the model calls of batches are made (`core/batches.py`) unless a batch says it; `batch_poll_s`: how often a
    provider's batch is looked at, `batch_gather_s`: the longest a call waits for others to go with it.
    `shutdown_grace_s`: how long runs may go on after SIGTERM before they are handed over.
    `max_agent_depth`: how many agents may stand in a row, each asked or told by the one before, after the first.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    data_dir: Path
    database: str | None = None
    password: str | None = None
    tool_timeout_s: float = 60.0
    tool_isolation: str = "auto"
    tokenizers_dir: Path | None = None
    allow_private_urls: bool = False
    default_model: str | None = None
    default_embedding: str | None = None
    ping_interval_s: float = 20.0
    max_queued_per_conversation: int = 100
    trace_limit: int = 16_384
    approval_expiry_s: float | None = 7 * 86_400.0
    max_agent_depth: int = 5
    synchronous: str = "FULL"
    postgres_pool: int = 10
    runs: bool = True
    max_runs: int = 1_000
    max_backlog: int = 10_000
    cache_bytes: int = 128 << 20
    redis_url: str | None = None
    callback_secret: str | None = None
    encryption_keys: tuple[str, ...] = ()
    concurrency: str = "enqueue"
    batch_concurrency: int = 16
    batch_via: Literal["auto", "provider", "queue"] = "auto"
    batch_poll_s: float = 60.0
    batch_gather_s: float = 60.0
    ray: str | None = None
    ray_workers: int = 2
    keep_streams_s: float | None = 30 * 86_400.0
    keep_traces_s: float | None = 30 * 86_400.0
    keep_callbacks_s: float | None = 30 * 86_400.0
    keep_ticks_s: float | None = 90 * 86_400.0
    keep_batches_s: float | None = 30 * 86_400.0
    shutdown_grace_s: float = 5.0
    config_file: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def postgres_url(self) -> str | None:
        """The URL of a PostgreSQL database, as libpq has it; None where the data is kept in SQLite."""
        scheme, found, rest = (self.database or "").partition("://")
        if not found or scheme.split("+")[0] not in ("postgres", "postgresql"):
            return None
        return f"postgresql://{rest}"

    @property
    def sqlite_path(self) -> Path:
        """Where the SQLite file lies. SettingsError when `database` is some other kind of URL."""
        if self.database is None:
            return self.data_dir / "perdure.db"
        if "://" not in self.database:
            return Path(self.database).expanduser()
        scheme, _, rest = self.database.partition("://")
        if scheme.split("+")[0] != "sqlite":
            raise SettingsError(
                f"The database URL's scheme is {scheme!r}. Give a file path, sqlite:///path or postgresql://user@host/name "
                "(PERDURE_DATABASE_URL or --database)."
            )
        return Path(rest.removeprefix("/") if rest.startswith("/") else rest).expanduser()


def default_data_dir(env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where the platform wants a user's data. SettingsError where the user has no home."""
    if platform == "win32":
        local = env.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "perdure"
    # the specification has relative paths ignored (https://specifications.freedesktop.org/basedir-spec)
    if (data := env.get("XDG_DATA_HOME", "")).startswith("/"):
        return Path(data) / "perdure"
    folder = "Library/Application Support" if platform == "darwin" else ".local/share"
    return _home(env) / folder / "perdure"


def _home(env: Mapping[str, str]) -> Path:
    if (home := env.get("HOME", "")).startswith("/"):
        return Path(home)
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise SettingsError(
            "This user has no home directory: set PERDURE_DATA_DIR to where data is to be kept."
        ) from None


def load_settings(env: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Environment first, then `overrides` that are not None. SettingsError names the variable that is wrong."""
    values: dict[str, Any] = {"env": dict(env)}

    def take(name: str, key: str, convert: Any = str) -> None:
        text = env.get(name)
        if text is None or text == "":
            return
        try:
            values[key] = convert(text)
        except ValueError as error:
            raise SettingsError(f"{name}={text!r} is not valid: {error}") from error

    take("PERDURE_HOST", "host")
    take("PERDURE_PORT", "port", int)
    take("PERDURE_DATA_DIR", "data_dir", _path)
    take("PERDURE_DATABASE_URL", "database")
    take("LETTA_SERVER_PASSWORD", "password")
    take("PERDURE_PASSWORD", "password")
    take("PERDURE_TOOL_TIMEOUT", "tool_timeout_s", float)
    take("PERDURE_TOOL_ISOLATION", "tool_isolation", _isolation)
    take("PERDURE_TOKENIZERS", "tokenizers_dir", _path)
    take("PERDURE_ALLOW_PRIVATE_URLS", "allow_private_urls", _flag)
    take("PERDURE_MODEL", "default_model")
    take("PERDURE_EMBEDDING", "default_embedding")
    take("PERDURE_TRACE_LIMIT", "trace_limit", int)
    take("PERDURE_CALLBACK_SECRET", "callback_secret")
    take("LETTA_ENCRYPTION_KEY", "encryption_keys", _keys)
    take("PERDURE_ENCRYPTION_KEY", "encryption_keys", _keys)
    take("PERDURE_CONCURRENCY", "concurrency", _concurrency)
    take("PERDURE_POSTGRES_POOL", "postgres_pool", _positive)
    take("PERDURE_RUNS", "runs", _flag)
    take("PERDURE_MAX_RUNS", "max_runs", _positive)
    take("PERDURE_MAX_BACKLOG", "max_backlog", _positive)
    take("PERDURE_CACHE_MB", "cache_bytes", _megabytes)
    take("PERDURE_REDIS_URL", "redis_url")
    take("PERDURE_APPROVAL_EXPIRY", "approval_expiry_s", _seconds_or_never)
    take("PERDURE_RAY", "ray")
    take("PERDURE_RAY_WORKERS", "ray_workers", _positive)
    take("PERDURE_BATCH_CONCURRENCY", "batch_concurrency", _positive)
    take("PERDURE_BATCH_VIA", "batch_via", _via)
    take("PERDURE_BATCH_POLL", "batch_poll_s", _seconds)
    take("PERDURE_BATCH_GATHER", "batch_gather_s", _seconds)
    take("PERDURE_KEEP_STREAMS", "keep_streams_s", _seconds_or_never)
    take("PERDURE_KEEP_TRACES", "keep_traces_s", _seconds_or_never)
    take("PERDURE_KEEP_CALLBACKS", "keep_callbacks_s", _seconds_or_never)
    take("PERDURE_KEEP_TICKS", "keep_ticks_s", _seconds_or_never)
    take("PERDURE_KEEP_BATCHES", "keep_batches_s", _seconds_or_never)
    take("PERDURE_SHUTDOWN_GRACE", "shutdown_grace_s", _grace)
    take("PERDURE_AGENT_DEPTH", "max_agent_depth", _positive)
    take("PERDURE_CONFIG", "config_file", _path)
    take("PERDURE_SQLITE_SYNCHRONOUS", "synchronous", _synchronous)
    values.update({key: value for key, value in overrides.items() if value is not None})
    if "data_dir" not in values:
        values["data_dir"] = default_data_dir()
    if "password" not in values and _flag(env.get("LETTA_SERVER_SECURE", "false")):
        values["password"] = secrets.token_urlsafe(16)
    if (file := values.get("config_file")) is not None:
        try:
            values["config"] = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"The configuration file {file} cannot be read: {error}") from error
    return Settings(**values)


def _concurrency(text: str) -> str:
    if text not in ("reject", "enqueue", "interrupt", "rollback"):
        raise ValueError("use reject, enqueue, interrupt or rollback")
    return text


def _via(text: str) -> str:
    if text not in ("auto", "provider", "queue"):
        raise ValueError("use auto, provider or queue")
    return text


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < 86_400:
        raise ValueError("use a number of seconds, more than 0 and less than a day")
    return seconds


def _grace(text: str) -> float:
    if not 0 <= (seconds := float(text)) <= 3600:
        raise ValueError("use a number of seconds from 0 to 3600")
    return seconds


def _keys(text: str) -> tuple[str, ...]:
    if not (keys := tuple(key for part in text.split(",") if (key := part.strip()))):
        raise ValueError("use one key, or several with commas between")
    return keys


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError("use 1 or more")
    return number


def _megabytes(text: str) -> int:
    return _positive(text) << 20


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("use true or false")


def _seconds_or_never(text: str) -> float | None:
    """0: never."""
    seconds = float(text)
    if not 0 <= seconds < 1e10:
        raise ValueError("use a number of seconds, or 0 for never")
    return seconds or None


def _isolation(text: str) -> str:
    if text not in ("auto", "strict", "process"):
        raise ValueError("use auto, strict or process")
    return text


def _synchronous(text: str) -> str:
    if text.upper() not in ("FULL", "NORMAL"):
        raise ValueError("use FULL or NORMAL")
    return text.upper()
