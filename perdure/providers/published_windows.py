"""Context windows of models whose own makers serve them and do not tell the window in their model lists, as data.

Invariant: a figure holds for the maker's service alone. The same weights elsewhere have the window that whoever runs them
chose, so nothing is said of them here: there it is the provider's word, or unknown.

Sources: the makers' public model and price pages, as of November 2026; a public catalogue of models where a page gives none.
Where a maker rounds ("200K", "1M"), a K is 1,000, and of two figures for one model the smaller stands: a window taken for
larger than it is fails calls, one taken for smaller only compacts sooner.
"""

import re

# By kind of provider; the first match wins. In tokens.
_PUBLISHED: dict[str, tuple[tuple[re.Pattern[str], int], ...]] = {
    kind: tuple((re.compile(pattern), window) for pattern, window in rows)
    for kind, rows in {
        "xai": (
            (r"grok-4\.(?:[5-9]|1\d)(?!\d)", 500_000),
            (r"grok-4\.(?:3|20)(?!\d)", 1_000_000),
            (r"grok-4(?:[.-]1)?-fast", 2_000_000),
            (r"grok-4(?:-0709|-latest)?$", 256_000),
            (r"grok-(?:build|code)-", 256_000),
            (r"grok-3", 131_072),
            (r"grok-2-vision", 32_768),
            (r"grok-2", 131_072),
        ),
        "deepseek": ((r"deepseek-(?:flash|v4|chat$|reasoner$)", 1_000_000),),
        # For answers without `context_length`.
        "moonshot": (
            (r"kimi-k(?:3|2\.8)", 1_048_576),
            (r"kimi-k2-0711", 131_072),
            (r"kimi-k2", 262_144),
            (r"kimi-latest", 131_072),
            (r"moonshot-v1-8k", 8_192),
            (r"moonshot-v1-32k", 32_768),
            (r"moonshot-v1-128k", 131_072),
        ),
        # For answers without `max_context_length`.
        "mistral": (
            (r"mistral-large-4", 524_288),
            (r"mistral-(?:large-(?:2512|latest)|medium-(?:3[.-]5|2604|latest)|small-(?:2603|latest))", 256_000),
            (r"(?:ministral-\w+|devstral(?:-medium)?)-(?:2512|latest)|codestral-(?!embed)", 256_000),
            (r"(?:mistral-(?:large|medium|small)|ministral-|pixtral-|magistral-|devstral-)", 128_000),
        ),
        "zai": (
            (r"glm-5\.[23]", 1_000_000),
            (r"glm-(?:5|4\.[67](?!v))", 200_000),
            (r"glm-4\.5v", 64_000),
            (r"glm-4\.[56]", 128_000),
        ),
        "minimax": (
            (r"minimax-m3", 1_000_000),
            (r"minimax-m2", 204_800),
        ),
    }.items()
}
_PUBLISHED["zai_coding"] = _PUBLISHED["zai"]


def published_window(kind: str, model: str) -> int | None:
    """What the maker says a model takes; None where it says nothing we know of."""
    return next((window for pattern, window in _PUBLISHED.get(kind, ()) if pattern.match(model.lower())), None)
