"A person's answers survive what happens to kernels, and answering stays quick while the model trains."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from active_learning.answers import read_log, standing
from active_learning.exchange import _apart, export_csv, export_folders
from active_learning.folder import demo_folder, survey
from active_learning.labelling import Session, replay, resume

CLASSES = "0,1,2,3,4,5,6,7,8,9"
HOME = str(Path(__file__).parents[1])
LABEL = f"""
import sys; sys.path.insert(0, {HOME!r})
from active_learning.labelling import Session
session = Session(sys.argv[1], {CLASSES!r}, sys.argv[2], device="cpu")
for _ in range(int(sys.argv[3])):
    f = session.ask()[0]; session.answer(f, "3"); print(f, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path): return demo_folder(tmp_path / "digits", 60)


def save(path, grey):
    "A small image of one grey."
    path.parent.mkdir(parents=True, exist_ok=True); Image.new("L", (8, 8), grey).save(path)


def person(folder, name, n):
    "A process that labels n images and then sits there."
    return subprocess.Popen([sys.executable, "-c", LABEL, str(folder), name, str(n)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_process_loses_nothing_that_was_acknowledged(folder):
    p = person(folder, "ana", 30)
    told = [p.stdout.readline().strip() for _ in range(12)]
    os.kill(p.pid, signal.SIGKILL); told += p.stdout.read().split(); p.wait()
    kept = list(standing(read_log(folder / "labels-ana.csv")))
    assert kept[:len(told)] == told and len(kept) - len(told) <= 1
    session = Session(folder, CLASSES, "ana", device="cpu")
    assert list(session.answers()) == kept and not set(session.ask(60)) & set(kept)
    session.close()


def test_two_people_keep_apart_and_one_name_is_held_once(folder):
    a = person(folder, "ana", 5)
    for _ in range(5): a.stdout.readline()
    with pytest.raises(RuntimeError, match="already labelling"): Session(folder, CLASSES, "ana", device="cpu")
    ben = Session(folder, CLASSES, "ben", device="cpu")
    for f in ben.ask(5): ben.answer(f, "1")
    a.kill(); a.communicate()
    logs = {who: standing(read_log(folder / f"labels-{who}.csv")) for who in ("ana", "ben")}
    assert [len(v) for v in logs.values()] == [5, 5] and not set(logs["ana"]) & set(logs["ben"])
    ben.close()


def test_answering_does_not_wait_for_a_training(folder):
    "An answer that returns while the training begun before it still runs has not waited; how quick is a benchmark's."
    session, beside = Session(folder, CLASSES, start=10, step=1, epochs=60, check_every=0, device="cpu"), 0
    for i in range(40):
        running = session.pending
        f = session.ask()[0]; session.answer(f, str(i % 10)); session.train(); session.ask()
        beside += bool(running and not running.done())
        time.sleep(0.02)
    session.close()
    assert beside > 5, "every answer waited for the training before it"


def test_folder_labels_are_taught_and_held_out(folder):
    for i, c in enumerate("ab" * 10):
        (folder / c).mkdir(exist_ok=True); os.replace(folder / f"{i:04d}.png", folder / c / f"{i:04d}.png")
    session = resume(Session(folder, "", "ana", start=5, epochs=1, device="cpu"))
    assert session.classes == ["a", "b"] and len(session.given) == 16 and session.fits[-1].held == 4
    assert not [f for f in session.ask(60) if "/" in f]
    session.close()


def test_thousands_of_files_of_one_name_get_names_apart():
    name = lambda file: file.split("/")[-1]
    assert list(_apart(["1/a.png", "2/A.png", "3/a 2.png", "4/a.png"], name).values()) == [
        "a.png", "A 2.png", "a 2 2.png", "a 3.png"]
    start = time.perf_counter()
    found = _apart([f"{i}/a.png" for i in range(20_000)], name)
    assert len(set(found.values())) == 20_000 and time.perf_counter() - start < 10


def answered(folder, **settings):
    "A session in which every image has an answer and the model knows them all."
    session = Session(folder, "even,odd", epochs=1, start=10, device="cpu", **settings)
    for f in session.ask(60): session.answer(f, ("even", "odd")[int(f[:4]) % 2])
    session.train(); session.pending.result()
    return session


def test_what_was_taken_back_is_asked_again(folder):
    session = answered(folder)
    gone = {session.undo() for _ in range(3)}
    assert set(session.ask(10)) == gone
    session.close()
    session = resume(Session(folder, "even,odd", epochs=1, start=10, device="cpu"))
    assert set(session.ask(10)) == gone and session.fits
    session.close()


def test_a_folder_smaller_than_start_is_trained_on_when_nothing_is_left_to_ask(folder):
    session = Session(folder, "even,odd", epochs=1, start=10**3, device="cpu")
    for f in session.ask(60)[:-1]: session.answer(f, ("even", "odd")[int(f[:4]) % 2])
    assert not session.due()
    session.answer(session.ask(1)[0], "odd")
    assert session.due(), "held-out and skipped images never make up `start`"
    session.close()


@pytest.mark.parametrize("name", ["start", "step"])
def test_a_training_needs_a_label(name, folder):
    with pytest.raises(ValueError, match="at least 1 label"): Session(folder, "even,odd", **{name: 0})


def test_changed_answers_make_a_training_due(folder):
    session = answered(folder, step=10)
    for f in [session.undo() for _ in range(10)]: session.answer(f, "even")
    assert session.due(), "as many answers as before, half of them different ones"
    session.close()


def test_corrected_image_is_not_taught_and_measured_at_once(tmp_path):
    root = tmp_path / "shop"
    for i in range(24): save(root / "ab"[i % 2] / f"{i}.png", 10 * i)
    session = Session(root, "", check_every=2, device="cpu")
    wrong = {f: "ba"[session.given[i]] for f, i in session.place.items()}
    session.bring(wrong, "corrections")
    lesson, held = session.lesson(session.known())
    assert not set(lesson) & set(held)
    assert {f: session.classes[{**lesson, **held}[i]] for f, i in session.place.items()} == wrong
    session.close()


@pytest.mark.parametrize("name, value", [("size", 16), ("epochs", 2), ("strategy", "random"), ("seed", 1),
                                         ("learning_rate", 0.1), ("classes", "odd,even")])
def test_a_model_comes_back_only_under_the_settings_it_was_made_with(folder, name, value):
    answered(folder).close()
    how = dict(classes="even,odd", epochs=1, start=10, device="cpu")
    session = Session(folder, **{**how, name: value})
    with pytest.raises(ValueError, match=rf"training 1 of labels-me.csv was made with {name} = .*reopen"):
        replay(session)
    session.close()
    assert replay(Session(folder, **{**how, "start": 20}, step=3))


def test_a_model_does_not_come_back_from_other_pixels(folder):
    answered(folder).close()
    save(folder / "0000.png", 90); save(folder / "0001.png", 90)
    with pytest.raises(ValueError, match="knew other images or labels"):
        replay(Session(folder, "even,odd", epochs=1, start=10, device="cpu"))


def test_nothing_begins_after_the_end(folder):
    session = Session(folder, "even,odd", epochs=1, start=4, step=1, check_every=0, device="cpu")
    told = []
    session.on_fit = lambda: (told.append(1), session.train())
    for i, f in enumerate(session.ask(12)): session.answer(f, ("even", "odd")[i % 2]); session.train()
    session.close()
    session.pending.result(); session.train()
    assert told and len(session.fits) == sum(r["action"] == "fit" for r in session.log.records)


def test_log_that_cannot_be_written_is_told_and_can_be_mended(folder):
    (folder / "labels-me.csv").mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match="answers cannot be kept in .*labels-me.csv.*writable"): Session(folder, "a,b")
    (folder / "labels-me.csv").rmdir()
    Session(folder, "a,b", device="cpu").close()


def test_image_removed_from_the_folder_does_not_stop_an_export(folder, tmp_path):
    session = Session(folder, "even,odd", device="cpu")
    for f in session.ask(6): session.answer(f, "odd")
    (folder / f).unlink()
    assert export_folders(session, tmp_path / "out") == 5
    session.close()
    session = Session(folder, "even,odd", device="cpu")
    assert export_folders(session, tmp_path / "again") == export_csv(session, tmp_path / "out.csv") == 5
    session.close()
