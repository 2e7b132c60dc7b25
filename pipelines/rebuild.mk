# Rebuilds the artifacts of a workspace that are older than what they are made of. Call it:
#
#   make -f pipelines/rebuild.mk CORPUS=corpus/ WORKSPACE=scone-work RECIPE=pipelines/english.toml [SCONE=.venv/bin/scone]
#
# or set the same variables in a Makefile of your own and `include` this one after your default goal; then depend on
# `scone-rebuild`, or on one manifest such as $(scone-table); `$(scone-counts): corpus/new.jsonl` has your rule make that first.
# `make -n` prints the stages that would run. After an upgrade of scone, `make -B` asks every stage whether it is up to date.
# CORPUS is files and folders; patterns and standard input (`-`) are for the command itself. Paths with spaces cannot be
# supported: make splits at them.

SCONE ?= scone

$(foreach name,CORPUS WORKSPACE RECIPE,$(if $($(name)),,$(error rebuild.mk needs CORPUS=, WORKSPACE= and RECIPE=: there is no $(name))))

scone-counts := $(WORKSPACE)/counts/manifest.json
scone-vocab := $(WORKSPACE)/vocab/manifest.json
scone-model := $(WORKSPACE)/model/manifest.json
scone-table := $(WORKSPACE)/table/manifest.json
scone-eval := $(WORKSPACE)/eval/manifest.json

scone-state := $(WORKSPACE)/.make

# What scone reads of a corpus: files that are not hidden, and not in a hidden folder of it.
scone-find := find -L $(CORPUS) -name '.?*' $(foreach path,$(CORPUS),! -path $(path)) -prune -o -type f -print

# $(call scone-facts,STAGE): a command that prints what a stage depends on and no file time shows: its lines of the recipe,
# with those above the first table (a table's header starts its line); for count-ngrams the names of the corpus's files, and
# for eval the prices.
define scone-facts
{ awk -v table='[$1]' '/^\[/ {title = $$0; gsub("_", "-", title); headed = 1;
                              here = index(title, table) == 1 || (table == "[eval]" && index(title, "[prices]") == 1)}
                       /^[^#]/ && (here || !headed)' $(RECIPE);
  $(if $(filter count-ngrams,$1),$(scone-find) | LC_ALL=C sort;) } 2>/dev/null
endef

# $(call scone-if-changed,STAGE): a prerequisite that is never there, if those facts are not the ones of the last success.
scone-if-changed = $(shell $(scone-facts) | cmp -s - $(scone-state)/$1 || echo scone-changed)

# $(call scone-run,STAGE,ARGUMENTS): run a stage and note the facts with which it succeeded. The manifest gets the time at
# which the stage started: a stage that finds itself up to date does not run again, and an input that changed while the
# stage read it is newer. A failing stage leaves its exit code in $(scone-state)/exit-code, because make's own is always 2.
scone-command = $(strip $(SCONE) --workspace $(WORKSPACE) --config $(RECIPE) $1 $2)
ifneq (,$(findstring n,$(firstword -$(MAKEFLAGS))))
scone-run = $(scone-command)
else
define scone-run
$(info $(scone-command))
@mkdir -p $(scone-state); $(strip $(scone-facts)) >$(scone-state)/$1.new || true
@$(scone-command) || { code=$$?; echo $$code >$(scone-state)/exit-code; exit $$code; }
@touch -r $(scone-state)/$1.new $@ && mv -f $(scone-state)/$1.new $(scone-state)/$1
endef
endif

.PHONY: scone-rebuild scone-changed
scone-rebuild: $(scone-eval)

# scone publishes whole artifacts and keeps the old one until then, so make must never delete a manifest when interrupted.
.PRECIOUS: $(scone-counts) $(scone-vocab) $(scone-model) $(scone-table) $(scone-eval)

# count-ngrams makes tokens/ too; when that is gone, counts/ alone is of no use.
$(scone-counts): $(shell $(scone-find) 2>/dev/null) $(if $(wildcard $(WORKSPACE)/tokens/manifest.json),,scone-changed)
$(scone-counts): $(call scone-if-changed,count-ngrams)
	$(call scone-run,count-ngrams,$(CORPUS))

$(scone-vocab): $(scone-counts) $(call scone-if-changed,select-vocab)
	$(call scone-run,select-vocab)

$(scone-model): $(scone-vocab) $(call scone-if-changed,train-fgram)
	$(call scone-run,train-fgram)

$(scone-table): $(scone-model) $(call scone-if-changed,precompute)
	$(call scone-run,precompute)

$(scone-eval): $(scone-table) $(call scone-if-changed,eval)
	$(call scone-run,eval)
