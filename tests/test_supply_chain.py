"""What is in git: no secrets, no machine's paths, no outputs from elsewhere.

What the package does: run no code taken from data."""
import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / f
         for f in subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                                 capture_output=True, text=True, check=True).stdout.splitlines()
         if (ROOT / f).is_file()]
TEXTS = [f for f in FILES
         if f.suffix in (".py", ".ipynb", ".md", ".ini", ".txt", ".toml", ".cfg", ".yml", ".yaml", ".json",
                         ".csv", ".sh", "") and f.name != "LICENSE"]
NOTEBOOKS = [f for f in FILES if f.suffix == ".ipynb"]
PATHS = re.compile(
    r"(?<![\w.~$}/-])/(?:home|Users|root|work|mnt|data(?!/upload/|/local-files/)|scratch|workspace|content)/[\w.]"
    r"|[A-Z]:\\\\?Users|/tmp/[\w.]|/var/folders/")
PATTERNS = [
    r"-----BEGIN [A-Z ]*PRIVATE KEY", r"AKIA[0-9A-Z]{16}", r"gh[pousr]_\w{30}", r"github_pat_\w{20}",
    r"hf_\w{30}", r"sk-[\w-]{30}", r"xox[bap]-\w{10}", r"AIza[\w-]{35}", r"eyJ[\w-]{20,}\.eyJ",
    r"(?i:password|passwd|secret|api_?key|token)['\"]?\s*[=:]\s*['\"][^'\"\s]{8,}['\"]",
    r"https?://[^/\s:@\"']+:[^/\s@\"']+@",
]
SECRETS = re.compile("|".join(PATTERNS))


def without_pictures(text): return re.sub(r'"image/(?:png|jpeg)": "[^"]*"', "", text)


def ident(f): return str(f.relative_to(ROOT))


@pytest.mark.parametrize("file", TEXTS, ids=ident)
def test_no_machine_paths_and_no_secrets(file):
    if file == Path(__file__).resolve(): return
    text = without_pictures(file.read_text())
    for what, pattern in (("path of a machine", PATHS), ("secret", SECRETS)):
        assert not (found := pattern.search(text)), \
            f"{file.name} holds a {what}: {text[max(0, found.start() - 40):found.end() + 20]!r}"


def test_the_patterns_find_what_they_look_for():
    for bad in ("open('/home/me/x')", "/Users/me/x", "see /tmp/x.png", '"/root/.cache"', r"C:\\Users\\me",
                "/var/folders/x"):
        assert PATHS.search(bad), bad
    for good in ("figures/work/x", "https://example.org/home/page", "~/data/x", "nbs/data/x"):
        assert not PATHS.search(good), good
    bad = ["-----BEGIN RSA PRIVATE KEY", "AKIA" + "A" * 16, "ghp_" + "a" * 36, "github_pat_" + "a" * 20,
           "hf_" + "a" * 30, "sk-" + "a" * 30, "xoxb-" + "1" * 10, "AIza" + "a" * 35, "eyJ" + "a" * 20 + ".eyJ",
           "password = 'hunter2hunter2'", "https://me:pass@example.org"]
    for pattern, b in zip(PATTERNS, bad, strict=True): assert re.search(pattern, b), b


@pytest.mark.parametrize("file", NOTEBOOKS, ids=ident)
def test_outputs_are_the_notebooks_own(file):
    book = json.loads(file.read_text())
    assert set(book["metadata"]) <= {"kernelspec", "language_info", "jupytext"}
    for cell in book["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        for o in cell.get("outputs", []):
            assert o["output_type"] != "error", "an error was committed"
            kinds = set(o.get("data", {}))
            assert kinds <= {"text/plain", "text/html", "text/markdown", "text/latex", "image/png"}, kinds
            html = "".join(o.get("data", {}).get("text/html", ""))
            assert not re.search(r"<script|<iframe|src\s*=\s*[\"']?http|javascript:|onerror", html), html[:200]


def code(file):
    if file.suffix == ".py": return file.read_text()
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    return "\n".join(re.sub(r"^[%!].*$", "pass", "".join(c["source"]), flags=re.M) for c in cells)


FORBIDDEN = {"pickle.load", "pickle.loads", "joblib.load", "dill.load", "cloudpickle.load", "cloudpickle.loads",
             "pd.read_pickle", "yaml.load", "os.system", "eval", "exec", "marshal.loads", "torch.hub.load"}


def faults_in(source):
    "Calls that would run what data say."
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call): continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in FORBIDDEN: yield name
        if name == "torch.load" and given.get("weights_only") != "True": yield "torch.load without weights_only=True"
        if given.get("allow_pickle") == "True": yield "allow_pickle=True"
        if given.get("shell") == "True": yield "shell=True"


@pytest.mark.parametrize("file", [
    f for f in FILES if f.suffix in (".py", ".ipynb") and "tests" not in f.relative_to(ROOT).parts], ids=ident)
def test_nothing_taken_from_data_is_run(file):
    assert not list(faults_in(code(file)))


def test_forbidden_calls_are_found():
    assert len(list(faults_in("pickle.load(f); torch.load(f); np.load(f, allow_pickle=True); "
                              "torch.load(f, weights_only=True); eval(x)"))) == 4
