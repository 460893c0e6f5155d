"""Names of agents: which ones are allowed, and one for who gives none."""

import random
import re

from perdure.core.errors import Invalid

MAX_NAME = 255
_ALLOWED = re.compile(r"[\w \-']+")
_ADJECTIVES = """
amber brave bright calm clever cosmic crisp curious eager gentle golden happy hidden honest jolly keen kind lively lucky
mellow merry mighty noble patient plucky polite proud quick quiet rapid royal sharp silent silver smart snowy solar steady
sunny swift tidy vivid warm wild wise witty young zesty
"""
_NOUNS = """
badger beacon breeze brook canyon cedar comet coral crane falcon fern finch forest fox garden glacier harbor hawk heron
island lantern lark lynx maple meadow meteor moon nebula oak ocean orchid otter owl panda pebble pine planet raven reef river
robin sparrow spruce star stone summit thunder tiger valley willow wolf wren
"""


def checked_name(name: str) -> str:
    """Invalid (422) for a name that is empty, too long or has characters other than letters, digits, space, _, - and '."""
    if not name.strip():
        raise Invalid("name: must not be empty", status=422)
    if len(name) > MAX_NAME:
        raise Invalid(f"name: has {len(name)} characters; at most {MAX_NAME} are allowed", status=422)
    if not _ALLOWED.fullmatch(name):
        wrong = "".join(dict.fromkeys(char for char in name if not _ALLOWED.fullmatch(char)))
        raise Invalid(
            f"name: {wrong!r} is not allowed in {name!r}; use letters, digits, spaces, _, - and '", status=422
        )
    return name


def made_up_name() -> str:
    return f"{random.choice(_ADJECTIVES.split())}-{random.choice(_NOUNS.split())}-{random.randrange(1000, 10_000)}"
