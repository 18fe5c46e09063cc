"Data: layouts, caches, and everything that can be wrong with a folder of images."
import numpy as np
import pytest
import torch
from PIL import Image

from active_learning.data import checksum, load
from active_learning.folder import survey
from active_learning.learner import paper_values
from active_learning.splits import split

COLOURS = {"dark": 20, "light": 220}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    "Each test decodes into a cache of its own."
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("ACTIVE_LEARNING_DATA", raising=False)
    return cache


def make(root, n=10, size=(24, 24), classes=COLOURS):
    "A folder of plain images, one folder a class."
    for name, grey in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n): Image.new("RGB", size, (grey, grey + i, 9 * i)).save(root / name / f"{i}.png")
    return root


def test_class_folders_are_split_by_a_seed(tmp_path):
    a, b = load(make(tmp_path / "a")), load(make(tmp_path / "b"))
    assert a.classes == ("dark", "light") and a.train.images.dtype == torch.uint8 and a.shape == (3, 32, 32)
    assert (len(a.train) + len(a.val), len(a.test)) == (16, 4)
    files = [f for part in (a.train, a.val, a.test) for f in part.files]
    assert len(files) == len({*files}) == 20
    assert checksum(a) == checksum(b)


@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "Test"), ("training", "testing"),
                                         ("TRAIN", "Test"), ("Train", "Test"), ("training", "TEST"),
                                         ("TRAIN", "test"), ("training", "Test")])
def test_a_split_of_its_own(tmp_path, train, test):
    make(tmp_path / train), make(tmp_path / test, n=3)
    data, seen = load(tmp_path), survey(tmp_path).data
    assert data.classes == seen.classes == ("dark", "light") and len(data.test) == len(seen.test) == 6
    assert len(data.train) + len(data.val) == len(seen.train) == 20


def test_a_person_is_not_asked_for_what_a_validation_folder_tells(tmp_path):
    for name in ("train", "Test", "Validation"): make(tmp_path / name, n=3)
    seen = survey(tmp_path).data
    assert (seen.train.labels >= 0).all() and len(seen.train) == 12 and len(seen.test) == 6


@pytest.mark.parametrize("name", ["train", "Test", "val"])
def test_a_class_named_by_the_person_may_be_called_like_a_split(tmp_path, name):
    seen = survey(make(tmp_path, n=3, classes={name: 20, "car": 220}), f"{name}, car").data
    assert seen.train.labels.tolist() == [int(f.startswith("car")) for f in seen.train.files] and len(seen.train) == 6


def test_unlabelled_is_a_pool_for_a_human(tmp_path):
    make(tmp_path)
    (tmp_path / "unlabelled").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "unlabelled/what is it.png")
    data = load(tmp_path)
    assert (data.unlabelled.files == ("unlabelled/what is it.png",)
            and data.unlabelled.labels.tolist() == [-1] and data.classes == ("dark", "light"))


def test_one_image_of_each_class_is_enough_to_test_on(tmp_path):
    make(tmp_path / "train"), make(tmp_path / "test", n=1)
    assert len(load(tmp_path).test) == 2
    (tmp_path / "test/dark/0.png").unlink()
    with pytest.raises(ValueError, match="'dark' in .*test has no images"): load(tmp_path)


@pytest.mark.parametrize("names", [("Train", "Val"), ("train", "validation")])
def test_a_validation_folder_is_no_class(tmp_path, names):
    for name in names: make(tmp_path / name)
    with pytest.raises(ValueError, match=f"{names[0]}/ and {names[1]}/.*it needs train/ and test/"): load(tmp_path)
    make(tmp_path / "Test")
    with pytest.warns(UserWarning, match=f"{names[1]}/ is not read"): data = load(tmp_path)
    assert data.classes == ("dark", "light") and len(data.train) + len(data.val) == len(data.test) == 20


def test_classes_may_have_the_name_of_a_validation_folder(tmp_path):
    assert load(make(tmp_path, classes={"Bob": 20, "Val": 220})).classes == ("Bob", "Val")


def test_unlabelled_in_any_case(tmp_path):
    make(tmp_path), make(tmp_path / "Unlabelled")
    data = load(tmp_path)
    assert (data.classes, len(data.unlabelled)) == (("dark", "light"), 20)
    assert all((tmp_path / f).is_file() for f in data.unlabelled.files)


def test_classes_that_are_left_out_may_be_in_any_state(tmp_path):
    make(tmp_path / "own", classes={**COLOURS, "a": 90, "b": 140})
    whole = load(tmp_path / "own", "b,dark")
    for f in list((tmp_path / "own/a").iterdir())[1:]: f.unlink()
    (tmp_path / "own/light/broken.png").write_bytes(b"")
    assert checksum(load(tmp_path / "own", "b,dark")) == checksum(whole)
    with pytest.raises(ValueError, match="choose from a, b, dark, light"): load(tmp_path / "own", "dark,c")
    with pytest.raises(ValueError, match="'a'.*fewer than 2"): load(tmp_path / "own", "a,dark")
    make(tmp_path / "two/train", classes={**COLOURS, "a": 90}), make(tmp_path / "two/test")
    assert load(tmp_path / "two", "dark,light").classes == ("dark", "light")
    with pytest.raises(ValueError, match="'a' is in only one of train/ and test/"): load(tmp_path / "two")


def test_links_inside_a_class_are_not_followed_and_said_so(tmp_path):
    make(tmp_path / "elsewhere"), make(tmp_path / "own")
    (tmp_path / "own/dark/more").symlink_to(tmp_path / "elsewhere/dark")
    with pytest.warns(UserWarning, match="dark/more.*is a link to a folder.*not followed"):
        data = load(tmp_path / "own")
    assert len(data.train) + len(data.val) + len(data.test) == 20


def test_the_order_of_files_on_disk_does_not_matter(tmp_path):
    a = make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in ("light", "dark"):
        (tmp_path / "b" / name).mkdir()
        for f in sorted((a / name).iterdir(), reverse=True):
            (tmp_path / "b" / name / f.name).write_bytes(f.read_bytes())
    assert checksum(load(a)) == checksum(load(tmp_path / "b"))


def test_a_changed_image_is_decoded_again(tmp_path):
    before = checksum(load(make(tmp_path)))
    Image.new("RGB", (24, 24), (1, 2, 3)).save(tmp_path / "dark/0.png")
    assert checksum(load(tmp_path)) != before


def test_nothing_is_written_beside_the_data(tmp_path, own_cache):
    root = make(tmp_path / "data")
    before = sorted(root.rglob("*"))
    load(root)
    assert sorted(root.rglob("*")) == before and list(own_cache.rglob("*.npy"))


def test_several_sizes_are_resized_and_said_so(tmp_path):
    make(tmp_path)
    Image.new("RGB", (99, 40)).save(tmp_path / "dark/wide.png")
    with pytest.warns(UserWarning, match="2 sizes.*32×32"): load(tmp_path)


@pytest.mark.parametrize("spoil, says", [
    (lambda r: (r / "dark/x.png").write_bytes(b""), r"dark/x\.png' cannot be read"),
    (lambda r: (r / "dark/x.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture"), r"x\.jpg' cannot be read"),
    (lambda r: [f.unlink() for f in (r / "dark").iterdir()], "'dark'.*fewer than 2"),
    (lambda r: [f.rename(f.with_suffix(".txt")) for f in list(r.rglob("*.png"))], "no images"),
    (lambda r: (r / "light").rename(r.parent / "gone"), "one class only, 'dark'"),
])
def test_bad_folders_are_refused_by_name(tmp_path, spoil, says):
    root = make(tmp_path / "data")
    spoil(root)
    with pytest.raises(ValueError, match=says): load(root)


def test_missing_data_say_where_they_were_looked_for(tmp_path, monkeypatch):
    import urllib.error
    import urllib.request

    def offline(*_, **__): raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name, folder in (("mnist", "MNIST/raw"), ("fruits360", "fruits-360")):
        with pytest.raises(FileNotFoundError, match=f"(?s){tmp_path}/{folder}.*ACTIVE_LEARNING_DATA"):
            load(name, root=tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_classes_by_name():
    for classes in ("3,5", ["5", "3"], "5, 3"): assert load("digits", classes).classes == ("3", "5")
    for bad in ("3,x", "x"):
        with pytest.raises(ValueError, match="'x'.*0, 1, 2"): load("digits", bad)
    with pytest.raises(ValueError, match="at least two"): load("digits", "3")


def test_validation_and_test_are_apart_and_stratified(digits):
    rows = {p: {r.numpy().tobytes() for r in getattr(digits, p).images} for p in ("train", "val", "test")}
    assert len(rows["train"] & rows["val"]) == len(rows["train"] & rows["test"]) == 0
    assert torch.bincount(digits.val.labels).min() >= 6 and torch.bincount(digits.test.labels).min() >= 40


def test_every_class_keeps_an_image_on_both_sides():
    kept, cut = split([0, 0, 1, 1, 1], 0.01)
    assert sorted(np.concatenate([kept, cut])) == list(range(5)) and len(cut) == 2


@pytest.mark.parametrize("name", ["mnist", "digits", "fruits360"])
def test_a_folder_that_bears_a_name_of_the_paper_is_still_a_folder(name, tmp_path):
    for c in "ab":
        (tmp_path / name / c).mkdir(parents=True)
        for i in range(20): Image.new("L", (8, 8), 100 * (c == "a") + i).save(tmp_path / name / c / f"{i}.png")
    for data in (load(tmp_path / name), survey(tmp_path / name).data):
        assert data.name == name and paper_values(data)["rounds"] == 20 and paper_values(data)["query_size"] == 2
