# make demo [PROMPT="a red apple"]   environment, kernels, then one asset from a prompt
# make test                          environment, kernels, then the whole test suite
# make install                       environment and kernels only

PYTHON ?= python3
TORCH  ?= torch==2.13.0
PROMPT ?= a wooden barrel
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
SOURCES := $(wildcard custom_cuda/*.cpp custom_cuda/*/*.cpp custom_cuda/*/*.cu custom_cuda/*/*.h)

.PHONY: demo test install clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(VENV)/bin/python launch.py --config quickstart.yaml prompt="$$PROMPT"

test: $(VENV)/tested-with
	$(VENV)/bin/python -m pytest

install: $(VENV)/installed

export PROMPT

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first, so that no resolver chooses another build; then this package, with what it needs, and its kernels.
$(VENV)/torch: | $(VENV)/bin/python
	$(PIP) install $(TORCH)
	$(PIP) install "setuptools>=70,<82" wheel ninja
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml setup.py $(SOURCES)
	THREEDGEN_REQUIRE_EXT=$(CI:true=1) $(PIP) install --no-build-isolation --editable .
	touch $@

$(VENV)/tested-with: $(VENV)/installed
	$(PIP) install --no-build-isolation --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info threedgen/_C*.so
