"""Search by words: any of the query's words counts; on SQLite rarer ones more (BM25).

What the databases do each in their own way is in `queries/full_text.sql`. The time of a search does not grow with how common its
words are: common words are left out where the rarer ones find enough, or else past `MOST_RANKED` matches, and the newest matches
are ranked.
"""

import re
from collections.abc import Sequence
from typing import Literal

from perdure.store.base import Query, Tx

Kind = Literal["passages", "messages"]

MOST_RANKED = 5_000
COUNTED = 1_000  # a word that occurs so often is a common one, and is not counted further
COMMON = 2_000  # what a common word is taken to match: ranking takes a look at all it occurs in
MOST_WORDS = 64
_WORD = re.compile(r"\w+")
_OWNERS = {"passages": "archives", "messages": "agents"}


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
    owners = None if owner_ids is None else any_of(owner_ids)
    of = kind if owners is None else f"{kind}_of_{_OWNERS[kind]}"
    words = yield from _telling(of, words, owners, min(limit, COUNTED))
    asked = {"words": any_of(words), "owners": owners, "most": MOST_RANKED, "limit": limit}
    rows = yield Query(f"{of}_by_words", asked)
    return [row[0] for row in rows]


def _telling(of: str, words: Sequence[str], owners: str | None, enough: int) -> Tx[list[str]]:
    """The words to search by: all, but common ones where the others have `enough` matches, or too many could not be ranked."""
    if len(words) == 1:
        return list(words)
    counted: list[tuple[int, str]] = []
    for word in words:
        rows = yield Query(f"{of}_with_word", {"word": f'"{word}"', "owners": owners, "most": COUNTED})
        counted.append((rows[0][0], word))
    counted.sort(key=lambda each: each[0])
    rarer = [(count, word) for count, word in counted if count < COUNTED]
    taken = rarer if sum(count for count, _ in rarer) >= enough else counted
    chosen: list[str] = []
    matches = 0
    for count, word in taken:
        matches += count if count < COUNTED else COMMON
        if chosen and matches > MOST_RANKED:
            break
        chosen.append(word)
    return chosen
