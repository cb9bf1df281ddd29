"""A report in a real browser: no error, no request, nothing that overflows or is cut off, and tables that sort."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.report.conftest import FASHION, copied, page_of, profile_of, search_of
from tests.report.test_pictures import predictions_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WATCH = "<script>window.errors = []; onerror = (e) => errors.push(String(e));</script><script>"
PROBE = """
<script>
const told = {errors: window.errors, wide: document.documentElement.scrollWidth > window.innerWidth,
  requests: performance.getEntriesByType("resource").length, unsorted: [], cut: [], unnamed: [], ink: []};
told.width = innerWidth;
told.dark = matchMedia("(prefers-color-scheme: dark)").matches;
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, place) => {
    const column = () => [...table.tBodies[0].rows].map(row => row.cells[place].dataset.key);
    const inOrder = (a, b) => a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
    heading.querySelector("button").click();
    const rising = column();
    heading.querySelector("button").click();
    const falling = column();
    const sorts = rising.every((x, i) => !i || inOrder(rising[i - 1], x) <= 0)
      && falling.every((x, i) => !i || inOrder(falling[i - 1], x) >= 0);
    if (!sorts && rising.every(x => x !== "" && !isNaN(x))) told.unsorted.push(heading.textContent);
  });
}
for (const svg of document.querySelectorAll("svg[role=img]")) {
  if (!svg.getAttribute("aria-label")) told.unnamed.push(svg.id);
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll("text")) {
    const box = text.getBoundingClientRect();
    const across = box.left < frame.left - 1 || box.right > frame.right + 1;
    if (across || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) told.cut.push(text.textContent);
    told.ink.push(getComputedStyle(text).fill);
  }
}
for (const box of document.querySelectorAll("main *:not(svg *)")) {
  const scrolls = box.closest(".scroll");
  if (!scrolls && box.getBoundingClientRect().right > innerWidth + 1) told.cut.push(box.textContent.slice(0, 60));
}
told.ink = [...new Set(told.ink)];
const outside = parent.document;
outside.body.append(Object.assign(outside.createElement("pre"), {id: "told", textContent: JSON.stringify(told)}));
</script></body>"""
FRAME = """<!doctype html><style>:root {{ color-scheme: light dark }} iframe {{ border: 0 }}</style>
<body><iframe width="{}" height="900" srcdoc="{}"></iframe></body>"""


def browse(page, tmp_path, width, scheme):
    """Open a page in a frame of this width, in a light or a dark scheme; return what is seen of it there.

    A window of its own is never narrower than 500 pixels.
    """
    watched = page.replace("<script>", WATCH, 1).replace("</body>", PROBE)
    (tmp_path / "probe.html").write_text(FRAME.format(width, html.escape(watched, quote=True)), encoding="utf-8")
    look = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900", look, "--dump-dom"]
    shown = subprocess.run([*command, f"file://{tmp_path}/probe.html"], capture_output=True, text=True, timeout=120)
    return json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', shown.stdout)[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with a sweep whose runs have learning curves and classes, a search and a profile."""
    folder = tmp_path_factory.mktemp("report")
    sweep = copied(FASHION, folder)
    for line in (sweep / "trials.csv").read_text().splitlines()[1:]:
        run = sweep / "trials" / line.partition(",")[0]
        predictions_of(run, ("T-shirt", "a class with a long name"), len(line) % 5)
        (run / "metrics.csv").write_text("epoch,train_error_pct,test_error_pct\n1,80,85\n2,9,20\n")
    return page_of(sweep, search_of(folder / "search"), profile_of(folder / "profile"), tmp_path=folder)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (768, "dark"), (1400, "light"), (1400, "dark")])
def test_a_browser_shows_it_without_errors_requests_or_overflow_and_sorts(width, scheme, page, tmp_path):
    told = browse(page, tmp_path, width, scheme)
    assert told["width"] == width
    assert told["errors"] == []
    assert told["requests"] == 0
    assert not told["wide"]
    assert told["unsorted"] == []
    assert told["cut"] == [], "no word of a picture lies outside it, and no part of the page beyond the window"
    assert told["unnamed"] == [], "each picture has words for those who do not see it"
    assert told["dark"] == (scheme == "dark")
    assert told["ink"] == ["rgb(232, 232, 232)" if scheme == "dark" else "rgb(27, 27, 27)"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_browser_would_tell_what_is_wrong(page, tmp_path):
    broken = page.replace('"use strict";', '"use strict"; setTimeout(() => { throw Error("planted"); });')
    broken = broken.replace("return rising ? order : -order;", "return 0;")
    broken = broken.replace('<main id="content">', '<main id="content"><div style="width: 2000px">wide</div>')
    told = browse(broken, tmp_path, 768, "light")
    assert told["wide"]
    assert "wide" in told["cut"]
    assert told["unsorted"] != []
