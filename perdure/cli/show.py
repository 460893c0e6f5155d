"""What commands print: tables and colours on a terminal, tab-separated plain text in a pipe, JSON when asked.

What models, tools or servers wrote goes through `printable` first: it cannot move the cursor or recolour a terminal.
"""

import json
import os
import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

STYLES = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

WIRE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d")


def is_terminal(out: TextIO | None = None) -> bool:
    return (out or sys.stdout).isatty()


def use_colour(out: TextIO | None = None) -> bool:
    """Colours on a terminal, unless the environment says no (https://no-color.org)."""
    return is_terminal(out) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, *, colour: bool) -> str:
    """`text` in the styles named, as in "bold green"; unchanged without colour."""
    if not colour or not style or not text:
        return text
    codes = ";".join(STYLES[name] for name in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


def printable(text: str) -> str:
    """`text` without control characters other than newline and tab."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") else "\ufffd" for c in text)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "") -> None:
    """A table on a terminal; in a pipe one line a row, cells parted by tabs, never cut. `empty`: said for no rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not rows and empty:
        print(empty, file=sys.stderr)
    if not is_terminal():
        for line in ([c.upper() for c in columns], *cells) if rows else ():
            print("\t".join(line))
        return
    if not rows:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in columns:
        # an id is there to be copied: whole or not at all
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    for line in cells:
        table.add_row(*(Text(_short_time(cell)) for cell in line))
    Console().print(table)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Name and value, a line each; long values below their name."""
    width = max((len(name) for name, _ in fields), default=0)
    colour = use_colour()
    for name, value in fields:
        label = paint(name.ljust(width), "dim", colour=colour)
        text = printable(value if isinstance(value, str) else _cell(value))
        print(f"{label}  {text}".replace("\n", "\n" + " " * (width + 2)).rstrip())


def warn(text: str) -> None:
    print(paint(text, "yellow", colour=use_colour(sys.stderr)), file=sys.stderr)


@contextmanager
def progress(text: str) -> Generator[None]:
    """Shows that something is being done, then how long it took. The line says `failed` when the block raises."""
    out = sys.stderr
    started = time.monotonic()
    moving = _spinner(text) if is_terminal(out) else None
    if moving is None:
        print(f"{text} ...", file=out, flush=True)
    else:
        moving.start()
    word, style = "failed", "red"
    try:
        yield
        word, style = "done", "green"
    finally:
        if moving is not None:
            moving.stop()
        took = time.monotonic() - started
        print(f"{text}: {paint(word, style, colour=use_colour(out))} ({took:.1f} s)", file=out, flush=True)


def _spinner(text: str) -> Any:
    from rich.console import Console
    from rich.status import Status

    return Status(text, console=Console(stderr=True))


def _short_time(cell: str) -> str:
    """A wire time as a person reads it in a table, to the minute in this machine's zone; other text unchanged."""
    if WIRE_TIME.fullmatch(cell) is None:
        return cell
    return datetime.fromisoformat(cell).astimezone().strftime("%Y-%m-%d %H:%M")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value)).replace("\t", " ").replace("\n", " ")
