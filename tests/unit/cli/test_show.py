import io
from typing import Any

import pytest

from perdure.cli import show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table_and_a_pipe_tabs(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    show.print_table(("a", "b"), [("x\ty", None), (True, [1, 2])])
    assert capsys.readouterr().out == "A\tB\nx y\t-\nyes\t1, 2\n"
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    show.print_table(("a", "b"), [("[bold]x[/bold]", None)])
    assert "[bold]x[/bold]" in terminal.getvalue() and "\t" not in terminal.getvalue()


def test_no_rows_say_so_on_stderr_only(capsys: Any) -> None:
    show.print_table(("a",), [], empty="Nothing here.")
    assert capsys.readouterr() == ("", "Nothing here.\n")


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert show.use_colour(Terminal())
    monkeypatch.setenv(variable, value)
    assert not show.use_colour(Terminal())


def test_progress_says_done_or_failed(capsys: Any) -> None:
    with show.progress("Loading"):
        pass
    with pytest.raises(ValueError, match="no"), show.progress("Breaking"):
        raise ValueError("no")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Loading ..." and lines[1].startswith("Loading: done (")
    assert lines[3].startswith("Breaking: failed (")


def test_printable_keeps_words_and_drops_control() -> None:
    assert show.printable("a\tb\nç 漢") == "a\tb\nç 漢"
    assert show.printable("a\x1b[31mb\x7f") == "a\ufffd[31mb\ufffd"


def test_ids_stay_whole_and_times_are_short_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    run_id = "run-dc261ecb-5b4e-480d-b9c3-dc21005cb282"
    show.print_table(("id", "created"), [(run_id, "2026-11-21T05:25:09.324943+00:00")])
    text = terminal.getvalue()
    assert run_id in text and ":09.3" not in text and "2026-11-2" in text
