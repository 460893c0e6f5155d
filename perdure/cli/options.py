"""What several commands share: options, spelled and explained once, and how an app is made."""

import sys
from typing import Annotated, Any

import typer


def new_app(help: str | None, **settings: Any) -> typer.Typer:
    """A typer app whose help is boxed and coloured on a terminal, plain in a pipe."""
    return typer.Typer(
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The server to ask. Else PERDURE_BASE_URL, LETTA_BASE_URL, then http://127.0.0.1:8283.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON as the server gave it.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many, the newest first.")]
