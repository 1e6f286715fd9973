"""The report in a real browser: no console errors, no overflow on a phone or a desk, in both colour schemes."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scaling.report import write_report
from tests.scaling.report.report_folder import made_once

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

# The page in a frame of the width under test, because a headless window cannot be made as narrow as a phone.
WRAPPER = """<!doctype html><body><iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{page}">
</iframe><p id="result">not measured</p><script>
window.onload = () => {{
  const root = document.getElementById("frame").contentDocument;
  const seen = [root.documentElement.scrollWidth, root.querySelectorAll("svg").length,
                root.getElementById("conventions") ? "whole" : "cut"];
  const dark = root.defaultView.getComputedStyle(root.body).backgroundColor;
  document.getElementById("result").textContent = "measured " + seen.join(" ") + " " + dark;
}};
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = made_once(tmp_path_factory.getbasetemp())
    return write_report(folder, folder / "browser.html").read_text()


def dump(
    page: str, directory: Path, width: int, *options: str, wrapper: str = WRAPPER
) -> subprocess.CompletedProcess[str]:
    """What Chromium says of the page in a frame of that width: the document after its script, and the console."""
    file = directory / f"frame-{width}.html"
    file.write_text(wrapper.format(width=width, page=html.escape(page)))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000 --dump-dom"
    )
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={directory / 'profile'}", *options, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def look(page: str, directory: Path, width: int, *options: str) -> tuple[int, int, str, str, str]:
    """(scroll width, drawings, whether the page is whole, background, console) of the page at a width."""
    done = dump(page, directory, width, *options)
    found = re.search(r"measured (\d+) (\d+) (\w+) (rgb\([^)]*\))", done.stdout)
    assert found, done.stderr[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return int(found[1]), int(found[2]), found[3], found[4], console


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_overflows_and_the_console_is_silent(page: str, tmp_path: Path, width: int) -> None:
    scroll_width, drawings, whole, _, console = look(page, tmp_path, width)
    assert scroll_width <= width
    assert drawings >= 12
    assert whole == "whole"
    assert console == ""


def test_dark_mode_turns_the_paper_dark(page: str, tmp_path: Path) -> None:
    light = look(page, tmp_path, 800, "--blink-settings=preferredColorScheme=1")[3]
    dark = look(page, tmp_path, 800, "--blink-settings=preferredColorScheme=0")[3]
    assert _brightness(light) > 600
    assert _brightness(dark) < 150


def test_laws_can_be_hidden_and_shown(page: str, tmp_path: Path) -> None:
    """The frame's script unticks a kind and looks at its marks: the page itself has no script."""
    script = """
  const root = document.getElementById("frame").contentDocument;
  const shown = kind => [...root.querySelectorAll(".of-" + kind)].filter(each => each.getClientRects().length).length;
  const before = shown("dense") + " " + shown("moe");
  root.querySelector(".toggles input.dense").click();
  document.getElementById("result").textContent = "toggled " + before + " " + shown("dense") + " " + shown("moe");
"""
    wrapper = re.sub(
        r"  const root.*?dark;\n", lambda _: script.replace("{", "{{").replace("}", "}}"), WRAPPER, flags=re.S
    )
    found = re.search(r"toggled (\d+) (\d+) (\d+) (\d+)", dump(page, tmp_path, 1000, wrapper=wrapper).stdout)
    assert found
    dense, moe, dense_after, moe_after = map(int, found.groups())
    assert dense > 0 and moe > 0
    assert (dense_after, moe_after) == (0, moe)


def _brightness(colour: str) -> int:
    return sum(int(part) for part in re.findall(r"\d+", colour))
