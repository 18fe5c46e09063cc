"A sweep over a real Dask cluster survives the death of a worker."
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from active_learning.paper import places
from active_learning.sweep import grid, sweep

pytest.importorskip("papermill")


def whole(folder, rounds):
    "Whether a run folder is complete and no trace of an interruption is left."
    names = {p.name for p in folder.iterdir()}
    history = pd.read_csv(folder / "history.csv")
    return ({"params.json", "history.csv", "classes.csv", "queries.npy", "model.pt"} <= names
            and not any("checkpoint" in n for n in names)
            and history["round"].tolist() == list(range(rounds + 1)) and (np.load(folder / "queries.npy") >= 0).all())


def test_worker_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    rounds = 40
    runs = grid(strategy=["random", "entropy", "smallest_margin"], seeds="0", rounds=rounds)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        victim, killed = cluster.workers[0].pid, threading.Event()

        def kill():
            "As soon as a run has written something, the first worker dies without a word."
            while not list(tmp_path.glob("*/*/seed0/history.csv")): time.sleep(0.05)
            os.kill(victim, signal.SIGKILL); killed.set()

        threading.Thread(target=kill, daemon=True).start()
        table = sweep(runs, tmp_path, executor=client.get_executor(), progress=False)
    assert killed.is_set() and table.status.tolist() == ["done"] * 3, table[["name", "error"]].to_string()
    folders = [p.parent for p in tmp_path.glob("*/*/seed0/params.json")]
    assert len(folders) == 3 and all(whole(f, rounds) for f in folders)
    assert sweep(runs, tmp_path, progress=False).status.tolist() == ["kept"] * 3


def test_workers_do_not_outlive_who_started_them():
    psutil = pytest.importorskip("psutil")
    code = ("import os, time\n"
            "from active_learning.sweep import local_pool\n"
            "pool = local_pool(1)\n"
            "print(pool.submit(os.getpid).result(), flush=True)\n"
            "pool.submit(time.sleep, 600).result()")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL); parent.wait()
    alive = lambda: worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
    end = time.monotonic() + 60
    while alive() and time.monotonic() < end: time.sleep(0.1)
    if alive(): worker.kill(); raise AssertionError("the worker lives on without its parent")


class Nowhere(Executor):
    "Touches the executed notebook and says that all went well."

    def submit(self, f, notebook, row, out, threads):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).touch()
        done = Future()
        done.set_result(("", 0.0))
        return done


def test_every_notebook_has_a_place_of_its_own_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    p = dict(dataset="digits", rounds=1, experiment="x" * 200, strategy="least_confidence")
    rows = [{**p, "seeds": ",".join(map(str, range(100)))}, {**p, "seeds": 100}, {**p, "seeds": 100, "out_dir": "~/b"}]
    table = sweep(rows, "~/a", Nowhere(), progress=False)
    assert [Path(n).parent for n in table.notebook] == [tmp_path / d / "notebooks" for d in "aab"]
    assert len(set(table.notebook)) == 3 and all(Path(n).is_file() for n in table.notebook)


def test_home_in_the_places_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places("smoke", "~/f", "~/r") == (tmp_path / "f", tmp_path / "f/results", tmp_path / "r")
