# Brings a workspace up to date: runs all stages in order; a stage that is up to date does nothing.
#
#   make -f pipelines/rebuild.mk WORKSPACE=scone-work RECIPE=recipe.toml
#
# or set the same variables in your own Makefile, `include` this file after your default goal, and depend on `scone-rebuild`.
#
#   CORPUS     the corpora, quoted as for the shell ('my corpus/' keeps its quotes); default: those of the recipe
#   BASELINES  names of the recipe's baselines to train too; default: plain, which is [train-fgram.plain]; BASELINES= for none
#   EVAL       further arguments of eval, quoted as for the shell
#   SCONE      the command, such as .venv/bin/scone
#   EXIT_CODE  a file for the exit code of the stage that failed, or 0, because make's own exit code is 2 for every failure
#
# `make -n` prints the commands. If a condition in the recipe's [eval] fail-if holds, make fails after everything is written.

SCONE ?= scone
BASELINES ?= plain

$(foreach name,WORKSPACE RECIPE,$(if $($(name)),,$(error rebuild.mk needs WORKSPACE= and RECIPE=: there is no $(name))))

scone-quoted = '$(subst ','\'',$1)'
scone-noted = $(if $(EXIT_CODE), || { code=$$?; echo $$code >$(call scone-quoted,$(EXIT_CODE)); exit $$code; })

# $(call scone-run,STAGE AND ITS ARGUMENTS) is one line of the make rule below.
define scone-run
$(SCONE) --workspace $(call scone-quoted,$(WORKSPACE)) --config $(call scone-quoted,$(RECIPE)) $(strip $1)$(scone-noted)

endef

.PHONY: scone-rebuild
scone-rebuild:
	$(if $(EXIT_CODE),@rm -f $(call scone-quoted,$(EXIT_CODE)))
	$(call scone-run,count-ngrams $(CORPUS))
	$(call scone-run,select-vocab)
	$(call scone-run,train-fgram)
	$(foreach name,$(BASELINES),$(call scone-run,train-fgram --baseline $(name)))
	$(call scone-run,precompute)
	$(call scone-run,eval $(EVAL))
	$(if $(EXIT_CODE),@echo 0 >$(call scone-quoted,$(EXIT_CODE)))
