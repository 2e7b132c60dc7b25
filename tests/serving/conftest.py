"""The small workspace's model as a folder of Hugging Face, and what opens it; tests that use it need transformers."""

import pytest


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """The small workspace's model as a folder, and the plain one beside it."""
    pytest.importorskip("transformers")
    from scone_cli.stages.export_hf import export_hf  # noqa: PLC0415 - the extra `hf`

    folder = tmp_path_factory.mktemp("exported")
    for name in ("model", "plain"):
        export_hf(small / "work", small / "work" / name, None, folder / name, lambda *_, **__: None)
    return folder / "model"


@pytest.fixture(scope="module")
def model(exported):
    import transformers  # noqa: PLC0415 - the extra `hf`

    return transformers.AutoModelForCausalLM.from_pretrained(exported)


@pytest.fixture(scope="module")
def tokenizer(exported):
    import transformers  # noqa: PLC0415 - the extra `hf`

    return transformers.AutoTokenizer.from_pretrained(exported, trust_remote_code=True)


@pytest.fixture(scope="module")
def texts(small):
    """Texts of different lengths, of words that were trained on: most of their tokens end f-grams."""
    return [(small / "corpus" / f"{number}.txt").read_text()[:size] for number, size in ((1, 20), (2, 37), (3, 9))]
