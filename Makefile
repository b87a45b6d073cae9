# Two commands: `make repro` runs the pipeline, `make test` checks the project.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS = 1
export NO_MKDOCS_2_WARNING = 1
TESTS = pytest -n 2 --max-worker-restart 0

.PHONY: repro test test-slow lint docs tables outputs bundle results sweep ablation autoencoders glyphs small-resnet fashion study resnet-ablation evidence leaderboard pictures report clean

repro: $(READY)  ## run every stage whose inputs changed, then show the results
	python -m weightspace plugins --write
	python -m weightspace validate
	python -m weightspace repro
	python -m weightspace results

test: $(READY)  ## lint, types, all tests but the slow ones
	ruff check .
	ruff format --check .
	mypy & types=$$!; $(TESTS) -m "not slow"; code=$$?; wait $$types && exit $$code

test-slow: $(READY)  ## the tests that run pipelines, kill processes or build packages
	$(TESTS) -m slow

lint: $(READY)
	ruff check --fix . && ruff format . && mypy

results: $(READY)  ## the table of results beside chance and the original study's figures
	python -m weightspace results

sweep: $(READY)  ## make sweep SET="pca.components=8,32,128" METRIC=reconstruction.val.agreement_mean
	python -m weightspace sweep $(foreach s,$(SET),-S $(s)) $(if $(METRIC),--metric $(METRIC))

# Tables of experiments. RESUME=1 continues one that was interrupted; the code must be the same.
RESUME ?=
SUITE = python -m weightspace suite$(if $(RESUME), --resume)
ablation: $(READY)  ## what each part is worth, over three seeds: docs/ablation.md
	$(SUITE) benchmarks/ablation.yaml --out docs/ablation.md

autoencoders: $(READY)  ## every autoencoder, dataset encoder and alignment, over three seeds: docs/autoencoders.md
	$(SUITE) benchmarks/autoencoders.yaml --out docs/autoencoders.md

glyphs: $(READY)  ## letters that no training task contains: docs/unseen_classes.md
	$(SUITE) benchmarks/glyphs.yaml --out docs/unseen_classes.md

evidence: $(READY)  ## what takes too long for every run, on the data of `make repro`: docs/evidence.md
	PYTHONPATH=src python benchmarks/evidence.py --out benchmarks/evidence.json
	python -m weightspace document --write

leaderboard: $(READY)  ## table of all methods on named tasks, of benchmarks/results: docs/leaderboard.html
	PYTHONPATH=src python benchmarks/leaderboard.py --page

# Presets: benchmarks/NAME.yaml -> docs/NAME.md. IMAGES: a folder of idx files or of class folders.
IMAGES ?= /usr/share/datasets/fashion-mnist
RUNS ?=
WIDTH ?=
PRESET = $(SUITE) --images "$(IMAGES)" $(if $(RUNS),-S zoo.runs=$(RUNS)) $(if $(WIDTH),-S nets.resnet18.width=$(WIDTH))
small-resnet: $(READY)  ## ResNet-18 of width 4 on 12x12 images: docs/small_resnet.md
	$(PRESET) benchmarks/small_resnet.yaml --out docs/small_resnet.md

fashion: $(READY)  ## convolutional networks with batch normalisation on 28x28 images: docs/fashion.md
	$(PRESET) benchmarks/fashion.yaml --out docs/fashion.md

study: $(READY)  ## ResNet-18 on one GPU, make study WIDTH=64 RUNS=300 at full width: docs/study.md
	$(PRESET) benchmarks/study.yaml --out docs/study.md

resnet-ablation: $(READY)  ## what the functional autoencoder needs for ResNet-18: docs/resnet_ablation.md
	$(PRESET) benchmarks/resnet_ablation.yaml --out docs/resnet_ablation.md

pictures: $(READY)  ## draw docs/pictures from metrics/plots and dvc.yaml
	python -m weightspace pictures

report: $(READY)  ## one self-contained page: report/index.html
	python -m weightspace report

docs: $(READY)  ## the documentation as a site, site/index.html; a wrong link or name is an error
	mkdocs build --strict --config-file docs/site/mkdocs.yml

tables: $(READY)  ## figures of README and docs from the committed metrics
	python -m weightspace document --write

outputs: $(READY)  ## the same, and the outputs of their examples, which it runs: needs a finished pipeline
	python -m weightspace document --write --outputs

BUNDLE := src/weightspace/bundles/digits.bundle
bundle: $(READY)  ## the part of the package that `weightspace demo` needs, from a finished pipeline
	python -m weightspace bundle --out $(BUNDLE) --megabytes 8

# torch comes first and by pip, so that the CPU build on pip's path is taken.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:  ## remove the environment and scratch files, keep data and DVC's cache
	rm -rf $(VENV) .work
