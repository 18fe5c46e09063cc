"Disks, networks, archives and repetitions."
import errno
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import urllib.error
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import faults
from active_learning.data import MNIST_FILES, load
from active_learning.download import unpack
from active_learning.experiment import run
from active_learning.files import write_atomically
from active_learning.learner import Learner
from active_learning.repeat import compare, repeat
from active_learning.storage import versions
from active_learning.training import Trainer

TINY = dict(dataset="digits", classes="0,1", rounds=3, query_size=32, seeds=0, device="cpu", progress=False,
            norm="dropout")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run(**TINY, out_dir=str(tmp_path_factory.mktemp("reference")))[0]


@pytest.fixture
def pictures(tmp_path): return faults.album(tmp_path / "pictures")


@contextmanager
def small_disk(folder, size):
    "A file system of its own, of this many bytes."
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)],
                          capture_output=True, text=True) if sys.platform == "linux" else None
    if done is None or done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else sys.platform}; "
                    "the refusing disk of test_resume stands in")
    try: yield folder
    finally: subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(tmp_path, reference):
    with small_disk(tmp_path / "disk", "3m") as disk:
        whole = sum(f.stat().st_size for f in reference.iterdir())
        (disk / "other").write_bytes(bytes(3 * 2**20 - 2 * whole))
        with pytest.raises(OSError, match="No space left on device") as e: run(**TINY, out_dir=str(disk))
        assert any("are kept in" in n for n in e.value.__notes__)
        (disk / "other").unlink()
        assert all(compare(reference, run(**TINY, out_dir=str(disk))[0]).values())


def test_read_only_folder(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="out_dir = .* cannot be written .*Read-only"): run(**TINY, out_dir=str(disk))


def test_out_dir_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="cannot be written"): run(**TINY, out_dir=str(tmp_path / "taken"))


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, pictures):
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="cannot be written"): assert len(load(pictures).train)


def test_cache_that_is_damaged(tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = load(pictures)
    for damage in (lambda b: b[:-100], lambda b: b"", lambda b: b"\0" * len(b)):
        for f in (tmp_path / "cache").rglob("*.*"): f.write_bytes(damage(f.read_bytes()))
        assert torch.equal(load(pictures).train.images, whole.train.images)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    write_atomically(path, lambda f: f.write(b"old"))
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError): write_atomically(path, lambda f: f.write(b"new"))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["kept"]


def test_a_file_is_flushed_then_put_in_place_then_its_folder_is_flushed(tmp_path, monkeypatch):
    "Without the last step a power cut can undo the second: the name would lead to the old file, or to none."
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("in place"), replace(a, b)))
    write_atomically(tmp_path / "kept", lambda f: f.write(b"new"))
    assert done == ["file", "in place", "folder"]


def test_a_disk_that_cannot_flush_folders_is_no_error_and_one_that_fails_is(tmp_path, monkeypatch):
    fsync = os.fsync
    def only_files(code):
        def flush(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode): raise OSError(code, os.strerror(code))
            fsync(fd)
        return flush
    for code in (errno.EINVAL, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", only_files(code))
        write_atomically(tmp_path / "kept", lambda f: f.write(b"new"))
    monkeypatch.setattr(os, "fsync", only_files(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "kept", lambda f: f.write(b"new"))


def test_a_finished_network_that_is_damaged_is_named(tmp_path, reference):
    copy = tmp_path / "seed0"; shutil.copytree(reference, copy)
    whole, r, data = (copy / "model.pt").read_bytes(), random.Random(0), load("digits", "0,1")
    assert Learner.load(copy / "model.pt", data).labels
    for _ in range(50):
        hurt = bytearray(whole); hurt[r.randrange(len(hurt))] ^= 1 << r.randrange(8)
        (copy / "model.pt").write_bytes(hurt)
        with pytest.raises(ValueError, match="seed0/model.pt is damaged"): Learner.load(copy / "model.pt", data)
    for n in (0, 40, 64, len(whole) - 1):
        (copy / "model.pt").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="seed0/model.pt is damaged"): Learner.load(copy / "model.pt", data)
    with pytest.raises(ValueError, match="seed0/model.pt is damaged"): compare(reference, copy)


@pytest.mark.parametrize("error", [
    urllib.error.URLError("Name or service not known"), TimeoutError("timed out"),
    ConnectionResetError("reset"), OSError(28, "No space left on device"),
])
@pytest.mark.parametrize("dataset", ["mnist", "fruits360"])
def test_lost_network(dataset, error, tmp_path, monkeypatch):
    def lost(*_, **__): raise error
    monkeypatch.setattr("urllib.request.urlopen", lost)
    with pytest.raises(FileNotFoundError, match="put the files there yourself") as e: load(dataset, root=tmp_path)
    assert str(tmp_path) in str(e.value) and not list(tmp_path.rglob("*.part"))


class Response(io.BytesIO):
    "What a server answers."
    headers, length, url = {}, 0, "https://example.org"
    def getheader(self, *_): return None
    def geturl(self): return self.url


def served(monkeypatch, content):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(content))


@pytest.mark.parametrize("dataset", ["mnist", "fruits360"])
@pytest.mark.parametrize("content", [b"", b"<html>captive portal</html>", b"PK\3\4 cut short"])
def test_something_else_was_served(dataset, content, tmp_path, monkeypatch):
    served(monkeypatch, content)
    with pytest.raises(FileNotFoundError, match="the download failed"): load(dataset, root=tmp_path)
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix != ".lock"]


def test_a_download_of_mnist_leaves_its_four_files_and_nothing_else(tmp_path, monkeypatch):
    def downloaded(root, download):
        folder = Path(root) / "MNIST/raw"
        folder.mkdir(parents=True)
        for name in (*MNIST_FILES, "train-images-idx3-ubyte.gz"): (folder / name).write_bytes(b"x")

    torchvision = SimpleNamespace(datasets=SimpleNamespace(MNIST=downloaded))
    monkeypatch.setattr("active_learning.data.load_torchvision", lambda: torchvision)
    with pytest.raises(ValueError, match="damaged: md5"): load("mnist", root=tmp_path)
    left = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()}
    assert left - {"MNIST/.raw.lock"} == {f"MNIST/raw/{name}" for name in MNIST_FILES}


def archive(members, mode=None):
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if mode: info.external_attr = mode << 16
            z.writestr(info, content, zipfile.ZIP_DEFLATED)
    return f.getvalue()


def test_archive_of_other_content(tmp_path, monkeypatch):
    served(monkeypatch, archive({"top/Training/Apple 1/a.jpg": b"poison", "top/Test/Apple 1/a.jpg": b"poison"}))
    with pytest.raises(ValueError, match="do not trust it"): load("fruits360", root=tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_archive_that_leaves_its_folder(name, tmp_path):
    (tmp_path / "evil.zip").write_bytes(archive({"fine": b"x", name: b"x"}))
    with pytest.raises(ValueError, match="outside.*leaves the folder"): unpack(tmp_path / "evil.zip", tmp_path / "in")
    assert os.listdir(tmp_path) == ["evil.zip"]


def test_archive_with_a_link_and_archive_without_end(tmp_path):
    (tmp_path / "link.zip").write_bytes(archive({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777))
    with pytest.raises(ValueError, match="is a link"): unpack(tmp_path / "link.zip", tmp_path / "in")
    (tmp_path / "bomb.zip").write_bytes(archive({"zeros": bytes(10**8)}))
    with pytest.raises(ValueError, match="unpacks to 100,000,000 bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "in", limit=10**7)
    assert not (tmp_path / "in").exists()


def test_memory_runs_out(tmp_path, reference, monkeypatch):
    fit, fits = Trainer.fit, iter(range(99))
    def starved(self, *args, **kwargs):
        if next(fits) == 2: torch.empty(2**60)
        return fit(self, *args, **kwargs)
    monkeypatch.setattr(Trainer, "fit", starved)
    with pytest.raises(RuntimeError, match="memory") as e: run(**TINY, out_dir=str(tmp_path))
    assert any("same command again" in n for n in e.value.__notes__)
    assert len(pd.read_csv(next(tmp_path.rglob("history.csv")))) == 3
    assert all(compare(reference, run(**TINY, out_dir=str(tmp_path))[0]).values())


@pytest.mark.parametrize("error, batch_size, says", [
    (FloatingPointError, 2, r"round \d+, seed 0: loss is (nan|inf) in batch \d+"),
    (ValueError, 32, r"round \d+, seed 0: the network cannot be asked"),
])
def test_an_explosion_names_its_place_and_the_history_is_kept(error, batch_size, says, tmp_path):
    with pytest.raises(error, match=says) as e:
        run(**{**TINY, "norm": "none", "rounds": 20}, learning_rate=100, batch_size=batch_size,
            out_dir=str(tmp_path))
    folder = next(tmp_path.rglob("history.csv")).parent
    assert (len(pd.read_csv(folder / "history.csv")) == int(str(e.value).split()[1].rstrip(","))
            and not (folder / "model.pt").exists())
    with pytest.raises(error, match=says):
        run(**{**TINY, "norm": "none", "rounds": 20}, learning_rate=100, batch_size=batch_size,
            out_dir=str(tmp_path))


def test_nan_scores_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "predict", lambda self, images, index=None: torch.full((len(images), 2), torch.nan))
    with pytest.raises(ValueError, match="row 0 holds NaN"): run(**TINY, out_dir=str(tmp_path))


# ---- the same result ------------------------------------------------------------------------------

def test_alone_in_a_call_of_many_and_repeated(tmp_path, reference):
    many = run(**{**TINY, "seeds": "2,0,1"}, out_dir=str(tmp_path))
    assert all(compare(reference, many[1]).values()) and not all(compare(reference, many[0]).values())
    verdict = repeat(reference, progress=False)
    assert ({"history.csv", "classes.csv", "queries.npy", "scores.npy", "guesses.npy", "model.pt"} <= set(verdict)
            and all(verdict.values()))


def test_a_run_on_two_threads_is_repeated_on_two(tmp_path):
    "Batch normalisation adds up in as many parts as there are threads, so one thread gives other last bits."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try: folder, = run(**{**TINY, "norm": "batch"}, out_dir=str(tmp_path))
    finally: torch.set_num_threads(before)
    assert json.loads((folder / "params.json").read_text())["versions"]["threads"] == 2
    assert all(repeat(folder, progress=False).values()) and torch.get_num_threads() == before


def test_repeat_as_a_command(tmp_path, reference):
    env = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "active_learning.repeat"]
    good = subprocess.run([*command, str(reference)], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert good.returncode == 0 and "equal     model.pt" in good.stdout and "DIFFERENT" not in good.stdout, good.stderr
    record = json.loads((reference / "params.json").read_text())
    forged = tmp_path / "forged"; forged.mkdir()
    for f in reference.iterdir(): (forged / f.name).write_bytes(f.read_bytes())
    (forged / "params.json").write_text(json.dumps({**record, "parameters": {**record["parameters"], "momentum": 0.5}}))
    bad = subprocess.run([*command, str(forged)], capture_output=True, text=True,
                         env={**env, "PYTHONHASHSEED": "8", "LC_ALL": "C.UTF-8"})
    assert bad.returncode == 1 and "DIFFERENT model.pt" in bad.stdout
    none = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert none.returncode == 1 and "not a run folder" in none.stderr and "Traceback" not in none.stderr


def test_the_order_in_which_files_were_made_does_not_matter(tmp_path, pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = sorted(f for f in pictures.rglob("*") if f.is_file())
    for name, order in (("a", files), ("b", files[::-1])):
        for f in order:
            copy = tmp_path / name / "set" / f.relative_to(pictures); copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(f.read_bytes())
    real = Path.rglob
    one, = run(dataset=str(tmp_path / "a" / "set"), rounds=2, query_size=8, seeds=0, device="cpu",
               progress=False, out_dir=str(tmp_path / "one"))
    monkeypatch.setattr(Path, "rglob", lambda self, p: iter(list(real(self, p))[::-1]))
    other, = run(dataset=str(tmp_path / "b" / "set"), rounds=2, query_size=8, seeds=0, device="cpu",
                 progress=False, out_dir=str(tmp_path / "other"))
    assert all(compare(one, other).values())


def test_starting_over_replaces_a_run_and_keeps_the_new_one(tmp_path, reference):
    other = run(**{**TINY, "learning_rate": 0.02}, out_dir=str(tmp_path), experiment="x")[0]
    (other / "checkpoint.pt.damaged").touch()
    again = run(**TINY, out_dir=str(tmp_path), experiment="x", resume=False)[0]
    assert (again == other and all(compare(reference, again).values())
            and {f.name for f in again.iterdir() if not f.name.startswith(".")}
                == {f.name for f in reference.iterdir() if not f.name.startswith(".")})
    assert json.loads((again / "params.json").read_text())["parameters"]["learning_rate"] == 0.01


def test_repeating_on_changed_data_is_refused(tmp_path, pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, = run(dataset=str(pictures), rounds=1, query_size=8, seeds=0, device="cpu", progress=False,
                  out_dir=str(tmp_path / "runs"))
    first = sorted((pictures / "a").iterdir())[0]; first.write_bytes(sorted((pictures / "b").iterdir())[0].read_bytes())
    with pytest.raises(ValueError, match="other data"): repeat(folder, progress=False)
    with pytest.raises(ValueError, match="of other content"):
        run(dataset=str(pictures), rounds=1, query_size=8, seeds=0, device="cpu", progress=False,
            out_dir=str(tmp_path / "runs"))


def test_every_commit_that_went_on_with_a_run_is_recorded_once(tmp_path):
    def left(until, commit):
        "The run, left at a round as by another commit."
        folder, = run(**TINY, until=until, out_dir=str(tmp_path))
        record = json.loads((folder / "params.json").read_text())
        if commit:
            (folder / "params.json").write_text(
                json.dumps({**record, "versions": {**record["versions"], "commit": commit}}))
        return record

    assert "continued" not in left(1, "an older one")
    for until in (1, 2, 0, 0): record = left(until, "")
    assert record["versions"]["commit"] == "an older one"
    assert record["continued"] == [{**record["versions"], "commit": versions()["commit"]}]


def test_another_number_of_threads_is_said(tmp_path, reference):
    was = json.loads((reference / "params.json").read_text())
    folder = tmp_path / reference.relative_to(reference.parents[2]); folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({**was, "versions": {**was["versions"], "threads": 64}}))
    with pytest.warns(UserWarning, match="begun with threads 64, now"): run(**TINY, out_dir=str(tmp_path))
