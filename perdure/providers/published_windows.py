"""Context windows of models whose own makers serve them and do not tell the window in their model lists, as data.

Invariant: a figure holds for the maker's service alone. The same weights elsewhere have the window that whoever runs them
chose, so nothing is said of them here: there it is the provider's word, or unknown.
"""

import re

# By kind of provider; the first match wins. Figures, in tokens, from the makers' public documentation.
_PUBLISHED: dict[str, tuple[tuple[re.Pattern[str], int], ...]] = {
    kind: tuple((re.compile(pattern), window) for pattern, window in rows)
    for kind, rows in {
        # docs.x.ai, "Models and pricing"
        "xai": (
            (r"grok-4(?:[.-]1)?-fast", 2_000_000),
            (r"grok-4(?:-0709|-latest)?$", 256_000),
            (r"grok-code-fast", 256_000),
            (r"grok-3", 131_072),
            (r"grok-2-vision", 32_768),
            (r"grok-2", 131_072),
        ),
        # api-docs.deepseek.com, "Models and pricing"
        "deepseek": ((r"deepseek-(?:chat|reasoner)$", 128_000),),
        # platform.moonshot.ai, "Model list"
        "moonshot": (
            (r"kimi-k2-0711", 131_072),
            (r"kimi-k2", 262_144),
            (r"kimi-latest", 131_072),
            (r"moonshot-v1-8k", 8_192),
            (r"moonshot-v1-32k", 32_768),
            (r"moonshot-v1-128k", 131_072),
        ),
        # docs.mistral.ai, "Models"; for answers without `max_context_length`
        "mistral": (
            (r"codestral-", 256_000),
            (r"(?:mistral-(?:large|medium|small)|ministral-|pixtral-|magistral-|devstral-)", 128_000),
        ),
    }.items()
}


def published_window(kind: str, model: str) -> int | None:
    """What the maker says a model takes; None where it says nothing we know of."""
    return next((window for pattern, window in _PUBLISHED.get(kind, ()) if pattern.match(model.lower())), None)
