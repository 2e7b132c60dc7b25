"""Short calls of a model of transformers and its tokenizer."""


def prompt(tokenizer, text):
    return tokenizer(text, return_tensors="pt")


def continued(model, inputs, **how):
    """The new tokens [B, 8] of a generation, which is greedy if nothing else is asked for."""
    how = {"do_sample": False, "max_new_tokens": 8} | how
    return model.generate(**inputs, **how)[:, inputs["input_ids"].shape[1] :]
