"""The `perdure` command: a table of commands, each in its own file and imported only when it is asked for.

Whatever goes wrong ends here as one line on stderr and exit status 1; a traceback means a defect of ours.
"""

import sys
from importlib import import_module

import click

from perdure import __version__
from perdure.cli.options import Group
from perdure.config import SettingsError
from perdure.core.errors import AgentError

# Each is the click command of that name in the file of that name. `--help` imports these files, so they import nothing heavy
# at their top.
COMMANDS = (
    "serve",
    "worker",
    "chat",
    "agents",
    "runs",
    "rollouts",
    "models",
    "providers",
    "trajectory",
    "backup",
    "bench",
    "demo",
)


class Commands(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(import_module(f"perdure.cli.{cmd_name}"), cmd_name)

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)  # click itself would say that it aborted, and exit with 1


@click.group("perdure", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(
    __version__, prog_name="perdure", message="%(prog)s %(version)s", help="Print the version and exit."
)
def app() -> None:
    """A server for agents that remember, with every token on record.

    Start with `perdure demo` to see it work, or `perdure serve` and, in another terminal, `perdure chat`.
    """


def main() -> None:
    try:
        app(prog_name="perdure")
    except AgentError as error:
        print(f"perdure: {error.message}", file=sys.stderr)
        sys.exit(1)
    except SettingsError as error:
        print(f"perdure: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output left, as `| head` does; Python would complain again when it flushes at exit
        sys.stdout = None
        sys.exit(0)


if __name__ == "__main__":
    main()
