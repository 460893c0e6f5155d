"""Where a call's private folder lies must never hide the Python that runs the call."""

from perdure.tools.sandbox.isolation import work_dir


def test_the_work_dir_is_tmp() -> None:
    assert work_dir(["/usr", "/home/someone/.venv"]) == "/tmp"


def test_a_python_below_tmp_moves_the_work_dir() -> None:
    assert work_dir(["/usr", "/tmp/project/.venv"]) != "/tmp"
