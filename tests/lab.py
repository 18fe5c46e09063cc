"JupyterLab and a headless Chromium that looks at it, for browser tests and for what is measured on a real page."
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
CHROME, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
MISSING = ("" if CHROME and DRIVER
           else "Chromium or chromedriver is not installed: apt-get install chromium chromium-driver")
LAB = ("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=secret",
       "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
       "--LabApp.news_url=")
CHROME_SAYS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               "--disable-background-networking", "--no-first-run", "--window-size=1200,1500")


def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]


def environment(root):
    "The checkout first, and nothing of the user's Jupyter."
    own = {f"JUPYTER_{n}_DIR": str(root / f"jupyter-{n.lower()}") for n in ("CONFIG", "DATA", "RUNTIME")}
    return {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(root / "spaces"), "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}


def stop(server):
    "End a server and its kernels."
    server.send_signal(signal.SIGTERM)
    try: server.wait(20)
    except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)


def serve(root, port, *command):
    "A server, when it answers. Raises RuntimeError with its log where it ends instead."
    path = root / f"server-{port}.log"
    log = open(path, "w")
    server = subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environment(root),
                              stdout=log, stderr=log, start_new_session=True)
    for _ in range(240):
        if server.poll() is not None: raise RuntimeError(f"the server ended: {path.read_text()[-2000:]}")
        try: socket.create_connection(("127.0.0.1", port), 1).close(); return server
        except OSError: time.sleep(0.5)
    stop(server); raise RuntimeError("the server never answered")


@contextlib.contextmanager
def lab(root):
    "The address of a JupyterLab over `root`."
    port, news = free_port(), root / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True); (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    server = serve(root, port, "jupyterlab", *LAB, f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}")
    try: yield f"http://127.0.0.1:{port}"
    finally: stop(server)


@contextlib.contextmanager
def chromium(profile):
    "A headless browser."
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for a in (*CHROME_SAYS, f"--user-data-dir={profile}"): options.add_argument(a)
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try: yield page
    finally: page.quit()


def until(page, what, seconds=90):
    "Wait until `what(page)` is true."
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, seconds, 0.1, ignored_exceptions=(Exception,)).until(what)


def all_of(page, css): return page.find_elements("css selector", css)


def run_all(page, lab, name):
    "Open a notebook and run all its cells."
    page.get(f"{lab}/lab/tree/{name}.ipynb?token=secret&reset")
    until(page, lambda p: p.execute_script(
        "const w = window.jupyterapp?.shell.currentWidget; "
        "return w?.sessionContext?.session?.kernel?.connectionStatus === 'connected' "
        "&& w.content.model?.cells.length > 2"))
    page.execute_script("jupyterapp.commands.execute('application:toggle-left-area'); "
                        "jupyterapp.commands.execute('notebook:run-all-cells')")


def kill_kernel(lab):
    "SIGKILL the one kernel that runs."
    request = urllib.request.Request(f"{lab}/api/kernels", headers={"Authorization": "token secret"})
    (kernel,) = json.load(urllib.request.urlopen(request))
    pid = next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline")
               if kernel["id"].encode() in p.read_bytes())
    os.kill(pid, signal.SIGKILL)
