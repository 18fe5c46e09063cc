"Odd and damaged data: each is handled, or refused by name."
import base64
import io
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import faults
from active_learning.board import picture
from active_learning.data import load
from active_learning.images import read_image
from active_learning.learner import Learner

FILES = int(os.environ.get("FUZZ_FILES", 300))  # damaged files of each kind


@pytest.fixture
def pictures(tmp_path): return faults.album(tmp_path / "pictures")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ramp(low=0, high=255):
    "48 rows of 32, dark above, light below."
    return np.linspace(low, high, 48)[:, None].repeat(32, 1)


def saved(path, image, **kwargs):
    image.save(path, **kwargs)
    return read_image(path).astype(int)


def grey(): return Image.fromarray(ramp().astype(np.uint8))


@pytest.mark.parametrize("name, make, kwargs", [
    ("16-bit.png", lambda: Image.fromarray(ramp(0, 65535).astype(np.uint16)), {}),
    ("16-bit.tif", lambda: Image.fromarray(ramp(0, 65535).astype(np.uint16)), {}),
    ("float.tif", lambda: Image.fromarray(ramp().astype(np.float32)), {}),
    ("32-bit.tif", lambda: Image.fromarray(ramp(0, 65535).astype(np.int32)), {}),
    ("palette.png", lambda: grey().convert("P"), {}),
    ("grey.jpg", grey, {}),
    ("cmyk.jpg", lambda: grey().convert("RGB").convert("CMYK"), {}),
    ("grey-alpha.png", lambda: grey().convert("LA"), {}),
    ("palette.gif", lambda: grey().convert("P"), {}),
])
def test_every_mode_becomes_the_same_picture(name, make, kwargs, tmp_path):
    a = saved(tmp_path / name, make(), **kwargs)
    expected = read_image_of(grey(), tmp_path)
    assert a.shape == (3, 32, 32) and np.abs(a - expected).max() <= 6


def read_image_of(image, folder):
    return saved(folder / "plain.png", image.convert("RGB"))


def test_transparency_lies_on_white(tmp_path):
    clear = np.zeros((48, 32, 4), np.uint8)
    assert (saved(tmp_path / "clear.png", Image.fromarray(clear)) == 255).all()
    p = grey().convert("P"); assert saved(tmp_path / "p.png", p, transparency=bytes(256)).min() == 255


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied(turn, tmp_path):
    upright = ramp().astype(np.uint8)[:32] // 2; upright[:, :8] += 90  # lighter below, a bright band on the left
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
            6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, 3)}[turn]
    image = Image.fromarray(np.ascontiguousarray(undo(upright))); exif = image.getexif(); exif[0x0112] = turn
    a = saved(tmp_path / "turned.png", image, exif=exif)
    assert np.abs(a[0] - upright).max() <= 1


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((12, 12), v, np.uint8)) for v in (10, 200, 90)]
    assert saved(tmp_path / "film.gif", frames[0], save_all=True, append_images=frames[1:]).max() == 10
    assert saved(tmp_path / "film.png", frames[0], save_all=True, append_images=frames[1:]).max() == 10


NAMES = ["with space.png", "ünïcödé 图像.png", "it's \"quoted\".png", "-rf.png", "--help.png", "a,b;c.png",
         "line\nbreak.png", "$HOME `x`.png", "CAPS.PNG", "%s{0}.png"]


def test_odd_file_names(pictures):
    for i, n in enumerate(NAMES): Image.new("RGB", (12, 12), (i, 0, 0)).save(pictures / "a" / n)
    os.link(pictures / "a" / "-rf.png", os.fsencode(pictures / "a") + b"/latin\xe9.png")
    data = load(pictures)
    assert sum(len(p) for p in (data.train, data.val, data.test)) == 60 + len(NAMES) + 1


@pytest.mark.parametrize("name", ["a,b", " a", "a\n", "a\tb"])
def test_class_names_that_parameters_would_tear(name, pictures):
    (pictures / "a").rename(pictures / name)
    with pytest.raises(ValueError, match="rename the folder"): load(pictures)


@pytest.mark.parametrize("name", ["-rf", "it's", 'quo"ted', "ünïcödé 图像", "two words", "NA"])
def test_class_names_that_are_only_odd(name, pictures, tmp_path):
    from active_learning.experiment import run
    from active_learning.results import by_class

    (pictures / "a").rename(pictures / name)
    folders = run(dataset=str(pictures), rounds=1, query_size=8, seeds=0, device="cpu", progress=False,
                  out_dir=str(tmp_path / "runs"))
    assert set(by_class(folders)["class"]) == {name, "b", "c"}


BROKEN = {"zero.png": b"", "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "text.jpg": b"this is text",
          "page.gif": b"<html></html>", "nul.bmp": bytes(500)}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_decode_is_named(name, pictures):
    (pictures / "a" / name).write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=f"{name}.*mend or remove it"): load(pictures)


def test_what_is_not_a_file_is_named(pictures):
    os.mkfifo(pictures / "a" / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png.*not a regular file"): load(pictures)
    (pictures / "a" / "pipe.png").unlink(); (pictures / "a" / "lost.png").symlink_to("nowhere")
    with pytest.raises(OSError, match="lost.png"): load(pictures)


def test_posters_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "poster.png")  # 400 million pixels in a few kilobytes
    with pytest.raises(ValueError, match="poster.png.*pixels"): read_image(tmp_path / "poster.png")


def test_float_pixels_that_are_no_numbers(tmp_path):
    a = np.ones((12, 12), np.float32); a[3, 3] = np.nan; Image.fromarray(a).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="nan.tif.*not numbers"): read_image(tmp_path / "nan.tif")


def test_empty_and_lonely_classes(pictures, tmp_path):
    (pictures / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty'.*fewer than 2"): load(pictures)
    (pictures / "empty").rmdir()
    with pytest.raises(ValueError, match="leaves 1 class"): load(pictures, "a")
    with pytest.raises(ValueError, match="choose from a, b, c"): load(pictures, "a,d")
    (tmp_path / "none" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images"): load(tmp_path / "none")


def test_labels_out_of_range():
    learner = Learner(load("digits", "0,1"), device="cpu")
    for labels in ([2], [-1]):
        with pytest.raises(ValueError, match="outside 0 to 1"): learner.teach([0], labels)
    with pytest.raises(ValueError, match="outside the pool"): learner.teach([10**6], [0])


MAGIC = [b"", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF89a", b"II*\0", b"MM\0*",
         b"RIFF\0\0\0\0WEBPVP8 ", b"BM", b"P5\n", b"P6 9 9 255\n"]


@settings(max_examples=FILES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MAGIC), st.binary(max_size=400))
def test_any_bytes_are_a_picture_or_an_error_that_names_the_file(tmp_path, magic, tail):
    (tmp_path / "any.png").write_bytes(magic + tail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: assert read_image(tmp_path / "any.png").shape == (3, 32, 32)
        except ValueError as e: assert "any.png" in str(e)


def test_thousands_of_damaged_files(tmp_path):
    for r in faults.call("fuzz", {k: FILES for k in faults.READERS}, tmp_path / "fuzz"):
        assert not r["crashed"], r
        assert r["refused"] + r["accepted"] == r["files"] == FILES and r["refused"], r
        assert r["slowest"] < 5, r
        if r["kind"] in ("IDX", "checkpoint", "model"): assert not r["accepted"], r


def shown(path):
    "The pixels of the picture a labeller is sent."
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(path)[0].split(",")[1])))).astype(int)


def spotted(spot):
    "A half grey square with one pixel of another value, to be lost when it is made small."
    a = np.full((320, 320), 0.5, np.float32); a[0, 0] = spot
    return a


@pytest.mark.parametrize("name, pixels, darkest, lightest", [
    ("dark.png", np.full((32, 32), 255, np.uint16), 1, 1), ("dark.tif", np.full((32, 32), 256, np.uint16), 1, 1),
    ("deep.png", ramp(0, 65535).astype(np.uint16), 0, 255), ("deep.tif", ramp(0, 65535).astype(np.int32), 0, 255),
    ("unit.tif", ramp(0, 1).astype(np.float32), 0, 255), ("byte.tif", ramp(0, 255).astype(np.float32), 0, 255),
    ("unit-spot.tif", spotted(1), 128, 128), ("byte-spot.tif", spotted(3), 0, 0),
])
def test_person_and_network_see_the_same_greys(name, pixels, darkest, lightest, tmp_path):
    "A kind of file has one scale, whatever is in the picture and however small it is drawn."
    Image.fromarray(pixels).save(tmp_path / name)
    for a in shown(tmp_path / name), read_image(tmp_path / name).astype(int):
        assert np.abs(np.quantile(a, (0.02, 0.5, 0.98)) - np.linspace(darkest, lightest, 3)).max() <= 8
