"""What a person sees: charts in JupyterLab, in a real browser, in the record of a session and in a running one."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from builders import an_instrument
from made_run import made_run
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_review import hostile_run
from test_runs import MADE as MADE_RUN

from voltrade import charts, report, review
from voltrade.config import Config

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DRAWN = """[...document.querySelectorAll('.js-plotly-plot')].filter(chart => chart._fullLayout).map(chart => ({
    title: chart._fullLayout.title.text,
    marks: chart.querySelectorAll('.main-svg path').length,
    width: chart._fullLayout.width,
    fits: chart._fullLayout.width === Math.round(chart.getBoundingClientRect().width),
    points: Object.fromEntries(chart._fullData.map(trace => [trace.name, trace.x ? trace.x.length : 0])),
}))"""
"""The charts of a page: titles, drawn shapes, width, whether that is their place's, and the points of each trace."""

MADE = made_run(an_instrument(), bar_count=150)
RUN = report.frames(MADE.instrument, MADE.bars, MADE.facts)

LIVE_CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from builders import an_instrument
from made_run import made_run
from voltrade import charts, report, review
from voltrade.config import Config

made = made_run(an_instrument(), bar_count=150)
prices = charts.LiveChart(is_recorded=False)
for count in (40, 150):
    prices.draw(charts.price_chart(report.frames(made.instrument, made.bars[:count], []), Config()))
"""

TRADES = 10_000_000

EXPLORER_CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from benchmarks.bench_explorer import an_explorer

explorer = an_explorer({TRADES})
explorer
"""

WATCHED = """
window.turned = {};
document.addEventListener('keydown', () => { window.turned = {began: performance.now()}; }, true);
const chart = document.querySelector('.js-plotly-plot');
const title = chart._fullLayout.title.text;
chart.on('plotly_afterplot', () => {
    if (chart._fullLayout.title.text !== title) {
        requestAnimationFrame(() => { window.turned.ended ??= performance.now(); });
    }
});
"""
"""Notes when a key is pressed, and when the screen shows a figure with another title."""

POINTED = """name => {
    const chart = document.querySelector('.js-plotly-plot'), {xaxis, yaxis} = chart._fullLayout;
    const trace = chart._fullData.find(trace => trace.name === name);
    const marks = chart._fullData.filter(({mode}) => mode === 'markers').flatMap(({x}) => [...x]).concat(xaxis.range);
    const room = x => Math.min(...marks.filter(mark => mark !== x).map(mark => Math.abs(mark - x)));
    const at = [...trace.x.keys()].reduce((one, other) => room(trace.x[one]) >= room(trace.x[other]) ? one : other);
    const {left, top} = chart.getBoundingClientRect();
    return {
        x: left + xaxis._offset + xaxis.l2p(trace.x[at]),
        y: top + yaxis._offset + yaxis.l2p((trace.y ?? trace.high)[at]),
    };
}"""
"""Where on the screen that point of a trace is which stands farthest from other marks and the edges."""


def a_notebook(path: Path, cells: list[Any]) -> None:
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A JupyterLab on loopback: its folder and its address."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ip": "127.0.0.1",
        "port": str(port),
        "IdentityProvider.token": "",
        "ServerApp.password": "",
        "ServerApp.disable_check_xsrf": "True",
        "ServerApp.root_dir": str(folder),
        "LabApp.expose_app_in_browser": "True",
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not answers(address):
            assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "JupyterLab did not answer"
            time.sleep(0.1)
        yield folder, address
    finally:
        server.terminate()
        server.wait(20)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def open_notebook(browser: Any, address: str, name: str) -> Any:
    # A page so tall that no cell is out of sight: JupyterLab draws only what is seen.
    page = browser.new_page(viewport={"width": 1400, "height": 6000})
    page.set_default_timeout(90_000)
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    return page


def run_all(page: Any) -> None:
    """Run the notebook; JupyterLab may drop the command just after it calls the kernel idle, so ask until it runs."""
    # A command that comes before the notebook knows its kernel opens a dialog, which asks for one.
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    is_begun = "document.querySelector('.jp-InputArea-prompt').textContent.trim() !== '[ ]:'"
    deadline = time.monotonic() + 60
    while not page.evaluate(is_begun):
        assert time.monotonic() < deadline, "JupyterLab does not run the notebook"
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_timeout(1000)


def test_the_record_of_a_session_shows_its_charts_without_being_run(lab: tuple[Path, str], browser: Any) -> None:
    folder, address = lab
    config = Config()
    figures = [charts.price_chart(RUN, config), charts.equity_chart(RUN, config), charts.refusals_chart(RUN, config)]
    outputs = [new_output("display_data", data=charts.bundle(figure)) for figure in figures]
    a_notebook(folder / "record.ipynb", [new_code_cell("charts", outputs=outputs), new_markdown_cell("end")])
    page = open_notebook(browser, address, "record.ipynb")
    page.wait_for_function(f"{DRAWN}.filter(chart => chart.marks > 0).length === 3")
    prices, equity, refusals = page.evaluate(DRAWN)
    assert "synthetic tape" in prices["title"]
    assert prices["points"]["bars"] == 150
    assert prices["points"]["short entry"] == (RUN.fills["client_order_id"].str.endswith("e")).sum() > 0
    assert prices["marks"] > 150  # a shape for every candle
    assert equity["points"]["equity"] == len(RUN.equity[~RUN.equity.index.duplicated()])
    assert refusals["points"] == {"trace 0": RUN.refusals["code"].nunique()}
    page.close()


def test_a_running_chart_changes_in_place_on_the_screen(lab: tuple[Path, str], browser: Any) -> None:
    folder, address = lab
    a_notebook(folder / "live.ipynb", [new_code_cell(LIVE_CELL)])
    page = open_notebook(browser, address, "live.ipynb")
    run_all(page)
    page.wait_for_function(f"{DRAWN}.some(chart => chart.points.bars === 150)")
    (chart,) = page.evaluate(DRAWN)
    assert chart["points"]["EMA slow"] == 150
    page.close()


def test_the_threshold_slider_draws_ten_million_trades_anew(
    lab: tuple[Path, str], browser: Any, record_property: Any
) -> None:
    folder, address = lab
    a_notebook(folder / "explore.ipynb", [new_code_cell(EXPLORER_CELL)])
    page = open_notebook(browser, address, "explore.ipynb")
    run_all(page)
    page.wait_for_function(f"{DRAWN}.some(chart => chart.points.bars === 1000 && chart.fits)")
    status = page.get_by_text(re.compile(r"round trips · [0-9.]+ s$"))
    (before,), said = page.evaluate(DRAWN), status.inner_text()
    page.evaluate(WATCHED)
    row = page.locator(".widget-hbox", has=page.get_by_text("threshold", exact=True)).last
    row.locator(".noUi-handle").press("ArrowRight")  # one step to longer bars
    page.wait_for_function("window.turned.ended")

    (after,), told = page.evaluate(DRAWN), status.inner_text()
    assert bar_count(told) < bar_count(said)
    threshold = float(row.locator("input").input_value())
    assert f"volume bars of {threshold:g} BTC" in after["title"]
    assert f"to {bar_count(told) - 1:,} of {bar_count(told):,}" in after["title"]
    assert after["points"]["bars"] == 1000
    assert after["points"]["equity"] != before["points"]["equity"]
    seconds = page.evaluate("(window.turned.ended - window.turned.began) / 1000")
    record_property("seconds from the key to the screen", seconds)
    print(f"{TRADES:,} trades: {told}; on the screen {seconds:.2f} s after the key")
    assert seconds < 10

    page.set_viewport_size({"width": 2600, "height": 6000})  # so that a bar is wider than a pixel
    page.wait_for_function(f"{DRAWN}.some(chart => chart.fits && chart.width > 1500)")
    point_at(page, "bars", r"bar [\d,]+ .*no signal")
    point_at(page, "refused signal", r"bar [\d,]+ .*→ refused: [A-Z_]+, ")
    point_at(page, "exit, lost", r"round trip \d+.*net -")
    page.close()


def point_at(page: Any, name: str, said: str) -> None:
    """Put the mouse at a point of a trace, and wait until the chart says something like that."""
    place = page.evaluate(POINTED, name)
    page.mouse.move(place["x"] - 100, place["y"])
    page.mouse.move(**place, steps=10)
    page.locator(".hoverlayer .hovertext", has_text=re.compile(said)).first.wait_for()


def bar_count(status: str) -> int:
    return int(status.split(" bars")[0].replace(",", ""))


def test_the_page_of_a_review_opens_alone_and_runs_nothing_but_its_own(browser: Any, tmp_path: Path) -> None:
    path = review.write(hostile_run(tmp_path / "today"))
    page = browser.new_page(viewport={"width": 1400, "height": 6000})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(f"{DRAWN}.filter(chart => chart.marks > 0).length === 3")
    prices, equity, _ = page.evaluate(DRAWN)
    assert prices["points"]["bars"] == len(MADE_RUN.bars)
    assert prices["marks"] > len(MADE_RUN.bars)
    assert "Equity, drawdown, position" in equity["title"]
    assert page.locator("table").count() > 12
    assert page.evaluate("window.hacked") is None
    assert said == []
    assert asked == [path.as_uri()]
    page.close()
