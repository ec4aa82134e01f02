"""Tables and plots of benchmarks in docs/: parts of docs/performance.md, and SVG files that need no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = ("#2f6fb0", "#e08e2b", "#3c9a5f", "#b04a6f")
LEFT, BAR_WIDTH, BAR_HEIGHT = 220, 460, 16
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 260, 160, 56


def write_part(name: str, text: str, page: Path = DOCS / "performance.md") -> None:
    """Replaces the part of a page that a script writes: between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text().partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{page} has no part {name}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def write_plot(name: str, svg: str) -> None:
    """Writes an SVG file beside the pages."""
    (DOCS / name).write_text(svg)


def document(width: int, height: int, parts: Sequence[str]) -> str:
    """Shapes as an SVG document."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def bars(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """A group of horizontal bars for each row, a bar for each of the columns; ``columns``: texts of the legend."""
    most = max((row.get(column, 0.0) for row in rows.values() for column in columns), default=1.0) or 1.0
    parts: list[str] = []
    for position, text in enumerate(columns.values()):
        x = LEFT + 180 * position
        parts.append(f'<rect x="{x}" y="6" width="12" height="12" fill="{COLOURS[position]}"/>')
        parts.append(f'<text x="{x + 18}" y="16">{escape(text)}</text>')
    y = 28
    for name, row in rows.items():
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR_HEIGHT}" text-anchor="end">{escape(name)}</text>')
        for position, column in enumerate(columns):
            value = row.get(column, 0.0)
            size = max(1, round(BAR_WIDTH * value / most))
            height, colour = BAR_HEIGHT - 3, COLOURS[position]
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{size}" height="{height}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + size + 5}" y="{y + height - 2}">{value:,.0f}</text>')
            y += BAR_HEIGHT
        y += 8
    return document(LEFT + BAR_WIDTH + 80, y, parts)


def curves(plots: Mapping[str, Mapping[float, float]], columns: int = 3) -> str:
    """A small plot for each title: values over a logarithmic axis, from 0 up."""
    parts: list[str] = []
    cell_width, cell_height = PLOT_WIDTH + 2 * MARGIN, PLOT_HEIGHT + 2 * MARGIN
    for index, (title, points) in enumerate(plots.items()):
        left = index % columns * cell_width + MARGIN
        bottom = index // columns * cell_height + MARGIN + PLOT_HEIGHT
        parts += _curve(title, sorted(points.items()), left, bottom)
    rows = math.ceil(len(plots) / columns)
    return document(columns * cell_width, rows * cell_height, parts)


def _curve(title: str, points: Sequence[tuple[float, float]], left: int, bottom: int) -> list[str]:
    most = max(value for _, value in points) or 1.0
    first, last = math.log(points[0][0]), math.log(points[-1][0])
    places = [
        (
            left + PLOT_WIDTH * (math.log(x) - first) / ((last - first) or 1.0),
            bottom - PLOT_HEIGHT * value / most,
        )
        for x, value in points
    ]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
    parts = [
        f'<text x="{left}" y="{bottom - PLOT_HEIGHT - 24}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{left},{bottom - PLOT_HEIGHT} V{bottom} H{left + PLOT_WIDTH}" fill="none" stroke="black"/>',
        f'<polyline points="{line}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>',
    ]
    for (x, value), (place, y) in zip(points, places, strict=True):
        parts.append(f'<circle cx="{place:.0f}" cy="{y:.0f}" r="3" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{place:.0f}" y="{bottom + 16}" text-anchor="middle">{x:,.0f}</text>')
        parts.append(f'<text x="{place:.0f}" y="{y - 7:.0f}" text-anchor="middle">{value:,.3g}</text>')
    return parts
