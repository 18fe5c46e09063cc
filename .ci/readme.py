"Make README.md from nbs/index.ipynb, with nbconvert."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]


def for_readers(nb):
    "The notebook without hidden cells and without directives, which speak to nbdev."
    nb.cells = [c for c in nb.cells if not re.match(r"#\|\s*(hide|default_exp)\b", c.source)]
    for c in nb.cells:
        if c.cell_type == "code": c.source = re.sub(r"^#\|.*\n?", "", c.source, flags=re.M)
    return nb


def readme():
    "README.md as text, paths relative to the root."
    nb = for_readers(nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4))
    nb.metadata["language_info"] = {"name": "python"}
    hide = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={"remove-input"}),
                  CoalesceStreamsPreprocessor=dict(enabled=True))
    body, _ = MarkdownExporter(config=hide).from_notebook_node(nb)
    return re.sub(r"\n{3,}", "\n\n", body.replace("](../", "](").replace('src="../', 'src="')).strip() + "\n"


if __name__ == "__main__":
    text = readme()
    if "--check" in sys.argv:
        sys.exit((ROOT / "README.md").read_text(encoding="utf-8") != text
                 and "README.md is not what nbs/index.ipynb says: make readme")
    (ROOT / "README.md").write_text(text, encoding="utf-8")
