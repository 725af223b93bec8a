# make run    set up, then run the main job: the paper's first table on the embedded workload
# make test   set up, then pass the tests: of what is costly or repeats itself, a covering sample
# make test-slow   the rest: long runs, whole products of options, more generated examples (tests/README.md)
# make test-faults   kill, damage and fill disks by the dozen (40 minutes); a few of them are in make test-slow
# make check  set up, then lint, types and layers
PYTHON ?= python3
READY := .venv/.ready

.PHONY: run test test-slow test-faults check clean
.DELETE_ON_ERROR:
# What one process has compiled, the next need not compile again.
unexport PYTHONDONTWRITEBYTECODE

run: $(READY)
	.venv/bin/harness run grids/position_axis.yaml

test: $(READY)
	.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	.venv/bin/pytest -m slow -n auto --dist loadfile --no-loadscope-reorder

test-faults: $(READY)
	.venv/bin/pytest -m faults

check: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
# The pip that comes with Python takes three times as long to choose what to install.
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
# Of 50,000 files 6,000 are ever imported, and compiled then.
	.venv/bin/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv
