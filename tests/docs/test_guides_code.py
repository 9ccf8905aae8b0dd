"""The Python code of the pages in docs/guides runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "guides").glob("*.md"))
NOT_RUN = re.compile(r"<!-- not run.*?-->\n```python", re.DOTALL)
PAGES = [page for page in PAGES if "```python" in NOT_RUN.sub("", page.read_text())]
SLOW = {"fine-tuning", "own-pictures"}  # several trainings of the shipped text-to-image model
# Pages that draw in many ways with one of the library's own models, each of which traces a graph.
UNTRACED = {"guidance-and-editing", "stable-diffusion", "conditions"}
PAGES = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
    for page in PAGES
]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, run_page):
    run_page(page, traced=page.stem not in UNTRACED)
