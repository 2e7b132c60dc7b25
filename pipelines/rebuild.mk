# Brings a workspace up to date: every stage in its order, each of which knows itself whether there is anything to do. Call it:
#
#   make -f pipelines/rebuild.mk WORKSPACE=scone-work RECIPE=recipe.toml
#
# or set the same variables in a Makefile of your own, `include` this one after your default goal, and depend on `scone-rebuild`.
#
#   CORPUS     the corpora, as words of the shell ('my corpus/' keeps its quotes); without it those of the recipe
#   BASELINES  the baselines of the recipe that are trained too, [train-fgram.plain] by default; BASELINES= is none
#   SCONE      the command, such as .venv/bin/scone
#   EXIT_CODE  a file that gets the exit code of the stage that failed, where make's own is always 2; 0 if none failed
#
# `make -n` prints the commands. A condition of the recipe's [eval] fail-if makes it fail after all was written.

SCONE ?= scone
BASELINES ?= plain

$(foreach name,WORKSPACE RECIPE,$(if $($(name)),,$(error rebuild.mk needs WORKSPACE= and RECIPE=: there is no $(name))))

scone-quoted = '$(subst ','\'',$1)'
scone-noted = $(if $(EXIT_CODE), || { code=$$?; echo $$code >$(call scone-quoted,$(EXIT_CODE)); exit $$code; })

# $(call scone-run,STAGE AND ITS ARGUMENTS), one line of a recipe of make.
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
	$(call scone-run,eval)
	$(if $(EXIT_CODE),@echo 0 >$(call scone-quoted,$(EXIT_CODE)))
