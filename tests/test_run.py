"run.ipynb through papermill: parameters take effect, mistakes are errors, from any folder."
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from active_learning.experiment import run, runs_of
from active_learning.repeat import repeat
from conftest import ROOT

PAPERMILL = Path(sys.executable).parent / "papermill"
NOTEBOOK = ROOT / "nbs/run.ipynb"
QUICK = dict(rounds=2, query_size=32, batch_size=16, classes="0,1,2")


def papermill(cwd, *args, **params):
    "Run the notebook as a user would."
    given = [a for k, v in {**QUICK, **params}.items() for a in ("-p", k, str(v))]
    return subprocess.run([PAPERMILL, NOTEBOOK, "out.ipynb", "--no-progress-bar", *given, *args],
                          cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "One run from a folder far from the repository."
    cwd = tmp_path_factory.mktemp("elsewhere")
    result = papermill(cwd, strategy="least_confidence", protocol="pool", seeds="0,1", norm="dropout", momentum=0.5)
    assert result.returncode == 0, result.stderr[-3000:]
    return cwd


def test_parameters_take_effect(done):
    folder = done / "runs/digits-0-1-2-pool-dropout/least_confidence"
    assert sorted(p.name for p in folder.iterdir()) == ["seed0", "seed1"]
    p = json.loads((folder / "seed1/params.json").read_text())["parameters"]
    assert ([p[k] for k in ("strategy", "protocol", "norm", "momentum", "seed", "rounds", "query_size")]
            == ["least_confidence", "pool", "dropout", 0.5, 1, 2, 32])


def test_the_contract_of_the_run_folder(done):
    f = done / "runs/digits-0-1-2-pool-dropout/least_confidence/seed0"
    h, c, q = pd.read_csv(f / "history.csv"), pd.read_csv(f / "classes.csv"), np.load(f / "queries.npy")
    assert list(h) == ("strategy,seed,round,labels,train_loss,train_accuracy,val_accuracy,test_loss,test_accuracy,"
                       "scoring_seconds,training_seconds").split(",")
    assert list(c) == "strategy,seed,round,class,accuracy".split(",")
    assert (q.shape == (2, 32) and h["labels"].tolist() == [32, 64, 96] and h["round"].tolist() == [0, 1, 2]
            and len(c) == 9)
    params = json.loads((f / "params.json").read_text())
    assert set(params) == {"parameters", "versions", "data"} and {"torch", "commit"} <= set(params["versions"])


def test_the_executed_notebook_shows_everything(done):
    nb = nbformat.read(done / "out.ipynb", as_version=4)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4  # curves, classes, most and least certain
    assert sum("text/html" in o.get("data", {}) for o in outputs) == 2  # what was used, the last table
    bars = [o["data"]["text/plain"] for o in outputs
            if "seed" in o.get("data", {}).get("text/plain", "")
            and "round" in o["data"]["text/plain"] and "labels=" in o["data"]["text/plain"]]
    assert len(bars) == 2 and all("100%" in b for b in bars)
    assert not any(o.output_type == "error" or (o.output_type == "stream" and o.name == "stderr") for o in outputs)


@pytest.mark.parametrize("params, says", [
    (dict(query_size=5000), "the pool of digits has"), (dict(dataset="no/such/folder"), "digits, mnist, fruits360")])
def test_mistakes_are_errors_before_anything_is_written(tmp_path, params, says):
    result = papermill(tmp_path, **params)
    assert result.returncode != 0 and says in result.stderr
    assert not (tmp_path / "runs").exists()


def test_seeds_as_a_number_and_as_text(tmp_path):
    assert papermill(tmp_path, seeds=5).returncode == 0
    assert [p.name for p in (tmp_path / "runs/digits-0-1-2-resample/entropy").iterdir()] == ["seed5"]


def test_help_lists_every_parameter_with_a_line():
    text = subprocess.run([PAPERMILL, "--help-notebook", NOTEBOOK], capture_output=True, text=True).stdout
    from active_learning.parameters import DEFAULTS

    found = re.findall(r"^  (\w+): \w+ \(default (.+?)\)\s+(\S.*)$", text, re.M)
    assert {name: eval(value) for name, value, _ in found} == DEFAULTS
    assert all(len(said.split()) > 1 for *_, said in found)


def test_other_parameters_in_the_same_folder_are_refused(done):
    result = papermill(done, strategy="least_confidence", protocol="pool", seeds="0,1", norm="dropout", momentum=0.9)
    assert result.returncode != 0 and "momentum: 0.5 there, 0.9 now" in result.stderr


def test_a_folder_begun_between_the_check_and_the_lock(pair, tmp_path):
    small = dict(data=pair, rounds=2, query_size=16, batch_size=16, seeds=0, out_dir=str(tmp_path), experiment="x")
    (late,), (over,) = runs_of(**small), runs_of(resume=False, **small)
    run(progress=False, learning_rate=0.5, **small)
    with pytest.raises(ValueError, match="learning_rate: 0.5 there"): late.go(False)
    over.go(False)
    assert json.loads((over.folder / "params.json").read_text())["parameters"]["learning_rate"] == 0.01


def test_repeat_of_a_run_measured_closely(pair, tmp_path):
    small = dict(progress=False, data=pair, classes="0,1", rounds=5, query_size=16, batch_size=16, seeds=0,
                 evaluate_every=4, out_dir=str(tmp_path))
    run(closely=2, until=1, **small)
    (f,) = run(**small)  # goes on as it was begun
    assert pd.read_csv(f / "history.csv")["round"].tolist() == [0, 1, 2, 4, 5]
    assert json.loads((f / "params.json").read_text())["closely"] == 2
    assert all(repeat(f, progress=False).values())


def test_a_handful_of_pictures_under_odd_names(tmp_path):
    folder = tmp_path / "cur$x^$"
    for name, grey in (("_other", 20), ("cost_$1_$2", 220)):
        (folder / name).mkdir(parents=True)
        for i in range(5): Image.new("RGB", (12, 12), (grey + i,) * 3).save(folder / name / f"{i}.png")
    result = papermill(tmp_path, dataset=folder, classes="", rounds=1, query_size=2, batch_size=2)
    assert result.returncode == 0, result.stderr[-3000:]
    said = "".join(o.get("text", "") for c in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
                   for o in c.get("outputs", []))
    assert "wrong among the 1 most uncertain" in said and "nan" not in said
