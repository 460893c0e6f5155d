from pathlib import Path

import pytest

from perdure.bench import install
from perdure.bench.report import BUDGETS, Figure, as_json, kept, rows


@pytest.mark.parametrize(
    ("name", "value", "ratio", "verdict"),
    [
        ("message.cpu", 1.0, 0.5, "PASS"),
        ("message.cpu", 2.0, 1.0, "PASS"),
        ("message.cpu", 3.0, 1.5, "MISS"),
        ("throughput.128", 800.0, 0.5, "PASS"),
        ("throughput.128", 200.0, 2.0, "MISS"),
        ("throughput.128", 0.0, float("inf"), "MISS"),
        ("message.p95", 9.0, None, "-"),
        ("floor.message", 3.0, 2.0, "-"),
    ],
)
def test_a_figure_is_held_to_its_budget(name: str, value: float, ratio: float | None, verdict: str) -> None:
    figure = Figure(name, value)
    assert (figure.ratio, figure.verdict) == (ratio, verdict)


def test_rows_read_in_the_order_of_the_budgets() -> None:
    figures = [Figure("throughput.128", 1234.5), Figure("message.cpu", 1.234), Figure("floor.token", 117.0)]
    assert rows(figures) == [
        ("floor: a token relayed, each alone, CPU", "117 us", "(78 us)", "1.50", "-"),
        ("plain message, CPU", "1.23 ms", "<= 2 ms", "0.62", "PASS"),
        ("messages a second, 128 agents", "1,234 /s", ">= 400 /s", "0.32", "PASS"),
    ]


def test_what_could_not_be_measured_is_never_a_pass() -> None:
    good = [Figure("message.cpu", 1.0)]
    assert kept(good, {})
    assert not kept(good, {"stream": "broke off"})
    assert not kept([*good, Figure("message.p50", 99.0)], {})
    report = as_json(good, {"python": "3"}, {"stream": "broke off"})
    assert report["failures"] == {"stream": "broke off"}
    assert set(report["not_measured"]) == set(BUDGETS) - {"message.cpu"}
    assert report["figures"][0]["verdict"] == "PASS"


class Package:
    def __init__(self, *requires: str) -> None:
        self.requires = list(requires)


def test_a_core_install_has_what_is_needed_and_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {
        "perdure": Package("Some_Web[fast]>=1", "absent; sys_platform == 'win32'", "big; extra == 'hub'"),
        "some-web": Package("speed>=2; extra == 'fast'", 'docs; extra == "docs"', "loop"),
        "speed": Package("loop", 'zones; sys_platform == "elsewhere"'),
        "zones": Package(),
        "loop": Package("some-web"),
    }

    def distribution(name: str) -> Package:
        if name not in packages:
            raise install.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(install, "distribution", distribution)
    assert sorted(install.core_packages()) == ["loop", "perdure", "some-web", "speed"]


def test_sizes_are_of_files_without_bytecode(tmp_path: Path) -> None:
    class File:
        def __init__(self, name: str) -> None:
            self.suffix = Path(name).suffix
            self._path = tmp_path / name

        def locate(self) -> Path:
            return self._path

    (tmp_path / "a.py").write_bytes(b"x" * 10)
    (tmp_path / "a.pyc").write_bytes(b"x" * 100)
    package = Package()
    package.files = [File("a.py"), File("a.pyc"), File("gone.py")]  # type: ignore[attr-defined]
    assert install.size_bytes(package) == 10  # type: ignore[arg-type]
