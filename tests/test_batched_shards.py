"Batched runs equal single ones; a sharded pool equals the whole."
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from active_learning.batched import Fleet
from active_learning.data import load
from active_learning.learner import Learner
from active_learning.models import build
from active_learning.query import select
from active_learning.shards import Scorer, search
from active_learning.training import Trainer


@pytest.mark.parametrize("norm, protocol", [("batch", "pool"), ("none", "resample")])
def test_a_fleet_is_its_learners(norm, protocol):
    data = load("digits")
    crew = lambda: [Learner(data, s, seed, protocol, norm=norm, momentum=0.8, epochs=2, device="cpu") for s, seed in (("entropy", 0), ("random", 1), ("largest_margin", 1))]
    alone, together = crew(), crew()
    fleet = Fleet(together)
    for _ in range(3):
        asked = fleet.query(50)
        for l, t, i in zip(alone, together, asked):
            assert np.array_equal(l.query(50), i)
            for x in (l, t): x.teach(i, data.train.labels[i])
            l.fit()
        fleet.fit()
    for a, b in zip(alone, fleet.release()):
        for (name, x), y in zip(a.trainer.model.state_dict().items(), b.trainer.model.state_dict().values()): assert torch.allclose(x.float(), y.float(), atol=1e-4), name
        assert a.fits == b.fits and a.queries == b.queries and torch.equal(a.taught, b.taught)


def test_a_fleet_names_the_run_that_diverged():
    data = load("digits")
    fleet = Fleet([Learner(data, "random", s, "resample", norm="none", learning_rate=100, device="cpu") for s in (0, 1)])
    with pytest.raises(FloatingPointError, match="run [01]"):
        for _ in range(6):
            for l, i in zip(fleet.learners, fleet.query(64)): l.teach(i, data.train.labels[i])
            fleet.fit()


def test_shards_over_processes_equal_the_whole(tmp_path):
    half = torch.randint(0, 256, (900, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pool, scorer = torch.cat([half, half]), Scorer(Trainer(build((1, 8, 8), 4, seed=0), device="cpu"), "entropy")
    np.save(tmp_path / "pool.npy", pool.numpy())
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as two:
        places, found = search(tmp_path / "pool.npy", 333, scorer, two, shard=500, seed=7, progress=False)
    whole = scorer(pool)
    assert np.array_equal(places, select(whole, 333, 7).numpy()) and np.array_equal(found, whole[places].numpy())
    assert search(tmp_path / "pool.npy", 0, scorer, progress=False)[0].size == 0
