"""One self-contained HTML page of text, tables, pictures and interactive plots."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from tfssl.reporting.plots import COLORS
from tfssl.reporting.summaries import Summary
from tfssl.reporting.tables import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #111; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto }
.notes { font-size: 13px; color: #444; margin: -.5rem 0 1.5rem }
figure { margin: 1rem 0 }
figcaption { font-size: 13px; color: #444 }
img { max-width: 100% }
"""


class Page:
    """Collects parts from top to bottom.

    All text is escaped: names of runs may hold anything.

    Args:
      title: Of the page.
    """

    def __init__(self, title: str):
        self._title = title
        self._parts: list[str] = []
        self._plots = 0

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, table: Table) -> None:
        """With its notes, and letters at the numbers that are in doubt."""
        lines = [
            "".join(
                f"<td>{html.escape(cell)}"
                + (f"<sup>{letters}</sup>" if letters else "")
                + "</td>"
                for column, cell in enumerate(line)
                for letters in [table.letters(row, column)]
            )
            for row, line in enumerate(table.rows)
        ]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        notes = [html.escape(note) for note in table.notes]
        notes += [
            f"<br><sup>{letter}</sup> {html.escape(reason)}"
            for letter, reason in table.explained()
        ]
        self._parts.append(
            f'<div class="wide"><table><caption>{html.escape(table.title)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f'<p class="notes">{" ".join(notes)}</p>'
        )

    def picture(self, png: bytes, text: str) -> None:
        """A picture, within the page, with what it shows."""
        data = base64.b64encode(png).decode()
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="">'
            f"<figcaption>{html.escape(text)}</figcaption></figure>"
        )

    def plot(self, figure: go.Figure) -> None:
        """A plot that shows its numbers under the pointer."""
        figure.update_layout(
            template="simple_white",
            legend={"orientation": "h", "y": -0.2},
            margin={"l": 60, "r": 20, "t": 50, "b": 40},
            hovermode="x unified",
        )
        # Nothing within a script may end it.
        text = json.dumps(json.loads(figure.to_json())).replace("</", "<\\/")
        self._plots += 1
        name = f"plot{self._plots}"
        self._parts.append(
            f'<div id="{name}" class="plot" style="height:26rem"></div><script>'
            f"(f => Plotly.newPlot('{name}', f.data, f.layout, {{responsive: true}}))"
            f"({text})</script>"
        )

    def write(self, path: Path) -> None:
        """Writes the page, with all that it needs: it loads nothing."""
        script = get_plotlyjs() if self._plots else ""
        path.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style>"
            f"<script>{script}</script></head><body>"
            f"<h1>{html.escape(self._title)}</h1>{''.join(self._parts)}</body></html>\n",
            encoding="utf-8",
        )


def curves(summary: Summary) -> go.Figure:
    """A summary over strengths: a line per run, with its interval."""
    lines = {}
    bars = {}
    for run in summary.listed:
        found = [summary.estimates.get((run, s)) for s in summary.strengths]
        lines[run] = [summary.scale * e.mean if e else None for e in found]
        bars[run] = [
            summary.scale * (e.high - e.mean) if e and e.high == e.high else None
            for e in found
        ]
    title = f"{summary.metric}{summary.shown_unit}, {summary.perturbation}"
    return lines_figure(summary.strengths, lines, title, "severity", bars)


def lines_figure(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float | None]],
    title: str,
    x_title: str,
    bars: Mapping[str, Sequence[float | None]] | None = None,
) -> go.Figure:
    """Lines over one axis, in the colours of the other plots, told apart by markers."""
    figure = go.Figure()
    for index, (name, values) in enumerate(lines.items()):
        figure.add_scatter(
            x=list(x),
            y=list(values),
            name=html.escape(name),
            mode="lines+markers",
            line={"color": COLORS[index % len(COLORS)]},
            marker={"symbol": index % 20},
            error_y={"array": list(bars[name])} if bars else None,
        )
    figure.update_layout(title=html.escape(title))
    figure.update_xaxes(title=x_title, tickvals=list(x))
    return figure


def points(
    x: Sequence[float],
    y: Sequence[float],
    labels: Sequence[str],
    title: str,
    axes: tuple[str, str],
) -> go.Figure:
    """A scatter of labelled points."""
    figure = go.Figure()
    figure.add_scatter(
        x=list(x),
        y=list(y),
        text=list(map(html.escape, labels)),
        mode="markers",
        marker={"color": COLORS[0]},
        hovertemplate="%{text}: %{x:.3f}, %{y:.1f}<extra></extra>",
    )
    figure.update_layout(title=html.escape(title), showlegend=False)
    figure.update_xaxes(title=axes[0])
    figure.update_yaxes(title=axes[1])
    return figure
