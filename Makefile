# make demo [PROMPT="a red apple"]   environment, kernels, then one asset from the prompt
# make test                          environment, kernels, development tools, then the whole test suite
# make install                       environment and kernels only
# make clean                         remove what these made
#
# Variables: PYTHON=/path/to/python3, TORCH=torch==VERSION, CXX and MAX_JOBS for the kernels, and
# TORCH_INDEX=https://download.pytorch.org/whl/cpu, which spares a machine without a GPU the CUDA libraries.

PYTHON      ?= python3
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
PROMPT      ?= a wooden barrel
# Not expanded, so that $ and backquotes of a prompt stay what they are; the shell of a recipe reads it from the environment.
override PROMPT := $(value PROMPT)
export PROMPT

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
LIBRARY := threedgen/_C.abi3.so
SOURCES := setup.py $(wildcard custom_cuda/*.cpp custom_cuda/*/*.cpp custom_cuda/*/*.cu custom_cuda/*/*.h)

.PHONY: demo test install clean
.DELETE_ON_ERROR:

demo: install
	@$(BIN)/python launch.py --config quickstart.yaml prompt="$$PROMPT"

test: install $(VENV)/dev
	$(BIN)/python -m pytest

install: $(VENV)/package $(LIBRARY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "threedgen needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || \
	  { echo "$(PYTHON) cannot make environments: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch comes first and is then held, so that no resolver chooses another build of it.
$(VENV)/torch: | $(BIN)/python
	@echo "Installing $(TORCH)"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PIP) install "setuptools>=77,<82" wheel
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $@

# Editable; the kernels are compiled by themselves below, so that changing one does not mean installing again.
$(VENV)/package: $(VENV)/torch pyproject.toml
	@echo "Installing threedgen and what it needs"
	@THREEDGEN_NO_EXT=1 $(PIP) install --no-build-isolation --constraint $(VENV)/torch --editable .
	@touch $@

$(VENV)/dev: $(VENV)/package
	@echo "Installing development tools"
	@$(PIP) install --constraint $(VENV)/torch "threedgen[dev]"
	@touch $@

# Without a compiler threedgen works too, slower; in CI that is an error.
$(LIBRARY): $(VENV)/torch $(SOURCES)
	@echo "Compiling the kernels"
	@THREEDGEN_REQUIRE_EXT=$(if $(filter-out 0 false,$(CI)),1,0) $(BIN)/python setup.py --quiet build_ext --inplace
	@test -e $@ || echo "warning: the kernels were not built; threedgen runs without them, slower (mend that, then make install)" >&2

clean:
	rm -rf $(VENV) build *.egg-info $(LIBRARY)
