"""What several commands share: options, spelled and explained once, and how help is laid out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


class Argument(click.Argument):
    """An argument with an explanation; click has its own only since 8.5."""

    def __init__(self, param_decls: Sequence[str], *, about: str, **attrs: Any) -> None:
        super().__init__(param_decls, **attrs)
        self.about = about


class Command(click.Command):
    """A command whose help explains its arguments, and whose summary is never cut."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [param for param in self.get_params(ctx) if isinstance(param, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(argument.human_readable_name, argument.about) for argument in arguments])
        super().format_options(ctx, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        return super().get_short_help_str(limit=1000)


class Group(click.Group):
    """Commands in the order they are written in."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


base_url = click.option(
    "--base-url",
    metavar="URL",
    help="The server to ask. Else PERDURE_BASE_URL, LETTA_BASE_URL, then http://127.0.0.1:8283.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON as the server gave it.")
config = click.option("--config", type=FILE, help="A TOML file with providers. (PERDURE_CONFIG)")
log_level = click.option(
    "--log-level",
    type=click.Choice(("critical", "error", "warning", "info", "debug")),
    default="warning",
    help="How much to log to stderr.",
)


def limit(default: int) -> Any:
    help = "At most so many, the newest first."
    return click.option("--limit", "-n", type=click.IntRange(1, 1000), default=default, help=help)
