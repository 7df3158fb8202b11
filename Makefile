# thinwire. Each target installs what it needs into $(VENV) the first time and leaves it alone afterwards.
# Needs Python >= 3.11 with venv, and make. Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=
# make gpu: seconds for all of it, and for the tests at its beginning.
GPU_SECONDS ?= 460
CHECK_SECONDS ?= 150

# make newest: the newest Python that is installed here, and what it runs: what needs neither torch nor a model.
NEWEST ?= $(shell ls -d /usr/bin/python3.* /usr/local/bin/python3.* $$HOME/.pyenv/versions/3.*/bin/python3.* 2>/dev/null \
  | grep -E '/python3\.[0-9]+$$' | sed -E 's|.*/python(3\.[0-9]+)$$|\1 &|' | sort -V | tail -1 | cut -d' ' -f2)
TORCHLESS ?= tests/topologies tests/commands tests/sim tests/reference/core tests/test_layout.py tests/test_layout_rules.py

BIN := $(VENV)/bin
# Small systems: a BLAS thread per core makes one fit four times slower.
export OPENBLAS_NUM_THREADS ?= 1
# -qq hides pip's progress and warnings, not its errors. setuptools is installed first, at its pinned version, so that
# the build needs no environment of its own.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
MANIFESTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo ui test check newest torchless fuzz mutants bench calibrate validate peers papers emulate accuracy prompt sensitivity auto spd gpu instructions pages pictures docs clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.core ## Llama-3-70B on four of eight L40S: TTFT of every scheme (installs no torch)
	$(BIN)/thinwire compare --model llama-3-70b --cluster 8xl40s-pcie --tp 4 --batch 8 --input-tokens 1024

ui: $(VENV)/.ui ## a page to play with, served on this machine alone; ARGS="--model qwen2.5-72b" prefills it
	$(BIN)/thinwire ui $(ARGS)

test: $(VENV)/.test ## every test; ARGS="-k layout" for some of them
	$(BIN)/pytest -rs -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(VENV)/.dev ## ruff, mypy --strict, then every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

newest: ## the tests that need no torch, on the newest Python installed here, if it is newer (environment: VENV-newest)
	@case "$(NEWEST)" in \
	  "" | */python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')) \
	    echo "make newest: no Python newer than that of $(PYTHON) is installed here; make NEWEST=... newest names one" ;; \
	  *) $(MAKE) --no-print-directory PYTHON=$(NEWEST) VENV=$(VENV)-newest torchless ;; \
	esac

torchless: $(VENV)/.torchless
	$(BIN)/pytest -q -n $(WORKERS) --dist loadgroup $(TORCHLESS) $(ARGS)

fuzz: $(VENV)/.test ## odd files and command lines for five minutes; ARGS="--seconds 60 --seed 7" (Linux)
	$(BIN)/python tests/fuzz $(ARGS)

mutants: $(VENV)/.mutants ## plant small faults and see whether tests notice (an hour or two; run again, it goes on; ARGS=--all: every one)
	nice $(BIN)/python tests/mutants/mutants.py --workers $(WORKERS) $(ARGS)

bench: $(VENV)/.test ## time the simulator, serving runs, the codecs, what it costs that ranks agree, then the page
	$(BIN)/python -m thinwire.sim.bench.prediction $(ARGS)
	$(BIN)/python -m thinwire.sim.bench.serving
	$(BIN)/python -m thinwire.reference.bench
	$(BIN)/python -m thinwire.reference.bench_groups
	$(BIN)/python tests/page/bench.py

calibrate: $(VENV)/.core ## fit sim/profiles/ to the measurements in validation/published/
	$(BIN)/python -m thinwire.validation.calibrate $(ARGS)

validate: $(VENV)/.test ## hold predictions against published measurements
	$(BIN)/python -m thinwire.validation.targets.compare $(ARGS)

peers: $(VENV)/.core ## hold AIConfigurator and GenZ against the same rows (each in an environment of its own, 1.7 GB; half an hour)
	nice $(BIN)/python -m thinwire.validation.peers.peers $(ARGS)
	nice $(BIN)/python -m thinwire.validation.peers.mixtures $(ARGS)

papers: $(VENV)/.core ## write docs/papers.md: what papers claim beside what thinwire predicts (a minute)
	$(BIN)/python -m thinwire.validation.papers.page $(ARGS)

# Needs Linux, root, iproute2 and a C compiler; what is missing is said, and the status is 2.
emulate: $(VENV)/.test ## predict, then really run, prefills on two to eight ranks in network namespaces (six minutes; ARGS=--smoke: one)
	$(BIN)/python -m thinwire.validation.emulation.emulate $(ARGS)

accuracy: $(VENV)/.test ## measure what schemes cost in perplexity (downloads a small model; hours; run again, it goes on)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m thinwire.validation.quality.measure_accuracy $(ARGS)

prompt: $(VENV)/.test ## measure how far a compressed prompt's loss reaches, and look-ups and greedy answers behind it (hours; goes on)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m thinwire.validation.quality.measure_prompt $(ARGS)

sensitivity: $(VENV)/.test ## measure what each sync point costs when it alone is compressed (an hour; run again, it goes on)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m thinwire.validation.quality.measure_sensitivity $(ARGS)

auto: $(VENV)/.test ## measure the frontier of auto:<budget> against single schemes (after make sensitivity; an hour)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m thinwire.validation.quality.measure_auto $(ARGS)

spd: $(VENV)/.test ## measure what sync-point drop costs, trained and not (the same model; an hour; run again, it goes on)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m thinwire.validation.quality.measure_spd $(ARGS)

# Runs on a bare GPU machine: no environment, no pip, only PYTHON with torch, Triton, numpy and pytest. Wrong kernels are
# measured all the same (what they cost may say why), but the status says so. Tests that only compile need no GPU; those
# that compile for it first may not get through in their time (status 124 of timeout), which is said and is no failure.
gpu: ## test and measure this machine's GPU; results in OUT or validation/raw/; run again, it goes on
	@$(PYTHON) -c 'import torch' 2>/dev/null || { echo "make gpu: $(PYTHON) has no torch; try make PYTHON=... gpu" >&2; exit 2; }
	@PYTHONPATH=src $(PYTHON) -m thinwire.validation.campaign.kernels --has-gpu
	@begin=$$(date +%s); status=0; \
	PYTHONSAFEPATH=1 PYTHONPATH=src timeout $(CHECK_SECONDS) $(PYTHON) -m pytest -q tests/kernels -p no:cacheprovider \
	  --maxfail 1 --ignore tests/kernels/test_compile.py \
	  $$($(PYTHON) -c 'import xdist' 2>/dev/null && echo -n 8 --dist loadgroup) || status=$$?; \
	if [ $$status = 124 ]; then echo "make gpu: tests cut after $(CHECK_SECONDS) s, none had failed; CHECK_SECONDS=... gives them more" >&2; status=0; fi; \
	left=$$(($(GPU_SECONDS) - $$(date +%s) + begin)); \
	PYTHONPATH=src $(PYTHON) -m thinwire.validation.campaign.kernels --budget-s $$left $(ARGS) || status=$$?; \
	exit $$status

instructions: $(VENV)/.test ## compile every codec's kernels for sm_80 to sm_120, without a GPU, and count instructions (minutes; then make calibrate)
	nice $(BIN)/python -m thinwire.validation.instructions.count $(ARGS)

pages: $(VENV)/.dev ## write docs/accuracy.md and its pictures from what was measured
	$(BIN)/python -m thinwire.validation.quality.page $(ARGS)

pictures: $(VENV)/.dev ## draw every picture of the pages, and their tables of exact numbers, from the catalog and today's predictions
	$(BIN)/python docs/pictures/draw.py

docs: $(VENV)/.docs ## build the site into build/site; warnings are errors
	$(BIN)/python docs/site/build.py $(ARGS)

clean: ## remove the virtual environment, builds and caches
	rm -rf $(VENV) $(VENV)-newest .mutants build dist src/thinwire.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "thinwire needs Python >= 3.11: PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "$(PYTHON) has no venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "thinwire: creating $(VENV) with $$($(PYTHON) -V 2>&1)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools
	@touch $@

$(VENV)/.core: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire and its core dependencies (no torch)"
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.ui: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire and what serves its page (no torch)"
	@$(PIP) --no-build-isolation -e '.[ui]'
	@touch $(VENV)/.core $@

$(VENV)/.torchless: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire with what tests without torch need"
	@$(PIP) --no-build-isolation -e '.[dask]' pytest pytest-xdist hypothesis ml_dtypes
	@touch $@

$(VENV)/.test: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire with its test dependencies (torch among them)"
	@$(PIP) --no-build-isolation -e '.[test]'
	@touch $(VENV)/.core $@

$(VENV)/.mutants: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire with its test dependencies (torch among them) and the maker of mutants"
	@$(PIP) --no-build-isolation -e '.[mutants]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.docs: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire and what builds its site (no torch)"
	@$(PIP) --no-build-isolation -e '.[docs]'
	@touch $(VENV)/.core $@

$(VENV)/.dev: $(VENV)/.venv $(MANIFESTS)
	@echo "thinwire: installing thinwire with its test and development tools (torch among them)"
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $(VENV)/.core $(VENV)/.test $@
