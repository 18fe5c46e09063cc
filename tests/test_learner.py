"The learner: never peeks, the same steps from the same seed, one query on two classes."
import dataclasses
import hashlib
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from active_learning import splits
from active_learning.experiment import run
from active_learning.files import write_sealed
from active_learning.learner import Learner
from active_learning.measures import MEASURES, STRATEGIES
from active_learning.query import draw
from active_learning.splits import Part


class Secret:
    "Labels that answer only for indices that were asked for before; any other touch is peeking."

    def __init__(self, labels): self.labels, self.asked = labels, set()
    def reveal(self, indices): self.asked |= set(map(int, indices)); return self.labels[indices]
    def __getattr__(self, name): raise AssertionError(f"the learner reached for .{name} of the pool's labels")
    def __getitem__(self, i): raise AssertionError("the learner read the pool's labels")
    def __len__(self): raise AssertionError("the learner looked at the pool's labels")
    __iter__ = __array__ = __eq__ = __getitem__


@pytest.mark.parametrize("protocol", ["pool", "resample"])
@pytest.mark.parametrize("strategy", ["random", "entropy"])
def test_never_reads_a_label_it_was_not_taught(digits, protocol, strategy, tmp_path):
    secret = Secret(digits.train.labels)
    data = dataclasses.replace(digits, train=Part(digits.train.images, secret))
    learner = Learner(data, strategy, seed=0, protocol=protocol)
    asked = draw(len(digits.train.images), 40, 0)
    for _ in range(3):
        learner.teach(asked, secret.reveal(asked)); learner.fit(); learner.evaluate()
        asked = learner.query(40)
    learner.save(tmp_path / "l.pt")
    twin = Learner.load(tmp_path / "l.pt", data)
    assert learner.labels == len(secret.asked) == twin.labels
    known = learner.taught >= 0
    assert set(known.nonzero()[:, 0].tolist()) == secret.asked


def weights(learner): return torch.cat([v.flatten().double() for v in learner.trainer.model.state_dict().values()])


@pytest.mark.parametrize("norm", ["batch", "dropout", "none"])
def test_one_seed_one_result(digits, norm):
    def go(seed):
        learner = Learner(digits, "smallest_margin", seed, norm=norm)
        torch.rand(3)  # random numbers drawn elsewhere must not matter
        asked = draw(len(digits.train), 60, seed)
        for _ in range(2): learner.teach(asked, digits.train.labels[asked]); learner.fit(); asked = learner.query(60)
        return learner, asked

    (a, qa), (b, qb), (c, _) = go(1), go(1), go(2)
    assert torch.equal(weights(a), weights(b)) and np.array_equal(qa, qb)
    assert not torch.equal(weights(a), weights(c))


def test_strategies_share_the_first_weights(digits):
    assert len({weights(Learner(digits, s, seed=4)).numpy().tobytes() for s in STRATEGIES}) == 1


def test_strategies_share_the_initial_set(pair, tmp_path):
    def first(strategy, seed):
        (f,) = run(data=pair, strategy=strategy, protocol="pool", seeds=seed, rounds=1, query_size=16, batch_size=16,
                   out_dir=str(tmp_path), progress=False)
        return np.load(f / "initial.npy").tobytes()

    assert len({first(s, 4) for s in STRATEGIES}) == 1 and first("random", 5) != first("random", 4)


def test_four_measures_ask_the_same_on_two_classes(pair, tmp_path):
    "Over whole runs, not only from one state."
    asked = {}
    for m in MEASURES:
        (f,) = run(data=pair, strategy=m, seeds=0, rounds=5, query_size=32, batch_size=16, out_dir=str(tmp_path),
                   progress=False)
        asked[m] = np.load(f / "queries.npy")
    assert all(np.array_equal(q, asked["entropy"]) for q in asked.values())


def test_resume_of_a_saved_learner_is_exact(digits, tmp_path):
    def lesson(l): asked = l.query(40); l.teach(asked, digits.train.labels[asked]); l.fit()
    one = Learner(digits, "entropy", seed=5, protocol="resample", norm="dropout")
    for _ in range(2): lesson(one)
    one.save(tmp_path / "l.pt")
    two = Learner.load(tmp_path / "l.pt", digits)
    lesson(one); lesson(two)
    assert torch.equal(weights(one), weights(two))


def test_settings_given_as_numpy_scalars_are_saved_as_plain_ones(digits, tmp_path):
    Learner(digits, np.array(["entropy"])[0], np.int64(1), batch_size=np.int32(8), learning_rate=np.float64(0.02),
            momentum=np.float32(0.5), epochs=np.int64(2), retrain=np.bool_(True)).save(tmp_path / "l.pt")
    twin = Learner.load(tmp_path / "l.pt", digits)
    assert (twin.strategy, twin.seed, twin.batch_size, twin.learning_rate, twin.momentum, twin.epochs,
            twin.retrain) == ("entropy", 1, 8, 0.02, 0.5, 2, True)


def test_another_data_set_is_refused(digits, pair, tmp_path):
    Learner(digits, seed=0).save(tmp_path / "l.pt")
    with pytest.raises(ValueError, match="other data"): Learner.load(tmp_path / "l.pt", pair)


def of(images): return Part(images, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize("spoil", [
    lambda images: images.flip(0), lambda images: torch.cat([images[4:], images[:4]]),
    lambda images: images[:, :, :6, :6].contiguous(), lambda images: images ^ 1])
def test_other_images_of_the_same_number_and_classes_are_refused(digits, spoil, tmp_path):
    "Labels would come to stand on images they were not given for."
    Learner(digits, seed=0).save(tmp_path / "l.pt")
    with pytest.raises(ValueError, match="other data.*images"):
        Learner.load(tmp_path / "l.pt", dataclasses.replace(digits, train=of(spoil(digits.train.images))))


def test_a_learner_saved_before_images_were_compared_still_loads(digits, tmp_path):
    learner = Learner(digits, seed=0)
    old = {k: v for k, v in learner.state().items() if k != "images"}
    assert len(old) == len(learner.state()) - 1
    write_sealed(tmp_path / "l.pt", old)
    assert torch.equal(weights(Learner.load(tmp_path / "l.pt", digits)), weights(learner))


def test_the_images_are_read_once_however_often_a_learner_is_saved(digits, monkeypatch):
    data, read = dataclasses.replace(digits, train=of(digits.train.images)), []
    counted = SimpleNamespace(sha256=lambda *a: read.append(1) or hashlib.sha256(*a))
    monkeypatch.setattr(splits, "hashlib", counted)
    a, b = Learner(data, seed=0), Learner(data, "random", seed=1)
    for _ in range(3): a.state(), b.state()
    assert len(read) == 1


@pytest.mark.parametrize("kwargs, says", [
    (dict(strategy="x"), "least_confidence"), (dict(protocol="x"), "resample, pool"), (dict(norm="x"), "dropout"),
    (dict(granularity="x"), "sample, batch"), (dict(device="x"), "cpu"), (dict(precision="x"), "bfloat16"),
])
def test_wrong_choices_list_the_right_ones(digits, kwargs, says):
    with pytest.raises(ValueError): Learner(digits, **kwargs)
    try: Learner(digits, **kwargs)
    except ValueError as e: assert all(w in str(e) for w in says.split(", "))


def test_saved_on_a_gpu_loaded_without(digits, tmp_path):
    learner = Learner(digits, seed=0, device="cpu")
    learner.device = "cuda"
    learner.save(tmp_path / "l.pt")
    with patch("torch.cuda.is_available", lambda: False), pytest.warns(UserWarning, match="saved with device 'cuda'"):
        twin = Learner.load(tmp_path / "l.pt", digits)
    assert twin.device == "auto" and torch.equal(weights(twin), weights(learner))
    twin = Learner.load(tmp_path / "l.pt", digits, device="cpu", precision="float32")
    assert (twin.device, twin.precision) == ("cpu", "float32")


def test_a_state_stays_as_it_is_whoever_goes_on_from_it(digits):
    a = Learner(digits, device="cpu")
    a.teach([0, 1, 2], [1, 2, 3]); a.fit()
    state = a.state()
    kept = [a.trainer.model.state_dict(), a.trainer.optimiser.state_dict()["state"]]
    kept = [{k: v.clone() for k, v in kept[0].items()}, {k: v["momentum_buffer"].clone() for k, v in kept[1].items()}]
    b, c = (Learner(digits, device="cpu").restore(state) for _ in range(2))
    for learner in (a, b): learner.teach([5, 6], [3, 4]); learner.fit()
    assert [a.labels, b.labels, c.labels, int((state["taught"] >= 0).sum())] == [5, 5, 3, 3]
    for now in (state, c.state()):
        assert all(torch.equal(v, now["model"][k]) for k, v in kept[0].items())
        assert all(torch.equal(v, now["optimiser"]["state"][k]["momentum_buffer"]) for k, v in kept[1].items())


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_a_fit_passes_over_the_images_at_least_once(digits, epochs):
    with pytest.raises(ValueError, match="epochs = .*whole number from 1"): Learner(digits, epochs=epochs)


@pytest.mark.parametrize("indices, labels, says", [
    ([1, 2], [0.0, 1.0], "labels: whole numbers are needed"), ([1, 2], ["0", "1"], "labels: whole numbers"),
    (np.array([True, False]), [0, 1], "indices: whole numbers"), ([1.0], [0], "indices: whole numbers"),
    ([1], torch.tensor([1.0]), "labels: whole numbers"), ([1], torch.tensor([1.0]).bfloat16(), "labels: whole numbers"),
    ([3, 4, 3], [0, 1, 2], "index 3 is told different labels, 0 and 2"), ({1}, [0], "indices: whole numbers")])
def test_half_a_lesson_is_no_lesson(digits, indices, labels, says):
    learner = Learner(digits)
    with pytest.raises(ValueError, match=says): learner.teach(indices, labels)
    assert not learner.labels


@pytest.mark.parametrize("kind", [list, lambda r: r, np.array, lambda r: np.array(r, np.uint8),
                                  lambda r: list(np.array(r)), lambda r: torch.tensor(r),
                                  lambda r: torch.tensor(r, dtype=torch.int32)])
def test_whole_numbers_of_every_kind_are_taught(digits, kind):
    learner = Learner(digits)
    learner.teach(kind(range(2, 5)), kind(range(2, 5)))
    assert learner.taught[2:5].tolist() == [2, 3, 4] and learner.labels == 3
    learner.teach([2, 2], [7, 7]); learner.teach([], [])  # mended; the same thing twice; nothing
    assert learner.taught[2] == 7


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_asked_for_nothing_it_names_nothing(digits, granularity, strategy):
    learner = Learner(digits, strategy, granularity=granularity)
    assert learner.query(0).tolist() == []
    learner.teach(range(len(digits.train)), digits.train.labels)
    assert learner.query(0).tolist() == []
