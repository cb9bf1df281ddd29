"""The documentation builds strictly, asks nothing of the network, and says of methods and columns what is declared."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tdbench.regularizers.registry import method_names
from tdbench.store.rows import columns

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    *("index", "statistics", "methods", "data", "your-code", "recipes", "loops", "clusters", "files", "reproducing"),
    *("performance", "design", "contributing"),
}

spec = importlib.util.spec_from_file_location("write_pages", DOCS / "write_pages.py")
assert spec is not None
assert spec.loader is not None
write_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write_pages)


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True)


class Requests(HTMLParser):
    """Collects what a browser asks for by itself when it shows a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found += [given["src"]] if given.get("src") else []
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.found.append(given["href"])


def test_the_site_has_every_page_and_each_works_from_any_folder(tmp_path):
    built = build(ROOT, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(tmp_path / "site").with_suffix("").as_posix() for path in tmp_path.rglob("*.html")}
    assert pages - {"404"} == PAGES
    assert not list(tmp_path.rglob("*.py"))
    for name in PAGES:
        page = (tmp_path / "site" / f"{name}.html").read_text(encoding="utf-8")
        requests = Requests()
        requests.feed(page)
        assert requests.found
        for request in requests.found:
            assert not re.match(r"[a-z]+:|/", request), f"{name} asks for {request}"
            assert (tmp_path / "site" / request.partition("?")[0]).is_file(), f"{name} asks for {request}"
    assert 'id="add-a-method"' in (tmp_path / "site" / "contributing.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["[a](files.md#nowhere)", "[a](nothing.md)", "[a](/files.html)", '--8<-- "no.md"'])
@pytest.mark.slow
def test_a_broken_link_fails_the_build(broken, tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    for name in ("mkdocs.yml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs" / "index.md").write_text(f"{broken}\n", encoding="utf-8")
    assert build(tmp_path, tmp_path / "site").returncode != 0


@pytest.mark.parametrize("name", ["../README.md", "methods.md", "files.md"])
def test_a_page_says_what_is_declared(name):
    by_hand, mark, written = (DOCS / name).read_text(encoding="utf-8").partition(write_pages.MARK)
    assert by_hand
    assert mark
    assert written.partition(write_pages.END)[0].strip() == write_pages.written()[name].strip(), (
        "python docs/write_pages.py writes it anew"
    )


def test_every_method_has_a_section_with_a_link_to_its_source():
    sections = re.split(r"^### ", write_pages.written()["methods.md"], flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0]: section for section in sections}
    assert [*told][:-1] == method_names()
    assert {name for name in method_names() if "](https://" not in told[name]} == {"none"}


@pytest.mark.parametrize("table", write_pages.TABLES)
def test_every_column_has_one_meaning(table):
    row = write_pages.TABLES[table]
    explained = [name for names in write_pages.meanings_of(row) for name in names]
    assert sorted(explained) == sorted(columns(row))
