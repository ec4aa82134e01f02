# Shortcuts; .ci/run is what counts.
PYTHON ?= python3

.PHONY: check test models interop bench marks compare curves docs

check:
	ruff check . && ruff format --check . && mypy

test:
	$(PYTHON) -m pytest -q

# Random sequences of sends, consumption and kill -9 against models; the tests try four of each.
models:
	RMQ_MODEL_EXAMPLES=100 $(PYTHON) -m pytest -q --timeout 7200 $(wildcard tests/*/test_*_model.py)

# Third-party clients against our servers, and our SDK against an Apache RocketMQ where a JVM and Maven are at hand.
# What is missing on this machine is skipped, with its reason in the summary.
interop:
	RMQ_INTEROP_JAVA=1 RMQ_INTEROP_GO=1 $(PYTHON) -m pytest tests/interop -ra -p no:cacheprovider

bench:
	$(PYTHON) -m rmq_redis bench

# Figures of docs/performance.md, on a machine that does nothing else: every mark, other systems, growth.
marks compare curves:
	$(PYTHON) benchmarks/$@.py --write

# The documentation as a site in site/, with the API reference; a warning is an error. Needs: pip install -e '.[docs]'
docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
