# Every target works from a fresh clone: what it needs is installed into .venv first, once.
# Another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

# One BLAS thread a test worker: pytest-xdist already fills the cores.
TEST_ENV := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Without a GPU, also where there is one: device="auto" means the CPU in all of these tests.
# Each worker begins with a stretch of whole files, so that a kernel is translated in one of them.
PYTEST := CUDA_VISIBLE_DEVICES= $(TEST_ENV) \
  $(RUN) -m pytest -n auto --maxprocesses 8 --dist worksteal
# What not every machine has, each with a target of its own.
EVERYWHERE := not parity and not ptx and not gpu

# The CUDA wheels of `make test-gpu`: CUDA_EXTRA=cu12 for drivers older than 580.
CUDA_EXTRA ?= cu13
# `make test-gpu RUN=python3` takes an environment that has them, and installs nothing.
GPU_ENV := $(if $(filter command,$(origin RUN)),,$(VENV)/.installed-$(CUDA_EXTRA) $(VENV)/.installed-test)

# Several ranks: the CUDA wheels only where there is a driver for them.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null && echo yes)
MULTI_ENV := $(if $(filter command,$(origin RUN)),,$(VENV)/.installed-test $(if $(HAS_GPU),$(VENV)/.installed-$(CUDA_EXTRA)))
LIMIT ?=
# Of all benchmarks only these: kernels,engine.
ONLY ?=

TOOL ?= memcheck
LOGS ?= build/sanitizer
# More of pytest's arguments: files, -n 8.
SANITIZED ?=

.DEFAULT_GOAL := help
.PHONY: help demo lab hint grade test test-slow test-all lint docs linkcheck test-ptx test-gpu test-sanitizer parity test-multi bench bench-multi bench-cpu clean FORCE

help: ## Show this list
	@echo 'make TARGET, one of:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Tell a story with the bundled model and ask it questions
	@$(RUN) -m llm_numba demo

# The labs' own grader; more in docs/labs. RUN=python3 takes an environment that has llm_numba.
GRADER = $(if $(filter command,$(origin RUN)),,$(VENV)/.installed$(if $(MPI),-mpi))
FILE ?=
STEP ?=
MPI ?=

lab: $(GRADER) ## Check my exercise: LAB=3 (WATCH=1: again on each save; GPU=1; MPI=1: by mpirun, too)
	@$(RUN) tutorials/labs/grader $(if $(HINT),hint,lab) '$(or $(LAB),1)' $(if $(FILE),--file '$(FILE)') \
	  $(if $(HINT),,$(if $(WATCH),--watch) $(if $(GPU),--gpu) $(if $(MPI),--mpi)) || [ $$? -eq 1 ]  # not done yet is no error

hint: $(GRADER) ## Show the next hint: LAB=3 (STEP=2: for that step)
	@$(RUN) tutorials/labs/grader hint '$(or $(LAB),1)' $(if $(FILE),--file '$(FILE)') $(if $(STEP),--step '$(STEP)')

grade: $(GRADER) ## Points a step: LAB=all OUT=FILE.json JUNIT=FILE.xml KEY=FILE DIR=SUBMISSIONS
	@$(RUN) tutorials/labs/grader grade '$(or $(LAB),all)' $(if $(OUT),--out '$(OUT)') \
	  $(if $(JUNIT),--junit '$(JUNIT)') $(if $(KEY),--key '$(KEY)') $(if $(DIR),--dir '$(DIR)') \
	  $(if $(GPU),--gpu) $(if $(MPI),--mpi)

test: $(VENV)/.installed-test ## Run the tests (a few minutes)
	$(PYTEST) -m 'not slow and $(EVERYWHERE)'

test-slow: $(VENV)/.installed-test ## Run only the slow tests
	$(PYTEST) -m 'slow and $(EVERYWHERE)'

test-all: $(VENV)/.installed-test ## Run the tests, the slow ones too
	$(PYTEST) -m '$(EVERYWHERE)'

lint: $(VENV)/.installed-test ## Check style, format, spelling and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m codespell_lib docs llm_numba tests tutorials README.md Makefile pyproject.toml

docs: $(VENV)/.installed-docs ## Build the documentation into docs/_build/html
	$(RUN) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo 'Open docs/_build/html/index.html'

linkcheck: $(VENV)/.installed-docs ## Ask the network whether links to other sites lead anywhere
	$(RUN) -m sphinx -b linkcheck -q docs docs/_build/linkcheck

test-ptx: $(VENV)/.installed-ptx $(VENV)/.installed-test ## Compile every kernel for every GPU, without one
	$(PYTEST) -m ptx

test-gpu: $(GPU_ENV) ## Run the tests that need a GPU (JUNIT=FILE.xml records them)
	$(TEST_ENV) $(RUN) -m pytest -m gpu $(if $(JUNIT),--junitxml='$(JUNIT)')

# Every allocation by itself, so that the tool sees where it ends.
test-sanitizer: $(GPU_ENV) ## Run the GPU tests under compute-sanitizer (TOOL=memcheck LOGS=DIR)
	mkdir -p '$(LOGS)/$(TOOL)'
	LLM_NUMBA_UNPOOLED=1 $(TEST_ENV) compute-sanitizer --tool $(TOOL) --target-processes all \
	  --log-file '$(LOGS)/$(TOOL)/%p.log' --error-exitcode 1 --report-api-errors no \
	  $(RUN) -m pytest -m gpu --junitxml='$(LOGS)/$(TOOL)/junit.xml' $(SANITIZED)

parity: $(VENV)/.installed-parity $(VENV)/.installed-test ## Compare with Transformers, live (installs PyTorch)
	$(RUN) -m pytest -m parity

# With a GPU for each rank where there are several GPUs; else ranks of the CPU, by every path.
test-multi: $(MULTI_ENV) ## Run the tests of several ranks, on GPUs where there are some
	$(TEST_ENV) $(RUN) -m pytest tests/parallel tests/engine/test_parallel*.py \
	  tests/engine/test_tensor_runner.py tests/models/test_tensor_parallel.py \
	  $(if $(JUNIT),--junitxml='$(JUNIT)')

bench: $(MULTI_ENV) ## Measure all that this machine can into docs/results (LIMIT=seconds)
	$(RUN) -m llm_numba bench all --limit $(or $(LIMIT),3600) $(if $(ONLY),--only '$(ONLY)')

bench-multi: $(MULTI_ENV) ## Measure ranks on all GPUs into docs/results (LIMIT=seconds)
	$(RUN) -m llm_numba bench multi --limit $(or $(LIMIT),1500)

bench-cpu: $(VENV)/.installed ## Measure speed and memory on this CPU into docs/results
	$(RUN) -m llm_numba bench cpu

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/_generated docs/tutorials .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Each stamp is written last, so what was cut short starts again. Scripts and
# the editable install hold absolute paths: an environment that was moved, lost its interpreter,
# or was made by another PYTHON is made anew.
MADE_BY := $(CURDIR) $(PYTHON)
IS_MADE := $(shell [ "`cat $(VENV)/.made 2>/dev/null`" = '$(MADE_BY)' ] && $(RUN) -c '' 2>/dev/null && echo yes)

$(VENV)/.made: $(if $(IS_MADE),,FORCE)
	@command -v $(PYTHON) >/dev/null || \
	  { echo 'There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llm_numba needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`." \
	    'Name a newer one: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt install" \
	    "`$(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'`"; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@echo '$(MADE_BY)' > $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo 'Installing llm_numba into $(VENV) (once; about a minute)'
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.made
	@echo 'Installing llm_numba[$*] into $(VENV) (once)'
	@$(PIP) -e '.[$*]'
	@touch $@ $(VENV)/.installed
