# make repro: install what the pipeline needs and run it. Everything lives in .venv; nothing else on the machine changes.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?=
comma := ,
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help repro test long campaign guard mutants lint docs wheel ui exps clean always

help:
	@echo "make repro   install, then run what is out of date of the pipeline (scm run)"
	@echo "make test    install, then run all tests but the long ones"
	@echo "make long    the long ones: the retraining drill, compiled networks, other projects' losses, PostgreSQL, MLflow's server and a DVC remote in trouble"
	@echo "make campaign  attacks by the thousand, counted in the tables of docs/reliability.md"
	@echo "make guard   this tree's speed beside that of the commit before the last: steps, sampling, reading, commands"
	@echo "make mutants changes the mathematics in one place at a time, and lists the changes that no test notices"
	@echo "make lint    ruff, pyright, the import rules and the workflows of CI"
	@echo "make docs    the documentation site, into site/"
	@echo "make wheel   the package scm as a wheel, into dist/"
	@echo "make ui      MLflow on port 5000; prints the address of the list of evaluations"
	@echo "make exps    experiments: their Frechet distances, and the parameters in which they differ"
	@echo "make clean   remove the pipeline's outputs and all caches; data/raw, metrics and mlflow.db stay"
	@echo "PYTHON=...   the interpreter for .venv, 3.11 or later (default: python3)"
	@echo "EXTRAS=...   optional parts to install as well: latents, export, dinov2, s3, gs, server, triton; several with commas"

repro: .venv/.run
	$(BIN)/scm run

test: .venv/.dev
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not long and not campaign"

long: .venv/.dev
	$(BIN)/pytest $(SIDE_BY_SIDE) -m long

campaign: .venv/.dev
	SCM_CAMPAIGN_DOC=docs/reliability.md $(BIN)/pytest -m campaign

# BASE=... compares with another commit than the one before the last.
guard: .venv/.run
	$(BIN)/python -m benchmarks.guard --no-op $(if $(BASE),--base $(BASE))

mutants: .venv/.mutants
	$(BIN)/python -m mutmut run $(ARGS)
	$(BIN)/python -m mutmut results

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci .gitlab-ci.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github

# The variable silences an announcement of mkdocs-material's next version.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Built from a copy of what git would take, since setuptools leaves folders beside the code and packs what lies in them.
wheel: .venv/.run
	rm -rf dist && mkdir -p dist/source
	git ls-files -z --cached --others --exclude-standard scm pyproject.toml README.md LICENSE | tar --null -T - -cf - | tar -xf - -C dist/source
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/source
	rm -rf dist/source
	@echo dist/*.whl

ui: .venv/.run
	$(BIN)/scm ui

# `dvc exp show` has a column for each figure, parameter and dependency, and DVC has no setting to choose among them.
exps: .venv/.run
	$(BIN)/dvc exp show --only-changed --keep '.*[.]fd@' --drop '.*[.](precision|recall|accuracy)@' --drop '.*/' $(ARGS)

# Only what git ignores, and of that only what can be made again: metrics, dvc.lock, mlflow.db and data/raw stay.
clean:
	git clean -fdXq -- .work data/shards data/latents data/reference models results .dvc/cache .dvc/tmp site dist
	git clean -fdXq -- .pytest_cache .ruff_cache .import_linter_cache mutants scm stages tests benchmarks

# Stamps: made again when the dependencies change. torch first, so that its own pinned version decides what follows.
.venv/.created:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or later, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	@touch $@

# Changes when EXTRAS does.
.venv/.extras: .venv/.created always
	@echo "$(EXTRAS)" | cmp -s - $@ || echo "$(EXTRAS)" > $@

.venv/.run: .venv/.created .venv/.extras pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet setuptools torch
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[pipeline$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	@touch $@

.venv/.docs: .venv/.run
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[docs]"
	@touch $@

.venv/.mutants: .venv/.dev
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[mutants]"
	@touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@
