# The one front door. `make help` lists the targets.
PYTHON ?= python3
PADDLE ?= 3.3.1
GPU ?= 0
VENV := .venv-$(PADDLE)$(if $(filter 1,$(GPU)),-gpu)
ifeq ($(PADDLE)$(GPU),3.3.10)
VENV := .venv
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WHEEL := $(if $(filter 1,$(GPU)),paddlepaddle-gpu,paddlepaddle)
# Paddle 2.6.2 breaks with protobuf 7 (fleet.init) and was built against numpy 1.
PINS := $(if $(filter 2.%,$(PADDLE)),"numpy<2" "protobuf<7" setuptools)
# paddle2onnx runs with Paddle 3 only.
ONNX := $(if $(filter 3.%,$(PADDLE)),-e "packages/beitv2-core[onnx]")
RUN := runs/digit_scenes
PEERS := .venv-peers
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup pretrain finetune segment test test-fast test-faults parity bench bench-peers lint type build \
        clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo "Variables: PYTHON=python3  PADDLE=3.3.1 (or 2.6.2)  GPU=0 (1: paddlepaddle-gpu)"

setup: $(STAMP)  ## create the virtual environment and install the three packages

$(STAMP): packages/beitv2-core/pyproject.toml packages/beitv2-cls/pyproject.toml packages/beitv2-seg/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 9) <= v <= (3, 11) else "make: Python %d.%d is not supported, use PYTHON=python3.9, 3.10 or 3.11: PaddleClas and PaddleSeg pin numpy 1.24 and OpenCV 4.5, which install on no newer one." % v)'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "make: $(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(WHEEL)==$(PADDLE)" $(PINS) \
	  -e "packages/beitv2-core[test,visualdl]" $(ONNX) -e "packages/beitv2-cls[ppcls]" -e "packages/beitv2-seg[paddleseg]" "ruff==0.14.*" "mypy==1.18.*" types-PyYAML
	@touch $@

pretrain: $(STAMP)  ## train the embedded tokenizer, pretrain a backbone with it, report
	$(BIN)/beitv2 train-tokenizer configs/tokenizer/digit_scenes.yml --resume auto
	$(BIN)/beitv2 pretrain configs/pretrain/digit_scenes.yml --resume auto
	$(BIN)/beitv2 report $(RUN)/tokenizer $(RUN)/pretrain

finetune: $(STAMP)  ## the pretrained backbone against scratch as a classifier (runs pretrain first if needed)
	@ls -d $(RUN)/pretrain/checkpoints/step_*.pdckpt >/dev/null 2>&1 || $(MAKE) pretrain
	$(BIN)/beitv2 compare configs/cls/digit_scenes.yml --pretrained $(RUN)/pretrain -o $(RUN)/finetune

segment: $(STAMP)  ## the pretrained backbone against scratch as a segmenter (runs pretrain first if needed)
	@ls -d $(RUN)/pretrain/checkpoints/step_*.pdckpt >/dev/null 2>&1 || $(MAKE) pretrain
	$(BIN)/beitv2 segment compare digit_scenes --pretrained $(RUN)/pretrain -o $(RUN)/segment

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## the suite without the end-to-end runs
	$(BIN)/python -m pytest -m "not slow"

test-faults: $(STAMP)  ## kill, fill the disk, damage files (seven minutes); the table goes to runs/faults
	$(BIN)/python -m pytest tests/faults

parity: $(STAMP)  ## only the comparisons with the official code's recorded values
	$(BIN)/python -m pytest tests/parity

bench: $(STAMP)  ## measure speed, memory and their growth against this machine's matmul peak and the peers (BENCH="--only ...")
	$(BIN)/python benchmarks/bench_core.py --growth $(BENCH)

bench-peers: $(PEERS)/.installed  ## install PyTorch, transformers and timm in .venv-peers, for `make bench` to measure beside ours

# The CPU index has much smaller wheels; where it cannot be reached, PyPI's CUDA build computes the same on the CPU.
$(PEERS)/.installed:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --retries 0 --timeout 15 --index-url $(TORCH_INDEX) torch torchvision \
	  || $(PEERS)/bin/python -m pip install --quiet torch torchvision
	$(PEERS)/bin/python -m pip install --quiet "transformers>=4.40" "timm>=1.0"
	@touch $@

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .

type: $(STAMP)  ## mypy
	$(BIN)/mypy

build: $(STAMP)  ## build each wheel, install it alone, run its own tests
	$(BIN)/python tests/house/build_alone.py $(PADDLE)

clean:  ## remove environments and build products, keep runs/
	rm -rf .venv .venv-* build dist packages/*/build packages/*/src/*.egg-info
