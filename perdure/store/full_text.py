"""Search by words: any of the query's words counts; on SQLite rarer ones more (BM25).

What the databases do each in their own way is in `queries/full_text.sql`. On SQLite the time of a search does not grow with
how common its words are: beyond `MOST_READ` occurrences the commonest are left out, as long as a rarer one is there.
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
_QUERIES: dict[Kind, tuple[str, str, str]] = {
    "passages": ("passages_by_words", "passages_of_archives_by_words", "passages_with_word"),
    "messages": ("messages_by_words", "messages_of_agents_by_words", "messages_with_word"),
}


def words_of(query: str) -> list[str]:
    """The query's words, each once."""
    return list(dict.fromkeys(_WORD.findall(query)))[:MOST_WORDS]


def any_of(words: Sequence[str]) -> str:
    """Each quoted, so that no operator gets through; FTS5 and websearch_to_tsquery read this alike."""
    return " OR ".join(f'"{word}"' for word in words)


def by_words(kind: Kind, query: str, owner_ids: Sequence[str] | None, limit: int) -> Tx[list[int]]:
    """Positions of passages or messages, best first. `owner_ids`: of these archives or agents; None: everybody's."""
    words = words_of(query)
    if not words or (owner_ids is not None and not owner_ids):
        return []
    of_all, of_some, _ = _QUERIES[kind]
    chosen = yield from _telling(kind, words)
    if owner_ids is None:
        rows = yield Query(of_all, {"words": any_of(chosen), "limit": limit})
    else:
        rows = yield Query(of_some, {"words": any_of(chosen), "owners": any_of(owner_ids), "limit": limit})
    return [row[0] for row in rows]


def _telling(kind: Kind, words: Sequence[str]) -> Tx[list[str]]:
    """The words to search by: all, unless they occur so often that reading through the common ones would take long."""
    counted: list[tuple[int, str]] = []
    for word in words:
        rows = yield Query(_QUERIES[kind][2], {"word": _folded(word)})
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
