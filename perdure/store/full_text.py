"""Search by words: any of the query's words counts, rarer ones more (BM25).

What is SQLite's own is here and in `queries/full_text.sql`. The time of a search does not grow with how common its words are:
beyond `MOST_READ` occurrences the most common words are left out, as long as a rarer one is there.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from perdure.store.base import Query, Tx

Kind = Literal["passages", "messages"]

MOST_READ = 20_000
MOST_WORDS = 64
_WORD = re.compile(r"\w+")


def words_of(query: str) -> list[str]:
    """The query's words, each once."""
    return list(dict.fromkeys(_WORD.findall(query)))[:MOST_WORDS]


def scope_word(owner_id: str) -> str:
    """An archive's or agent's id as the index has it."""
    return owner_id.replace("-", "")


def match_expression(words: Sequence[str], owner_ids: Sequence[str] | None) -> str:
    """An FTS5 expression for any of the words, each quoted, so that no operator gets through."""
    texts = f"text : ({_any(words)})"
    if owner_ids is None:
        return texts
    return f"scope : ({_any([scope_word(owner_id) for owner_id in owner_ids])}) AND {texts}"


def _any(words: Sequence[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


def telling_words(kind: Kind, words: Sequence[str]) -> Tx[list[str]]:
    """The words to search by: all, unless they occur so often that reading through the common ones would take long."""
    name = "passages_with_word" if kind == "passages" else "messages_with_word"
    counted: list[tuple[int, str]] = []
    for word in words:
        rows = yield Query(name, {"word": _folded(word)})
        counted.append((rows[0][0] if rows else 0, word))
    counted.sort(key=lambda each: each[0])
    chosen: list[str] = []
    read = 0
    for count, word in counted:
        read += count
        if chosen and read > MOST_READ:
            break
        chosen.append(word)
    return chosen


def _folded(word: str) -> str:
    """As the index spells it: lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(c))


def passages_by_words(
    query: str, archive_ids: Sequence[str] | None, *, from_us: int | None, to_us: int | None, limit: int
) -> Tx[list[int]]:
    """Positions, best first. `archive_ids` None: of all archives. Dates are microseconds, both included."""
    words = words_of(query)
    if not words or archive_ids == []:
        return []
    chosen = yield from telling_words("passages", words)
    params = {"words": match_expression(chosen, archive_ids), "limit": limit}
    if from_us is None and to_us is None:
        rows = yield Query("passages_by_words", params)
    else:
        between = {"from_us": from_us if from_us is not None else 0, "to_us": to_us if to_us is not None else 2**62}
        rows = yield Query("passages_by_words_between", params | between)
    return [row[0] for row in rows]


def messages_by_words(query: str, agent_ids: Sequence[str] | None, limit: int) -> Tx[list[int]]:
    """Positions, best first. `agent_ids` None: everybody's."""
    words = words_of(query)
    if not words:
        return []
    chosen = yield from telling_words("messages", words)
    rows = yield Query("messages_by_words", {"words": match_expression(chosen, agent_ids), "limit": limit})
    return [row[0] for row in rows]
