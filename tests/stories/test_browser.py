"""What a person sees: charts in JupyterLab, in a real browser, in the record of a session and in a running one."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support.builders import an_instrument
from support.made_run import made_run
from test_listing import MADE as MADE_RUN
from test_review import hostile_run

from voltrade.config import Config
from voltrade.notebook import review_page
from voltrade.report import charts
from voltrade.report.collector import frames_of_facts
from voltrade.report.figure_output import bundle
from voltrade.report.html import frame_table

sync_api = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[2]
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

CHARTS = "[...document.querySelectorAll('.js-plotly-plot')].filter(chart => chart._fullLayout)"

DRAWN = """CHARTS.map(chart => ({
    title: chart._fullLayout.title.text,
    marks: chart.querySelectorAll('.main-svg path').length,
    width: chart._fullLayout.width,
    fits: chart._fullLayout.width === Math.round(chart.getBoundingClientRect().width),
    points: Object.fromEntries(chart._fullData.map(trace => [trace.name, trace.x ? trace.x.length : 0])),
}))""".replace("CHARTS", CHARTS)
"""The charts of a page: titles, drawn shapes, width, whether that is their place's, and the points of each trace."""

MADE = made_run(an_instrument(), bar_count=150)
RUN = frames_of_facts(MADE.instrument, MADE.bars, MADE.facts)

LIVE_CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.builders import an_instrument
from support.made_run import made_run
from voltrade.config import Config
from voltrade.report import charts
from voltrade.report.collector import frames_of_facts
from voltrade.report.figure_output import LiveChart

made = made_run(an_instrument(), bar_count=150)
prices = LiveChart(is_recorded=False)
for count in (40, 150):
    prices.draw(charts.price_chart(frames_of_facts(made.instrument, made.bars[:count], []), Config()))
"""

PATIENCE_S = 180
"""Longest wait for what should be seen, on a machine that has much else to do."""

TRADES = 1_000_000
"""`make bench` turns ten times as many; the screen shows as many bars of them."""

EXPLORER_CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from benchmarks.bench_explorer import an_explorer

explorer = an_explorer({TRADES})
explorer
"""

VIEWS = """(known => CHARTS.map(chart => ({
    title: chart._fullLayout.title.text,
    range: chart._fullLayout.xaxis.range,
    traces: chart._fullData.map(({type, name, x, y, close, mode, marker}) => ({
        type,
        name,
        x: known(x ?? []),
        y: known(y ?? close ?? []),
        symbol: mode === 'markers' && x?.length ? marker.symbol : null,
    })),
})))(values => [...values].map(value => Number.isNaN(value) ? null : value))""".replace("CHARTS", CHARTS)
"""What every view of a chart shows: its title and range, and where each trace has its points, with what marks."""

DRAWN_BY_KERNEL = """(lambda figure, known: __import__('json').dumps({
    'title': figure.layout.title.text,
    'range': figure.layout.xaxis.range,
    'traces': [{
        'type': trace.type,
        'name': trace.name or f'trace {number}',
        'x': known(trace.x),
        'y': known(trace.close if trace.type == 'candlestick' else trace.y),
        'symbol': trace.marker.symbol if trace.type == 'scatter' and trace.mode == 'markers' and len(trace.x) else None,
    } for number, trace in enumerate(figure.data[:-1])],
}))(explorer.chart.figure, lambda values: [None if value != value else float(value) for value in values])"""
"""The same of the figure that the kernel has; a last trace only holds an axis."""

KERNEL_SAYS = """async code => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    if (!kernel) return null;
    const asked = kernel.requestExecute({code: '', silent: true, user_expressions: {said: code}}).done;
    const late = new Promise(resolve => setTimeout(resolve, 10_000, null));
    const said = (await Promise.race([asked, late]))?.content.user_expressions?.said;
    return said?.status === 'ok' ? said.data['text/plain'] : null;
}"""
"""What the kernel of the open notebook says of an expression; null where it can't say."""

PROMPTS = (
    "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(prompt => prompt.textContent).join(' ')"
)
"""Of every cell of code: a number when it has run, a star while it does or waits."""

ERRORS = ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error']"
"""What cells failed with."""

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
        x: Math.round(left + xaxis._offset + xaxis.l2p(trace.x[at])),
        y: top + yaxis._offset + yaxis.l2p((trace.y ?? trace.high)[at]),
    };
}"""
"""Where on the screen that point of a trace is which stands farthest from other marks and the edges.

In whole pixels: a browser cuts the mouse's place to them, which is half a bar where 1,000 bars are on the screen.
"""


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
        deadline = time.monotonic() + PATIENCE_S
        while not answers(address):
            assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "JupyterLab did not answer"
            time.sleep(0.1)
        yield folder, address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:  # what it said was seen; how it goes is JupyterLab's own affair
            server.kill()
            server.wait()


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


def open_notebook(browser: Any, address: str, name: str, height: int = 6_000) -> Any:
    # A page so tall that no cell is out of sight: JupyterLab draws only what is seen.
    page = browser.new_page(viewport={"width": 1400, "height": height})
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    return page


def run_all(page: Any) -> None:
    """Run every cell to its end; JupyterLab may drop the command around a kernel's start, so ask until it has run."""
    # A command that comes before the notebook knows its kernel opens a dialog, which asks for one.
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    deadline = time.monotonic() + PATIENCE_S
    while not re.fullmatch(r"(\[\d+\]:\s*)+", prompts := page.evaluate(PROMPTS)):
        assert time.monotonic() < deadline, f"JupyterLab does not run the notebook: {prompts}"
        failed = page.locator(ERRORS)
        assert failed.count() == 0, failed.first.inner_text()
        if "*" not in prompts:
            page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_timeout(500)


def test_the_record_of_a_session_shows_its_charts_and_tables_without_being_run(
    lab: tuple[Path, str], browser: Any
) -> None:
    folder, address = lab
    config = Config()
    figures = [charts.price_chart(RUN, config), charts.equity_chart(RUN, config), charts.refusals_chart(RUN, config)]
    outputs = [new_output("display_data", data=bundle(figure)) for figure in figures]
    tables = [
        new_code_cell("table", outputs=[new_output("display_data", {"text/html": table})]) for table in wide_tables()
    ]
    a_notebook(folder / "record.ipynb", [*tables, new_code_cell("charts", outputs=outputs), new_markdown_cell("end")])
    page = open_notebook(browser, address, "record.ipynb")
    page.wait_for_function(f"{DRAWN}.filter(chart => chart.marks > 0).length === 3")
    prices, equity, refusals = page.evaluate(DRAWN)
    assert "synthetic tape" in prices["title"]
    assert prices["points"]["bars"] == 150
    assert prices["points"]["short entry"] == (RUN.fills["client_order_id"].str.endswith("e")).sum() > 0
    assert prices["marks"] > 150  # a shape for every candle
    assert equity["points"]["equity"] == len(RUN.equity[~RUN.equity.index.duplicated()])
    assert refusals["points"] == {"trace 0": RUN.refusals["code"].nunique()}
    check_tables_fit(page)
    page.close()


def wide_tables() -> list[str]:
    """The tables of round trips and orders as `live.ipynb` shows them, of long values."""
    numbers = {"entry_price": 81_465.6123, "exit_price": 81_785.5986, "realised": -1_047.0398, "net": -1_059.0388}
    trips = RUN.round_trips.assign(**numbers, exit_reason="OPPOSITE_SIGNAL")
    orders = RUN.orders.assign(reason="POSITION_CLOSED")
    return [frame_table(trips, drop=dropped("round_trips")), frame_table(orders, drop=dropped("orders"))]


def dropped(frame: str) -> list[str]:
    """Return the columns that `live.ipynb` leaves out of a table."""
    code = "".join("".join(cell["source"]) for cell in json.loads((ROOT / "notebooks/live.ipynb").read_text())["cells"])
    found = re.search(rf"session\.table\(\s*run\.{frame},\s*drop=(\[[^\]]*\])", code)
    assert found is not None
    return list(ast.literal_eval(found[1]))


def check_tables_fit(page: Any) -> None:
    """Fault case I17: tables of round trips and orders were cut off beside the open file browser."""
    page.set_viewport_size({"width": 1400, "height": 2_000})
    page.wait_for_selector(".jp-OutputArea-output table")
    outputs = "[...document.querySelectorAll('.jp-OutputArea-output')].filter(output => output.querySelector('table'))"
    page.wait_for_function(f"{outputs}.length === 2")
    assert page.evaluate(f"{outputs}.map(output => output.scrollWidth - output.clientWidth)") == [0, 0]


def test_the_explorer_of_a_million_trades_and_a_running_chart_change_on_the_screen(
    lab: tuple[Path, str], browser: Any, record_property: Any
) -> None:
    """One kernel for both: each chart is drawn in its place, and what is turned is what is drawn."""
    folder, address = lab
    a_notebook(folder / "explore.ipynb", [new_code_cell(EXPLORER_CELL), new_code_cell(LIVE_CELL)])
    page = open_notebook(browser, address, "explore.ipynb")
    run_all(page)
    page.wait_for_function(f"{DRAWN}.some(chart => chart.points.bars === 1000)")
    page.wait_for_function(f"{DRAWN}.some(chart => chart.points.bars === 150)")
    page.wait_for_function(f"{DRAWN}.filter(chart => chart.fits).length === 2")
    assert page.evaluate(DRAWN)[1]["points"]["EMA slow"] == 150
    check_units(page)
    check_threshold(page, record_property)
    page.set_viewport_size({"width": 2600, "height": 6000})  # so that a bar is wider than a pixel
    page.wait_for_function(f"{DRAWN}.some(chart => chart.fits && chart.width > 1500)")
    point_at(page, "bars", r"bar [\d,]+ .*no signal")
    point_at(page, "refused signal", r"bar [\d,]+ .*→ refused: [A-Z_]+, ")
    point_at(page, "exit, lost", r"round trip \d+.*net -")
    page.close()


def check_units(page: Any) -> None:
    """Another unit keeps the number of bars, and the way back to a unit has its threshold again.

    The page clamped the slider to its new bounds, and what it sent back was taken for a person's turn.
    """
    said = "(explorer.config.bars.unit, float(explorer.config.bars.threshold), len(explorer.result.bars))"
    row = page.locator(".widget-hbox", has=page.get_by_text("threshold", exact=True)).last
    began = kernel_says(page, said)
    for unit in ("quote", "base"):
        choice = page.locator(".widget-hbox", has=page.get_by_text("unit", exact=True)).last.locator("select")
        choice.select_option(unit)
        until(lambda unit=unit: kernel_says(page, said), lambda told, unit=unit: told is not None and told[0] == unit)
        page.wait_for_timeout(1_000)  # what a page sends back, it sends after the kernel's answer
        now, shown = kernel_says(page, said), float(row.locator("input").input_value())
        assert shown == now[1]
        assert now[2] == pytest.approx(began[2], rel=0.02)
    assert now == began


def check_threshold(page: Any, record_property: Any) -> None:
    """A key at the threshold's slider draws the bars of another threshold."""
    status = page.get_by_text(re.compile(r"round trips · [0-9.]+ s$"))
    before, said = page.evaluate(DRAWN)[0], status.inner_text()
    page.evaluate(WATCHED)
    row = page.locator(".widget-hbox", has=page.get_by_text("threshold", exact=True)).last
    row.locator(".noUi-handle").press("ArrowRight")  # one step to longer bars
    page.wait_for_function("window.turned.ended")

    after, told = page.evaluate(DRAWN)[0], status.inner_text()
    assert bar_count(told) < bar_count(said)
    threshold = float(row.locator("input").input_value())
    assert f"volume bars of {threshold:g} BTC" in after["title"]
    assert f"to {bar_count(told) - 1:,} of {bar_count(told):,}" in after["title"]
    assert after["points"]["bars"] == 1000
    assert after["points"]["equity"] != before["points"]["equity"]
    seconds = page.evaluate("(window.turned.ended - window.turned.began) / 1000")
    record_property("seconds from the key to the screen", seconds)
    print(f"{TRADES:,} trades: {told}; on the screen {seconds:.2f} s after the key")


def test_every_view_of_the_explorer_shows_what_the_kernel_has(lab: tuple[Path, str], browser: Any) -> None:
    """Fault case I2: after Run All, whatever is turned, in a view that is opened later, and after a restart."""
    folder, address = lab
    notebook = nbformat.read(ROOT / "notebooks/02_explore.ipynb", 4)
    sources = {cell.id: cell for cell in notebook.cells}
    # A rule of a file, which is compiled already, in place of one that each kernel compiles.
    sources["rule"].source = f"explorer.use_rule('{ROOT}/rules/adx.py:Adx')"
    sources["rule-seen"].source = 'explorer.controls["adx_least"].value = 20.0\nexplorer'
    notebook.cells.append(new_code_cell("explorer"))  # to be run once more, when much has changed
    nbformat.write(notebook, folder / "views.ipynb")
    page = open_notebook(browser, address, "views.ipynb", height=9_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    run_all(page)
    newest = check_views(page)
    assert newest["traces"][2]["name"] == "bars"
    assert newest["traces"][2]["x"][0] > 0, "a page whose places are no matter of course"
    symbols = {trace["name"]: trace["symbol"] for trace in newest["traces"]}
    assert (symbols["long entry"], symbols["short entry"]) == ("triangle-up", "triangle-down")

    threshold = page.locator(".widget-html span", has_text=re.compile("^threshold$"))
    for view, key in ((0, "ArrowRight"), (1, "ArrowLeft")):
        row = threshold.nth(view).locator("xpath=ancestor::div[contains(@class, 'widget-hbox')][1]")
        row.locator(".noUi-handle").press(key)
        newest = check_views(page, unlike=newest)
    page.get_by_role("button", name="older").first.click()
    older = check_views(page, unlike=newest)
    assert older["traces"][2]["x"][0] < newest["traces"][2]["x"][0]

    page.locator(".jp-CodeCell .jp-InputArea-prompt").last.click()
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell')")
    assert check_views(page) == older
    page.get_by_role("button", name="newer").last.click()
    assert check_views(page, unlike=older) == newest

    kernel_says(page, "setattr(explorer, 'was_restarted', False)")
    page.evaluate("void window.jupyterapp.commands.execute('notebook:restart-run-all')")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    until(lambda: kernel_says(page, "getattr(explorer, 'was_restarted', True)"), lambda was: was is True)
    run_all(page)
    check_views(page)
    # A note of anywidget's on a module that was slow to load, which costs nothing since nothing waits for it.
    assert [line for line in wrong if "Failed to initialize model" not in line] == []
    page.close()


def check_views(page: Any, unlike: Any = None) -> dict[str, Any]:
    """Wait until all three views show what the kernel has drawn, which is another than before, and return that."""

    def look() -> tuple[Any, list[list[Any]]]:
        # The kernel answers in the midst of drawing too, since JupyterLab lets widgets' messages run in a thread.
        drawn = json.loads(kernel_says(page, DRAWN_BY_KERNEL) or "null")
        return drawn, [differences(view, drawn) for view in page.evaluate(VIEWS)] if drawn else []

    drawn, wrong = until(look, lambda seen: seen[0] != unlike and seen[1] == [[], [], []])
    assert wrong == [[], [], []]
    assert drawn != unlike
    now: dict[str, Any] = drawn
    return now


def differences(view: dict[str, Any], drawn: dict[str, Any]) -> list[Any]:
    """What a view shows, and what it should, where that differs."""
    parts = [("title", view["title"], drawn["title"]), ("range", view["range"], drawn["range"])]
    for shown, trace in zip(view["traces"], drawn["traces"], strict=False):
        parts += [(f"{trace['name']}, {what}", shown[what], trace[what]) for what in trace]
    return [(what, str(ours)[:60], str(theirs)[:60]) for what, ours, theirs in parts if ours != theirs]


def kernel_says(page: Any, expression: str) -> Any:
    said = page.evaluate(KERNEL_SAYS, expression)
    return None if said is None else ast.literal_eval(said)


def until(look: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
    """Look until what is seen is right, and return it; after a long time return what is seen then."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_right(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def point_at(page: Any, name: str, said: str) -> None:
    """Put the mouse at a point of a trace, wherever a redraw moves it, until the chart says something like that."""
    told = page.locator(".hoverlayer .hovertext", has_text=re.compile(said)).first

    def point() -> bool:
        place = page.evaluate(POINTED, name)
        page.mouse.move(place["x"] - 100, place["y"])
        page.mouse.move(**place, steps=10)
        page.wait_for_timeout(200)
        return bool(told.is_visible())

    assert until(point, bool), f"nothing is told of {name}"


def bar_count(status: str) -> int:
    return int(status.split(" bars")[0].replace(",", ""))


def test_the_page_of_a_review_opens_alone_and_runs_nothing_but_its_own(browser: Any, tmp_path: Path) -> None:
    path = review_page.write_review(hostile_run(tmp_path / "today"))
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
