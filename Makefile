# Every target builds the environment that it needs from this folder's files alone (Linux or macOS, Python 3.11+).
PYTHON ?= python3
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check -c constraints.txt
TESTS ?= tests
# Processes that share the tests.
WORKERS ?= 2
PYTEST_ARGS ?= -q -m "not slow" -n $(WORKERS) --dist worksteal
# Once is enough for these: what they show does not hang on what is installed.
ONCE = $(foreach room,benchmarks crash damage faults model security train embed stories/test_bigger_than_memory.py,--ignore=tests/$(room))
SECONDS ?= 60
SCENARIOS ?= all
INPUTS = pyproject.toml constraints.txt

# $(1) the folder, $(2) the interpreter. A folder that is half made has no stamp and is made anew.
define fresh
	@$(2) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@echo "building $(1)"
	@rm -rf $(1)
	@$(2) -m venv $(1)
endef

.PHONY: demo test test-core test-312 test-benchmarks test-main lint bench corpus growth soak matrix clean

demo: .venv-demo/.stamp
	@.venv-demo/bin/zstore demo

# The main run comes last: its closing line closes `make test`. A failure in any of the four stops make with an error.
test: test-core test-312 test-benchmarks test-main
.NOTPARALLEL: test

test-core: .venv-core/.stamp
	@echo "core: no extras installed"
	@.venv-core/bin/python -m pytest $(PYTEST_ARGS) $(ONCE) $(TESTS)

test-312: $(INPUTS)
	@if interpreter=$$($(FIND_312)); then \
		$(MAKE) --no-print-directory .venv-312/.stamp INTERPRETER_312="$$interpreter" && \
		.venv-312/bin/python -c 'import sys, zarr; print("newest: Python", sys.version.split()[0], "and zarr", zarr.__version__)' && \
		.venv-312/bin/python -m pytest $(PYTEST_ARGS) $(ONCE) $(TESTS); \
	else echo "newest: SKIPPED, no Python 3.12 was found on this machine"; fi

# A process of their own: the rivals start threads and hooks in whoever imports them, and the main run forks.
test-benchmarks: .venv-test/.stamp
	@echo "benchmarks: at toy size, every contender that is installed"
	@.venv-test/bin/python -m pytest $(PYTEST_ARGS) -n 0 tests/benchmarks

test-main: .venv-test/.stamp
	@echo "main: every extra that a test uses"
	@.venv-test/bin/python -m pytest $(PYTEST_ARGS) $(if $(filter tests,$(TESTS)),--ignore=tests/benchmarks) $(TESTS)

# Prints the command of a Python 3.12, by its own name or pyenv's; fails where there is none.
FIND_312 = for try in python3.12 "env PYENV_VERSION=3.12.1 python"; do \
	if $$try -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then echo "$$try"; exit 0; fi; done; exit 1

lint: .venv-test/.stamp
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

# Writers, readers, rollbacks, compactions and kills together, for as long as asked: make soak SECONDS=3600
soak: .venv-test/.stamp
	@.venv-test/bin/python -m zstore.testing.soak --seconds $(SECONDS)

# Everything that the everyday tests sample: every step killed, every power loss, every fault, every byte. Hours.
matrix: .venv-test/.stamp
	@.venv-test/bin/python -m zstore.testing.crash --full
	@.venv-test/bin/python -m pytest -q -m slow --timeout=36000 $(TESTS)

# Every scenario, every contender: about an hour. Some: make bench SCENARIOS="append gather"
bench: .venv-bench/.stamp
	@.venv-bench/bin/python -m benchmarks $(SCENARIOS)

# A hundred thousand real texts, killed, changed and mended; then ten million rows by four processes: more than an hour.
corpus: .venv-bench/.stamp
	@.venv-bench/bin/python -m benchmarks corpus
	@.venv-bench/bin/python -m benchmarks embed_scale

# How costs grow with rows, epochs, commits, dims, members, preemptions.
growth: .venv-bench/.stamp
	@.venv-bench/bin/python -m benchmarks growth

clean:
	rm -rf .venv-demo .venv-test .venv-core .venv-312 .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and by its pinned version: asked for among others, pip may fetch a newer one and its gigabytes to look at.
.venv-demo/.stamp: $(INPUTS)
	$(call fresh,.venv-demo,$(PYTHON))
	@.venv-demo/bin/python $(PIP_INSTALL) torch==2.13.0
	@.venv-demo/bin/python $(PIP_INSTALL) -e '.[demo]'
	@touch $@

.venv-test/.stamp: $(INPUTS)
	$(call fresh,.venv-test,$(PYTHON))
	@.venv-test/bin/python $(PIP_INSTALL) torch==2.13.0
	@.venv-test/bin/python $(PIP_INSTALL) -e '.[dev,torch,demo,bench]'
	@touch $@

.venv-core/.stamp: $(INPUTS)
	$(call fresh,.venv-core,$(PYTHON))
	@.venv-core/bin/python $(PIP_INSTALL) -e '.[core-test]'
	@touch $@

.venv-312/.stamp: $(INPUTS)
	$(call fresh,.venv-312,$(INTERPRETER_312))
	@.venv-312/bin/python $(PIP_INSTALL) --upgrade -e '.[test]' zarr
	@touch $@

.venv-bench/.stamp: $(INPUTS)
	$(call fresh,.venv-bench,$(PYTHON))
	@.venv-bench/bin/python $(PIP_INSTALL) torch==2.13.0
	@.venv-bench/bin/python $(PIP_INSTALL) -e '.[bench]'
	@touch $@
