"""Leases on work that one process does for all of a database, by name. `runs.py` has those on conversations."""

from perdure.store.base import Query, Tx


def take_named_lease(name: str, owner: str, *, until: int, now: int) -> Tx[bool]:
    """Take it, or keep it for longer; False while somebody else has it."""
    return bool((yield Query("take_named_lease", {"name": name, "owner": owner, "until": until, "now": now})))


def give_back_named_lease(name: str, owner: str) -> Tx[None]:
    yield Query("give_back_named_lease", {"name": name, "owner": owner})
