"A run killed at any moment, or met by a fault, goes on with the same command and ends as if nothing had happened."
import json
import signal
import subprocess
import sys
import time

import pytest

import faults

KILLS = {"kill": 40, "torn": 24, "time": 36}
OTHERS = {"damage 1": 4, "damage 2": 4, "ENOSPC": 4, "EIO": 2, "EROFS": 2, "memory": 2, "clock": 2}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return faults.call("strike", {**KILLS, **OTHERS}, tmp_path_factory.mktemp("strikes"))


def of(records, *kinds):
    found = [r for r in records if r["kind"] in kinds]
    assert found
    return found


def test_every_run_ends_the_same(records):
    assert len(records) == sum({**KILLS, **OTHERS}.values())
    for r in records:
        assert r["resumed"] == "finished", r
        assert ({"history.csv", "classes.csv", "queries.npy", "scores.npy", "model.pt"} <= set(r["equal"])
                and all(r["equal"].values())), r
        assert not r["left"], r


def test_a_hundred_kills_were_kills(records):
    killed = of(records, "kill", "torn", "time")
    assert len(killed) == 100 and all(r["ended"] == "killed" for r in killed), \
        [r["ended"] for r in killed if r["ended"] != "killed"]
    assert len({(r["spec"], r["kept"]) for r in killed}) >= 8  # they struck in every round


def test_at_most_one_round_is_repeated(records):
    for r in of(records, "kill", "torn", "time", "ENOSPC", "EIO", "EROFS", "memory"):
        assert r["repeated"] <= 1 and r["rounds"] == faults.SPECS[r["spec"]]["rounds"], r


def test_damaged_checkpoints_are_set_aside_by_name(records):
    for r in of(records, "damage"): assert r["warned"] == r["hurt"], r
    assert {r["hurt"] for r in of(records, "damage")} >= {1, 2}


def test_errors_say_what_happened_and_what_is_kept(records):
    for kind, says in {"ENOSPC": "No space left on device", "EIO": "Input/output error",
                       "EROFS": "Read-only file system", "memory": "MemoryError"}.items():
        for r in of(records, kind): assert says in r["ended"] and "same command again" in r["ended"], r


def test_a_jumping_clock_changes_nothing(records):
    for r in of(records, "clock"): assert r["ended"] == "finished", r


RUN = "import sys, json; from active_learning.experiment import run; run(progress=False, **json.loads(sys.argv[1]))"


def test_a_process_of_its_own_killed_and_a_second_told_who_holds_the_folder(tmp_path):
    from active_learning.repeat import repeat

    command = [sys.executable, "-c", RUN, json.dumps(
        dict(dataset="digits", classes="0,1", rounds=400, query_size=32, seeds=3, device="cpu",
             out_dir=str(tmp_path), experiment="x"))]
    first = subprocess.Popen(command)
    folder = tmp_path / "x" / "entropy" / "seed3"
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint.previous.pt").exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode and f"held by process {first.pid} on " in second.stderr
    finally: first.send_signal(signal.SIGKILL); first.wait()
    assert first.returncode == -signal.SIGKILL and not (folder / "model.pt").exists()
    before = len((folder / "history.csv").read_text().splitlines())
    short = tmp_path / "short.py"
    short.write_text(RUN.replace(
        "; run(", "; from active_learning import experiment; "
                  "experiment.Run.rounds = lambda self, *_: [self.step() for _ in range(2)]; run("))
    subprocess.run([command[0], str(short), command[3]], check=True)
    assert len((folder / "history.csv").read_text().splitlines()) >= before + 1
    with pytest.raises(FileNotFoundError, match="not a run folder"): repeat(tmp_path)
