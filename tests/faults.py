"""Faults that really happen to a run, and files that are really damaged.

Used by the tests and by nbs/reliability.ipynb. Run as a program it warms up once and forks a process for each fault:
    python tests/faults.py strike FAULTS.json FOLDER RESULTS.json
    python tests/faults.py fuzz   COUNTS.json FOLDER RESULTS.json
"""

import errno
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from hashlib import md5
from pathlib import Path

HERE = Path(__file__).resolve()
SPECS = dict(
    resample=dict(dataset="digits", classes="0,1", strategy="entropy", norm="dropout", rounds=4, query_size=32,
                  seeds=0, device="cpu"),
    pool=dict(dataset="digits", classes="0,1", strategy="least_confidence", protocol="pool", rounds=4,
              query_size=40, batch_size=20, initial_size=20, seeds=1, device="cpu"),
)


def call(what, wanted, folder, threads=1, timeout=600):
    "What `strike` or `fuzz` finds, in a process of its own with a fixed number of threads."
    folder = Path(folder); folder.mkdir(parents=True, exist_ok=True)
    (folder / "wanted.json").write_text(json.dumps(wanted))
    env = {**os.environ, "OMP_NUM_THREADS": str(threads),
           "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(HERE), what, "wanted.json", "work", "results.json"],
                          cwd=folder, env=env, timeout=timeout, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-3000:])
    return json.loads((folder / "results.json").read_text())


def forked(work, log, seconds=120, cpu=math.inf):
    """Run `work` in a fork, killed after so many seconds, or so many on the processor, its prints going to `log`.

    How it ended: finished, killed, hung, or the error's text."""
    sys.stdout.flush(); sys.stderr.flush()
    if not (child := os.fork()):
        status = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1); os.dup2(out, 2)
            work(); status = 0
        except BaseException: traceback.print_exc(); sys.stderr.flush()
        finally: os._exit(status)
    deadline = time.monotonic() + seconds
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        hung = time.monotonic() > deadline
        if hung or cpu < math.inf and int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) > cpu * 1e9:
            os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
            return "hung" if hung else "killed"
        time.sleep(0.001)
    if os.WIFSIGNALED(found[1]):
        return "killed" if os.WTERMSIG(found[1]) == signal.SIGKILL else f"signal {os.WTERMSIG(found[1])}"
    return "finished" if not found[1] else Path(log).read_text()


# ---- faults at the k-th operation on the disk -----------------------------------------------------

def tear(fd):
    "Cut a file that is being written: half of a temporary one, the end of a row that no header counts."
    from numpy.lib import format as npy

    size = os.fstat(fd).st_size
    if Path(os.readlink(f"/proc/self/fd/{fd}")).name.startswith("."): return os.ftruncate(fd, size // 2)
    with open(f"/proc/self/fd/{fd}", "rb") as f:
        npy.read_magic(f); (n, k), _, dtype = npy.read_array_header_1_0(f)
        if size > f.tell() + n * k * dtype.itemsize: os.ftruncate(fd, size - 5)


def at_operation(k, act):
    "Call `act` before the k-th flush, replacement or removal of this process and all that follow; None: before each."
    count = itertools.count(1)

    def wrap(owner, name):
        real = getattr(owner, name)

        def operation(*args, **kwargs):
            i, what = next(count), "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else name
            if k is None: act(what)
            elif i >= k: act(what, args)
            return real(*args, **kwargs)

        setattr(owner, name, operation)

    wrap(os, "fsync"); wrap(os, "replace"); wrap(Path, "unlink")


def die(torn):
    "An act: tear what is being written, and die."
    def act(name, args):
        if torn and name == "fsync": tear(args[0])
        os.kill(os.getpid(), signal.SIGKILL)
    return act


def fail(code):
    "An act: from now on the disk refuses to write."
    def act(name, args):
        if name != "unlink": raise OSError(code, os.strerror(code))
    return act


def starve(r):
    "No memory is left in the fit of round r."
    from active_learning.training import Trainer

    fits, real = itertools.count(), Trainer.fit

    def fit(self, *args, **kwargs):
        if next(fits) == r: raise MemoryError("cannot allocate")
        return real(self, *args, **kwargs)

    Trainer.fit = fit


def swing():
    "A clock that jumps back and forth by decades."
    real, sign = time.time, itertools.cycle((1, -1))
    time.time = lambda: real() + next(sign) * 1e9


def damage(folder, n):
    "Flip a bit in each of the newest n checkpoints; how many there were."
    there = [f for f in (folder / "checkpoint.pt", folder / "checkpoint.previous.pt") if f.exists()][:n]
    for f in there:
        raw = bytearray(f.read_bytes()); raw[len(raw) // 2] ^= 4; f.write_bytes(raw)
    return len(there)


def arm(fault):
    "Prepare this process to suffer a fault."
    kind, at = fault["kind"], fault.get("at")
    if kind in ("kill", "torn", "damage"): at_operation(at, die(kind == "torn"))
    elif kind in ("ENOSPC", "EIO", "EROFS"): at_operation(at, fail(getattr(errno, kind)))
    elif kind == "memory": starve(at)
    elif kind == "clock": swing()
    elif kind == "operations": at_operation(None, lambda name: os.write(fault["to"], f"{name}\n".encode()))


# ---- a run, struck and resumed --------------------------------------------------------------------

def experiment(spec, out, steps, fault=None):
    "One run of a spec; each round that begins is noted in the file `steps`, with the seconds since the start."
    from active_learning.experiment import Run, run

    step, start = Run.step, time.perf_counter()

    def noted(self):
        with open(steps, "a") as f: f.write(f"{self.round + 1} {time.perf_counter() - start:.4f}\n")
        step(self)

    Run.step = noted
    if fault: arm(fault)
    run(progress=False, data=DATA, out_dir=str(out), **spec)


def begun(steps):
    "Rounds a process began, and when it began the first."
    rows = [line.split() for line in steps.read_text().splitlines()] if steps.exists() else []
    return [int(r) for r, _ in rows], float(rows[0][1]) if rows else None


def strike(fault, reference, out):
    "Strike a run, resume it, compare: a record of what happened."
    from active_learning.repeat import compare

    shutil.rmtree(out, ignore_errors=True); out.mkdir(parents=True)
    spec, name = SPECS[fault["spec"]], str(reference.relative_to(reference.parents[2]))
    ended = forked(lambda: experiment(spec, out / "runs", out / "first", fault), out / "log",
                   cpu=fault["at"] if fault["kind"] == "time" else math.inf)
    if fault["kind"] == "time" and ended == "finished":  # it came too late
        return strike({**fault, "at": fault["at"] * 0.7}, reference, out)
    folder = out / "runs" / name
    hurt = damage(folder, fault["files"]) if fault["kind"] == "damage" else 0
    kept = len((folder / "history.csv").read_text().splitlines()) - 1 if (folder / "history.csv").exists() else 0
    start = time.perf_counter()
    again = forked(lambda: experiment(spec, out / "runs", out / "second"), out / "log2")
    (before, _), (after, when) = begun(out / "first"), begun(out / "second")
    equal = compare(reference, folder) if folder.is_dir() else {}
    left = [f.name for f in folder.iterdir()
            if f.name.startswith(".") and f.name != ".lock"
            or f.name.startswith("checkpoint") and not f.name.endswith("damaged")]
    return {**fault, "ended": ended, "resumed": again, "kept": kept, "repeated": len(set(before) & set(after)),
            "rounds": len(set(before) | set(after)), "resume_seconds": when,
            "seconds": time.perf_counter() - start, "equal": equal, "hurt": hurt, "left": left,
            "warned": (out / "log2").read_text().count("set aside")}


def references(out):
    "Runs never interrupted: their folders, the operations of each, and its seconds."
    found = {}
    for name, spec in SPECS.items():
        place = out / "reference" / name; shutil.rmtree(place, ignore_errors=True); place.mkdir(parents=True)
        start = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        def counted():
            experiment(spec, place / "runs", place / "steps",
                       dict(kind="operations", to=os.open(place / "operations", os.O_WRONLY | os.O_CREAT)))
        ended = forked(counted, place / "log")
        if ended != "finished": raise RuntimeError(ended)
        folder = next((place / "runs").rglob("params.json")).parent
        found[name] = dict(folder=folder, operations=(place / "operations").read_text().split(),
                           seconds=sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - start)
    return found


def draw(counts, known, seed=0):
    "Faults of each kind, spread over the operations and the time of both runs."
    r, faults = random.Random(seed), []
    for kind, n in counts.items():
        for i in range(n):
            spec = list(SPECS)[i % len(SPECS)]
            ops, share = known[spec]["operations"], (i // len(SPECS) + r.random()) / -(-n // len(SPECS))
            fault = dict(kind=kind.split()[0], spec=spec, at=1 + int(min(share, 0.999) * len(ops)))
            if kind == "torn":
                flushes = [j for j, o in enumerate(ops, 1) if o == "fsync"]
                fault["at"] = flushes[int(min(share, 0.999) * len(flushes))]
            if kind == "time": fault["at"] = share * known[spec]["seconds"] * 0.9
            if kind == "memory": fault["at"] = int(share * SPECS[spec]["rounds"])
            if kind.startswith("damage"): fault["files"] = int(kind.split()[1])
            faults.append(fault)
    return faults


def strikes(counts, out, jobs=2):
    "Strike as often as asked for, two at a time."
    known = references(out)
    faults, children = draw(counts, known), []
    for j in range(jobs):
        def work(j=j):
            records = [strike(f, known[f["spec"]]["folder"], out / f"struck{j}") for f in faults[j::jobs]]
            (out / f"records{j}").write_text(json.dumps(records)); os._exit(0)
        if not (child := os.fork()):
            try: work()
            except BaseException: traceback.print_exc()
            finally: os._exit(1)
        children.append(child)
    if any([os.waitpid(c, 0)[1] for c in children]): raise RuntimeError("a striker failed")
    return [r for j in range(jobs) for r in json.loads((out / f"records{j}").read_text())]


# ---- damaged files --------------------------------------------------------------------------------

def mutate(raw, r):
    "The same bytes after one to four accidents: bits flipped, bytes overwritten, cut out, repeated, or the end lost."
    raw = bytearray(raw)
    for _ in range(r.randint(1, 4)):
        if not raw: break
        i, n, how = r.randrange(len(raw)), r.randint(1, 16), r.randrange(6)
        if how == 0: raw[i] ^= 1 << r.randrange(8)
        elif how == 1: raw[i:i + n] = r.randbytes(n)
        elif how == 2: del raw[i:i + n]
        elif how == 3: raw[i:i] = raw[i:i + n]
        elif how == 4: raw[i:i + n] = bytes([r.choice((0, 255))]) * n
        else: del raw[i:]
    return bytes(raw)


def pictures(kind):
    "Whole image files of a kind, of several modes."
    import numpy as np
    from PIL import Image

    a = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    modes = dict(JPEG=("RGB", "L", "CMYK"), PNG=("RGB", "RGBA", "P", "I;16", "1"), GIF=("P",),
                 TIFF=("RGB", "I;16", "F", "L"), WEBP=("RGBA",), BMP=("RGB",), PPM=("RGB",))[kind]
    found = []
    for m in modes:
        f = io.BytesIO()
        image = (Image.fromarray((a[..., 0].astype(np.uint16) * 257)) if m == "I;16"
                 else Image.fromarray(a).convert("RGB").convert(m) if m != "RGBA"
                 else Image.fromarray(a))
        image.save(f, kind); found.append(f.getvalue())
    return found


def album(folder):
    "A folder of three classes with twenty small pictures each."
    import numpy as np
    from PIL import Image

    r = np.random.default_rng(0)
    for i, c in enumerate("abc"):
        (folder / c).mkdir(parents=True)
        for n in range(20):
            Image.fromarray(r.integers(i * 60, i * 60 + 120, (12, 12, 3), dtype=np.uint8)).save(
                folder / c / f"{n}.png")
    return folder


def read_picture(path):
    from active_learning.images import read_image

    read_image(path)


def idx(shape):
    "An IDX file of bytes."
    return (b"\0\0\x08" + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
            + bytes(i % 10 for i in range(math.prod(shape))))


def read_idx(path):
    "Load MNIST with one of its files replaced."
    from active_learning import data

    root = path.parent / "idx"; raw = root / "MNIST" / "raw"; raw.mkdir(parents=True, exist_ok=True)
    whole = {f: idx((40, 28, 28) if "images" in f else (40,)) for f in data.MNIST_FILES}
    data.MNIST_FILES = {f: md5(b).hexdigest() for f, b in whole.items()}
    for f, b in whole.items(): (raw / f).write_bytes(b)
    hit = random.Random(path.read_bytes()).choice(sorted(whole))
    (raw / hit).write_bytes(path.read_bytes())
    data._mnist(root)


def table(kind):
    "A run folder's table."
    rows = ([f"entropy,0,{i},{i * 32},1.5,0.5,0.5,1.5,0.5,0.1,0.1" for i in range(6)] if kind == "history"
            else [f"entropy,0,{i},{c},0.5" for i in range(3) for c in "012"])
    head = ("strategy,seed,round,labels,train_loss,train_accuracy,val_accuracy,test_loss,test_accuracy,"
            "scoring_seconds,training_seconds" if kind == "history"
            else "strategy,seed,round,class,accuracy")
    return ("\n".join([head, *rows]) + "\n").encode()


def read_table(path):
    "Read a run folder with its history replaced."
    from active_learning.results import by_class, history

    folder = path.parent / "run"; folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text('{"parameters": {"experiment": "x"}}'); (folder / "model.pt").touch()
    raw = path.read_bytes(); name = "classes.csv" if b"ass" in raw[:40] else "history.csv"
    (folder / name).write_bytes(raw)
    (by_class if name == "classes.csv" else history)(folder)


def read_checkpoint(path):
    "Load a damaged checkpoint: refused when it was set aside by name."
    from active_learning.storage import load_checkpoint

    folder = path.parent / "checkpoint"; folder.mkdir(exist_ok=True)
    (folder / "checkpoint.pt").write_bytes(path.read_bytes())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always"); load_checkpoint(folder)
    if said: raise ValueError(f"{path.name}: {said[0].message}")


def checkpoint():
    "A whole checkpoint."
    import hashlib

    import torch

    f = io.BytesIO(); torch.save(dict(round=3, model=torch.arange(50.)), f)
    return hashlib.sha256(f.getvalue()).hexdigest().encode() + f.getvalue()


def read_model(path):
    "Load a finished run's network."
    from active_learning.learner import Learner

    Learner.load(path, DATA)


def model():
    "A whole saved learner."
    from active_learning.learner import Learner

    with tempfile.TemporaryDirectory() as d:
        Learner(DATA, seed=0, device="cpu").save(Path(d) / "model.pt")
        return (Path(d) / "model.pt").read_bytes()


READERS = {
    **{k: (lambda k=k: pictures(k), read_picture) for k in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")},
    "IDX": (lambda: [idx((40, 28, 28)), idx((40,))], read_idx),
    "CSV": (lambda: [table("history"), table("classes")], read_table),
    "checkpoint": (lambda: [checkpoint()], read_checkpoint),
    "model": (lambda: [model()], read_model),
}


def fuzz(kind, n, folder, seed=0, memory=2**30, patience=5):
    "Read n damaged files: how many were refused by name, accepted, crashed on, and the longest that one took."
    folder.mkdir(parents=True, exist_ok=True)

    def work():
        make, read = READERS[kind]
        r, whole, result = random.Random(f"{kind}{seed}"), make(), dict(refused=0, accepted=0, crashed=[], slowest=0.0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        warnings.simplefilter("ignore")
        for i in range(n):
            path = folder / f"damaged{i % 50}.{kind.lower()}"
            path.write_bytes(next(b for b in iter(lambda: mutate(whole[i % len(whole)], r), None)
                                  if b != whole[i % len(whole)]))
            start = time.perf_counter()
            try: read(path); result["accepted"] += 1
            except (ValueError, FileNotFoundError) as e:
                named = any(w in str(e) for w in (path.name, "MNIST", "history.csv", "classes.csv"))
                if named: result["refused"] += 1
                else: result["crashed"].append(f"{i} {type(e).__name__}: {e}")
            except Exception as e: result["crashed"].append(f"{i} {type(e).__name__}: {e}")
            result["slowest"] = max(result["slowest"], time.perf_counter() - start)
        (folder / "result.json").write_text(json.dumps(result))

    ended = forked(work, folder / "log", seconds=30 + n * patience / 10)
    if ended != "finished": return dict(kind=kind, files=n, refused=0, accepted=0, crashed=[ended], slowest=None)
    return dict(kind=kind, files=n, **json.loads((folder / "result.json").read_text()))


if __name__ == "__main__" and __spec__ is None and len(sys.argv) == 5 and sys.argv[1] in ("strike", "fuzz"):
    import torch

    from active_learning import repeat, results  # noqa: F401, all that a fork needs is imported once
    from active_learning.data import load

    torch.set_num_threads(1)
    import torch._dynamo  # noqa: F401, what the first optimiser of a process would import

    DATA = load("digits", "0,1")
    what, wanted, out, results_file = (sys.argv[1], json.loads(Path(sys.argv[2]).read_text()),
                                       Path(sys.argv[3]).resolve(), Path(sys.argv[4]))
    out.mkdir(parents=True, exist_ok=True)
    found = strikes(wanted, out) if what == "strike" else [fuzz(k, n, out / k) for k, n in wanted.items()]
    results_file.write_text(json.dumps(found))
