"""How a grammar goes along with a llama.cpp answer that is asked for in pieces.

A grammar has a state, and a request begins with a fresh one, so what is under a grammar must be one request. Invariant: a lazy
grammar (free text until a trigger is written) still comes in pieces up to its trigger, at which the server is told to stop;
what follows is one request under the grammar of the rest.
"""

from collections.abc import Sequence
from typing import Any

from perdure.core.errors import ProviderError

WHOLE = 2**31 - 1


class Constraint:
    """The state of one answer's grammar."""

    def __init__(self, grammar: dict[str, Any] | None) -> None:
        self._fields: dict[str, Any] = {}
        self._triggers: tuple[str, ...] = ()
        self._rest = ""
        self._written = ""
        self._whole = grammar is not None
        match grammar["kind"] if grammar is not None else None:
            case None:
                pass
            case "json_schema":
                self._fields = {"json_schema": grammar["schema"]}  # type: ignore[index]
            case "gbnf":
                self._fields = {"grammar": grammar["grammar"]}  # type: ignore[index]
            case "gbnf_lazy":
                self._watch(grammar["triggers"], grammar["rest"])  # type: ignore[index]
            case kind:
                raise ProviderError(f"llama.cpp takes no grammar of kind {kind!r}.", kind="llm_bad_request")

    def _watch(self, triggers: Sequence[str], rest: str) -> None:
        self._whole = False
        self._triggers, self._rest = tuple(triggers), rest
        # preserved: else a trigger that is a control token would have no text to stop at
        self._fields = {"stop": list(triggers), "preserved_tokens": list(triggers)}

    def fields(self) -> dict[str, Any]:
        """What a request is given of it."""
        return self._fields

    def longest(self, piece: int) -> int:
        """How many tokens the next request may be for. One at a time while a trigger may be half written: the server looks
        for it within one request only."""
        if self._whole:
            return WHOLE
        return 1 if any(_ends_with_part(self._written, trigger) for trigger in self._triggers) else piece

    def triggered(self, written: str, stopped: bool) -> bool:
        """A trigger has been written: the server `stopped` at it, or it is in what several requests wrote."""
        if not self._triggers:
            return False
        longest = max(map(len, self._triggers))
        self._written = (self._written + written)[-2 * longest :]
        return stopped or any(trigger in self._written for trigger in self._triggers)

    def begin(self, written: str) -> None:
        """Put what follows under the grammar. `written`: the text of the last tokens, of which the trigger may end inside one."""
        text = written if any(trigger in written for trigger in self._triggers) else self._written
        after = min((text.rpartition(trigger)[2] for trigger in self._triggers if trigger in text), key=len, default="")
        self._triggers = ()
        # where the token that ends the trigger holds the beginning of the call too, a fresh grammar cannot follow
        self._whole = not after.strip()
        self._fields = {"grammar": self._rest} if self._whole else {}


def _ends_with_part(text: str, trigger: str) -> bool:
    return any(text.endswith(trigger[:size]) for size in range(1, len(trigger)))
