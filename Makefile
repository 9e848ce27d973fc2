# Every target installs what it needs into .venv, or the active conda environment, first; `make` alone lists them.
PAPER  ?= all
PRESET ?= small
SEEDS  ?=
JOBS   ?= 1
SAMPLE ?= 300
FORCE  ?=

# an active conda environment is the one to use, but for conda's base; it is filled and never removed
CONDA := $(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX))
VENV  := $(or $(CONDA),.venv)
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.plumbline-stamp
SAFE_FORCE := $(filter-out 0 no false,$(FORCE))

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1

# The stamp holds the folder it was made in: a .venv that was copied, moved or left half made is repaired.
ifneq ($(shell test -x $(PY) && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help doctor reproduce test variants fuzz mutation check results report bench lab clean
.DEFAULT_GOAL := help

help:
	@echo 'make doctor      is this machine ready: versions, device, memory'
	@echo 'make reproduce   run the papers and print the claims   PAPER=all|qdpo|...'
	@echo '                 PRESET=smoke|small|study|paper SEEDS="0 1 2" JOBS=2 FORCE=1'
	@echo 'make test        all tests, on the CPU, offline after the install'
	@echo 'make variants    the formula tests under other instruction sets and threads'
	@echo 'make fuzz        10,000 inputs that nobody thought of'
	@echo 'make mutation    which mistakes in formulas the tests see   SAMPLE=300'
	@echo 'make lab         JupyterLab in notebooks/'
	@echo 'make results     rebuild the index, tables and figures from results/runs/'
	@echo 'make report      the results as one offline page: results/report/index.html'
	@echo 'make bench       time and memory beside other libraries'
	@echo '                 PRESET=smoke|small|paper'
	@echo 'make check       ruff, mypy, rules for notebooks, whether claims and results are true'
	@echo 'make clean       remove what tools left; not .venv, data/cache or results'

doctor: $(STAMP)
	@$(VENV)/bin/plumbline doctor

reproduce: $(STAMP)
	@$(VENV)/bin/plumbline reproduce --paper '$(PAPER)' --preset '$(PRESET)' --seeds '$(SEEDS)' --jobs '$(JOBS)' $(if $(SAFE_FORCE),--force)

# one by one to whichever process is free, the slow ones first
test: $(STAMP)
	@HF_HUB_OFFLINE=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist load --maxschedchunk 1

# torch and oneDNN choose kernels by the processor: the formulas must hold with each choice and number of threads. torch
# is held back together with oneDNN, which would else offer it packing that only AMX has, and fused attention would fail
variants: export HF_HUB_OFFLINE = 1
variants: $(STAMP)
	@set -e; export ONEDNN_MAX_CPU_ISA=AVX2; for v in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 -uATEN_CPU_CAPABILITY; do \
	  echo "formulas under $$v ONEDNN_MAX_CPU_ISA=AVX2, one thread"; env $$v $(PY) -m pytest -m formula -n 2; \
	done; \
	unset ONEDNN_MAX_CPU_ISA; echo 'formulas with two threads'; OMP_NUM_THREADS=2 $(PY) -m pytest -m formula

fuzz: export HF_HUB_OFFLINE = 1
fuzz: $(STAMP)
	@PLUMBLINE_FUZZ=10000 $(PY) -m pytest -p no:cacheprovider --timeout 3600 $(wildcard tests/*/test_*_fuzz.py)

mutation: $(STAMP)
	@$(PY) tests/mutation.py --sample $(SAMPLE) --write

check: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/plumbline notebooks check
	@$(VENV)/bin/plumbline results --check

results: $(STAMP)
	@$(VENV)/bin/plumbline results

report: $(STAMP)
	@$(VENV)/bin/plumbline report

bench: $(STAMP)
	@$(VENV)/bin/plumbline reproduce --paper speed --preset '$(PRESET)' $(if $(SAFE_FORCE),--force)

lab: $(STAMP)
	@$(PY) -m jupyterlab --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate notebooks  # no call home

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# python 3.11 or newer that can make environments: PYTHON if given, else the first that answers
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ -n "$(CONDA)" ]; then \
	  $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' || { echo 'The active conda environment needs python 3.11 or newer and pip.' >&2; exit 1; }; \
	  echo 'Installing into the active conda environment: torch and the rest, 2 to 6 GB ...'; \
	  $(PY) -m pip install -c constraints.txt -e '.[dev]'; printf '%s' "$(CURDIR)" > $(STAMP); exit 0; \
	fi; \
	for p in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python); do \
	  if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$p; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'Plumbline needs python 3.11 or newer with its venv module: install it, or name one with make PYTHON=/path/to/python3.' >&2; exit 1; \
	fi; \
	if [ -s $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ]; then echo 'This .venv was made in another folder: making it again.'; rm -rf .venv; fi; \
	rm -f $(STAMP); \
	if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then rm -rf .venv; "$$found" -m venv $(VENV); fi; \
	echo 'Installing into .venv: torch and the rest, 2 to 6 GB, a few minutes the first time ...'; \
	$(PY) -m pip install -c constraints.txt -e '.[dev]'; \
	printf '%s' "$(CURDIR)" > $(STAMP)
