"""`python -m perdure` is the `perdure` command."""

from perdure.cli.main import main

main()
