# The two commands a newcomer needs are `make demo` and `make test`; both set up what they need.
.DEFAULT_GOAL := help
CARGO ?= cargo
PROGRAMS := -p warmspare -p warmspare-agent

.PHONY: help setup build release demo demo-fast test test-long explore contract lint deny

help: ## Say what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## Install the Debian packages that demo and tests need (as root), or say what is missing
	@./tests/setup.sh

build: setup ## Build the command and the agent
	$(CARGO) build --locked $(PROGRAMS)

release: setup ## Build optimised programs for real use; the agent is static, so it runs on any Linux
	$(CARGO) build --locked --release -p warmspare
	$(CARGO) rustc --locked --release -p warmspare-agent --bin warmspare-agent -- -C target-feature=+crt-static

demo: build ## Play the whole story on this machine
	./target/debug/warmspare demo

demo-fast: build ## The same within a minute
	./target/debug/warmspare demo --fast

test: build ## Run every test but the long ones
	$(CARGO) test --locked --workspace

test-long: build ## Run the long tests as well: 1 GiB restores, more kills
	$(CARGO) test --locked --workspace -- --include-ignored

explore: ## Explore the rules exhaustively and print the counts
	$(CARGO) test --locked -p warmspare-domain --test explore -- --nocapture

contract: setup ## Check templates and requests against the providers' published rules (needs Python)
	@./tests/contract/setup.sh
	target/contract-venv/bin/python -m pytest tests/contract

lint: ## Formatting and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: ## Licences, sources, one TLS provider (needs cargo-deny)
	$(CARGO) deny check bans licenses sources
