"""The `perdure` command: a table of commands, each in its own file and imported only when it is asked for.

Whatever goes wrong ends here as one line on stderr and exit status 1; a traceback means a defect of ours.
"""

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perdure.cli.options import new_app
from perdure.config import SettingsError
from perdure.core.errors import AgentError

# name -> where its typer app is. `--help` imports these files, so they import nothing heavy at their top.
COMMANDS = {
    "serve": "perdure.cli.serve",
    "worker": "perdure.cli.worker",
    "chat": "perdure.cli.chat",
    "agents": "perdure.cli.agents",
    "runs": "perdure.cli.runs",
    "rollouts": "perdure.cli.rollouts",
    "models": "perdure.cli.models",
    "providers": "perdure.cli.providers",
    "trajectory": "perdure.cli.trajectory",
    "backup": "perdure.cli.backup",
    "bench": "perdure.cli.bench",
    "demo": "perdure.cli.demo",
}


class Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        return command


app = new_app(None, cls=Commands, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from perdure import __version__

        print(f"perdure {__version__}")
        raise typer.Exit


@app.callback()
def perdure(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
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
