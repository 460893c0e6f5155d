"""Archives and the passages filed in them.

An archive's embedding model is decided once: all its vectors are of one model, so they can be compared.
"""

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec import Struct

# An embedding: 32-bit floats, of length one, so that a dot product is a cosine.
if TYPE_CHECKING:
    Vector: TypeAlias = array[float]
else:
    Vector = array  # takes no parameter before Python 3.12


class Archive(Struct, frozen=True, kw_only=True):
    """`embedding`: handle of its embedding model; None until there is one to use (searched by words until then).

    `embedding_dim`: numbers in a vector, known with the first one. `made_for`: the agent it was made for without being asked.
    """

    id: str
    name: str
    description: str | None = None
    embedding: str | None = None
    embedding_dim: int | None = None
    metadata: dict[str, Any] = {}
    made_for: str | None = None
    passages: int = 0
    created_us: int = 0
    updated_us: int = 0


class Passage(Struct, frozen=True, kw_only=True):
    """One archived text. `archive_id` is empty as long as the archive is still to be chosen."""

    id: str
    text: str
    archive_id: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    created_us: int = 0
    updated_us: int = 0


class Filed(NamedTuple):
    """What an agent is told of its archives: how many passages there are, and their tags by name."""

    passages: int = 0
    tags: tuple[str, ...] = ()
