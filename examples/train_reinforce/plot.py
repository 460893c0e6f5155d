"""Draws training logs as one SVG: the rewards of each, and the importance ratios that the engine's rescoring gave.

    python plot.py train.svg log.jsonl [log.jsonl ..]

Invariant: every point is a number of a log, or the edge of its panel where that lies beyond.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 220, 56, 44, 60
LINES = {"reward": ("#1b5e9b", 2.5), "queue": ("#d1781f", 0.9), "answer": ("#3d8b47", 0.9)}
RATIO, HIGHEST = "rescored_ratio_", 3.0
MEANING = {"reward": "reward", "queue": "right queue", "answer": "right answer"}


def panel(top: int, name: str, low: float, high: float, last: int) -> tuple[list[str], Callable[[float, float], str]]:
    """A frame with its grid, and what turns (iteration, value) into a point of it."""

    def point(at: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 20) * (at - 1) / max(1, last - 1)
        return f"{x:.1f},{top + HEIGHT * (high - min(max(value, low), high)) / (high - low):.1f}"

    drawn = [f'<text x="{LEFT}" y="{top - 12}" font-weight="bold">{name}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        left, right = point(1, value), point(last, value)
        drawn.append(f'<polyline points="{left} {right}" stroke="#ddd" fill="none"/>')
        drawn.append(
            f'<text x="{LEFT - 8}" y="{float(left.split(",")[1]) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    for at in sorted({1, *range(10, last + 1, 10)}):
        x = point(at, low).split(",")[0]
        drawn.append(f'<text x="{x}" y="{top + HEIGHT + 16}" text-anchor="middle">{at}</text>')
    return drawn, point


def line(points: Sequence[str], colour: str, width: float) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


Log = Sequence[dict[str, float]]


def drawing(logs: Sequence[Log]) -> str:
    last = max(len(log) for log in logs)
    runs = f", {len(logs)} runs" if len(logs) > 1 else ""
    drawn, point = panel(TOP, f"Mean reward of each iteration's rollouts{runs}", 0.0, 1.0, last)
    for at, (name, (colour, width)) in enumerate(LINES.items()):
        drawn += [line([point(entry["iteration"], entry[name]) for entry in log], colour, width) for log in logs]
        x = LEFT + 380 + 90 * at
        drawn.append(f'<text x="{x}" y="{TOP - 12}" fill="{colour}">{MEANING[name]}</text>')
    high = min(HIGHEST, max(1.5, *(entry[RATIO + "max"] for log in logs for entry in log)))
    second = TOP + HEIGHT + GAP
    title = f"Importance ratios under the next weights (mean, and from least to largest, cut off at {HIGHEST:g})"
    more, point = panel(second, title, 0.0, high, last)
    drawn += more
    for log in logs:
        upper = [point(entry["iteration"], entry[RATIO + "max"]) for entry in log]
        lower = [point(entry["iteration"], entry[RATIO + "min"]) for entry in log]
        drawn.append(f'<polygon points="{" ".join([*upper, *reversed(lower)])}" fill="#cfe0f0" fill-opacity="0.5"/>')
    for log in logs:
        drawn.append(line([point(entry["iteration"], entry[RATIO + "mean"]) for entry in log], "#1b5e9b", 2))
    whole = second + HEIGHT + 40
    drawn.append(f'<text x="{WIDTH / 2}" y="{whole - 6}" text-anchor="middle">iteration</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{whole}" viewBox="0 0 {WIDTH} {whole}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="12">', _PAPER, *drawn, "</svg>", ""])


def read(path: str) -> Log:
    return [json.loads(each) for each in Path(path).read_text().splitlines()]


_PAPER = '<rect width="100%" height="100%" fill="white"/>'


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(drawing([read(path) for path in sys.argv[2:]]))
