"Scores do not depend on neighbours, threads or precision."
import threading

import numpy as np
import pytest
import torch

from active_learning.data import load
from active_learning.learner import Learner
from active_learning.measures import STRATEGIES
from active_learning.models import build
from active_learning.query import select
from active_learning.scoring import BLOCK, rows, supported
from active_learning.shortlist import TRUST, Memory, shortlist
from active_learning.splits import Data, Part
from active_learning.training import Trainer

needs = pytest.mark.skipif(not supported(), reason="no fused kernels in this PyTorch")
needs8 = pytest.mark.skipif(not supported("int8"), reason="no int8 kernels on this processor")


def noise(n, shape, seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["batch", "dropout", "none"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 11, 8), (3, 32, 32), (3, 21, 34)])
def test_equals_the_network(shape, norm):
    u, mean, std = noise(BLOCK + 3, shape), (0.4, 0.5, 0.6)[:shape[0]], (0.2, 0.3, 0.25)[:shape[0]]
    t = Trainer(build(shape, 7, norm, seed=2), mean, std, device="cpu")
    t.fit(u[:128], torch.arange(128) % 7, 64)
    with torch.no_grad():
        true = t.model.eval()((u / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1))
    assert (torch.allclose(t.predict(u), true, atol=1e-5)
            and torch.allclose(t.plain(u, None, torch.float32), true, atol=1e-5))


@needs
def test_neighbours_and_threads_do_not_matter():
    t, u, threads = (Trainer(build((1, 28, 28), 10), device="cpu"), noise(2 * BLOCK + 17, (1, 28, 28)),
                     torch.get_num_threads())
    whole, some = t.predict(u), torch.randperm(len(u))[:BLOCK + 5]
    assert torch.equal(t.predict(u, some), whole[some]) and torch.equal(t.predict(u[-1:]), whole[-1:])
    try:
        for n in (1, 4):
            torch.set_num_threads(n)
            assert torch.equal(t.predict(u), whole) and torch.get_num_threads() == n
    finally: torch.set_num_threads(threads)


def test_without_the_kernels_the_answer_is_the_same(monkeypatch):
    t, u = Trainer(build((3, 32, 32), 5), device="cpu"), noise(70, (3, 32, 32))
    fast = t.predict(u)
    monkeypatch.setattr("active_learning.training.supported", lambda *a: False)
    assert torch.allclose(t.predict(u), fast, atol=1e-5)
    with pytest.raises(ValueError, match="AVX2"): Trainer(build((3, 32, 32), 5), device="cpu", precision="int8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.int8, marks=needs8)])
def test_low_precision_leaves_the_model_alone(dtype):
    t, u = Trainer(build((1, 28, 28), 10, "none"), device="cpu"), noise(40, (1, 28, 28))
    before = {k: v.clone() for k, v in t.model.state_dict().items()}
    assert not torch.equal(t.predict(u, dtype=dtype), t.predict(u))
    assert all(v.dtype == before[k].dtype and torch.equal(v, before[k]) for k, v in t.model.state_dict().items())


@needs8
def test_one_scale_serves_all_channels_in_int8():
    u = noise(256, (3, 32, 32))
    net = build((3, 32, 32), 7, seed=2)
    one, three = (Trainer(net, (0.5,) * n, (0.5,) * n, device="cpu").predict(u, dtype=torch.int8) for n in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize("k", [0, 1, 50, 999, 1000])
@pytest.mark.parametrize("error", [0.0, 0.2, 50.0])
def test_shortlist_is_exact(k, error):
    g = torch.Generator().manual_seed(k)
    true = (torch.randn(1000, generator=g) * 20).round().double() / 20  # many ties
    places, scores, looked = shortlist(true + error * (torch.rand(1000, generator=g) - 0.5),
                                       lambda i: true[i], k, seed=3, margin=64)
    assert torch.equal(places, select(true, k, 3)) and torch.equal(scores, true[places])
    if not error: assert looked <= k + 2 * 64, "exact scores leave nothing in doubt"


def test_remembered_scores_serve_while_nothing_moves_and_not_for_ever():
    g, memory, place, glances = torch.Generator().manual_seed(5), Memory(9000), torch.arange(0, 9000, 2), []
    pool = torch.randn(9000, generator=g).double()

    def ask(step):
        "What a query looked at, after every score moved by up to `step`."
        pool.add_(step * (torch.rand(9000, generator=g) - 0.5))
        seen = len(glances)
        found, scores, looked = memory.best(place, lambda: glances.append(1) or pool[place].clone(),
                                            lambda i: pool[place][i], 100, 7)
        assert (torch.equal(found, select(pool[place], 100, 7)) and torch.equal(scores, pool[place][found])
                and torch.equal(memory.scores[place[found]], scores))
        return len(glances) > seen, looked

    assert [ask(0.01)[0] for _ in range(2)] == [True, True], "nothing to remember, or to compare with"
    quiet = [ask(0.01) for _ in range(2 * TRUST + 2)]
    assert [i for i, (glance, _) in enumerate(quiet) if glance] == [TRUST, 2 * TRUST + 1], \
        "everything is looked at again in time"
    assert max(looked for _, looked in quiet) < 1500
    assert not ask(9.0)[0] and ask(0.01)[0], "a network that jumped is still asked right, and not trusted after"


@needs8
def test_a_run_at_rest_goes_by_what_it_remembers_and_asks_what_float32_asks():
    data, asked, trusted = load("digits"), {}, []
    for precision in ("float32", "int8"):
        learner = Learner(data, "smallest_margin", 3, "resample", device="cpu", precision=precision)
        asked[precision] = []
        for i in range(60):
            trusted.append(learner.memory.trusted)
            asked[precision].append((learner.query(64), learner.asked_scores, learner.asked_guesses))
            learner.teach(asked[precision][-1][0], data.train.labels[asked[precision][-1][0]]); learner.fit()
            if i == 55:
                learner = (Learner(data, "smallest_margin", 3, "resample", device="cpu", precision=precision)
                           .restore(learner.state()))
    assert sum(map(bool, trusted[:60])) == 0 and sum(map(bool, trusted[60:])) > 8 and trusted[60 + 56], \
        "too little was remembered to test it"
    for a, b in zip(*asked.values()):
        for x, y in zip(a, b): assert np.array_equal(x, y)


@needs8
@pytest.mark.parametrize("protocol", ["resample", "pool"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_int8_asks_what_float32_asks(strategy, protocol):
    data, asked = load("digits"), []
    for precision in ("float32", "int8"):
        learner = Learner(data, strategy, 1, protocol, device="cpu", precision=precision)
        asked.append([])
        for _ in range(3):
            i = learner.query(64)
            asked[-1].append((i, learner.asked_scores, learner.asked_guesses))
            learner.teach(i, data.train.labels[i]); learner.fit()
    for a, b in zip(*asked):
        for x, y in zip(a, b): assert (x is None and y is None) or np.array_equal(x, y)


@needs8
def test_auto_draws_up_a_shortlist_where_it_pays_and_asks_the_same():
    n, k = 2500, 64  # over three times 64 + 512
    images, labels = noise(n, (1, 8, 8)), torch.arange(n) % 4
    data, asked = Data("noise", tuple("abcd"), Part(images, labels), Part(images[:8], labels[:8]),
                       Part(images[:8], labels[:8])), {}
    for precision in ("auto", "float32"):
        learner = Learner(data, "entropy", 0, "resample", batch_size=32, learning_rate=0.01, device="cpu",
                          precision=precision)
        asked[precision] = learner.query(k)
        assert hasattr(learner, "looked") == (precision == "auto")
    assert np.array_equal(*asked.values())
    few = Learner(data, "entropy", 0, "resample", batch_size=32, learning_rate=0.01, device="cpu")
    few.query(n // 3)
    assert not hasattr(few, "looked"), "a shortlist as long as the pool"


def test_unknown_layers_are_refused():
    with pytest.raises(TypeError, match="Sigmoid"):
        rows(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Sigmoid()))


@needs
def test_two_learners_that_score_at_once_leave_the_threads_as_they_were(digits):
    before, seen = torch.get_num_threads(), []
    learners, pool = [Learner(digits, device="cpu", seed=i) for i in range(2)], digits.train.images.repeat(3, 1, 1, 1)
    score = lambda l: [l.trainer.predict(pool) for _ in range(15)]
    torch.set_num_threads(2)
    try:
        both = [threading.Thread(target=score, args=(l,)) for l in learners]
        for t in both: t.start()
        for t in both: t.join()
        after = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        after.start(); after.join()
    finally: torch.set_num_threads(before)
    assert seen == [2]
