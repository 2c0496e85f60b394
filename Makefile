# Everything runs in .venv, which these rules make; a second call installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= runs/store
REPORT ?= runs/report
RAY := ray==2.60.0
TORCH := torch==2.13.0+cpu

.DEFAULT_GOAL := help
.PHONY: help setup bench bench-full video-demo train-small site docs test test-upstream test-kernels test-ray record check soak soak-faults lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## make .venv with everything that tests and lint need

bench: $(VENV)/.core  ## run the embedded benchmark within its time budgets and write runs/report/ and runs/report-objects/
	$(BIN)/reconbench run --suite embedded --store $(STORE)
	$(BIN)/reconbench report --store $(STORE) --out $(REPORT)
	$(BIN)/reconbench run --suite objects --store $(STORE)-objects
	$(BIN)/reconbench report --store $(STORE)-objects --protocol objects-v1 --out $(REPORT)-objects

bench-full: $(VENV)/.core  ## the same for the whole grid, repeated: hours
	$(BIN)/reconbench run --suite embedded-full --store $(STORE)
	$(BIN)/reconbench report --store $(STORE) --out $(REPORT)
	$(BIN)/reconbench run --suite objects-full --store $(STORE)-objects
	$(BIN)/reconbench report --store $(STORE)-objects --protocol objects-v1 --out $(REPORT)-objects

video-demo: $(VENV)/.core  ## from a video of an embedded scene to the page that answers, runs/video-demo/ (ten minutes)
	mkdir -p runs
	$(BIN)/python -m tests.benchmarks.orbit_video data/embedded/elephant runs/video-demo.mp4
	$(BIN)/reconbench choose runs/video-demo.mp4 --frames 24 --views 8,4 --out runs/video-demo

# What ships was trained so: a fixed number of steps of a longer schedule, then the averaged weights.
FAMILY ?= runs/family
TRAIN := $(VENV)/training/bin/python -m bench.training
train-small: $(VENV)/.training  ## train the shipped networks again: their data, then hours on one CPU core, resumable
	$(TRAIN) data $(FAMILY) --objects 2048
	$(TRAIN) train lmnet3d --data $(FAMILY) --run runs/training/lmnet3d \
	  --steps 600 300 30000 --batch 16 --every 200 --until 12000 --cool 4000
	$(TRAIN) ship runs/training/lmnet3d --out runs/training/lmnet3d/weights.safetensors
	$(TRAIN) train lmnet3d-bound --data $(FAMILY) --run runs/training/lmnet3d-bound \
	  --from runs/training/lmnet3d/weights.safetensors --steps 700 --batch 16 --every 100
	$(TRAIN) ship runs/training/lmnet3d-bound --out runs/training/lmnet3d-bound/weights.safetensors
	$(TRAIN) train lmnet3d-bound --data $(FAMILY) --run runs/training/lmnet3d-bound-2 --until 1400 --cool 500 \
	  --from runs/training/lmnet3d-bound/weights.safetensors --steps 3000 --batch 16 --every 100
	$(TRAIN) ship runs/training/lmnet3d-bound-2 --out runs/training/lmnet3d-bound-2/weights.safetensors
	$(TRAIN) train direct --data $(FAMILY) --run runs/training/direct --steps 6000 --batch 32 --every 250 \
	  --stop-after 5750
	$(TRAIN) ship runs/training/direct --out runs/training/direct/weights.safetensors
	$(TRAIN) train lam3d --data $(FAMILY) --run runs/training/lam3d \
	  --from runs/training/lmnet3d-bound-2/weights.safetensors --steps 12000 --batch 16 --every 100 \
	  --until 2300 --cool 700 --stop-after 2000
	$(TRAIN) ship runs/training/lam3d --out runs/training/lam3d/weights.safetensors
	$(TRAIN) train lam3d-diffusion --data $(FAMILY) --run runs/training/lam3d-diffusion \
	  --from runs/training/lam3d/weights.safetensors --steps 600 --batch 16 --objects 512 --every 50 \
	  --stop-after 250
	$(TRAIN) ship runs/training/lam3d-diffusion --out runs/training/lam3d-diffusion/weights.safetensors

site: $(VENV)/.docs  ## build the documentation site, strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --quiet

docs: site  ## the same with a real page to click, build/site/report/leaderboard.html
	$(BIN)/reconbench run --adapters visual-hull,patchmatch,noisy-oracle --scenes elephant --views 4 --truth exact \
	  --store build/docs-store
	$(BIN)/reconbench report --store build/docs-store --out build/site/report

test: $(VENV)/.dev  ## run the tests
	$(BIN)/python -m pytest -n 2 --durations=10

test-upstream: $(VENV)/.dev  ## run the adapters around upstream's own code; SOURCE="DIR ..." names local checkouts
	$(BIN)/python -m tests.adapters.upstream.run $(foreach source,$(SOURCE),--source $(source)) $(SYSTEMS)

record: $(VENV)/.dev  ## record the adapters' runs anew around upstream's code; SOURCE as above
	$(BIN)/python -m tests.adapters.upstream.run --record $(foreach source,$(SOURCE),--source $(source)) $(SYSTEMS)

# Tests in an environment of their own are skipped only where pip cannot find what it is for, never where making it fails.
define tested_in
	@if test -e $(VENV)/.$(1) || $(BIN)/python -m pip install --dry-run --no-deps --quiet --disable-pip-version-check $(2); then \
	  $(MAKE) --no-print-directory $(VENV)/.$(1) && $(VENV)/$(1)/bin/python -m pytest --durations=5 $(3); \
	else echo "SKIPPED $(3): pip finds no $(2)"; fi
endef

test-kernels: $(VENV)/.dev  ## run the CUDA kernels' tests, without a GPU in Triton's interpreter; wants torch's CPU build
	$(call tested_in,kernels,$(TORCH),-n 2 tests/metrics/kernels)

test-ray: $(VENV)/.dev  ## run the tests of clusters and their stores, on this machine's loopback; wants Ray
	$(call tested_in,ray,$(RAY),tests/bench/test_ray.py tests/bench/test_shared.py)

check: $(VENV)/.core  ## compare with the baseline; AGAINST=COMMIT also times this tree against that one
	$(BIN)/reconbench check $(if $(AGAINST),--against $(AGAINST))

soak: $(VENV)/.core  ## prove the check: seeded regressions must be caught, harmless changes pass (ten minutes)
	$(BIN)/python -m tests.soak.soak --csv docs/benchmarks/soak.csv

soak-faults: $(VENV)/.dev  ## prove the walls: 300 faults of workers, hosts, stores and files (half an hour)
	$(BIN)/python -m tests.soak.faults --count 310 --jobs 3 --results runs/faults.jsonl --write docs/security.md

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove .venv and caches; results in runs/ and the user's cache directory stay
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another with PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# An environment .venv/NAME on top of .venv's, so that the other tests run as they do for users, without what it holds.
define on_top
	$(BIN)/python -m venv $(VENV)/$(1)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	  > $$($(VENV)/$(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/on-top.pth
	$(VENV)/$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(2)
endef

$(VENV)/.ray: $(VENV)/.dev
	$(call on_top,ray,$(RAY) fsspec pyftpdlib)
	touch $@

# Torch's CPU build by name: the default one would bring gigabytes of CUDA libraries. It lies on PyTorch's own index,
# which PIP_EXTRA_INDEX_URL names to pip.
$(VENV)/.training: WITH := tensorboard
$(VENV)/.kernels: WITH := triton==3.9.0
$(VENV)/.kernels: $(VENV)/.dev
$(VENV)/.training $(VENV)/.kernels: $(VENV)/.%: $(VENV)/.core
	$(call on_top,$*,$(TORCH) $(WITH))
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.core
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python -c \
	  "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	touch $@
