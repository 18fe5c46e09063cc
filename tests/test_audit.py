"""The audit's switches: each does what its fact says and touches nothing else. Bundled digits only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from active_learning.audit import ASK, TEXT, Facts, binary_panel, chosen, needed, plotted_epochs, plotted_loss, without
from active_learning.audit_coded import MnistRun, thinned
from active_learning.audit_fruits import FruitsRun, window
from active_learning.audit_noise import means_of_three, power, runs_needed, share_apart, share_interval
from active_learning.audit_runs import complete
from active_learning.measures import STRATEGIES

PUBLISHED = Path(__file__).parents[1] / "figures" / "results" / "published_curves.csv"
FRUIT = dict(size=8, pad=1)
F, G = [f"F{i}" for i in range(1, 8)], [f"G{i}" for i in range(1, 6)]


def train(kind, data, strategy, facts=Facts(), seed=0, epochs=3, **recipe):
    run = kind(data, strategy, facts, seed,
               **{"batch": 32, "keep": 5, **(FRUIT if kind is FruitsRun else {}), **recipe})
    run.batches = [run.epoch() for _ in range(epochs)]
    return run


def state(run): return torch.cat([v.double().flatten() for v in run.trainer.model.state_dict().values()])


@pytest.mark.parametrize("seed", range(3))
def test_three_mnist_arms_are_one(digits, seed):
    w = {s: state(train(MnistRun, digits, s, seed=seed)) for s in STRATEGIES}
    assert torch.equal(w["random"], w["largest_margin"]) and torch.equal(w["random"], w["smallest_margin"])
    assert not torch.equal(w["random"], w["least_confidence"]) and not torch.equal(w["random"], w["entropy"])


def test_without_f2_the_margins_leave_random(digits):
    w = {s: state(train(MnistRun, digits, s, without("F2"))) for s in ("random", "largest_margin", "smallest_margin")}
    assert not torch.equal(w["random"], w["largest_margin"]) and not torch.equal(w["random"], w["smallest_margin"])


def test_different_seeds_differ(digits):
    assert not torch.equal(state(train(MnistRun, digits, "random", seed=0)),
                           state(train(MnistRun, digits, "random", seed=1)))


@pytest.mark.parametrize("kind, strategy, expected", [
    (MnistRun, "random", {"F1", "F3"}),
    (MnistRun, "largest_margin", {"F1", "F2", "F3"}), (MnistRun, "smallest_margin", {"F1", "F2", "F3"}),
    (MnistRun, "least_confidence", {"F1", "F2", "F3", "F4"}), (MnistRun, "entropy", {"F1", "F2", "F3", "F4"}),
    (FruitsRun, "random", {"G1", "G3", "G4"}),
    (FruitsRun, "largest_margin", {"G1", "G2", "G4"}), (FruitsRun, "entropy", {"G1", "G2", "G4"}),
])
def test_each_switch_touches_what_it_should(digits, kind, strategy, expected):
    coded = state(train(kind, digits, strategy))
    assert {f for f in F + G if not torch.equal(coded, state(train(kind, digits, strategy, without(f))))} == expected


@pytest.mark.parametrize("kind, strategy, expected", [
    (MnistRun, "random", {"F3": {"loss"}, "F4": {"loss", "accuracy"}}),
    (MnistRun, "entropy", {"F3": {"loss"}, "F4": {"loss", "accuracy"}}),
    (FruitsRun, "random", {"G1": {"loss", "accuracy"}, "G5": {"loss", "accuracy"}}),
    (FruitsRun, "entropy", {"G1": {"loss", "accuracy"}, "G5": {"loss", "accuracy"}}),
])
def test_each_switch_changes_these_figures_of_one_network(digits, kind, strategy, expected):
    run, found = train(kind, digits, strategy), {}
    coded = run.evaluate()
    for f in F + G:
        run.facts = without(f)
        changed = {k for k, v in run.evaluate().items() if v != coded[k] and not k.startswith("class_")}
        if changed: found[f] = changed
    assert found == expected


@pytest.mark.parametrize("off", F + G)
def test_each_switch_changes_these_plots(off):
    losses, ten, two = (np.full((3, 2), -0.5), pd.DataFrame(dict(class_0=[1], class_1=[1])),
                        pd.DataFrame(dict(class_0=[2], class_1=[2])))
    def drawn(facts):
        return (plotted_epochs(range(0, 341, 20), "entropy", facts), plotted_loss(losses, facts).tolist(),
                binary_panel(ten, two, facts).values.tolist())
    changed = [a != b for a, b in zip(drawn(Facts()), drawn(without(off)))]
    assert changed == [off == f for f in ("F5", "F6", "F7")]


def test_f1_trains_one_batch(digits):
    assert [len(b) for b in train(MnistRun, digits, "entropy").batches] == [1] * 3
    assert [len(b) for b in train(MnistRun, digits, "entropy", without("F1")).batches] == [5] * 3


@pytest.mark.parametrize("strategy", ASK)
def test_f2_is_the_loop_over_keys(strategy):
    rng, keep = np.random.default_rng(0), 5
    for ask in rng.random((30, 23)):
        slots = {i: i for i in range(keep)}
        for b in range(keep, len(ask)):
            worst = max(slots) if "margin" in strategy else min(slots)
            if ask[b] > ask[slots[worst]]: slots[worst] = b
        assert chosen(ask, keep, strategy, True).tolist() == list(slots.values())
        assert chosen(ask, keep, strategy, False).tolist() == np.argsort(-ask)[:keep].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("facts", [Facts(), without("F1"), without("F2"), TEXT])
def test_only_needed_scores_matter(strategy, facts):
    rng, keep, n = np.random.default_rng(1), 4, 15
    for ask in rng.random((20, n)):
        blind = np.full(n, np.nan)
        todo = needed(n, keep, strategy, facts)
        blind[todo] = ask[todo]
        trained = 1 if facts.F1 else keep
        assert (chosen(ask, keep, strategy, facts.F2)[:trained].tolist()
                == chosen(blind, keep, strategy, facts.F2)[:trained].tolist())


def test_f3_kills_a_class_and_cross_entropy_does_not(digits):
    def worst(facts):
        found = []
        for seed in range(DEAD_SEEDS):
            e = train(MnistRun, digits, "random", facts, seed, **DEAD).evaluate()
            found.append(min(v for k, v in e.items() if k.startswith("class_")))
        return found
    assert min(worst(Facts())) == 0
    assert min(worst(without("F3"))) > 0.2


DEAD, DEAD_SEEDS = dict(epochs=250, batch=32, learning_rate=0.03), 2


def test_f3_loss_and_its_vanishing_gradient(digits):
    for facts, expected in ((Facts(), 0.0), (without("F3"), -1.0)):
        z = torch.tensor([[30.0, 0.0]], requires_grad=True)
        MnistRun(digits, "random", facts).loss(z, torch.tensor([1])).backward()
        assert z.grad[0, 1].item() == pytest.approx(expected, abs=1e-6)


def test_f4_tests_with_dropout(digits):
    run = train(MnistRun, digits, "random")
    def twice(facts):
        run.facts, out = facts, []
        for run.t in (3, 4): out.append(run.evaluate()["loss"])
        return out
    assert len(set(twice(Facts()))) == 2 and len(set(twice(without("F4")))) == 1


def test_thin_needs_f1_and_is_a_pass_of_random_batches(digits):
    with pytest.raises(ValueError, match="thin = 100"): train(MnistRun, digits, "entropy", without("F1"), thin=100)
    run = MnistRun(digits, "entropy", batch=32, keep=5, thin=100)
    order, scores = run.scored()
    assert ([len(b) for b in order] == [len(b) for b in run.shuffle("order", len(run.pool))]
            and len(torch.cat(order).unique()) <= 100)
    assert (all(len(b.unique()) == len(b) for b in order) and np.isnan(scores[1:5]).all()
            and np.isfinite(np.r_[scores[0], scores[5:]]).all())


def test_thinned_passes_pick_as_the_formula_says(digits):
    run = MnistRun(digits, "entropy", batch=16, keep=5, thin=64)
    before = state(run)
    found = thinned(run, 150).groupby("kind").lift.mean()
    assert found["thinned"] / found["whole"] == pytest.approx((1 - 15 / 63) ** 0.5, abs=0.06)
    assert run.t == 0 and torch.equal(before, state(run))


@pytest.mark.parametrize("strategy", ASK)
def test_g2_trains_on_random_batches(digits, strategy):
    coded, true = train(FruitsRun, digits, strategy), train(FruitsRun, digits, strategy, without("G1", "G2"))
    for t, batches in enumerate(coded.batches):
        coded.t = t
        assert all(torch.equal(a, b) for a, b in zip(batches, coded.shuffle("train", len(coded.pool))))
    for t, batches in enumerate(true.batches):
        true.t = t
        cut = [tuple(b.tolist()) for b in true.shuffle("score", len(true.pool))]
        assert all(tuple(b.tolist()) in cut for b in batches)


def test_random_trains_on_random_batches_too(digits):
    run = train(FruitsRun, digits, "random")
    for run.t, batches in enumerate(run.batches):
        cut = run.shuffle("train", len(run.pool))
        assert all(torch.equal(b, cut[i]) for b, i in zip(batches, run.drawn(len(cut), run.keep)))


def test_all_fruits_measures_are_one_arm(digits):
    w = {s: state(train(FruitsRun, digits, s)) for s in ASK}
    assert all(torch.equal(v, w["entropy"]) for v in w.values())
    assert not torch.equal(w["entropy"], state(train(FruitsRun, digits, "random")))
    bare = without("G3", "G4")
    assert torch.equal(state(train(FruitsRun, digits, "entropy", bare)),
                       state(train(FruitsRun, digits, "random", bare)))


def test_g1_normalises_over_the_batch_and_entropy_is_nan(digits):
    z = torch.randn(4, 3)
    assert torch.allclose(FruitsRun(digits, "random", size=8).output(z).exp().sum(0), torch.ones(3))
    assert torch.allclose(FruitsRun(digits, "random", without("G1"), size=8).output(z).exp().sum(1), torch.ones(4))
    assert ASK["entropy"](z.log_softmax(0)).isnan().all()


def test_g3_repeats_batches(digits):
    def repeats(facts):
        return [len({tuple(b.tolist()) for b in e}) < len(e)
                for e in train(FruitsRun, digits, "random", facts, epochs=6, keep=20).batches]
    assert any(repeats(Facts())) and not any(repeats(without("G3")))


def counted(run):
    return [int(v) for k, v in run.trainer.model.state_dict().items() if k.endswith("num_batches_tracked")]


def test_g4_moves_and_freezes_batch_norm(digits):
    passes = len(FruitsRun(digits, "random", batch=32, **FRUIT).shuffle("score", len(digits.train) + len(digits.val)))
    for epochs in (1, 3):
        assert set(counted(train(FruitsRun, digits, "random", epochs=epochs))) == {5}
        assert set(counted(train(FruitsRun, digits, "entropy", epochs=epochs))) == {5 + passes}
        assert set(counted(train(FruitsRun, digits, "entropy", without("G4"), epochs=epochs))) == {5 * epochs}


def test_g5_crops_the_test_images(digits):
    run, index = train(FruitsRun, digits, "random", size=6), torch.arange(20)
    first, middle = run.pixels(run.test, index, "test", 0), window(run.test.images, index, 6, 1, at_random=False)
    assert not torch.equal(first, run.trainer.floats(middle))
    run.facts = without("G5")
    assert torch.equal(run.pixels(run.test, index, "test", 0), run.trainer.floats(middle))


def test_window_is_a_part_of_the_image_or_black():
    images = torch.arange(1, 101, dtype=torch.uint8).view(1, 1, 10, 10)
    torch.manual_seed(0)
    for cut in window(images.repeat(200, 1, 1, 1), torch.arange(200), 6, 2):
        v = cut[0].int()
        inside = v[v.any(1)][:, v.any(0)]
        assert inside.shape[0] >= 4 and inside.shape[1] >= 4
        assert (inside.diff(dim=0) == 10).all() and inside.diff(dim=1).unique().tolist() in ([1], [-1])


def test_f5_as_in_the_published_panels():
    epochs = list(range(0, 341, 20))
    assert (plotted_epochs(epochs, "random")[:4] == [0, 20, 200, 40]
            and plotted_epochs(epochs, "largest_margin")[:3] == [0, 200, 20])
    assert plotted_epochs(epochs, "random", without("F5")) == epochs
    d = pd.read_csv(PUBLISHED)
    for figure, strategy in {"fig_7_3": "smallest_margin", "fig_7_4": "random", "fig_7_5": "least_confidence",
                             "fig_9_2": "entropy", "fig_9_3": "largest_margin"}.items():
        panel = d[d.figure == figure].pivot_table(index="epoch", columns="class", values="value")
        shown = plotted_epochs(epochs, strategy)
        one, two = (panel.iloc[i] for i, e in enumerate(shown) if e == 200)
        assert len(panel) == len(shown) and (one - two).abs().median() < 0.001


def test_f6_and_f7_as_in_the_published_values():
    d = pd.read_csv(PUBLISHED)
    low = d[d.figure == "fig_7_2"].value.max() / plotted_loss(np.full((3, 1), -0.1))[0]
    assert low == pytest.approx(1, abs=0.05)  # before training p is 1/10
    assert plotted_loss(np.full((3, 1), -0.1), without("F6")) == pytest.approx(-0.1)
    ten, two = (d[d.figure == f].pivot_table(index="epoch", columns="class", values="value").add_prefix("class_")
                for f in ("fig_7_4", "fig_7_10"))
    ten.columns, two.columns = [c.removesuffix(".0") for c in ten], [c.removesuffix(".0") for c in two]
    assert (binary_panel(ten, two) - two).abs().max().max() < 0.02
    assert binary_panel(ten, two, without("F7")).equals(two)


def test_a_run_that_stopped_goes_on_as_if_it_had_not(digits, tmp_path):
    class Stops(MnistRun):
        def epoch(self):
            if self.t == 5: raise KeyboardInterrupt
            return super().epoch()
    when = dict(epochs=6, every=2, images=100)
    whole = complete(MnistRun(digits, "entropy", batch=32), tmp_path / "whole.csv", **when)
    with pytest.raises(KeyboardInterrupt): complete(Stops(digits, "entropy", batch=32), tmp_path / "parts.csv", **when)
    assert not (tmp_path / "parts.csv").exists()
    parts = complete(MnistRun(digits, "entropy", batch=32), tmp_path / "parts.csv", **when)
    pd.testing.assert_frame_equal(whole, parts)
    assert (not list(tmp_path.glob("*.pt"))
            and complete(MnistRun(digits, "entropy"), tmp_path / "parts.csv", **when).equals(
                pd.read_csv(tmp_path / "parts.csv")))


def test_unknown_names_are_refused(digits):
    with pytest.raises(ValueError, match="random, largest_margin"): MnistRun(digits, "margin")
    with pytest.raises(TypeError, match="F8"): without("F8")


def test_means_of_three_are_all_of_them():
    assert sorted(means_of_three([[0.0], [3.0], [6.0], [9.0]]).ravel()) == [3, 4, 5, 6]
    assert means_of_three([[1.0, 2.0]]).tolist() == [[1, 2]]


def test_noise_floor_of_known_runs():
    two = [0, 0, 0, 12, 12, 12]  # of the ten ways to part them into threes one differs by 12, nine by 4
    assert (share_apart(two, 12) == pytest.approx(1 / 10, abs=0.03) and share_apart(two, 3.9) == 1
            and share_apart(two, 4.1) == pytest.approx(1 / 10, abs=0.03))
    low, high = share_interval(two, 12, times=50)
    assert 0 <= low < 0.1 < high <= 1
    with pytest.raises(ValueError, match="5 runs"): share_apart([1, 2, 3, 4, 5], 1)


def test_power_grows_with_runs_and_is_found_again():
    values = np.linspace(-2, 2, 21)
    assert power(values, 0, 10) < 0.08 < power(values, 1.5, 5) < power(values, 1.5, 20)
    n = runs_needed(values, 1.5)
    assert power(values, 1.5, n) >= 0.8 > power(values, 1.5, n - 1) and runs_needed(values, 0.01) == np.inf
