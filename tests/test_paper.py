"The committed figures are what the committed numbers draw, and the plan is the paper's."
import json
import os
import time

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")
from matplotlib.image import imread

from active_learning import figures, paper, reproduce, tasks
from active_learning.collect import collect
from active_learning.files import data_root
from active_learning.measures import STRATEGIES
from active_learning.repeat import compare

DRAWN = paper.root() / "figures"
RESULTS = DRAWN / "results"


@pytest.mark.parametrize("name", paper.FIGURES)
def test_every_committed_figure_is_drawn_from_its_table(name, tmp_path):
    if paper.FIGURES[name][0] == "datasets" and not (data_root() / "fruits-360").is_dir():
        pytest.skip("needs the images")
    figures.save(paper.draw(name, RESULTS), tmp_path / "again.png")
    was, now = imread(DRAWN / f"{name}.png"), imread(tmp_path / "again.png")
    assert was.shape == now.shape and np.abs(was - now).mean() < 1e-3


@pytest.mark.parametrize("name", paper.FIGURES)
def test_every_figure_says_what_made_it(name):
    meta = json.loads((RESULTS / f"{paper.FIGURES[name][0]}.json").read_text())
    assert name in meta["figures"] and meta["scale"] and meta["drawn_with"]["commit"]
    if "rounds" in meta: assert meta["seeds"] and meta["versions"][0]["torch"] and meta["parameters"]["query_size"]


def test_runs_in_the_tables_end_where_the_note_says():
    tables = sorted(RESULTS.glob("*_classes.csv"))
    assert len(tables) >= 4
    for path in tables:
        task = path.stem.removesuffix("_classes")
        h, meta = paper.read(task, RESULTS), paper.about(task, RESULTS)
        assert h["round"].max() == meta["rounds"] <= meta["parameters"]["rounds"] and set(h.strategy) == set(STRATEGIES)
        assert (h[h["round"] == meta["rounds"]].groupby("strategy").seed.nunique() == len(meta["seeds"])).all(), \
            "a run that has not come so far"
        assert (h.groupby("strategy").seed.nunique() == len(meta["seeds"])).all(), "unpaired seeds"


@pytest.mark.parametrize("came_to, seeds", [(20, [0, 1, 2, 3, 4]), (19, [0, 1, 2])])
def test_further_seeds_count_where_they_have_come_as_far(came_to, seeds, tmp_path):
    for task, rounds, own in (("fruits", 20, (0, 1, 2)), ("fruits_more", came_to, (3, 4))):
        (tmp_path / f"{task}.json").write_text(json.dumps(dict(rounds=rounds, seeds=own, scale="full", full_rounds=20)))
        (pd.DataFrame([("random", s, rounds, 0.5) for s in own],
                      columns=["strategy", "seed", "round", "test_accuracy"])
         .to_csv(tmp_path / f"{task}.csv", index=False))
    h, meta = paper.all_runs("fruits", tmp_path)
    assert h.seed.tolist() == meta["seeds"] == seeds and paper.note(meta) == f"20 rounds, {len(seeds)} seeds"


def test_a_short_run_says_so_in_its_title():
    meta = dict(scale="quick", rounds=4, full_rounds=350, seeds=[0, 1, 2])
    assert paper.note(meta) == "quick scale: 4 rounds of 350, 3 seeds"
    assert "scale" not in paper.note({**meta, "rounds": 350})


def test_full_is_the_paper():
    full = tasks.SCALES["full"]
    assert [full[t]["rounds"] for t in ("mnist", "mnist_binary", "fruits", "fruits_binary")] == [350, 350, 20, 20]
    assert (all(full[t]["seeds"] == "0,1,2" for t in ("mnist", "fruits"))
            and len(full["digits"]["seeds"].split(",")) == 10)
    assert all(p["dataset"] == "digits" for _, p in tasks.plan("smoke")), "smoke must not need data"


@pytest.mark.parametrize("scale", ["smoke", "quick"])
def test_only_full_lands_among_the_figures(scale):
    assert DRAWN not in (paper.places(scale)[0], *paper.places(scale)[0].parents)
    assert DRAWN == paper.places("full")[0] == paper.places("")[0]


def test_places_do_not_depend_on_the_working_directory(monkeypatch):
    here = paper.places()
    monkeypatch.chdir(paper.root() / "nbs/paper")
    assert paper.places() == here


def test_only_seeds_that_every_strategy_has_begun_are_collected(tmp_path):
    jobs = [j for j in tasks.plan("smoke", ["digits_binary"]) if j[1]["seeds"] == 0 or j[1]["strategy"] == "random"]
    for j in jobs: reproduce._unit([j], tmp_path / "runs", "", "cpu")
    assert collect("digits_binary", "smoke", tmp_path / "runs", tmp_path) == 1
    h = paper.read("digits_binary", tmp_path)
    assert set(h.seed) == {0}
    same = {s: g.drop(columns=["strategy", "ran"]).reset_index(drop=True) for s, g in h.groupby("strategy")}
    assert all(same[s].equals(same["entropy"]) for s in STRATEGIES[1:]), "two classes, one ranking"


def test_unfinished_runs_are_collected_up_to_the_round_that_all_have_reached(tmp_path):
    for j in tasks.plan("smoke", ["digits_binary"]):
        reproduce._unit([j], tmp_path / "runs", "", "cpu", until=1 if j[1]["strategy"] == "entropy" else 2)
    assert collect("digits_binary", "smoke", tmp_path / "runs", tmp_path) == 2
    assert paper.read("digits_binary", tmp_path)["round"].max() == paper.about("digits_binary", tmp_path)["rounds"] == 1
    assert paper.read("digits_binary_asked", tmp_path)["round"].max() == 1


def test_the_first_rounds_are_measured_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.SCALES["full"], "digits_binary",
                        dict(tasks.TASKS["digits_binary"], rounds=6, seeds="0", evaluate_every=3))
    monkeypatch.setattr(reproduce, "CLOSELY", 2)
    for j in tasks.plan("full", ["digits_binary"]): reproduce._unit([j], tmp_path / "runs", "", "cpu")
    collect("digits_binary", "full", tmp_path / "runs", tmp_path)
    h, c = paper.read("digits_binary", tmp_path), paper.read("digits_binary_classes", tmp_path)
    assert all(g["round"].tolist() == [0, 1, 2, 3, 6] for _, g in h.groupby(["strategy", "seed"]))
    assert all(g["round"].tolist() == [0, 1, 2, 3, 6] for _, g in c.groupby(["strategy", "seed", "class"]))


def test_measuring_changes_nothing_in_a_run(tmp_path):
    run = lambda where, **how: reproduce.run(progress=False, rounds=4, seeds=0, evaluate_every=4,
                                             out_dir=str(tmp_path / where), experiment="e", **how)[0]
    assert [compare(run("rarely"), run("closely", closely=4))[f] for f in ("queries.npy", "model.pt")] == [True, True]


def test_a_run_left_at_a_round_ends_as_one_that_was_not(tmp_path):
    job, = [j for j in tasks.plan("smoke", ["digits"]) if j[1]["seeds"] == 0 and j[1]["strategy"] == "entropy"]
    for until in (1, 2, 0): reproduce._unit([job], tmp_path / "left", "", "cpu", until)
    reproduce._unit([job], tmp_path / "whole", "", "cpu")
    assert all(compare(tmp_path / "left/digits/entropy/seed0", tmp_path / "whole/digits/entropy/seed0").values())


@pytest.mark.parametrize("together", [False, True])
def test_a_run_killed_after_its_last_question_is_finished(tmp_path, together):
    jobs = [j for j in tasks.plan("smoke", ["digits_binary"]) if j[1]["seeds"] == 0]
    reproduce.train(jobs, tmp_path, 1, until=2)
    for f in tmp_path.glob("*/*/seed0/queries.npy"):  # the answer to the last question was never learned from
        asked = np.load(f)
        np.save(f, np.concatenate([asked, asked[-1:]]))
    assert {reproduce._done(j, tmp_path) for j in jobs} == {3}
    reproduce.train(jobs, tmp_path, 1, together=together)
    assert len(list(tmp_path.glob("*/*/seed0/model.pt"))) == len(jobs)


def test_until_leaves_the_runs_and_draws_their_figures(tmp_path):
    drawn, runs = tmp_path / "figures", tmp_path / "runs"
    reproduce.make("smoke", ["mnist_binary"], figures_dir=str(drawn), runs_dir=str(runs), workers=1, until=1)
    assert {reproduce._done(j, runs) for j in tasks.plan("smoke", ["mnist_binary"])} == {1}
    assert paper.about("mnist_binary", drawn / "results")["rounds"] == 1
    assert ({f.stem for f in drawn.glob("*.png")} == {k for k, v in paper.FIGURES.items() if v[0] == "mnist_binary"}
            and not (runs / "notebooks").exists())


@pytest.mark.parametrize("named, rows", [
    (["mnist"], [{"mnist"}]), (["digits"], []),
    (None, [{"toy", "datasets", "mnist", "mnist_binary", "fruits", "fruits_binary"}, {"beyond"}, {"claims"}])])
def test_notebooks_of_the_tasks_named_and_readers_after_writers(named, rows, tmp_path, monkeypatch):
    begun, ended = [], []

    def execute(name, *_):
        begun.append((name, set(ended))); time.sleep(0.05); ended.append(name)
        return name

    for name in ("train", "collect"): monkeypatch.setattr(reproduce, name, lambda *_: None)
    monkeypatch.setattr(reproduce, "_execute", execute)
    reproduce.make("full", named, str(tmp_path), str(tmp_path), workers=4)
    assert sorted(ended) == sorted(set().union(*rows))
    for name, before in begun:
        earlier = rows[:next(i for i, r in enumerate(rows) if name in r)]
        assert set().union(*earlier) <= before, name


def test_tables_are_whole_at_every_moment(tmp_path, monkeypatch):
    for _, p in tasks.plan("smoke", ["digits_binary"]):
        reproduce.run(progress=False, out_dir=str(tmp_path), until=1, **p)
    collect("digits_binary", "smoke", tmp_path, tmp_path / "tables")
    path, seen = tmp_path / "tables/digits_binary.csv", []
    before = path.read_text()
    monkeypatch.setattr("active_learning.files.os.replace",
                        lambda a, b: (seen.append(path.read_text()), os.rename(a, b)))
    collect("digits_binary", "smoke", tmp_path, tmp_path / "tables")
    assert len(seen) == 7 and set(seen) == {before} and path.read_text() == before
