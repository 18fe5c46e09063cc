"The measures: properties, a float64 NumPy reference, and agreement with scikit-activeml."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax
from scipy.stats import entropy as scipy_entropy
from skactiveml.pool import uncertainty_scores

from active_learning.measures import (MEASURES, STRATEGIES, entropy, largest_margin, least_confidence,
                                      smallest_margin, uncertainty)
from active_learning.statistics import label_ratio

SIGN = {"largest_margin": -1, "smallest_margin": -1, "least_confidence": 1, "entropy": 1}
LOGITS = st.tuples(st.integers(1, 20), st.integers(2, 12)).flatmap(
    lambda s: arrays(np.float64, s, elements=st.floats(-30, 30, width=32)))


def softmax(z): return np.exp(log_softmax(z, 1))


def reference(p, name):
    "The paper's φ, written once more in NumPy."
    s = -np.sort(-p, 1)
    return {"largest_margin": s[:, 0] - s[:, -1], "smallest_margin": s[:, 0] - s[:, 1],
            "least_confidence": 1 - s[:, 0], "entropy": scipy_entropy(p, axis=1)}[name]


@given(LOGITS)
@settings(deadline=None, max_examples=60)
def test_measures_equal_the_reference_and_stay_in_range(z):
    p = softmax(z)
    c = p.shape[1]
    for name, phi in MEASURES.items():
        v = phi(p)
        assert np.allclose(v, reference(p, name), atol=1e-12)
        top = {"least_confidence": 1 - 1 / c, "entropy": np.log(c)}.get(name, 1)
        assert v.shape == (len(p),) and (v >= -1e-12).all() and (v <= top + 1e-9).all()
        assert np.allclose(phi(torch.as_tensor(p)).numpy(), v)


@given(LOGITS, st.randoms())
@settings(deadline=None, max_examples=40)
def test_uncertainty_is_monotone_in_phi_and_blind_to_the_order_of_classes(z, rnd):
    p, order = softmax(z), list(range(z.shape[1]))
    rnd.shuffle(order)
    for name, phi in MEASURES.items():
        u, v = uncertainty(z, name), SIGN[name] * phi(p)
        higher = v[:, None] > v[None, :] + 1e-9
        assert (u[:, None] > u[None, :])[higher].all()
        assert np.array_equal(u, uncertainty(z[:, order], name))


@given(LOGITS)
@settings(deadline=None, max_examples=40)
def test_relations_of_the_measures(z):
    p = softmax(z)
    c, l, eps = p.shape[1], least_confidence(p), 1e-9
    lm, sm, h = 1 - largest_margin(p), 1 - smallest_margin(p), entropy(p)
    coin = entropy(np.stack([l, 1 - l], 1))
    assert (lm >= l - eps).all() and (lm <= l + l / (c - 1) + eps).all()
    assert (sm >= l * c / (c - 1) - eps).all() and (sm <= np.minimum(2 * l, 1) + eps).all()
    assert (h >= coin - eps).all() and (h <= coin + l * np.log(max(c - 1, 1)) + eps).all()


@pytest.mark.parametrize("name, method", [
    ("least_confidence", "least_confident"), ("smallest_margin", "margin_sampling"), ("entropy", "entropy")])
def test_agreement_with_scikit_activeml(name, method):
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.4), 500)
    theirs = uncertainty_scores(p, method=method)
    ours = MEASURES[name](p)
    assert np.allclose(theirs, 1 - ours if name == "smallest_margin" else ours)


@pytest.mark.parametrize("name", MEASURES)
def test_no_saturation(name):
    "Rows ever surer, far beyond where float32 and even float64 probabilities are exactly 1."
    gap = np.linspace(0, 600, 4000, dtype=np.float32)
    z = np.stack([gap, 0 * gap, -1 + 0 * gap], 1)
    assert (np.diff(uncertainty(z, name)) < 0).all()


def test_two_classes_are_one_ranking_to_the_last_bit():
    z = np.random.default_rng(1).normal(scale=[[1e-6]] * 500 + [[20]] * 500, size=(1000, 2))
    assert all(np.array_equal(uncertainty(z, m), uncertainty(z, "entropy")) for m in MEASURES)


@pytest.mark.parametrize("phi", MEASURES.values(), ids=list(MEASURES))
@pytest.mark.parametrize("bad, says", [
    ([[0.5, 0.5], [np.nan, 1]], "row 1"), ([[0.5, 0.5], [0.5, 0.5], [1.2, -0.2]], "row 2"),
    ([[0.5, 0.4]], "row 0"), ([[0.5, 0.502]], "row 0"), ([[1.0], [1.0]], "row 0"),
    ([0.5, 0.5], "rank 2"), ([[[0.5, 0.5]]], "rank 2")])
def test_bad_rows_are_named(phi, bad, says):
    for kind in (np.array, torch.tensor):
        with pytest.raises(ValueError, match=says): phi(kind(bad))


def test_a_row_within_tolerance_is_taken_as_it_is():
    assert largest_margin(np.array([[0.5, 0.4995]]))[0] == pytest.approx(0.0005)


def test_kinds_and_types():
    p = torch.tensor([[0.25, 0.75]])
    assert entropy(p).dtype == torch.float32 and entropy(p.double()).dtype == torch.float64
    assert isinstance(entropy(p.numpy()), np.ndarray) and entropy(np.zeros((0, 3))).shape == (0,)
    assert entropy(np.array([[1.0, 0.0]]))[0] == 0


def test_unknown_names_and_bad_logits():
    with pytest.raises(ValueError, match="largest_margin, smallest_margin"): uncertainty(np.zeros((2, 3)), "random")
    with pytest.raises(ValueError, match="row 1"): uncertainty(np.array([[0, 1.0], [np.inf, 0]]), "entropy")
    assert STRATEGIES == ("random", "largest_margin", "smallest_margin", "least_confidence", "entropy")


def test_no_ratio_of_labels_where_none_are_needed():
    rows = [(s, seed, n, a) for s in ("random", "entropy") for seed, first in ((0, 0.1), (1, 0.6))
            for n, a in ((0, first), (10, 0.9))]
    frame = pd.DataFrame(rows, columns=["strategy", "seed", "labels", "test_accuracy"])
    ratio = label_ratio(frame, "entropy", target=0.5)
    assert ratio[0] == 1 and np.isnan(ratio[1])


@pytest.mark.parametrize("view", [lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p.astype(">f8"),
                                  lambda p: p.astype(">f4"), lambda p: np.asfortranarray(p)[::2, ::-1]])
@pytest.mark.parametrize("name", MEASURES)
def test_arrays_may_lie_in_memory_in_any_way(name, view):
    p = view(np.array([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125], [1.0, 0, 0]]))
    plain = np.array(p.tolist(), p.dtype.newbyteorder("="))
    assert np.array_equal(MEASURES[name](p), MEASURES[name](plain)) and MEASURES[name](p).dtype == plain.dtype
    assert np.array_equal(uncertainty(p, name), uncertainty(plain, name))


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("name", MEASURES)
def test_logits_as_large_as_numbers_go(name, columns):
    z = np.array([[1e308, -1e308, -1e308], [1.0, 0, 0], [0.0, 0, 0]])[:, :columns]
    u = uncertainty(z, name)
    assert np.isfinite(u).all() and u[0] < u[1] < u[2]
