"The repository as a whole: what is exported, clean, importable, and in which direction arrows point."
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
                   if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p.stem for p in (ROOT / "active_learning").glob("*.py") if not p.stem.startswith("_"))
BIN = Path(sys.executable).parent


def sources(path):
    return [(c["cell_type"], "".join(c["source"])) for c in json.loads((ROOT / path).read_text())["cells"]]


def exports(path):
    "The module a notebook exports to, or None."
    found = [m[1] for _, s in sources(path) if (m := re.match(r"#\|\s*default_exp\s+(\S+)", s))]
    return found[0] if found else None


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of the working tree in which tools may write."
    to = tmp_path_factory.mktemp("copy") / "repo"
    keep = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".hypothesis", ".pytest_cache",
                                  "*.egg-info", ".ipynb_checkpoints", "_docs", "_proc")
    shutil.copytree(ROOT, to, ignore=keep)
    return to


def tree(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for d in ("nbs", "active_learning")
            for p in (root / d).rglob("*") if p.suffix in (".py", ".ipynb")}


@pytest.mark.parametrize("tool", ["nbdev_export", "nbdev_clean"])
def test_export_and_clean_leave_no_diff(copy, tool):
    before = tree(copy)
    subprocess.run([BIN / tool], cwd=copy, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(copy)})
    after = tree(copy)
    changed = sorted(k for k in {*before, *after} if after.get(k) != before.get(k))
    assert not changed, f"{tool} changes {changed}"


def test_the_readme_is_made_from_the_index():
    subprocess.run([sys.executable, ROOT / ".ci/readme.py", "--check"], check=True)


def test_cleaning_keeps_the_parameters_tag(copy):
    "Without its tag, papermill would inject above the defaults and they would win silently."
    path = copy / "nbs/run.ipynb"
    subprocess.run([BIN / "nbdev_clean", "--fname", path], cwd=copy, check=True, capture_output=True)
    tags = [c["metadata"].get("tags") for c in json.loads(path.read_text())["cells"]]
    assert tags.count(["parameters"]) == 1


@pytest.mark.parametrize("path", [n for n in NOTEBOOKS if exports(n)])
def test_notebooks_argue(path):
    "As many cells of prose as of exported code; title and one-line quote first."
    cells = sources(path)
    assert re.match(r"# .+\n\n> .+", cells[0][1])
    prose, exported = sum(t == "markdown" for t, _ in cells), sum(s.startswith("#| export") for _, s in cells)
    assert prose >= exported - 1, f"{prose} cells of prose, {exported} exported"


def imports(module):
    "Modules of the package that a module imports."
    nodes = ast.walk(ast.parse((ROOT / "active_learning" / f"{module}.py").read_text()))
    found = set()
    for n in [n for n in nodes if isinstance(n, ast.ImportFrom)]:
        path = "." * n.level + (n.module or "")
        if path in (".", "active_learning"): found |= {a.name for a in n.names}
        elif m := re.fullmatch(r"(?:\.|active_learning\.)(\w+)", path): found.add(m[1])
    return found


def test_arrows_point_one_way():
    order = [exports(n) for n in NOTEBOOKS if exports(n)]
    assert {"learner", "query"} <= imports("experiment"), "the imports are not seen"
    for module in MODULES:
        later = [m for m in imports(module) if order.index(m) > order.index(module)]
        assert not later, f"{module} imports {later}, which comes after it"


def test_every_module_is_exported_from_a_notebook():
    assert set(MODULES) == {exports(n) for n in NOTEBOOKS if exports(n)}


BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {blocked!r}: raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_package_needs_no_notebook_tools(tmp_path):
    "Installed alone, every module imports without nbdev, Jupyter, papermill or ipywidgets."
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
                    "--target", tmp_path, ROOT], check=True, capture_output=True)
    blocked = {"nbdev", "fastcore", "jupyter", "jupyterlab", "notebook", "papermill", "ipywidgets", "IPython",
               "ipykernel", "nbclient", "nbformat", "anywidget", "dask", "distributed"}
    code = (BLOCK.format(blocked=blocked) + "import importlib\n"
            + "".join(f"importlib.import_module('active_learning.{m}')\n" for m in MODULES))
    code += (f"import active_learning; assert active_learning.__file__.startswith({str(tmp_path)!r}), "
             "active_learning.__file__")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path,
                   env={**os.environ, "PYTHONPATH": str(tmp_path)})


def test_requirements_leave_the_tools_out():
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini")
    base = cfg["DEFAULT"]["requirements"]
    assert not re.search(r"nbdev|jupyter|papermill|ipywidgets|ipykernel", base)
    assert (cfg["DEFAULT"]["update_pyproject"] == "False"
            and "tags" in cfg["DEFAULT"]["allowed_cell_metadata_keys"] and not (ROOT / "pyproject.toml").exists())


def test_torchvision_imports_where_its_operators_do_not_load():
    "Beside a CPU-only torch the compiled part of torchvision cannot be loaded; here that is forced everywhere."
    code = """
import torch
def refuse(path): raise OSError('libcudart.so: cannot open shared object file')
torch.ops.load_library = refuse
from active_learning.download import load_torchvision
tv = load_torchvision()
assert tv.datasets.MNIST and tv.datasets.utils.download_url
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    plain = code.replace("from active_learning.download import load_torchvision\ntv = load_torchvision()",
                         "import torchvision as tv")
    said = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True).stderr
    assert "does not exist" in said, "the plain import works without its operators: the declaration in download can go"


def test_the_commit_of_its_own_repository_only(tmp_path):
    def git(*args):
        return subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=a", *args], cwd=tmp_path, check=True,
                              capture_output=True, text=True).stdout.strip()

    def commit(place):
        shutil.copytree(ROOT / "active_learning", place / "active_learning",
                        ignore=shutil.ignore_patterns("__pycache__"))
        code = "from active_learning.storage import versions; print(versions()['commit'])"
        return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(place)}, cwd=tmp_path,
                              check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q"); git("commit", "-q", "--allow-empty", "-m", "first")
    assert [commit(tmp_path / "site-packages"), commit(tmp_path)] == ["", git("rev-parse", "HEAD")]
