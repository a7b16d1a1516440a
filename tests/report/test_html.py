"""What a notebook shows above a frame that pandas draws."""

from __future__ import annotations

from types import SimpleNamespace

import IPython
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from voltrade.report.html import mark


def test_a_marked_frame_shows_its_mark_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    display = DisplayFormatter()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(display_formatter=display))
    whole, marked = pd.DataFrame({"net": [1.0, 2.0]}), pd.DataFrame({"net": [1.0, 2.0]})
    mark(whole, "")
    mark(marked, "INCOMPLETE TAPE: without <5%>")
    for shown in (marked, marked.head(1), marked[marked["net"] > 1]):
        texts, _ = display.format(shown)  # type: ignore[no-untyped-call]
        assert texts["text/plain"] == f"INCOMPLETE TAPE: without <5%>\n{shown!r}"
        assert "INCOMPLETE TAPE: without &lt;5%&gt;" in texts["text/html"]
        assert texts["text/html"].endswith(shown.to_html(notebook=True))
    texts, _ = display.format(whole)  # type: ignore[no-untyped-call]
    assert texts == {"text/plain": repr(whole), "text/html": whole.to_html(notebook=True)}


def test_without_a_notebook_a_frame_is_marked_alone() -> None:
    frame = pd.DataFrame()
    mark(frame, "INCOMPLETE TAPE")
    assert frame.attrs["warning"] == "INCOMPLETE TAPE"
