# The two commands of the README. Both say what they install, and both may be run again at any time.

.PHONY: demo test check bench clean

demo: ## set everything up and do the main job on the embedded default: prints 12
	@scripts/demo

test: ## set everything up and run all tests, on every backend
	@scripts/test

check: ## lint, types and fast tests: no engine, no network
	@scripts/check

bench: ## set everything up and measure kodou beside what stands in its place: tables; `scripts/bench --help` for more
	@scripts/bench

clean: ## remove what the build made here (not the data directory)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
