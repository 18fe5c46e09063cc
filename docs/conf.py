"The documentation site: the notebooks as they are, in the order of reading."
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / ".ci"))
from readme import for_readers

NBS = HERE.parent / "nbs"

project = "active_learning"
author = "The active_learning authors"
extensions = ["myst_nb", "sphinx_external_toc", "sphinx.ext.mathjax"]
html_theme = "sphinx_book_theme"
html_title = "active_learning: a paper one can run"
html_static_path = [str(p) for p in (HERE / "static", HERE.parent / "_docs_static") if p.is_dir()]
html_css_files = ["wide.css"]
if len(html_static_path) == 2: mathjax_path = "tex-svg.js"  # maths without a network, see `make docs`
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables in outputs
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["myst.header", "myst.xref_missing", "mystnb.unknown_mime_type"]
exclude_patterns = ["**.ipynb_checkpoints"]
external_toc_path = str(HERE.parent / "_docs_toc.yml")

first = [p.relative_to(NBS).with_suffix("").as_posix() for p in sorted(NBS.glob("[0-9]*.ipynb"))]
rest = [p.relative_to(NBS).with_suffix("").as_posix() for p in sorted(NBS.glob("[a-z]*.ipynb")) if p.stem != "index"]
order = ["toy", "datasets", "mnist", "mnist_binary", "fruits", "fruits_binary", "claims", "audit", "beyond"]
paper = [f"paper/{n}" for n in order if (NBS / "paper" / f"{n}.ipynb").exists()]
parts = [("Run it", rest), ("The paper", paper), ("How it works", first)]
Path(external_toc_path).write_text("root: index\nsubtrees:\n" + "".join(
    f"  - caption: {caption}\n    entries:\n" + "".join(f"      - file: {f}\n" for f in files)
    for caption, files in parts if files))


def shown(app, name, source):
    if (NBS / f"{name}.ipynb").exists():
        source[0] = nbformat.writes(for_readers(nbformat.reads(source[0], as_version=4)))


def setup(app): app.connect("source-read", shown)
