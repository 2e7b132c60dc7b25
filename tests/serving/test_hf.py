"""An exported model in transformers: every way of calling it reads the rows of the whole text, and gives our logits."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hf_calls import continued, prompt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scone_cli.errors import MismatchedArtifacts
from scone_cli.serving import load_model
from scone_cli.vocab.index import NONE

transformers = pytest.importorskip("transformers")
import scone_cli.serving.hf  # noqa: E402, F401 - registers the classes

pytestmark = pytest.mark.hf


@pytest.fixture(scope="module")
def loud(exported):
    """The model with random weights, so that a wrong token, row or mask changes the logits and what is chosen."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(exported)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in loaded.parameters():
            if weight.dim() == 2 and weight is not loaded.model.embed_tokens.weight:
                weight.normal_(std=2 * weight.shape[1] ** -0.5, generator=chance)
    return loaded


@pytest.fixture(scope="module")
def ours(small):
    with load_model(small / "work") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def long(small, ours):
    """The tokens of a longer text."""
    return ours.encode((small / "corpus" / "4.txt").read_text()[:3000])


# ---- the same as ours --------------------------------------------------------------------------------------------


def test_tokens_and_logits_are_ours(model, tokenizer, ours, texts):
    for text in (*texts, "<|endoftext|> is text", "\u00e9\u4e2d \n"):
        inputs = prompt(tokenizer, text)
        tokens = inputs["input_ids"][0].tolist()
        assert tokens == [ours.end_of_document, *ours.encode(text)]
        logits = model(**inputs).logits[0]
        torch.testing.assert_close(logits, ours.logits(tokens), rtol=0, atol=1e-4)
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_greedy_text_is_that_of_scone_generate(model, tokenizer, ours, texts):
    for text in texts:
        read = ours.encode(text)
        theirs = continued(model, prompt(tokenizer, text))[0].tolist()
        for token, other in zip(ours.generate_tokens(read, 8, temperature=0), theirs, strict=True):
            if token != other:  # the two best are equally good
                best = ours.logits([ours.end_of_document, *read])[-1].topk(2).values
                assert best[0] - best[1] < 1e-4
                break
            read.append(token)


def test_a_plain_model_is_exported_too(exported, small, tokenizer, texts):
    plain = transformers.AutoModelForCausalLM.from_pretrained(exported.parent / "plain")
    inputs = prompt(tokenizer, texts[0])
    with load_model(small / "work" / "plain") as loaded:
        expected = loaded.logits(inputs["input_ids"][0])
    torch.testing.assert_close(plain(**inputs).logits[0], expected, rtol=0, atol=1e-4)
    assert not (exported.parent / "plain" / "table").exists()
    with pytest.raises(MismatchedArtifacts, match="plain model"):
        transformers.AutoModelForCausalLM.from_pretrained(exported.parent / "plain", table=exported / "table")


# ---- every call pattern ------------------------------------------------------------------------------------------


def scored(model, inputs, **how):
    """The new tokens of a greedy generation, and the logits that each was chosen by [C, B, V]."""
    how = {"do_sample": False, "max_new_tokens": 8, "output_logits": True, "return_dict_in_generate": True} | how
    found = model.generate(**inputs, **how)
    return found.sequences[:, inputs["input_ids"].shape[1] :].tolist(), torch.stack(found.logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("how", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
def test_batches_with_left_padding_are_the_texts_alone(loud, tokenizer, texts, how, attention):
    padded = tokenizer(texts, return_tensors="pt", padding=True)
    assert (padded["attention_mask"][:, 0] == 0).any()
    loud.set_attn_implementation(attention)
    tokens, logits = scored(loud, padded, **how)
    for row, text in enumerate(texts):
        inputs = prompt(tokenizer, text)
        alone, expected = scored(loud, inputs, **how)
        assert alone == [tokens[row]]
        torch.testing.assert_close(logits[:, row], expected[:, 0], rtol=0, atol=1e-4)
        whole = torch.cat([inputs["input_ids"], torch.tensor(alone)], 1)
        at_once = loud(whole, use_cache=False).logits[0, -9:-1]
        torch.testing.assert_close(expected[:, 0], at_once, rtol=0, atol=1e-4)
    loud.set_attn_implementation("sdpa")


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_static_cache_is_read_token_by_token(loud, ours, texts, with_mask):
    tokens = torch.tensor([ours.encode(texts[1])])
    cache, found, name = transformers.StaticCache(config=loud.config, max_cache_len=40), [], cache_name(loud)
    for last in range(tokens.shape[1]):
        mask = torch.ones(1, last + 1, dtype=torch.long) if with_mask else None
        found.append(loud(tokens[:, last : last + 1], attention_mask=mask, **{name: cache}).logits[0])
    torch.testing.assert_close(torch.cat(found), loud(tokens, use_cache=False).logits[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [{"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 2, "top_k": 0}],
    ids=str,
)
def test_a_cache_changes_nothing(loud, tokenizer, texts, how):
    padded, found = tokenizer(texts, return_tensors="pt", padding=True), []
    for cache in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        torch.manual_seed(0)
        found.append(continued(loud, padded, **cache, **how).tolist())
    assert found[0] == found[1] == found[2]


def test_drafts_that_are_not_accepted_are_forgotten(loud, tokenizer, texts):
    draft = copy.deepcopy(loud)
    with torch.no_grad():
        draft.lm_head.weight += torch.randn(draft.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)) / 4
    for text in texts:
        inputs = prompt(tokenizer, text)
        expected = continued(loud, inputs).tolist()
        assert continued(loud, inputs, assistant_model=draft).tolist() == expected
        assert continued(loud, inputs, prompt_lookup_num_tokens=3).tolist() == expected


def test_padding_between_two_pieces_is_not_there(loud, long):
    """A batch that was padded on the right goes on: f-grams reach over the padding to the last tokens of the text."""
    text, name = long, cache_name(loud)
    first, second = torch.tensor([[*text[:6], 399, 399], text[:8]]), torch.tensor([text[6:12], text[8:14]])
    mask = torch.ones(2, 14, dtype=torch.long)
    mask[0, 6:8] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = transformers.DynamicCache(config=loud.config)
    loud(first, attention_mask=mask[:, :8], position_ids=positions[:, :8], **{name: cache})
    logits = loud(second, attention_mask=mask, position_ids=positions[:, 8:], **{name: cache}).logits
    for row, end in enumerate((12, 14)):
        alone = loud(torch.tensor([text[:end]])).logits[0, -6:]
        torch.testing.assert_close(logits[row], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lowest", [-np.inf, torch.finfo(torch.float32).min, None])
def test_branches_of_drafts_in_one_call_follow_what_they_see(loud, long, lowest):
    """Two drafts after one prefix: the first token of the second does not see the one before it, but the prefix."""
    text, name = long, cache_name(loud)
    prefix, branches = text[:8], (text[8:11], text[3:6])
    cache = transformers.DynamicCache(config=loud.config)
    loud(torch.tensor([prefix]), **{name: cache})
    sees = torch.zeros(6, 14, dtype=torch.bool)
    sees[:, :8] = True
    for start in (0, 3):
        sees[start : start + 3, 8 + start : 11 + start] = torch.ones(3, 3, dtype=torch.bool).tril()
    mask = sees[None, None] if lowest is None else torch.where(sees, 0.0, lowest)[None, None]
    positions = torch.tensor([[8, 9, 10, 8, 9, 10]])
    logits = loud(
        torch.tensor([branches[0] + branches[1]]), attention_mask=mask, position_ids=positions, **{name: cache}
    ).logits
    for number, branch in enumerate(branches):
        alone = loud(torch.tensor([prefix + branch])).logits[0, -3:]
        torch.testing.assert_close(logits[0, 3 * number :][:3], alone, rtol=0, atol=1e-4)


def test_a_bias_in_a_mask_hides_nothing(loud, long):
    tokens = torch.tensor([long[:30]])
    count = tokens.shape[1]
    distance = torch.arange(count)[:, None] - torch.arange(count)
    bias = torch.where(distance >= 0, -0.1 * distance, -torch.inf)[None, None]
    assert (loud.model.fgram_ids(tokens, bias) == loud.model.fgram_ids(tokens)).all()


def test_a_token_that_is_hidden_later_is_in_no_fgram(loud, long):
    """The mask of a later call hides tokens that the cache holds: as if it had hidden them from the beginning."""
    tokens, name = torch.tensor([long[:20]]), cache_name(loud)
    for hidden in range(3, 9):
        mask = torch.ones_like(tokens)
        mask[0, hidden] = 0
        cache = transformers.DynamicCache(config=loud.config)
        loud(tokens[:, :8], **{name: cache})
        later = loud.model.fgram_ids(tokens[:, 8:], mask, None, cache)
        assert later.tolist() == loud.model.fgram_ids(tokens, mask)[:, 8:].tolist()


def test_it_compiles(loud, ours, texts):
    tokens = torch.tensor([ours.encode(texts[0])])
    compiled = torch.compile(loud, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens).logits, loud(tokens).logits, rtol=0, atol=1e-4)


def test_a_chat_goes_on_with_the_cache_that_it_ended_with(loud, tokenizer, texts):
    inputs = prompt(tokenizer, texts[0])
    first = loud.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    name = cache_name(loud)
    more = tokenizer(texts[1], add_special_tokens=False, return_tensors="pt")["input_ids"]
    whole = torch.cat([first.sequences, more], 1)
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    expected = continued(loud, inputs).tolist()
    assert continued(loud, inputs, **{name: first[name]}).tolist() == expected


def test_documents_packed_in_one_row_do_not_see_one_another(model, tokenizer, texts):
    """Positions that begin again at 0 begin a document; so does a mask that hides the token before."""
    alone = [prompt(tokenizer, text)["input_ids"][0] for text in texts]
    packed = torch.cat(alone)[None]
    positions = torch.cat([torch.arange(len(tokens)) for tokens in alone])[None]
    document = torch.repeat_interleave(torch.arange(len(alone)), torch.tensor([len(tokens) for tokens in alone]))
    sees = (document[:, None] == document).tril()[None, None]
    expected = np.concatenate([model.model.fgram_ids(tokens[None])[0] for tokens in alone])
    assert (model.model.fgram_ids(packed, position_ids=positions + 5)[0] == expected).all()
    assert (expected != NONE).any()
    assert (model.model.fgram_ids(packed, position_ids=positions)[0] == expected).all()
    for mask in (sees, torch.where(sees, 0.0, -torch.inf)):
        assert (model.model.fgram_ids(packed, mask)[0] == expected).all()
    logits = model(packed, attention_mask=sees, position_ids=positions).logits[0]
    torch.testing.assert_close(
        logits, torch.cat([model(tokens[None]).logits[0] for tokens in alone]), rtol=0, atol=1e-4
    )


def test_pipelines_and_other_types(exported, model, tokenizer, texts):
    expected = tokenizer.decode(continued(model, prompt(tokenizer, texts[0]))[0], skip_special_tokens=True)
    generator = transformers.pipeline("text-generation", model=str(exported), trust_remote_code=True)
    written = generator(texts[0], max_new_tokens=8, do_sample=False)[0]["generated_text"]
    assert written == texts[0] + expected
    pytest.importorskip("accelerate")
    half = transformers.AutoModelForCausalLM.from_pretrained(
        exported, device_map="auto", dtype=torch.bfloat16, placement="ram"
    )
    assert (half.dtype, half.model.table.placement) == (torch.bfloat16, "ram")
    inputs = prompt(tokenizer, texts[1])
    torch.testing.assert_close(half(**inputs).logits.float(), model(**inputs).logits, rtol=0, atol=0.05)


def test_it_can_be_tuned(exported, tokenizer, texts):
    """The loss and its gradients; the rows stay."""
    tuned = transformers.AutoModelForCausalLM.from_pretrained(exported)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    labels = torch.where(inputs["attention_mask"] == 0, -100, inputs["input_ids"])
    tuned(**inputs, labels=labels).loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in tuned.parameters())
    assert tuned.model.embed_tokens.weight.grad.abs().sum() > 0
    for twin in (copy.deepcopy(tuned), pickle.loads(pickle.dumps(tuned))):
        assert torch.equal(twin(**inputs).logits, tuned(**inputs).logits)


PIECES = st.lists(st.tuples(st.sampled_from(["read", "crop", "choose"]), st.integers(1, 9)), min_size=3, max_size=14)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(PIECES, st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.booleans())
def test_pieces_beams_and_crops_match_as_the_whole_text(model, ours, long, pieces, padding, seed, has_positions):
    """Ids of f-grams at every position are those of the whole text, exactly; logits to 1e-4.

    Rows with padding on their left are read in pieces, beams are chosen among them, drafts are taken back.
    """
    chance, name = np.random.default_rng(seed), cache_name(model)
    cache = transformers.DynamicCache(config=model.config) if seed % 2 else transformers.DynamicCache()
    rows, held, least = [[-1] * count for count in padding], 0, max(padding) + 1
    for what, count in [("read", least), *pieces]:
        if what == "crop" and held > least:
            held -= min(count, held - least)
            cache.crop(held - len(rows[0]))
            rows = [row[:held] for row in rows]
        if what == "choose":
            beams = chance.integers(0, len(rows), len(rows))
            cache.reorder_cache(torch.from_numpy(beams))
            rows = [rows[beam] for beam in beams]
        if what == "read":
            starts = chance.integers(0, len(long) - 64, len(rows))
            rows = [row + long[at : at + held + count - len(row)] for row, at in zip(rows, starts, strict=True)]
            tokens = torch.tensor(rows)
            mask = (tokens >= 0).long()
            inputs = {"input_ids": tokens[:, held:].clamp(min=0), "attention_mask": mask, name: cache}
            if has_positions:  # without, padding counts
                inputs["position_ids"] = (mask.cumsum(1) - 1 + 2 * (1 - mask))[:, held:]
            seen = []
            logits = recorded(model, seen, **inputs).logits
            for row, ids, got in zip(rows, seen[0], logits, strict=True):
                whole = [token for token in row if token >= 0]
                last = min(count, len(whole))
                assert ids[-last:].tolist() == ours.table.matcher().match(whole)[-last:].tolist()
                if has_positions:
                    alone = model(torch.tensor([whole])).logits[0]
                    torch.testing.assert_close(got[-last:], alone[-last:], rtol=0, atol=1e-4)
            held += count


def cache_name(model):
    return "cache" if "cache" in model(torch.tensor([[1]])) else "past_key_values"


def recorded(model, seen, **inputs):
    """Call the model, and add the ids of f-grams that it finds to `seen`."""
    inner = model.model
    inner.fgram_ids = lambda *args: seen.append(type(inner).fgram_ids(inner, *args)) or seen[-1]
    try:
        return model(**inputs)
    finally:
        del inner.fgram_ids


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_what_cannot_be_right_is_refused(model):
    with pytest.raises(ValueError, match="input_ids, not inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 2, model.config.hidden_size))
    with pytest.raises(ValueError, match="token id 400"):
        model(torch.tensor([[400]]))
    name, filled = cache_name(model), transformers.DynamicCache()
    for layer in range(model.config.num_hidden_layers):
        filled.update(torch.zeros(1, 1, 3, 16), torch.zeros(1, 1, 3, 16), layer)
    with pytest.raises(ValueError, match="a cache of 3 tokens"):
        model(torch.tensor([[1]]), **{name: filled})
    with pytest.raises(ValueError, match="attention_mask"):
        model(torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 1))
    with pytest.raises(ValueError, match="401 tokens"):
        model.resize_token_embeddings(401)
    with pytest.raises(ValueError, match="generate_batch is not supported"):
        model.model.fgram_ids(torch.tensor([[1]]), cache=object())
    closed = type(model)(model.config)
    with pytest.raises(ValueError, match="no table is open"):
        closed(torch.tensor([[1]]))


def test_another_table_is_checked(exported, small, model, tokenizer, texts):
    """A table of the same tokenizer and weights is read in the place of the own one; others are refused."""
    same = transformers.AutoModelForCausalLM.from_pretrained(exported, table=small / "work" / "table")
    assert same.model.table.folder == small / "work" / "table"
    inputs = prompt(tokenizer, texts[0])
    assert torch.equal(same(**inputs).logits, model(**inputs).logits)
    for key in ("fgram_tokenizer", "fgram_weights"):
        config = transformers.AutoConfig.from_pretrained(exported)
        setattr(config, key, "0" * 64)
        with pytest.raises(MismatchedArtifacts, match="0" * 12):
            transformers.AutoModelForCausalLM.from_pretrained(exported, config=config)
