"""`perdure providers`: which providers can be configured, by which variables, and what each can do."""

import click

from perdure.cli import options


@click.command(short_help="List providers and what they can do.")
@click.option("--markdown", is_flag=True, help="Print what each can do as a Markdown table.")
@options.as_json
def providers(markdown: bool, as_json: bool) -> None:
    """List the providers there are: the variables that configure each, and what it can do.

    `perdure models` says which of them are configured here and answer.
    """
    from perdure.cli.show import print_json, print_table
    from perdure.providers.capabilities import capabilities
    from perdure.providers.capabilities import markdown as as_markdown
    from perdure.providers.profiles import PROFILES

    if markdown:
        print(as_markdown(), end="")
        return
    if as_json:
        import msgspec

        print_json({"providers": [msgspec.to_builtins(row) for row in capabilities()]})
        return
    rows = [
        (kind, ", ".join(profile.url_env[:1]), ", ".join(profile.key_env[:1]), profile.base_url or "")
        for kind, profile in PROFILES.items()
    ]
    print_table(("provider", "address", "key", "default address"), rows, empty="There are none.")
