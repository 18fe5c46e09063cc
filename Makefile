# make run, make test, make paper, make lab, make docs, make bench: each sets up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DATASET ?= digits
STRATEGY ?= entropy
OUT ?= out.ipynb
ARGS ?=
SCALE ?= quick

.PHONY: setup run test readme lab docs bench paper clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY)  ## one experiment: STRATEGY=, DATASET=, OUT=, ARGS='-p rounds 5'
	$(BIN)/papermill nbs/run.ipynb $(OUT) -p dataset '$(DATASET)' -p strategy $(STRATEGY) $(ARGS)
	@echo "Done: open $(OUT), the numbers are in runs/"

test: $(READY)  ## everything CI checks
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --skip_file_glob benchmarks.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests

readme: $(READY)  ## export the package, clean the notebooks, make README.md from nbs/index.ipynb
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python .ci/readme.py

paper: $(READY)  ## every figure: SCALE=smoke (bundled digits), quick or full (the paper's rounds)
	$(BIN)/python -m active_learning.reproduce $(SCALE) $(ARGS)

bench: $(READY)  ## speed and memory, measured side by side on this machine
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/papermill nbs/benchmarks.ipynb out_benchmarks.ipynb -p images 57000 -p repeats 2 -p rounds 4 -p disk_images 10000000 -p sweep_runs 6 $(ARGS)

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs

docs: $(READY)  ## the notebooks as a site in _docs, maths drawn without a network
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	test -f _docs_static/tex-svg.js || { npm install --silent --prefix _docs_npm mathjax@3 && mkdir -p _docs_static && cp _docs_npm/node_modules/mathjax/es5/tex-svg.js _docs_static/; }
	$(BIN)/python -m sphinx -q -c docs nbs _docs
	@echo "Done: open _docs/index.html"

clean:
	rm -rf .venv _docs _docs_npm _docs_static _docs_toc.yml build
