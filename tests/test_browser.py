"JupyterLab and Voilà as a person sees them: mouse, keys, a killed kernel, hostile names."
import os
import re
from pathlib import Path

import pytest

import lab as browser

if browser.MISSING: pytest.skip(browser.MISSING, allow_module_level=True)
for module in ("jupyterlab", "ipywidgets", "anywidget", "papermill", "selenium"): pytest.importorskip(module)

import papermill
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains

from active_learning.answers import read_log, standing
from active_learning.experiment import run
from active_learning.folder import demo_folder
from lab import HOME, all_of, free_port, kill_kernel, run_all, serve, stop

HOSTILE = "<img src=x onerror=window.hurt=1>"
SHOTS = os.environ.get("SCREENSHOTS")  # a folder to keep pictures in


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A folder with images to label, two finished runs and the two notebooks."
    root = tmp_path_factory.mktemp("lab")
    demo_folder(root / "pictures", 60)
    (root / "pictures" / "torn.png").write_bytes(b"\x89PNG torn")
    for s in ("random", "entropy"):
        run(progress=False, dataset="digits", classes="0,1,7", strategy=s, protocol="pool", rounds=3,
            query_size=20, initial_size=20, seeds=0, out_dir=str(root / "runs"))
    settings = dict(folder="pictures", classes=f"zero,one,two,{HOSTILE}", labeller="ana", start=4, step=4,
                    epochs=2, check_every=0)
    for name, parameters in (("label", {**settings, "grid": 4}), ("explore", dict(runs="runs"))):
        papermill.execute_notebook(str(HOME / "nbs" / f"{name}.ipynb"), str(root / f"{name}.ipynb"), parameters,
                                   prepare_only=True, progress_bar=False)
    return root


@pytest.fixture(scope="module")
def lab(root):
    with browser.lab(root) as address: yield address


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("chrome")) as page: yield page


def until(page, what, seconds=90):
    "Wait; what the page showed when it was too long is kept."
    try: return browser.until(page, what, seconds)
    except TimeoutException: shot(page, "timeout"); raise


def shot(page, name): SHOTS and page.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def answers(root, who="ana"): return standing(read_log(root / "pictures" / f"labels-{who}.csv"))


def grow(page, root, act, by=1, who="ana"):
    "Do something, and wait for the log and for a page that can take the next answer."
    before = len(answers(root, who))
    act()
    until(page, lambda p: len(answers(root, who)) == before + by)
    until(page, lambda p: all_of(p, ".al-tile:not(.al-done)"))


def press(page, key):
    page.execute_script("document.querySelector('.al-board').focus({preventScroll: true})")
    ActionChains(page).send_keys(key).perform()


def test_label_ten_images_across_a_killed_kernel(page, lab, root):
    run_all(page, lab, "label")
    until(page, lambda p: all_of(p, "button.al-label"))
    assert HOSTILE in all_of(page, "button.al-label")[3].text, "a hostile class name is text"
    for choice in (0, 1, 2, 3): grow(page, root, lambda: all_of(page, "button.al-label")[choice].click())
    for key in "123": grow(page, root, lambda: press(page, key))
    last = list(answers(root))[-1]
    grow(page, root, lambda: press(page, "u"), by=-1)
    assert last not in answers(root)
    until(page, lambda p: last in all_of(p, ".al-name")[0].text)
    until(page, lambda p: "%" in all_of(p, ".al-guess")[0].text)  # trained in the background
    shot(page, "labeller")
    said = lambda: "".join(g.text for g in all_of(page, ".al-guess"))
    press(page, "g"); until(page, lambda p: not said())
    press(page, "g"); until(page, lambda p: "%" in said())
    kept = list(answers(root))

    kill_kernel(lab)
    run_all(page, lab, "label")
    until(page, lambda p: all_of(p, "button.al-label") and "6 labels given" in p.page_source)
    assert list(answers(root)) == kept
    for key in "1234": grow(page, root, lambda: press(page, key))
    assert ([r["label"] for r in answers(root).values()][-4:] == ["zero", "one", "two", HOSTILE]
            and len(answers(root)) == 10)
    cells = page.execute_script("return jupyterapp.shell.currentWidget.content.model.cells.length")
    for key in ("n", "s", "b", "d", "d"): press(page, key)
    until(page, lambda p: len(answers(root)) == 12)
    assert page.execute_script("return jupyterapp.shell.currentWidget.content.model.cells.length") == cells, \
        "keys stay in the board"

    next(b for b in all_of(page, "button") if b.text == "Export CSV").click()
    until(page, lambda p: re.search("10 images written to", p.page_source))
    (out,) = (root / "pictures-labelled").glob("*.csv")
    assert len(out.read_text().splitlines()) == 11
    run_all(page, lab, "label")  # the page reloaded over a kernel that lives
    until(page, lambda p: all_of(p, "button.al-label") and "10 labels given" in p.page_source)
    assert page.execute_script("return window.hurt") is None


def test_explorer_slides_and_drags(page, lab, root):
    run_all(page, lab, "explore")
    until(page, lambda p: len(all_of(p, ".al-simplex")) == 4)
    picture = lambda: all_of(page, ".widget-image")[0].get_attribute("src")
    before, score = picture(), all_of(page, ".al-score")[3].text
    assert "asked about by both" in page.page_source
    press_on = all_of(page, ".noUi-handle")[0]
    page.execute_script("arguments[0].focus()", press_on)
    ActionChains(page).send_keys("\ue014").perform()  # right arrow
    until(page, lambda p: picture() != before)
    board = all_of(page, ".al-simplex > div")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", board)
    ActionChains(page).move_to_element(board).click_and_hold().move_by_offset(20, 20).release().perform()
    until(page, lambda p: all_of(p, ".al-score")[3].text != score)
    shot(page, "playground")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", all_of(page, ".widget-image")[0])
    shot(page, "explorer")


def begin(page, port, texts):
    "Open the page and fill in its form."
    page.get(f"http://127.0.0.1:{port}/")
    until(page, lambda p: len(all_of(p, "input[type=text]")) == 3)
    for field, text in zip(all_of(page, "input[type=text]"), texts):
        field.send_keys("\ue009a\ue000", text + "\t")  # Ctrl-A, so that it is one change
    next(b for b in all_of(page, "button") if b.text == "Start").click()
    until(page, lambda p: all_of(p, "button.al-label"))


def test_labeller_is_a_page_of_its_own(page, root):
    pytest.importorskip("voila")
    port = free_port()
    papermill.execute_notebook(str(HOME / "nbs" / "label.ipynb"), str(root / "form.ipynb"),
                               dict(start=4, step=4, epochs=1), prepare_only=True, progress_bar=False)
    p = serve(root, port, "voila", "form.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1")
    try:
        begin(page, port, (str(root / "pictures"), "zero, one", "ben"))
        assert "from active_learning" not in page.page_source, "no code on the page"
        for key in "12": grow(page, root, lambda: press(page, key), who="ben")
        shot(page, "page")
        begin(page, port, (str(root / "pictures"), "zero, one", "ben"))  # reloaded: a new kernel, under the same name
        grow(page, root, lambda: press(page, "1"), who="ben")
    finally: stop(p)
