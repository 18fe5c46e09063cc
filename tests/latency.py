"""How long a person waits after an answer, seen in the browser.

Used by nbs/14_labeller.ipynb. Run as a program it writes two tables: python tests/latency.py WAITS.csv STARTS.csv"""
import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

import lab as browser
from active_learning.answers import read_log
from active_learning.desk import Desk
from active_learning.folder import demo_folder

DIGITS = ",".join("0123456789")
SCENES = {  # images, at a time, answers, other labellers, photographs
    "300 images, one at a time": (300, 1, 100, 0, False),
    "300 images, six at a time": (300, 6, 100, 0, False),
    "1,797 images, two other labellers": (1797, 1, 60, 2, False),
    "photographs of 12 megapixels, six at a time": (48, 6, 40, 0, True),
}
ANSWER = """
const [keys, answers, pause, done] = arguments, found = [], gaps = [0];
const board = document.querySelector(".al-board"), now = () => performance.now();
const tile = () => [...document.querySelectorAll(".al-tile:not(.al-done)")].find(t => t.querySelector("img"));
const answered = () => [...document.querySelectorAll(".al-tile")]
  .map(t => t.querySelector(".al-name").textContent + t.querySelector(".al-answer").textContent).join("|");
const training = () => document.body.textContent.includes("training …");
let last = now();
const frame = () => { gaps.push(now() - last); last = now(); requestAnimationFrame(frame); };
requestAnimationFrame(frame);
function ask(i) {
  const t = tile();
  if (i === answers || !t) return done(found);
  t.click();
  const name = t.querySelector(".al-name").textContent, before = answered(), busy = training(), begun = now();
  gaps.length = 0; last = begun;
  board.dispatchEvent(new KeyboardEvent("keydown", { key: keys[name], bubbles: true, cancelable: true }));
  const look = () => {
    if (answered() === before || !tile()) return requestAnimationFrame(look);
    found.push({ answer: i + 1, wait: now() - begun, freeze: Math.max(...gaps), training: busy });
    setTimeout(() => ask(i + 1), pause);
  };
  requestAnimationFrame(look);
}
board.focus({ preventScroll: true }); ask(0);
"""


def photographs(folder):
    "Blow the images of a folder up to twelve megapixels, with some noise, as a camera would."
    noise = np.random.default_rng(0).integers(-20, 20, (3000, 4000), dtype=np.int16)
    for path in sorted(folder.glob("*.png")):
        large = np.asarray(Image.open(path).resize((4000, 3000), Image.Resampling.BICUBIC), np.int16)
        Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).convert("RGB").save(
            path.with_suffix(".jpg"), quality=90)
        path.unlink()


def others(folder, n, truth):
    "Let n more people give 200 labels each, and be gone."
    for who in range(n):
        desk = Desk(folder, DIGITS, f"other {who}")
        desk.bring({f: truth[f] for f in desk.ask(200)}, "latency")
        desk.close()


def first_model(log):
    "Answers that the first training knew of, and seconds from the last of them to its end; NaN where there was none."
    if not (fits := [r for r in log if r["action"] == "fit"]): return np.nan, np.nan
    knew = log[:json.loads(fits[0]["detail"])["known"]["me"]]
    seconds = [datetime.fromisoformat(r["time"]).timestamp() for r in (knew[-1], fits[0])]
    return sum(r["action"] == "label" for r in knew), seconds[1] - seconds[0]


def scene(images, grid, answers, people, photos, pause=400):
    """What the browser saw of each answer; when JupyterLab answered and showed an image, and what the first training
    took, in seconds."""
    import papermill

    with tempfile.TemporaryDirectory() as d:
        root = Path(d)
        folder = demo_folder(root / "images", images)
        if photos: photographs(folder)
        truth = {f: str(c) for f, c in zip(sorted(p.name for p in folder.iterdir()), load_digits().target)}
        keys = {f: "123456789a"[int(c)] for f, c in truth.items()}
        others(folder, people, truth)
        papermill.execute_notebook(str(browser.HOME / "nbs" / "label.ipynb"), str(root / "label.ipynb"),
                                   dict(folder="images", classes=DIGITS, grid=grid),
                                   prepare_only=True, progress_bar=False)
        begun = time.time()
        with browser.lab(root) as address, browser.chromium(root / "chrome") as page:
            answering = time.time() - begun
            browser.run_all(page, address, "label")
            browser.until(page, lambda p: browser.all_of(p, ".al-tile img"))
            shown = time.time() - begun
            page.set_script_timeout(500)
            found = page.execute_async_script(ANSWER, keys, answers, pause)
        answers, training = first_model(read_log(folder / "labels-me.csv"))
    return found, dict(server=answering, image=shown, answers=answers, training=training)


def measure(waits, starts):
    "Write both tables, a scene at a time."
    rows, begins = [], []
    for name, settings in SCENES.items():
        load = os.getloadavg()[0]
        found, began = scene(*settings)
        rows += [dict(scene=name, **r) for r in found]
        begins.append(dict(scene=name, load=load, cores=os.cpu_count(), **began))
        pd.DataFrame(rows).round(1).to_csv(waits, index=False)
        pd.DataFrame(begins).round(2).to_csv(starts, index=False)


if __name__ == "__main__": measure(*sys.argv[1:])
