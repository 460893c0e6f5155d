"""How one sandbox confines its calls: what the server decided, sent to the zygote as JSON when it starts."""

import json
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """`namespaces`: the zygote may make namespaces, so each slot gets its own (strict isolation).

    `uids`: (first, how many) user ids to give to calls in turn; None: calls keep the zygote's.
    `home`: with namespaces, where each slot mounts its calls' private folder; else the folder in which it is made.
    `readable`, `writable`: for Landlock.
    `max_processes`: what a call may have; `nproc_limit`: what RLIMIT_NPROC must be for that.
    Sizes in MiB. `output_limit`: bytes of stdout, and as many of stderr, that are kept.
    """

    namespaces: bool
    uids: tuple[int, int] | None
    home: str
    readable: list[str]
    writable: list[str]
    allow_network: bool
    memory_mb: int
    disk_mb: int
    max_processes: int
    output_limit: int
    preload: list[str]
    nproc_limit: int = 0
    landlock: int = 0
    seccomp: str | None = None

    @classmethod
    def load(cls, text: str) -> "Settings":
        fields: dict[str, Any] = json.loads(text)
        if fields["uids"] is not None:
            fields["uids"] = tuple(fields["uids"])
        return cls(**fields)
