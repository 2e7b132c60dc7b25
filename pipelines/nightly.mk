# Every night, without training: counts, vocabulary, a table of the same model, its evaluation beside the published table, publication.
#
#   make -f pipelines/nightly.mk WORKSPACE=scone-work RECIPE=recipe.toml PUBLISH_TO=/srv/scone/english [KEEP=7]
#
# Train first, with rebuild.mk, whose variables are those of this file too. The recipe names the tokenizer of the model
# ([count-ngrams] tokenizer), so that ids stay. In the recipe's [eval] fail-if, `table:current` is the table that is published
# now, and on the first night tonight's own; if a condition holds, nothing is published.
#
#   PUBLISH_TO  the registry and the name: a folder that holds the versions
#   KEEP        versions that are kept

KEEP ?= 7
include $(dir $(lastword $(MAKEFILE_LIST)))rebuild.mk
$(if $(PUBLISH_TO),,$(error nightly.mk needs PUBLISH_TO=: there is no PUBLISH_TO))
scone-published = $(shell [ ! -d $(call scone-quoted,$(PUBLISH_TO)/current/table) ] || echo yes)
scone-current = $(if $(scone-published),$(PUBLISH_TO)/current,$(WORKSPACE))/table

.DEFAULT_GOAL := scone-nightly
.PHONY: scone-nightly
scone-nightly:
	$(if $(EXIT_CODE),@rm -f $(call scone-quoted,$(EXIT_CODE)))
	$(call scone-run,count-ngrams $(CORPUS))
	$(call scone-run,select-vocab)
	$(call scone-run,precompute --vocab $(call scone-quoted,$(WORKSPACE)/vocab))
	$(call scone-run,eval --table $(call scone-quoted,current=$(scone-current)))
	$(call scone-run,publish --to $(call scone-quoted,$(PUBLISH_TO)) --keep $(KEEP))
	$(if $(EXIT_CODE),@echo 0 >$(call scone-quoted,$(EXIT_CODE)))
