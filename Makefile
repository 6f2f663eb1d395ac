# The two commands a newcomer needs are `make demo` and `make test`; both set up what they need.
.DEFAULT_GOAL := help
CARGO ?= cargo
PROGRAMS := -p warmspare -p warmspare-agent

.PHONY: help setup build release functions deploy demo demo-fast play test test-startup test-long explore contract contract-template contract-clients contract-functions bench bench-quick bench-functions bench-restore lint deny

help: ## Say what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 20

setup: ## Install the Debian packages that demo and tests need (as root), or say what is missing
	@./tests/setup.sh

build: setup ## Build the command and the agent
	$(CARGO) build --locked $(PROGRAMS)

release: setup ## Build optimised programs for real use; the agent is static, so it runs on any Linux
	$(CARGO) build --locked --release -p warmspare
	$(CARGO) rustc --locked --release -p warmspare-agent --bin warmspare-agent -- -C target-feature=+crt-static

functions: setup ## Build the Lambda functions as zip files with the agent inside (ARCH=arm64 for Graviton)
	$(CARGO) rustc --locked --release -p warmspare-agent --bin warmspare-agent -- -C target-feature=+crt-static
	@test -x target/cargo-lambda-venv/bin/cargo-lambda || { python3 -m venv target/cargo-lambda-venv && target/cargo-lambda-venv/bin/pip install --quiet cargo-lambda==1.9.2; }
	@# What is included keeps its relative path, and a function looks for the agent beside itself.
	cp target/release/warmspare-agent warmspare-agent
	PATH="$(CURDIR)/target/cargo-lambda-venv/bin:$$PATH" $(CARGO) lambda build --locked --profile functions -p warmspare-functions --output-format zip \
		--include warmspare-agent $(if $(filter arm64,$(ARCH)),--arm64); status=$$?; rm -f warmspare-agent; exit $$status

deploy: functions ## Deploy them with sam; the first time it asks for the parameters
	sam deploy --template infra/template.yaml --capabilities CAPABILITY_NAMED_IAM --resolve-s3 $(if $(wildcard samconfig.toml),,--guided)

demo: build ## Play the whole story on this machine
	./target/debug/warmspare demo

demo-fast: build ## The same within a minute
	./target/debug/warmspare demo --fast

play: build ## Set the demo's stage and leave it to you: every verb can be tried, GPUs can be lost, until Ctrl-C
	./target/debug/warmspare demo --stay

# Most tests wait for other programs: two for each core keep it busy.
test: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
test: build ## Run every test but the long ones
	$(CARGO) test --locked --workspace --no-fail-fast
	./tests/startup/run.sh

test-startup: setup ## Run the standby's start-up script on loop devices (as root; skipped otherwise)
	@./tests/startup/run.sh

test-long: build ## Run the long tests as well: 1 GiB restores, more kills
	$(CARGO) test --locked --workspace -- --include-ignored
	./tests/startup/run.sh

bench-restore: setup ## Measure restores against cp, rsync and tar over ssh (target/bench/data-plane.json)
	$(CARGO) build --locked --release -p warmspare-agent
	python3 -B tests/bench/restore.py

explore: ## Explore the rules exhaustively and print the counts
	$(CARGO) test --locked -p warmspare-domain --test explore -- --nocapture

contract: contract-template contract-clients contract-functions ## Hold all we send and deploy against the providers' own schemas, clients and doubles
	WARMSPARE_SHARED=$${WARMSPARE_SHARED:-$(CURDIR)/../shared} $(CARGO) test --locked -p warmspare-platform --features vast,compute,ssh,gcs --lib -- published

contract-template: setup ## Translate and lint the template, run the Google set-up against a recorded gcloud
	./tests/contract/setup.sh template
	./target/contract-template-venv/bin/python -B -m pytest -q -p no:cacheprovider tests/contract/template

contract-clients: setup ## Let the providers' own clients drive simcloud
	$(CARGO) build --locked -p simcloud
	./tests/contract/setup.sh clients
	./target/contract-clients-venv/bin/python -B -m pytest -q -p no:cacheprovider tests/contract/clients

contract-functions: setup ## Play the failure story on the function binaries, over Lambda's runtime API, moto and simcloud
	$(CARGO) build --locked -p simcloud -p warmspare-agent -p warmspare-functions
	./tests/contract/setup.sh functions
	./target/contract-functions-venv/bin/python -B -m pytest -q -p no:cacheprovider tests/contract/functions

bench: setup ## Hold passes, recovery points and restores against the tools that people would use instead, with plots (as root, about 20 minutes)
	@./tests/bench/setup.sh
	$(CARGO) build --locked --release -p warmspare-agent
	python3 -B tests/bench/data_plane.py --plots docs
	python3 -B tests/bench/restore.py

bench-quick: setup ## The same on smaller trees, in under five minutes
	@./tests/bench/setup.sh
	$(CARGO) build --locked --release -p warmspare-agent
	python3 -B tests/bench/data_plane.py --files 10000 50000 --rounds 3 --checkpoint-mib 256 --lag-seconds 30 --disk-gib 8 --peers-up-to 10000
	python3 -B tests/bench/restore.py --quick --repeat 1

bench-functions: setup ## Hold cold start and warm latency of the webhook function against an empty one
	$(CARGO) build --locked -p simcloud -p warmspare-agent
	$(CARGO) build --locked --profile functions -p warmspare-functions --bin vast_webhook --example empty
	./tests/contract/setup.sh functions
	./target/contract-functions-venv/bin/python -B tests/bench/functions.py

lint: ## Formatting and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: ## Licences, sources, one TLS provider (needs cargo-deny)
	$(CARGO) deny check bans licenses sources
