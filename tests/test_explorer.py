"Finished runs are walked through, whatever their lengths and whatever became of their images."
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets")

from active_learning.data import load
from active_learning.experiment import run
from active_learning.explorer import Explorer
from active_learning.rounds import find, read, round_figure

DIGITS = dict(classes="0,1", seeds=0, query_size=5, protocol="pool", device="cpu", progress=False)


def test_runs_of_different_length(tmp_path):
    for s, n in (("random", 1), ("entropy", 3)): run(strategy=s, rounds=n, out_dir=str(tmp_path), **DIGITS)
    explorer = Explorer(tmp_path)
    explorer.round.value = 3
    assert "0 of 5 images" in explorer.said.value and explorer.image.value
    long, short = (read(n, f) for n, f in find(tmp_path).items())
    fig = round_figure([short, long], 3, load("digits", "0,1"))
    said = [f.get_suptitle() for f in fig.subfigs]
    assert said[1:] == ["digits-0-1-pool/random/seed0: no round 3, the run has 1",
                        "digits-0-1-pool/entropy/seed0: log score under each image"]


def test_run_without_rounds(tmp_path):
    n = len(load("digits", "0,1").train)
    run(strategy="entropy", initial_size=n, out_dir=str(tmp_path), **DIGITS)
    assert Explorer(tmp_path).image.value


def test_images_that_are_not_those_of_the_run_are_not_shown(tmp_path):
    for c in "ab":
        (tmp_path / "shop" / c).mkdir(parents=True)
        for i in range(10): Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / "shop" / c / f"{i}.png")
    how = dict(dataset=str(tmp_path / "shop"), out_dir=str(tmp_path / "runs"), rounds=1, query_size=3, seeds=0,
               device="cpu", progress=False)
    run(strategy="random", **how)
    explorer = Explorer(tmp_path / "runs")
    assert explorer.pool(explorer.pair())[0] and not explorer.said.value
    Image.new("L", (8, 8)).save(tmp_path / "shop" / "a" / "00.png")
    data, why = Explorer(tmp_path / "runs").pool(explorer.pair())
    assert data is None and "not those the run asked about" in why
    run(strategy="entropy", **how)
    assert "of different data" in Explorer(tmp_path / "runs").said.value
