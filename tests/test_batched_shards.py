"Batched runs equal single ones; a sharded pool equals the whole."
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch

from active_learning import batched
from active_learning.batched import fit_together, run_together
from active_learning.data import load
from active_learning.experiment import run
from active_learning.learner import Learner
from active_learning.models import build
from active_learning.query import select
from active_learning.shards import Scorer, search
from active_learning.storage import load_checkpoint
from active_learning.training import Trainer


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available(): pytest.skip("no CUDA GPU on this machine")
    return request.param


def double(learners):
    "Learners that compute in float64, where two orders of adding differ by next to nothing."
    for t in (l.trainer for l in learners): t.model.double(); t.floats = lambda x, t=t: Trainer.floats(t, x).double()
    return learners


@pytest.mark.parametrize("given", [
    dict(protocol="pool", momentum=0.8, epochs=2), dict(protocol="resample", norm="none", batch_size=16),
    dict(protocol="pool", momentum=0.0), dict(protocol="resample", granularity="batch"),
])
def test_fitted_together_is_fitted_alone(given, device):
    data = replace(load("digits"), name="a folder's weight decay")
    crew = lambda: double([Learner(data, s, seed, device=device, **given)
                           for s, seed in (("entropy", 0), ("random", 1), ("largest_margin", 1))])
    alone, together = crew(), crew()
    assert alone[0].weight_decay > 0
    for r in range(4):
        for x, y in zip(alone, together):
            # a last batch of its own size
            asked = np.random.default_rng([x.seed, r]).permutation(len(data.train))[:50 - x.batch_size % 3]
            for l in (x, y): l.taught[:] = -1; l.teach(asked, data.train.labels[asked])
        losses = [l.fit() for l in alone] if r != 2 else [*fit_together(alone)]  # going back and forth changes nothing
        for own, theirs in zip(losses, fit_together(together)):
            assert torch.allclose(own, theirs[-len(own):], rtol=0, atol=1e-10)
    for a, b in zip(alone, together):
        for (name, x), y in zip(a.trainer.model.state_dict().items(), b.trainer.model.state_dict().values()):
            assert torch.allclose(x.double(), y.double(), rtol=0, atol=1e-10), name
        assert a.fits == b.fits == 4 and torch.equal(a.taught, b.taught)


def test_a_learner_that_diverges_is_named():
    data = load("digits")
    crew = [Learner(data, "random", s, "resample", norm="none", device="cpu") for s in (0, 1)]
    with torch.no_grad(): crew[1].trainer.model[0].weight.mul_(float("inf"))
    for l in crew: i = l.query(64); l.teach(i, data.train.labels[i])
    with pytest.raises(FloatingPointError, match="loss is nan in batch 0 of random, seed 1"): fit_together(crew)


def test_what_cannot_be_fitted_together_is_refused():
    data = load("digits")
    crew = lambda **k: [Learner(data, "random", s, "pool", device="cpu", **k) for s in (0, 1)]
    with pytest.raises(ValueError, match="dropout"): fit_together(crew(norm="dropout"))
    with pytest.raises(ValueError, match="differ in epochs .1, 2."): fit_together([crew()[0], crew(epochs=2)[1]])
    with pytest.raises(ValueError, match="no learners"): fit_together([])
    uneven = crew()
    for l, k in zip(uneven, (10, 20)): i = l.query(k); l.teach(i, data.train.labels[i])
    with pytest.raises(ValueError, match="lessons of 10, 20 images"): fit_together(uneven)


def test_runs_left_anywhere_end_together_as_they_would_alone(tmp_path):
    data, given = load("digits"), [dict(strategy=s, seeds="0,1", rounds=6, evaluate_every=3, protocol="pool",
                                        query_size=40, device="cpu") for s in ("random", "entropy")]
    alone = [f for p in given for f in run(progress=False, data=data, closely=1, out_dir=str(tmp_path / "alone"), **p)]
    where = [{**p, "out_dir": str(tmp_path / "together")} for p in given]
    run(progress=False, data=data, closely=1, until=2, **where[1])  # two are ahead of the other two
    killed = batched._round
    def round(runs, every):
        if runs[0].round == 4: raise KeyboardInterrupt
        killed(runs, every)
    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(batched, "_round", round)
        run_together(where, data, False, closely=1, every=3)
    run_together(where, data, False, until=5, closely=1, every=3)
    assert {load_checkpoint(f)["round"] for f in (tmp_path / "together").glob("*/*/seed*")} == {5}, \
        "left at a round, not at the checkpoint before it"
    together = run_together(where, data, False, closely=1, every=3)
    assert ([f.relative_to(tmp_path / "alone") for f in alone]
            == [f.relative_to(tmp_path / "together") for f in together])
    for a, b in zip(alone, together):
        assert sorted(f.name for f in a.iterdir()) == sorted(f.name for f in b.iterdir())
        assert (a / "queries.npy").read_bytes() == (b / "queries.npy").read_bytes()
        x, y = (pd.read_csv(f / "history.csv").drop(columns=["scoring_seconds", "training_seconds"]) for f in (a, b))
        pd.testing.assert_frame_equal(x, y, rtol=1e-2)
    assert run_together(where, data, False) == together, "what is done is not run again"


def test_shards_over_processes_equal_the_whole(tmp_path):
    half = torch.randint(0, 256, (900, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pool, scorer = torch.cat([half, half]), Scorer(Trainer(build((1, 8, 8), 4, seed=0), device="cpu"), "entropy")
    np.save(tmp_path / "pool.npy", pool.numpy())
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as two:
        places, found = search(tmp_path / "pool.npy", 333, scorer, two, shard=500, seed=7, progress=False)
    whole = scorer(pool)
    assert np.array_equal(places, select(whole, 333, 7).numpy()) and np.array_equal(found, whole[places].numpy())
    assert search(tmp_path / "pool.npy", 0, scorer, progress=False)[0].size == 0


def on_a_gpu(trainer):
    "A trainer that believes to be elsewhere than the images, as on a GPU."
    trainer.device = torch.device("meta")
    return trainer


def test_another_pool_in_the_same_memory_is_another_pool(digits):
    trainer, held = on_a_gpu(Learner(digits, device="cpu").trainer), []
    for i in range(20):
        part = digits.train.images[torch.arange(i, i + 50)]
        held.append(trainer.resident(part))
        assert trainer.resident(part) is held[-1]
        del part
    assert len(set(map(id, held))) == 20
    part = digits.train.images.clone()
    before = trainer.resident(part)
    part[0] = 0
    assert trainer.resident(part) is not before


def test_a_scorer_travels_without_the_pool(digits):
    trainer = Learner(digits, device="cpu").trainer
    small = len(pickle.dumps(Scorer(trainer, "entropy")))
    on_a_gpu(trainer).resident(digits.train.images)
    trainer.device = torch.device("cpu")
    assert len(pickle.dumps(Scorer(trainer, "entropy"))) < small + digits.train.images.nbytes / 10
    twin = pickle.loads(pickle.dumps(trainer))
    assert torch.equal(twin.predict(digits.test.images), trainer.predict(digits.test.images))
