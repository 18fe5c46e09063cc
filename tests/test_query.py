"Selection: equal to sorting, fair to ties, mergeable."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active_learning.experiment import run
from active_learning.query import TopK, draw, priority, select, select_batches

SCORES = st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, 7.0, np.inf, -np.inf]), min_size=1, max_size=80).map(np.array)


def by_sorting(s, k, seed):
    "The same answer, by sorting everything."
    place = priority(np.arange(len(s)), seed)
    return sorted(range(len(s)), key=lambda i: (-s[i], place[i]))[:k]


@given(SCORES, st.data())
@settings(deadline=None, max_examples=150)
def test_select_equals_sorting_ties_included(s, data):
    k, seed = data.draw(st.integers(0, len(s))), data.draw(st.integers(0, 9))
    assert select(s, k, seed).tolist() == by_sorting(s, k, seed)
    assert select(torch.as_tensor(s), k, seed).tolist() == by_sorting(s, k, seed)


@given(SCORES, st.data())
@settings(deadline=None, max_examples=150)
def test_pieces_in_any_order_equal_the_whole(s, data):
    k, seed = data.draw(st.integers(0, len(s))), data.draw(st.integers(0, 9))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(s)), max_size=4))), len(s)]
    parts = [TopK(k, seed).update(s[a:b], a) for a, b in zip(cuts, cuts[1:])]
    whole = TopK(k, seed)
    for part in data.draw(st.permutations(parts)): whole.merge(part)
    assert whole.indices.tolist() == by_sorting(s, k, seed)


def test_ties_do_not_favour_an_index():
    "A pool sorted by class, all scores equal: each half gets half, over seeds."
    first = np.mean([(select(np.zeros(1000), 100, seed) < 500).mean() for seed in range(200)])
    assert abs(first - 0.5) < 0.02
    assert len({tuple(select(np.zeros(50), 5, seed)) for seed in range(20)}) == 20


def test_draw_is_uniform_and_without_repetition():
    counts = np.bincount(np.concatenate([draw(40, 10, s) for s in range(2000)]), minlength=40)
    assert counts.sum() == 20_000 and abs(counts / 500 - 1).max() < 0.2
    assert all(len(set(draw(40, 40, s))) == 40 for s in range(5))


def test_batches_are_whole_and_ranked_by_their_mean():
    s = np.random.default_rng(0).normal(size=1000)
    got = select_batches(s, 96, 32, seed=1).reshape(3, 32)
    means = s[got].mean(1)
    assert len(set(got.ravel())) == 96 and (np.diff(means) <= 0).all() and means[-1] > s.mean()


@pytest.mark.parametrize("k", [-1, 11, 2.5, True])
def test_k_outside_the_pool(k):
    with pytest.raises(ValueError, match="0 to 10"): select(np.zeros(10), k)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="index 2"): select(np.array([1, 2, np.nan]), 1)


def test_a_pool_that_ends_in_a_short_batch(pair, tmp_path):
    (f,) = run(progress=False, data=pair, protocol="pool", granularity="batch", query_size=30, batch_size=30,
               rounds=10**6, evaluate_every=10**6, seeds=0, out_dir=str(tmp_path))
    asked, left = np.load(f / "queries.npy"), (len(pair.train) - 30) % 30
    assert 0 < left == (asked[-1] >= 0).sum() and (f / "model.pt").exists()
    assert len(set(asked[asked >= 0])) == len(pair.train) - 30  # all but the first, which were drawn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_scores_of_any_number_format(dtype):
    assert select(torch.tensor([1, 3, 2], dtype=dtype), 2).tolist() == [1, 2]


def test_nothing_asked_for_is_nothing_chosen():
    scores = np.arange(5.0)
    for none in (select(scores, 0), select_batches(scores, 0, 8), draw(0, 0)):
        assert none.tolist() == [] and none.dtype == np.int64
    with pytest.raises(ValueError, match="batch_size = 8: choose 1 to 4"): select_batches(scores, 4, 8)
