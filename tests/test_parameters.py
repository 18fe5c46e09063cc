"Every parameter of run.ipynb, given wrongly: an error that lists what is allowed, before anything is written."
import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_learning.experiment import run
from active_learning.parameters import CHOICES, DEFAULTS, REAL, WHOLE, check

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "run.ipynb"
NAN, INF = float("nan"), float("inf")
ODD = [None, [], {}, [1], {"a": 1}, b"x", object(), 1j]
BAD = {
    **{k: [*ODD, "", "unknown", 1, 0, -1, NAN, True, "x" * 10**5] for k in CHOICES},
    **{k: [*ODD, "", "many", "5", -1, 1.5, 10**30, NAN, INF, -INF, True] for k in WHOLE},
    **{k: [*ODD, "", "much", "0.5", -1, -1e-9, 1e30, 10**400, NAN, INF, True] for k in REAL},
    "evaluate_every": [*ODD, "", "often", 0, -1, 1.5, 10**30, NAN, INF, True],
    "seeds": [*ODD[:1], [], {}, b"x", object(), "", "a", "1,1", "0,,1", -1, 1.5, 2**31, 10**30, NAN, INF, True,
              "9" * 5000],
    "device": [*ODD, "", "tpu", "cpu:-5", "cuda:999", 3, NAN, True, "x" * 10**5],
    "resume": [*ODD, "", "no", 0, 1, NAN],
    "dataset": [*ODD, "", "imagenet", "no/such/folder", 7, -1, NAN, True, "x" * 10**5, "a\0b", "x" * 3000],
    "classes": [*ODD, "no such", "0", "0,10", -1, NAN, True, "x" * 10**5, "0\0"],
    "data_dir": [*ODD, NAN, True, "x" * 10**5, "a\0b"],
    "out_dir": [*ODD, "", NAN, True, "x" * 10**5, "a\0b"],
    "experiment": [*ODD, "a/b", "..", ".hidden", "a\\b", "x" * 300, NAN, True, "a\0b", "line\nbreak"],
}
BAD["query_size"] += [1, 10**6]
BAD["batch_size"] += [1, 10**5]
BAD["initial_size"] += [1, 10**6]


def test_every_parameter_of_the_notebook_is_here():
    cell = next(c for c in json.loads(NOTEBOOK.read_text())["cells"] if "parameters" in c["metadata"].get("tags", []))
    names = [n.target.id for n in ast.parse("".join(cell["source"])).body]
    assert set(names) == set(DEFAULTS) == set(BAD)


@pytest.mark.parametrize("name, value", [
    pytest.param(k, v, id=f"{k}={v!r:.20}") for k, values in BAD.items() for v in values])
def test_wrong_values_are_refused_before_anything_is_written(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "data_dir": value_of = dict(dataset="digits", data_dir=value)
    else: value_of = {name: value}
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e: run(progress=False, **value_of)
    said = str(e.value)
    assert name in said or {"classes": "class", "data_dir": "dataset"}.get(name, name) in said, said
    assert (any(w in said for w in ("choose", "expected", "must", "at least", "needed", "dataset is"))
            and len(said) < 1000), said
    assert not os.listdir(tmp_path)


def test_misspelt_names():
    for name, meant in (("stratgy", "strategy"), ("seed", "seeds"), ("Rounds", "rounds")):
        with pytest.raises(TypeError, match=f"unknown parameter '{name}', did you mean '{meant}'.*query_size"):
            run(**{name: 1})


def test_a_million_rounds_take_no_disk_beforehand(tmp_path):
    (folder,) = run(progress=False, classes="0,1", rounds=10**6, epsilon=1.0, query_size=64, seeds=0,
                    device="cpu", out_dir=str(tmp_path))
    assert sum(f.stat().st_size for f in folder.iterdir()) < 10**7


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
                    max_leaves=5)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=8), JSON, max_size=3))
def test_anything_is_accepted_or_refused_with_a_message(params):
    try: assert set(check(params)) == set(DEFAULTS)
    except (ValueError, TypeError) as e:
        assert any((repr(k)[1:-1] or "''") in str(e) for k in params) or "dataset and out_dir" in str(e)


@pytest.mark.parametrize("given, says", [
    (["-p", "strategy", "margin"], "largest_margin"),
    (["-p", "stratgy", "entropy"], "did you mean 'strategy'"),
    (["-p", "momentum", "nan"], "from 0 to 1"),
])
def test_through_papermill(given, says, tmp_path):
    done = subprocess.run([sys.executable, "-m", "papermill", str(NOTEBOOK), str(tmp_path / "out.ipynb"),
                           "--no-progress-bar", *given], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode and says in done.stderr, done.stderr[-2000:]
    assert os.listdir(tmp_path) == ["out.ipynb"]


def test_what_a_gpu_cannot_do(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert check(dict(device="cuda:1"))["device"] == "cuda:1"
    with pytest.raises(ValueError, match="cuda:7.*2 GPUs; choose one of cuda:0, cuda:1"): check(dict(device="cuda:7"))
    with pytest.raises(ValueError, match="precision 'int8'.*not cuda.*choose auto"):
        check(dict(device="cuda", precision="int8"))
