"""Which key seals this database's secrets, and sealing them anew by another.

Invariant: `sealing` names the key that everything sealed can be opened with, or a newer one of a server that has both.
"""

import msgspec

from perdure.core.agents import Agent
from perdure.core.vault import AGENT_SECRET, PROVIDER_KEY, Vault
from perdure.store.base import Query, Tx
from perdure.store.providers import all_providers, replace_provider

_agent = msgspec.json.Decoder(Agent).decode
_encode = msgspec.json.Encoder().encode


def sealing_key() -> Tx[str | None]:
    rows = yield Query("sealing_key")
    return rows[0][0] if rows else None


def set_sealing_key(key_id: str, *, before: str | None = None) -> Tx[str]:
    """The key that is in force now: `key_id`, unless another than `before` was set in the meantime."""
    rows = yield Query("set_sealing_key", {"key_id": key_id, "before": before or key_id})
    return rows[0][0]


def seal_providers_anew(vault: Vault) -> Tx[int]:
    """How many had a key that is not sealed by the vault's own. WrongKey."""
    done = 0
    for provider in (yield from all_providers()):
        if vault.is_current(provider.api_key) and vault.is_current(provider.access_key):
            continue
        fields = {
            name: vault.seal(vault.open(getattr(provider, name), PROVIDER_KEY), PROVIDER_KEY)
            for name in ("api_key", "access_key")
        }
        yield from replace_provider(msgspec.structs.replace(provider, **fields))
        done += 1
    return done


def seal_agents_anew(vault: Vault, after: str) -> Tx[tuple[int, str | None]]:
    """The same for the secrets of a few agents, by id. Answers how many were, and where to go on; None at the end."""
    rows = yield Query("agents_after", {"after": after})
    done = 0
    for agent_id, body in rows:
        agent = _agent(body)
        if all(map(vault.is_current, agent.secrets.values())):
            continue
        sealed = vault.seal_all(vault.open_all(agent.secrets), AGENT_SECRET)
        anew = _encode(msgspec.structs.replace(agent, secrets=sealed))
        yield Query("set_agent_body", {"id": agent_id, "body": anew, "before": body})
        done += 1
    return done, rows[-1][0] if rows else None
