"Notebooks run from the repository's root as they do from their own folder, where nbdev_test runs them."
import json
import re
import shutil

import nbdev.test
import pandas as pd
import papermill
import pytest
from nbdev.config import get_config
from fastcore.xtras import working_directory

from conftest import ROOT

NOTEBOOKS = sorted(f for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)
OPENED = [f for f in NOTEBOOKS if "default_exp" not in f.read_text() and f.stem not in ("run", "benchmarks")]


def code(path):
    "The code of a notebook, or of a Python file."
    if path.suffix == ".py": return path.read_text()
    return "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")


@pytest.mark.parametrize("path", OPENED, ids=lambda f: f.stem)
def test_a_notebook_runs_from_the_root(path, monkeypatch):
    monkeypatch.setattr(nbdev.test, "working_directory", lambda _: working_directory(ROOT))
    assert nbdev.test.test_nb(path, get_config().tst_flags.split(), basepath=ROOT)[0]


def test_no_notebook_looks_for_the_repository_beside_its_own_folder():
    found = []
    for path in NOTEBOOKS:
        found += [(path.name, line) for line in code(path).splitlines()
                  if re.search(r"""["']\.\./(figures|tests|nbs|active_learning)|notebook=["']run\.ipynb""", line)]
    assert not found, "use `paper.root()`"


DRAWS = re.compile(r"\bpaper\.show\(|^fig\b[^=\n]*= |plt\.show\(", re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_committed_notebook_shows_what_it_draws(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    drawing = [c for c in cells if DRAWS.search("".join(c["source"])) and not c["source"][0].startswith("#| export")]
    blank = [c["source"] for c in drawing if not any("image/png" in o.get("data", {}) for o in c["outputs"])]
    assert not blank, "executed with another backend than inline; unset MPLBACKEND and execute again"


@pytest.mark.parametrize("name", ["mnist", "mnist_binary", "fruits", "fruits_binary", "claims"])
def test_a_single_round_is_enough_to_read(name, tmp_path):
    "What SCALE=quick trains of the real data."
    shutil.copytree(ROOT / "figures/results", tmp_path / "results")
    for note in (tmp_path / "results").glob("*.json"):
        if "rounds" not in (about := json.loads(note.read_text())) or note.stem.startswith("digits"): continue
        note.write_text(json.dumps({**about, "rounds": 1, "parameters": {**about["parameters"], "evaluate_every": 1}}))
        for path in tmp_path.glob(f"results/{note.stem}*.csv"):
            if "round" in (table := pd.read_csv(path)): table[table["round"] <= 1].to_csv(path, index=False)
    papermill.execute_notebook(ROOT / f"nbs/paper/{name}.ipynb", tmp_path / "out.ipynb",
                               dict(figures_dir=str(tmp_path)), progress_bar=False)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda f: f.stem)
def test_no_line_of_code_runs_out_of_sight(path):
    long = [line for line in code(path).splitlines() if len(line) > 120]
    assert not long, "a reader sees about 120 characters of a line"
