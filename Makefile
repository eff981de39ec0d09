# What a person types. Cargo does the work. Pingora's zlib is built with cmake, which is installed if it is
# missing.

CARGO ?= cargo
# The folder that cargo builds in, absolute or relative.
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# The configurations that are shipped for use.
CONFIGS := $(wildcard config/*.yaml) deploy/faregate.yaml deploy/compose/faregate.yaml

.PHONY: help demo live test check configs bench build deb package cmake

help:
	@echo 'make demo         the whole exchange on this machine, with play money; nothing to install or set up'
	@echo 'make demo KEEP=1  the same, and leaves everything running, for you to try'
	@echo 'make live NODE=URL SEED_FILE=FILE   the same with real money before a node of yours; says what it costs'
	@echo 'make test         every test'
	@echo 'make check        format, lints, documentation, shipped configurations'
	@echo 'make bench        what the parts of a request cost, then whole requests; takes minutes'
	@echo 'make build        target/release/faregate'
	@echo 'make deb          target/debian/faregate_VERSION_ARCHITECTURE.deb; needs `cargo install cargo-deb`'

# A debug build is ready sooner and plays the same exchange.
demo: cmake
	$(CARGO) run --locked -- demo $(if $(KEEP),,--once)

# With real money, which is sent back at the end. A release build, since work is computed.
live: cmake
	@test -n "$(NODE)" && test -n "$(SEED_FILE)" || { echo 'make live NODE=http://127.0.0.1:7076 SEED_FILE=FILE' >&2; exit 64; }
	$(CARGO) run --locked --release -- demo $(foreach it,$(NODE),--node '$(it)') --seed-file "$(SEED_FILE)"

test: cmake
	$(CARGO) test --locked

# The program is linted as it is shipped too: without the tests' features.
# The documentation is for those who change the code: it has the private items, and may link to them.
check: cmake configs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --features bare -- -D warnings
	$(CARGO) clippy --locked --lib --bins -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
		$(CARGO) doc --locked --no-deps --document-private-items

configs: cmake
	$(CARGO) build --locked
	@for file in $(CONFIGS); do \
		$(TARGET)/debug/faregate check --offline --config "$$file" || exit 1; \
	done

bench: cmake
	$(CARGO) bench --locked --bench hot_path
	benches/proxy/run

build: cmake
	$(CARGO) build --locked --release

deb: build package

# The package of the program that is built.
package:
	rm -rf $(TARGET)/release/deb
	mkdir -p $(TARGET)/release/deb/man
	$(TARGET)/release/faregate man --to $(TARGET)/release/deb/man
	for shell in bash zsh fish; do \
		$(TARGET)/release/faregate completions $$shell >$(TARGET)/release/deb/faregate.$$shell || exit 1; \
	done
	$(CARGO) deb --no-build --locked $(DEB)

# As root, through sudo, or by Homebrew; only if there is no cmake yet.
cmake:
	@command -v cmake >/dev/null && exit 0; \
	echo 'cmake is missing and needed to build; installing it'; \
	if [ "$$(id -u)" = 0 ]; then as_root=; elif command -v sudo >/dev/null; then as_root=sudo; else as_root=false; fi; \
	if command -v apt-get >/dev/null; then \
		$$as_root apt-get update -qq && $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cmake; \
	elif command -v dnf >/dev/null; then $$as_root dnf install -y -q cmake; \
	elif command -v brew >/dev/null; then brew install --quiet cmake; \
	else false; fi \
	|| { echo 'cmake could not be installed: install it and run make again' >&2; exit 1; }
