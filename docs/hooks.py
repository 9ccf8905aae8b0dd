"""What the site takes from elsewhere in the repository, so that nothing is kept twice.

Pictures of the examples are linked from pages as `../../examples/pictures/NAME.png`, which works
where the repository is browsed too; here they are added to the site and the links are changed.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PICTURES = ROOT / "examples" / "pictures"
PAGES = {  # of the site: file of the repository
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "models.md": "saved_models/README.md",
    "emoji.md": "kgen/data/emoji/README.md",
}


def on_files(files, config):
    """Adds the pictures, and the pages that lie outside of `docs`."""
    for path in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Changes links to what lies outside of `docs` to where it is on the site."""
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)*examples/pictures/", f"]({up}pictures/", markdown)
    for name, source in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(source)}", f"]({up}{name}", markdown)
    markdown = re.sub(r"\]\((?:\.\./)*docs/", f"]({up}", markdown)
    # What is left are links to files that only the repository has.
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:tools|examples|kgen|tests)/[^)]*\)", r"\1", markdown)
