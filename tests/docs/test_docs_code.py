"""The Python code of README and of the documentation runs: start, road and reference."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("extending", "guides", "coming-from")  # in files of their own, on other processes
HERE = [
    page for page in PAGES if page.parent.name not in ELSEWHERE and "```python" in page.read_text()
]


@pytest.mark.parametrize("page", HERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page, run_page):
    run_page(page)


def test_nearly_all_code_runs(blocks_of):
    run, left_out = 0, []
    for page in PAGES:
        found, lines = blocks_of(page)
        run += len(found)
        left_out += [f"{page.name}:{line}" for line in lines]
    assert run > 50
    assert len(left_out) <= 8, left_out


def test_every_block_has_a_language():
    """Code without one would neither be run nor be highlighted."""
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
        assert len(fences) % 2 == 0, page
        assert all(fences[::2]), page
        assert set(fences[::2]) <= {"python", "sh", "bash", "text", "json", "pycon"}, page
