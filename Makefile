# make quickstart   tunes a bundled model with a real server; sets up everything it needs
# make test         the tests; sets up everything they need
# make bench        search strategies compared on recorded grids
# make images       container images of the engines that have no small one of their own

PYTHON ?= python3
TUNER_BASE_IMAGE ?= python:3.11-slim
export TUNER_BASE_IMAGE

VENV := .venv
BIN := $(VENV)/bin
DOCKER := $(shell docker info >/dev/null 2>&1 && echo yes)
TRITON_IMAGE := serving-tuner/triton:2.51
VLLM_IMAGE := serving-tuner/vllm-cpu:0.32.0
QUICKSTART_NEEDS := $(if $(DOCKER),image-triton,$(VENV)/triton)

.PHONY: quickstart test test-engines bench check format images image-triton image-vllm clean

quickstart: $(VENV)/installed $(QUICKSTART_NEEDS) .quickstart/encoder.onnx
	$(BIN)/tune run examples/quickstart/study.yaml

test: $(VENV)/dev
	scripts/test-in-parts $(BIN)/python

test-engines: $(VENV)/dev
	$(BIN)/python -m pytest -m engine

bench: $(VENV)/installed
	$(BIN)/tune bench replay benchmarks/replay/tasks/*.yaml --strategies meta,portfolio,cherrypick,random \
		--seeds 5 --until 0.01 --leave-out app,model --out bench-replay

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

images: image-triton image-vllm

image-triton:
	docker build --build-arg BASE=$(TUNER_BASE_IMAGE) -t $(TRITON_IMAGE) runners/images/triton

image-vllm:
	PYTHON=$(PYTHON) runners/images/vllm-cpu/build $(VLLM_IMAGE)

.quickstart/encoder.onnx: examples/quickstart/make_encoder.py $(VENV)/installed
	mkdir -p .quickstart
	$(BIN)/python examples/quickstart/make_encoder.py --out $@

$(VENV)/bin/python:
	scripts/make-venv $(PYTHON) $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/triton: $(VENV)/installed
	scripts/install-triton $(VENV)
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .quickstart .pytest_cache .mypy_cache .ruff_cache
