"""The report in a real browser: no console errors, no overflow on a phone or a desk, in both colour schemes."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scaling.report import write_report
from tests.scaling.report.report_folder import made_once

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

# The page in a frame of the width under test, because a headless window cannot be made as narrow as a phone.
WRAPPER = """<!doctype html><meta charset="utf-8"><body>
<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{page}">
</iframe><p id="result">not measured</p><script>
window.onload = async () => {
  const frame = document.getElementById("frame"), root = frame.contentDocument, view = frame.contentWindow;
  const wait = () => new Promise(done => setTimeout(done, 50));
  const live = () => root.querySelectorAll(".drawn .live svg.marks").length;
  while (live() < root.querySelectorAll(".chart").length) await wait();
  document.getElementById("result").textContent = "measured " + JSON.stringify(await (async () => { {script} })());
};
</script></body>"""
LOOK = """return {
  width: root.documentElement.scrollWidth, charts: live(), whole: !!root.getElementById("conventions"),
  stills: [...root.querySelectorAll(".still")].filter(each => each.getClientRects().length).length,
  paper: view.getComputedStyle(root.body).backgroundColor,
  ink: root.querySelector(".live .role-axis-title text").getAttribute("fill"),
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = made_once(tmp_path_factory.getbasetemp())
    return write_report(folder, folder / "browser.html").read_text()


def browse(page: str, directory: Path, width: int, script: str, *options: str) -> tuple[Any, str]:
    """What a script returns in the page, in a frame of that width, once its charts are drawn; and the console."""
    file = directory / f"frame-{width}.html"
    parts = {"{width}": str(width), "{page}": html.escape(page), "{script}": script}
    file.write_text(re.sub("|".join(map(re.escape, parts)), lambda part: parts[part.group()], WRAPPER))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
    )
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={directory / 'profile'}", *options, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<p id="result">measured (.*?)</p>', done.stdout)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    assert found, console or done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), console


@pytest.mark.parametrize("width", [360, 1440])
def test_charts_are_live_nothing_overflows_and_the_console_is_silent(page: str, tmp_path: Path, width: int) -> None:
    found, console = browse(page, tmp_path, width, LOOK)
    assert console == ""
    assert found["width"] <= width
    assert found["charts"] >= 12
    assert (found["stills"], found["whole"]) == (0, True)


def test_print_shows_each_chart_once_as_its_still_picture(page: str, tmp_path: Path) -> None:
    printed = page.replace("@media screen", "@media tv").replace("@media print", "@media screen")
    script = """
  const shown = kind => [...root.querySelectorAll(kind)].filter(each => each.getClientRects().length).length;
  root.querySelectorAll("details").forEach(each => { each.open = true; });
  return [shown(".still"), shown(".live svg"), live()]"""
    stills, live, drawn = browse(printed, tmp_path, 800, script)[0]
    assert stills == drawn and live == 0


def test_without_scripts_every_chart_is_a_still_picture(page: str, tmp_path: Path) -> None:
    blocked = page.replace("script-src", "script-src 'none'; other")
    script = 'return [...root.querySelectorAll(".still")].filter(each => each.getClientRects().length).length'
    assert browse(blocked.replace('class="chart"', 'class="picture"'), tmp_path, 800, script)[0] >= 12


def test_dark_mode_turns_the_paper_dark_and_the_charts_light(page: str, tmp_path: Path) -> None:
    light, _ = browse(page, tmp_path, 800, LOOK, "--blink-settings=preferredColorScheme=1")
    dark, _ = browse(page, tmp_path, 800, LOOK, "--blink-settings=preferredColorScheme=0")
    assert min(_brightness(light["paper"]), _brightness(dark["ink"])) > 600
    assert max(_brightness(dark["paper"]), _brightness(light["ink"])) < 150


def test_the_pointer_on_a_run_shows_its_name(page: str, tmp_path: Path) -> None:
    script = """
  const mark = root.querySelector(".live .points_marks path"), box = mark.getBoundingClientRect();
  const at = {bubbles: true, view, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
  for (const kind of ["pointerover", "pointermove"]) mark.dispatchEvent(new view.PointerEvent(kind, at));
  await wait();
  return root.getElementById("vg-tooltip-element").textContent"""
    assert re.match(r"d\d+-\S+: \d\.\d+", browse(page, tmp_path, 1000, script)[0])


def test_the_wheel_zooms_with_ctrl_alone_and_a_figure_can_be_saved(page: str, tmp_path: Path) -> None:
    script = """
  const chart = root.querySelector(".live"), mark = chart.querySelector(".points_marks path");
  const {x, y} = mark.getBoundingClientRect();
  const labels = () => [...chart.querySelectorAll(".role-axis-label text")].map(each => each.textContent).join();
  const turn = async ctrlKey => {
    const at = {bubbles: true, cancelable: true, view, clientX: x, clientY: y};
    mark.dispatchEvent(new view.WheelEvent("wheel", {...at, deltaY: -500, ctrlKey}));
    await wait();
    return labels();
  };
  const saved = [...chart.querySelectorAll(".vega-actions a")].map(each => each.textContent);
  return [labels(), await turn(false), await turn(true), saved]"""
    (before, scrolled, zoomed, saved), console = browse(page, tmp_path, 1000, script)
    assert before == scrolled != zoomed
    assert saved == ["Save as SVG", "Save as PNG"]
    assert console == ""


def test_the_legend_chooses_the_laws_that_are_shown(page: str, tmp_path: Path) -> None:
    script = """
  const chart = [...root.querySelectorAll(".chart")].find(each => each.textContent.includes("dense laws"));
  const shown = () => chart.querySelectorAll(".live .points_marks path").length;
  const before = shown();
  const symbol = chart.querySelector(".live .role-legend-symbol path");
  symbol.dispatchEvent(new view.MouseEvent("click", {bubbles: true, view}));
  await wait();
  return [before, shown()]"""
    before, after = browse(page, tmp_path, 1000, script)[0]
    assert 0 < after < before


def _brightness(colour: str) -> int:
    """Red, green and blue of ``#rrggbb`` or ``rgb(r, g, b)``, together."""
    return sum(bytes.fromhex(colour[1:]) if colour.startswith("#") else map(int, re.findall(r"\d+", colour)))
