"""How many packages a core install brings, and how large they are, read from the installed metadata."""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MARKER_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
MARKER_PLATFORM = re.compile(r"""\s*sys_platform\s*==\s*['"]([^'"]+)['"]\s*""")


def core_packages(root: str = "perdure") -> dict[str, Distribution]:
    """The packages `root` needs without its extras, itself included, by normalised name.

    A requirement whose package is not installed here (another platform's) is left out.
    """
    found: dict[str, Distribution] = {}
    left: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        item = left.pop()
        if item in seen:
            continue
        seen.add(item)
        name, extras = item
        try:
            package = found[name] if name in found else distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = package
        left += [needed for text in package.requires or [] if (needed := _requirement(text, extras)) is not None]
    return found


def size_bytes(package: Distribution) -> int:
    """Bytes of its files as installed, without the bytecode that running it adds."""
    total = 0
    for file in package.files or []:
        path = file.locate()
        if file.suffix != ".pyc" and path.is_file():  # type: ignore[attr-defined]
            total += path.stat().st_size  # type: ignore[attr-defined]
    return total


def _requirement(text: str, extras: frozenset[str]) -> tuple[str, frozenset[str]] | None:
    """(name, its extras) of a requirement, None when only another platform or an extra nobody asked for needs it."""
    head, _, marker = text.partition(";")
    if (extra := MARKER_EXTRA.search(marker)) is not None and extra[1] not in extras:
        return None
    if (platform := MARKER_PLATFORM.fullmatch(marker)) is not None and platform[1] != sys.platform:
        return None
    name = NAME.match(head.strip())
    if name is None:
        return None
    wanted = re.search(r"\[([^\]]*)\]", head)
    chosen = frozenset(part.strip() for part in wanted[1].split(",")) if wanted else frozenset[str]()
    return re.sub(r"[-_.]+", "-", name[0]).lower(), chosen
