# `make help` lists what there is. DATA, PROFILE and SEED choose a run; -j2 runs independent stages side by side.
PYTHON ?= python3
PORT   ?= 8000
export DATA PROFILE SEED TRIALS LIMIT PEERS STAGE RUN_A RUN_B
export OPENBLAS_NUM_THREADS = 1

BIN   := .venv/bin
SERVE := .venv-serving/bin
.DEFAULT_GOAL := help
SYSTEM := chromium redis-server java
.PHONY: help run test coverage system peers serve bundle-made lab hooks tune params compare profile bench bench-data bench-clip bench-batch bench-als bench-gowalla bench-serve reports outputs prepare clean distclean lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 \2/' | awk '{printf "  %s %-13s", $$1, $$2; $$1=$$2=""; print}'

run: .venv/.exported ## [DATA=folder] [PROFILE=name] [SEED=n]: from raw files (or the synthetic twin) to bundle and reports
	@exec $(BIN)/python dodo.py run

test: .venv/.ready system ## notebooks exported and clean, types, the tiny profile end to end, each notebook's cells against the library, pytest
	@$(BIN)/python dodo.py check
	@$(BIN)/ruff check --quiet
	@rm -rf build/scratch && mkdir -p build/scratch  # what the notebooks draw for their own tests, shared by their processes, so one stage at a time
	@$(BIN)/mypy --no-error-summary & types=$$!; LOOKBOOK_SCRATCH= $(TESTS) $(BESIDE) >build/beside.log 2>&1 & beside=$$!; trap 'kill $$types $$beside 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	  DATA= PROFILE=tiny SEED= WANDB_MODE=disabled LOOKBOOK_SCRATCH=$(CURDIR)/build/scratch MAKEFLAGS= $(BIN)/python dodo.py run && wait $$types || exit; \
	  wait $$beside; failed=$$?; cat build/beside.log; exit $$failed
	@$(PYTEST) $(addprefix --ignore=,$(BESIDE))

TESTS = DATA= PROFILE= SEED= WANDB_MODE=disabled $(BIN)/python -m pytest -q
# They need nothing of what the pipeline makes, which leaves a core idle, for its stages come one by one.
BESIDE = tests/test_pipeline.py tests/test_corruption.py
# In the order of the files: those of few and long tests would come last, and one worker wait for the other.
PYTEST = LOOKBOOK_SCRATCH=$(CURDIR)/build/scratch LOOKBOOK_BUNDLE=$(CURDIR)/reports/runs/tiny-twin/bundle/current $(TESTS) -n 2 --dist loadfile --no-loadscope-reorder

coverage: .venv/.ready system ## pytest again, as the last `make test` left its run, and the share of lines that it reaches; half as slow again
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=80

serve: bundle-made .venv-serving/.ready ## [DATA=..] [PROFILE=..] or [BUNDLE=folder], [PORT=8000]: the endpoint and the shop window, from that run's bundle
	@run="$(CURDIR)/$$($(PYTHON) dodo.py folder)"; bundle="$(THE_BUNDLE)"; \
	images="$${LOOKBOOK_IMAGES:-$${DATA:-$(if $(BUNDLE),,$$run/twin)}/images}"; test -d "$$images" || images=; \
	echo "starting the shop window, http://127.0.0.1:$(PORT)/, and the API, http://127.0.0.1:$(PORT)/docs/"; \
	exec env LOOKBOOK_BUNDLE="$$bundle" LOOKBOOK_IMAGES="$$images" LOOKBOOK_STATE="$${LOOKBOOK_STATE:-$(if $(BUNDLE),,$$run/serving)}" LOOKBOOK_DEMO="$${LOOKBOOK_DEMO:-1}" \
	  PYTHONPATH=. $(SERVE)/python -m serving --port $(PORT)

# Looked for before an environment is set up.
bundle-made:
	@bundle="$(THE_BUNDLE)"; test -e "$$bundle/manifest.json" || { echo "error: no bundle at $$bundle; 'make run' with the same DATA and PROFILE makes it" >&2; exit 2; }

# By the recipe's shell: make before 4.4 does not tell $(shell) what PROFILE is.
THE_BUNDLE = $(if $(BUNDLE),$(abspath $(BUNDLE)),$(CURDIR)/$$($(PYTHON) dodo.py folder)/bundle/current)

peers: .venv/.exported ## [DATA=..] [PROFILE=..] [TRIALS=20] [LIMIT=120]: tune other recommenders, ask them what that run's evaluation asked
	@exec $(BIN)/python dodo.py peers

lab: .venv/.exported ## [LAB='options of jupyter lab']: JupyterLab: notebooks trusted, exported when they are saved, `make hooks` done
	@{ $(SET_UP_GIT); } || echo 'the hooks are not set up: see above' >&2
	@$(BIN)/jupyter trust $(wildcard nbs/*.ipynb nbs/*/*.ipynb) >/dev/null || echo 'not every notebook is trusted: see above' >&2
	@cd nbs && exec env JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" JUPYTER_PREFER_ENV_PATH=1 \
	  PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" ../$(BIN)/jupyter lab $(LAB)

# Only where this folder is a checkout itself: git would look for one above it.
SET_UP_GIT = if test -e .git; then \
	git config merge.nbdev-merge.name 'notebooks, cell by cell' && git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P' && \
	if test -x $(BIN)/pre-commit; then $(BIN)/pre-commit install; else echo 'pre-commit is not in .venv: only merges of notebooks are set up'; fi; \
	else echo 'not a git checkout: there are no hooks to set up'; fi

hooks: .venv/.ready ## git in this checkout: merged notebooks stay notebooks, and the checks of .pre-commit-config.yaml before a commit
	@$(SET_UP_GIT)

tune: .venv/.exported ## [DATA=..] [PROFILE=..] [TRIALS=20]: search the ranker's settings and write the best into the profile
	@TRIALS='$(TRIALS)' $(BIN)/python dodo.py tune

params: .venv/.ready ## [DATA=..] [PROFILE=..]: what each stage takes: type, default, what the profile sets, what it is
	@$(BIN)/python dodo.py params

compare: .venv/.ready ## RUN_A=.. RUN_B=..: two runs side by side: headline, figures, parameters, data, code, times
	@$(BIN)/python dodo.py compare

profile: .venv/.exported ## STAGE=40_als [DATA=..] [PROFILE=..]: time and memory of that stage by line, in a copy of the run
	@exec $(BIN)/python dodo.py profile

bench: .venv/.ready ## [DATA=..] [PROFILE=..]: time and peak memory of each stage of a run
	@$(BIN)/python dodo.py bench

bench-data: .venv/.exported ## [DATA=folder of CSV files]: the ingest at full size, beside DuckDB alone and chunked pandas
	@$(BIN)/python bench/data.py $(DATA)

bench-clip: .venv/.exported ## [RUN=folder of a run]: images and texts a second by torch, ONNX and 8-bit ONNX
	@$(BIN)/python bench/clip.py $(RUN)

bench-batch: .venv/.exported ## [DATA=..] [PROFILE=..] or [BUNDLE=folder]: all customers by that run's bundle, beside implicit's ALS
	@$(BIN)/python bench/batch.py $(THE_BUNDLE)

bench-als: .venv/.exported ## [DATA=folder] [SCALE=large] [CUSTOMERS=n]: ALS by implicit and in torch, time to equal loss
	@$(BIN)/python bench/als.py $(DATA) --scale $(or $(SCALE),large) --customers $(or $(CUSTOMERS),0)

bench-serve: .venv-bench/.ready ## [DATA=..] [PROFILE=..] or [BUNDLE=folder]: requests a second and their times, beside gunicorn, FastAPI and a bare route
	@.venv-bench/bin/python bench/serve.py $(THE_BUNDLE)

bench-gowalla: .venv/.exported ## DATA=folder with train.txt and test.txt: the linear models on LightGCN's split of Gowalla
	@$(BIN)/python bench/gowalla.py $(DATA)

reports: .venv/.exported ## render the reports of the reference run (demo, twin) into reports/, and let the tour show it
	@DATA= PROFILE=demo SEED= $(BIN)/python dodo.py publish

outputs: .venv/.exported ## [STAGE=name]: execute the notebooks whose code has changed, and keep what they show in nbs/
	@$(BIN)/python dodo.py outputs

prepare: .venv/.ready ## before a commit: export, clean, and check the types and the grammar of the notebooks
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest -q tests/test_notebooks.py -k 'not runs_against'

clean: ## [DATA=..] [PROFILE=..]: remove that run
	@$(PYTHON) dodo.py clean

distclean: ## remove all runs and the environments
	rm -rf reports/runs .venv .venv-serving .venv-peers .venv-bench

lock: ## resolve requirements.in anew into requirements.txt
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -qq -r requirements.in
	@{ grep '^#' requirements.txt; .venv-lock/bin/pip freeze --all | grep -v '^pip==' | sed 's/+cpu$$//'; } > .venv-lock/lock
	mv .venv-lock/lock requirements.txt && rm -rf .venv-lock

# The environments: made once, brought up to date when their lists change.
define new_venv
@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); name a Python of 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 2; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "error: Lookbook needs Python 3.11 or later, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.11" >&2; exit 2; }
@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
@echo "setting up $(@D) from $< (minutes, once)"
@$(@D)/bin/pip install -qq --no-compile -r $<
@$(@D)/bin/python -m compileall -qq -j 0 $(@D)/lib || true  # pip would use one core; some packages carry files that are no Python of today
endef

.venv/.ready: requirements.txt pyproject.toml
	$(new_venv)
	@$(@D)/bin/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

.venv-serving/.ready: serving/requirements.txt
	$(new_venv)
	@touch $@

.venv-bench/.ready: bench/requirements.txt serving/requirements.txt
	$(new_venv)
	@touch $@

# Programs that the tests start, from the distribution: installed here where that may be done, asked for otherwise.
system:
	@missing=; for p in $(SYSTEM); do command -v $$p >/dev/null || missing="$$missing $$(echo $$p | sed 's/^java$$/default-jre-headless/')"; done; test -z "$$missing" && exit 0; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then echo "installing$$missing for the tests"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	else false; fi || { echo "error: the tests need$$missing; install them first (Debian: apt-get install$$missing)" >&2; exit 2; }

.venv-peers/.ready: peers/requirements.txt
	$(new_venv)
	@touch $@

# The library is what the notebooks say; exported anew when one of them, or a module, was changed by hand.
.venv/.exported: .venv/.ready settings.ini $(wildcard nbs/*.ipynb) $(wildcard recsys_lib/*.py)
	@$(BIN)/nbdev_export
	@touch $@
