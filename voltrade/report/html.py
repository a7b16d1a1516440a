"""Tables as HTML, for notebooks and for the review's page; all texts are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from voltrade.report.text_table import readable

MOST_ROWS = 60

_WRAPS = "white-space:normal;padding-left:4px;padding-right:4px"
_LONG = f"{_WRAPS};min-width:17em"
"""On a narrow page, lines break between the words of a heading, and between day and hour of a time."""


def frame_table(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4, most_rows: int = MOST_ROWS) -> str:
    """Write a frame as an HTML table: texts to the left, numbers to the right.

    Args:
        frame: any of a run's frames or of `summary`'s tables; what it is marked with is written above it.
        drop: columns to leave out.
        decimals: most decimals of floats.
        most_rows: of a longer frame only the first and last rows are shown.
    """
    shown = (
        frame if len(frame) <= most_rows else pd.concat([frame.iloc[: most_rows // 2], frame.iloc[-most_rows // 2 :]])
    )
    texts = readable(shown, drop, decimals)
    kept = frame.drop(columns=list(drop))  # the same columns as in `texts`, under their original names
    sides = ["left", *("right" if dtype.kind in "iuf" else "left" for dtype in kept.dtypes)]
    head = _head([texts.index.name or "", *texts.columns], sides)
    rows = [_row([index, *row], sides) for index, row in zip(texts.index, texts.to_numpy(), strict=True)]
    if len(shown) < len(frame):
        left_out = f"… {len(frame) - len(shown):,} more rows …"
        rows.insert(
            most_rows // 2,
            f"<tr><td colspan='{len(sides)}' style='text-align:left;white-space:nowrap'>{left_out}</td></tr>",
        )
    note = "" if len(frame) else "<p>none</p>"
    warning = warning_html(str(frame.attrs.get("warning", "")))
    return f"{warning}<table style='font-size:92%'><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{note}"


def judged_table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Write rows that were judged as an HTML table: what failed first and in red, then what differs, then the rest.

    Args:
        head: Names of the columns, after the one with the mark.
        rows: Each with `failed`, `differs` or `ok`, and its cells.
    """
    ranked = sorted(rows, key=lambda row: list(_JUDGED).index(row[0]))
    sides = ["left"] * (len(head) + 1)
    body = (_row([_JUDGED[verdict][0], *cells], sides, _JUDGED[verdict][1]) for verdict, cells in ranked)
    return (
        f"<table style='font-size:92%'><thead>{_head(['', *head], sides)}</thead><tbody>{''.join(body)}</tbody></table>"
    )


_JUDGED = {
    "failed": ("!!", "background:#fbe9ea;color:#8f1d2f;font-weight:bold"),
    "differs": ("~~", "background:#fdf6e3;color:#6b4e00"),
    "ok": ("ok", ""),
}
"""Mark and style of a row by its verdict."""


def facts_table(facts: Mapping[str, Any]) -> str:
    """Write names and their values as an HTML table."""
    return f"<table>{''.join(_row(fact, ('left', 'left')) for fact in facts.items())}</table>"


def warning_html(warning: str) -> str:
    """Write a warning as a paragraph that stands out; nothing where it is empty."""
    style = "border-left:4px solid #a4243b;padding:4px 10px;font-weight:bold"
    return f"<p style='{style}'>{escape(warning)}</p>" if warning else ""


def shortened(text: str, most: int = 48) -> str:
    """Write a text on one line, without its middle where it is long; the whole text is shown on hover."""
    begin = (most - 1) // 2
    shown = text if len(text) <= most else f"{text[:begin]}…{text[len(text) - (most - 1 - begin) :]}"
    return f"<span title='{escape(text, quote=True)}'>{escape(shown)}</span>"


def _head(names: Iterable[Any], sides: Iterable[str]) -> str:
    cells = (
        f"<th style='text-align:{side};vertical-align:bottom;{_WRAPS}'>{escape(str(name)).replace('_', '_<wbr>')}</th>"
        for name, side in zip(names, sides, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _row(values: Iterable[Any], sides: Iterable[str], style: str = "") -> str:
    cells = (
        f"<td style='text-align:{side};{_WRAPS if len(str(value)) < 40 else _LONG}'>{_words(str(value))}</td>"
        for value, side in zip(values, sides, strict=True)
    )
    marked = f" style='{style}'" if style else ""
    return f"<tr{marked}>{''.join(cells)}</tr>"


def _words(text: str) -> str:
    """Write a text whose lines break between words and after underscores, but not at the hyphens of a date or an id."""
    return " ".join(map(_word, text.split(" ")))


def _word(word: str) -> str:
    if "-" in word:
        return f"<span style='white-space:nowrap'>{escape(word)}</span>"
    return escape(word).replace("_", "_<wbr>")
