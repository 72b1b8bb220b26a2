"""The documentation: every link to a file leads somewhere, and the references name all that there is."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import blocks, write_file
from weightstream._config import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages() -> None:
    assert {"README.md", "docs/semantics.md", "docs/reference/python.md"} <= {page_id(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(without_code(page.read_text())):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        found = target.exists() and target.is_relative_to(ROOT)
        if not found or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def names_a_test(text: str, path: Path) -> bool:
    """Whether `text` is the name of a test in the file: its own name, `test_function` or `Suite.Name`."""
    if text == path.name:
        return path.is_file()
    suite, _, name = text.rpartition(".")
    pattern = rf"^TEST\w*\({suite}, {name}\)" if suite else rf"^ *def {text}\("
    return re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_the_promises_name_their_tests() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", (ROOT / "docs" / "semantics.md").read_text(), re.MULTILINE)
    promises = [row for row in rows if row[0] != "promise"]
    assert len(promises) > 20
    for promise, cell in promises:
        tests = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", cell)
        assert tests, f"no test for: {promise}"
        unknown = [text for text, link in tests if not names_a_test(text, ROOT / "docs" / link)]
        assert unknown == [], f"no such test, but: {promise}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert ws.__all__
    assert [name for name in ws.__all__ if not re.search(rf"`(ws\.)?{re.escape(name)}\b", reference)] == []


def test_every_setting_and_its_environment_variable_are_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "python.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \| `(WEIGHTSTREAM_\w+)` \|", reference, re.MULTILINE))
    settings = {field.name for field in dataclasses.fields(Settings)}
    assert "| `into` | none |" in reference  # tensors do not fit a variable
    assert rows == {(name, PREFIX + name.upper()) for name in settings - {"into"}}


@pytest.mark.parametrize("guide", ["s3", "gcs", "azure", "http", "hub"])
def test_the_first_lines_of_a_guide_run_as_they_stand(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a local file instead of the location, and without torch."""
    tensors = blocks(2, 1000)
    path = write_file(tmp_path / "m.safetensors", tensors)
    monkeypatch.setenv("WEIGHTSTREAM_FRAMEWORK", "numpy")
    code = (ROOT / "docs" / "guides" / f"{guide}.md").read_text().partition("```python\n")[2].partition("```")[0]
    code, count = re.subn(r'ws\.stream\("\w+://[^"]+"\)', f"ws.stream({str(path)!r})", code)
    assert count == 1
    found: dict[str, Any] = {}
    exec(code, found)
    assert set(found["state"]) == set(tensors)


def test_no_number_of_gigabytes_per_second_outside_the_benchmarks() -> None:
    """Speeds are quoted from benchmarks/results, by pages that link to it."""
    claims = [
        page_id(page)
        for page in PAGES
        if re.search(r"\d\s*GB/s", page.read_text()) and "benchmarks/" not in page.read_text()
    ]
    assert claims == []


def test_make_help_lists_the_documented_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    documented = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert documented
    assert sorted(target for target in documented if f"make {target} " not in listed) == []
