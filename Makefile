# Every target is sufficient alone on a machine with Python >= 3.11: it makes .venv, installs the
# project with what it needs, and runs. Later calls install only when pyproject.toml has changed.

SEED ?= 1
RUN ?= demo-run-$(SEED)
SEEDS ?= 1 2 3
ONLY ?=
NUMBER ?= 500
SCENE ?= galaxy
PSF ?= moffat
RENDER ?= galsim
METHOD ?= nuts
VENV ?= .venv
WORKERS ?= 2
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)

PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed

# small dense algebra: threads of BLAS only get in each other's way
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help setup lint test test-browser test-slow realdata demo demo-pulls notebooks reference bench calibrate clean

help:
	@echo "make demo [SEED=1]  simulate a field with GalSim, fit it, compare with the truth"
	@echo "make demo-pulls     the demo for SEEDS='$(SEEDS)', pulls pooled"
	@echo "make notebooks      run the notebooks, write them as pages to notebooks/html [ONLY='01 04']"
	@echo "make test           lint, format and all quick tests"
	@echo "make test-browser   the pages of reports in a headless Chromium (Debian: apt install chromium-driver)"
	@echo "make test-slow      tests that take minutes"
	@echo "make realdata       tests on real images (folder in JAXPHO_DATA)"
	@echo "make lint           ruff check and ruff format --check"
	@echo "make reference      docs/catalogue.md from the registries of columns and flags"
	@echo "make bench          the benchmarks (benchmarks/README.md)"
	@echo "make calibrate      simulation-based calibration [NUMBER=500 SCENE=galaxy PSF=moffat ...]"
	@echo "make clean          remove demo runs and caches"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest -n $(WORKERS) -m "not slow and not realdata and not browser"

test-browser: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[browser]"
	$(PY) -m pytest -m browser -rs tests/browser

test-slow: $(STAMP)
	$(PY) -m pytest -m "slow and not realdata and not browser"

realdata: $(STAMP)
	$(PY) -m pytest -m realdata -rs

demo: $(STAMP)
	$(PY) notebooks/demo/simulate.py $(SEED) $(RUN)
	$(VENV)/bin/jaxpho-fit $(RUN)/config.yml --overwrite
	$(PY) notebooks/demo/compare.py $(RUN)/fit $(RUN)/truth.ecsv

demo-pulls: $(STAMP)
	for seed in $(SEEDS); do $(MAKE) demo SEED=$$seed RUN=demo-run-$$seed || exit 1; done
	$(PY) notebooks/demo/compare.py pool $(foreach s,$(SEEDS),demo-run-$(s)/fit)

notebooks: $(STAMP)
	$(PY) notebooks/run.py $(ONLY)

reference: $(STAMP)
	$(PY) -m jaxpho.output.reference docs/catalogue.md

bench: $(STAMP)
	$(PY) benchmarks/kernel.py

calibrate: $(STAMP)
	$(PY) benchmarks/calibration run --number $(NUMBER) --scene $(SCENE) --method $(METHOD) \
		--psf $(PSF) --render $(RENDER) --seed $(SEED) --processes $(WORKERS)

clean:
	rm -rf demo-run-* notebooks/html .pytest_cache .ruff_cache .hypothesis build dist
