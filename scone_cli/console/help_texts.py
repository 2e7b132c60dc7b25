r"""What every command is called, where its code is, and what its help says.

It is text, so that `scone --help` and the completion of names import no stage. In help text, a paragraph that begins
with the control character `\b` keeps its line breaks: that is click's rule.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage as the command line sees it.

    Attributes:
        module_name: where its `run` is; imported when the command is asked for and not before.
        config_name: its config dataclass in that module.
        artifact: the folder in the workspace into which it writes; empty if it writes several.
        flow: what it reads and what it writes.
        short: its line in `scone --help`.
        about: its own help.
    """

    module_name: str
    config_name: str
    artifact: str
    flow: str
    short: str
    about: str

    def module(self) -> ModuleType:
        """Import the stage."""
        return importlib.import_module(self.module_name)

    def config_class(self) -> Any:
        """Import the stage for its config dataclass."""
        return getattr(self.module(), self.config_name)


STAGES: dict[str, Stage] = {
    "count-ngrams": Stage(
        "scone_cli.stages.count_ngrams",
        "CountNgrams",
        "",
        "CORPUS -> tokens/ counts/",
        "Tokenise text and count every n-gram in it.",
        """Tokenise the text in CORPUS and count every n-gram in it.

        CORPUS is any number of files, folders and quoted patterns, or `-`, standard input: plain text (one document a
        file, or many with --document-separator), JSON Lines and Parquet, each also compressed with gzip, Zstandard,
        bzip2 or xz. What a file is, is told by its content: JSON Lines if its first line is a JSON object. Archives and
        other forms that are not read are refused. A file that is reached in two ways counts once. The tokenizer is a
        byte-level BPE trained on about 64 MB of the corpus, unless --tokenizer names one. Held-out documents are
        tokenised, but neither counted nor trained on.

        Or token ids, as other programs write them: .bin of uint16 or uint32 (nanoGPT, llm.c), .npy (OLMo), Megatron's
        .bin with its .idx, .parquet with a column of lists (`tokens`, `input_ids`). Documents end at --separator.
        With the --tokenizer that made them they can be read as text later; without it, bits a byte and the text of
        f-grams are not known.

        A document that cannot be read (no JSON, not UTF-8, half a surrogate pair, beyond 1 GiB) stops the run, unless
        --on-bad-document skip leaves it out.

        What it takes is worked out and told before the work: processes, memory (--memory for all of them together), disk.

        \b
        Reads    CORPUS
        Writes   tokens/ counts/ in the workspace

        \b
        Example:
          scone count-ngrams books/ papers.jsonl.zst --vocab-size 8192 --min-count 5
          scone count-ngrams web/ --memory 4GiB --workers 8 --min-docs 10
          scone count-ngrams 'crawl/**/*.jsonl.gz' --on-bad-document skip
          scone count-ngrams - < dump.jsonl.zst
          scone count-ngrams wiki.train.raw --document-separator '^ = [^=]'
          scone count-ngrams fineweb/ --tokenizer gpt2.json --separator 50256
        """,
    ),
    "select-vocab": Stage(
        "scone_cli.stages.select_vocab",
        "SelectVocab",
        "vocab",
        "tokens/ counts/ -> vocab/",
        "Choose the most frequent n-grams as the f-grams.",
        """Choose the most frequent n-grams of all lengths, or the best by another rule (--by), as the f-gram vocabulary.

        An f-gram's id is its rank, so a smaller vocabulary is the beginning of a larger one. Its size is --size, or what
        fits --budget, or what matches the share --coverage of held-out text, or --size auto. Prints a ladder: what every
        size would match of held-out text, and the bytes of its table.

        \b
        Reads    tokens/ counts/
        Writes   vocab/

        \b
        Example:
          scone select-vocab --size 1000000
          scone select-vocab --budget 8GiB --dim 2048 --dtype float16
          scone select-vocab --coverage 0.8 --min-docs 10
          scone select-vocab --size auto --min-gain 0.03
          scone select-vocab --size 20k --by prediction
        """,
    ),
    "train-fgram": Stage(
        "scone_cli.stages.train_fgram",
        "TrainFgram",
        "model",
        "tokens/ vocab/ -> model/",
        "Train the f-gram model and the main model together.",
        """Train the token embeddings, the f-gram model, the main model and the head together.

        An interrupted run continues from its last checkpoint when the same command is given again. A first Ctrl-C or
        SIGTERM lets the step be finished and saved, a second does not. A baseline for `scone eval --against` is the same
        command with --kind plain or --kind hashed and another folder; or a table [train-fgram.plain] of the recipe, with its
        own settings over those of [train-fgram], which --baseline plain trains into the folder plain of the workspace.

        With `torchrun --nproc-per-node 8 -m scone_cli train-fgram` processes share each batch, each on a GPU of its own
        if there are GPUs.

        \b
        Reads    tokens/ vocab/
        Writes   model/, or the folder given with --out

        \b
        Example:
          scone train-fgram --dim 256 --layers 6 --steps 5000
          scone train-fgram --kind plain --out scone-work/plain
          scone train-fgram --optimizer muon --schedule wsd --tracker tensorboard
        """,
    ),
    "precompute": Stage(
        "scone_cli.stages.precompute",
        "Precompute",
        "table",
        "vocab/ model/ -> table/",
        "Write the embedding of every f-gram into the table.",
        """Run the f-gram model once over the whole vocabulary and write its outputs as the table.

        Row number = f-gram id. The table is a Parquet file that is also mapped into memory and served as it lies. Rows are
        written to their places as they come; an interrupted run continues when the same command is given again. Before
        the table is published, a random sample of its rows is computed again, each alone, and compared.

        With `torchrun --nproc-per-node 8 -m scone_cli precompute` processes share the rows, each on a GPU of its own if
        there are GPUs; the table is the same, byte for byte, with any number of them.

        \b
        Reads    vocab/ model/
        Writes   table/

        \b
        Example:
          scone precompute --dtype float16
          scone precompute --dtype int8 --memory 4GiB
        """,
    ),
    "eval": Stage(
        "scone_cli.stages.evaluate",
        "Evaluate",
        "eval",
        "model/ table/ -> eval/",
        "Measure what the f-grams are worth, and whether that pays.",
        """Measure what the f-grams are worth, where, what they cost, and whether that pays.

        The same model with the f-gram model running (`live`), with rows from the mapped file (`table`) and without
        f-grams (`none`); and every other model (--against) and table (--table), over every CORPUS; `held-out`, or none,
        are the held-out documents. The page eval/report.html has it all; a terminal shows a part, the verdict last.

        --terms evaluates the tokens inside the terms of a field: do the f-grams help with our own words? --tasks piqa,
        arc_easy, arc_challenge, hellaswag and lambada read a local copy of their data (--task-data).

        --fail-if compares two sides made of numbers, + - * / and ARM.METRIC: ppl, word_ppl, bpb, nats, hit_rate; with several
        corpora ARM.METRIC[CORPUS]; and latency_ms, latency_p99_ms, first_token_ms, first_token_p99_ms. Prices stand in the
        recipe, as [prices]. Only that changed, nothing is measured again.

        \b
        Reads    tokens/ vocab/ model/ table/, and CORPUS
        Writes   eval/

        \b
        Example:
          scone eval --against scone-work/plain
          scone eval held-out wiki/ law.jsonl.zst --against plain=scone-work/plain --ladder
          scone eval --table scone-work/int8 --tasks piqa.yaml
          scone eval --against scone-work/plain --terms terms.txt --fail-if 'table.latency_p99_ms > 20'
          scone eval --tasks piqa --tasks lambada --task-data data/ --limit 500
          scone eval novels/ --no-speed --fail-if 'table.ppl > live.ppl * 1.001' --json > results.json
        """,
    ),
}

LOOKING = {
    "recipe": "List the recipes that come with scone, or print one.",
    "inspect": "Show what an artifact is; counts/, vocab/ and model/ also in figures.",
    "lookup": "Show what the table has for a text, and what lies near it.",
    "generate": "Go on with a text: the model writes, reading the table.",
    "cost": "Work out what models of any shape cost, and whether a table pays.",
    "verify": "Check every byte of artifacts against their manifests.",
}

RECIPE_ABOUT = """Print a recipe that comes with scone, to start from; or list what there is.

    A recipe has the settings of all stages; its comments say what they are for. Beside recipes there are a makefile that
    brings a workspace up to date, a wrapper of it for cron, the maker of the demo's corpus, and two small tasks.

    \b
    Example:
      scone recipe --list
      scone recipe tiny > recipe.toml
      scone recipe --path rebuild.mk
    """

INSPECT_ABOUT = """Show what an artifact is, what made it, and what is in it as readable text.

    PATH is an artifact folder, one file in it, its manifest.json, or a workspace (without PATH: that of --workspace).
    Token lists are decoded with the tokenizer of the workspace if it is the one the artifact was made with; a blank
    shows as a dot in the middle.

    The folders counts/, vocab/ and model/ are shown in figures. Of counts/: how fast they fall with rank, n-grams by
    length, some of them to read, and which tokens no n-gram reaches. Of vocab/ also how much held-out text it matches:
    by size, by position in the document, and by how rare a token is. Of model/: its configuration, its parameters,
    resident, offloaded or for training only, the FLOPs a token, the loss curve, and how training went.

    --html writes all that as one page with charts, to open in a browser or to mail; it replaces the file. --text cuts
    a text into the f-grams of vocab/. --terms shows which terms of a field are f-grams, and how often they occur. Give
    one of the three: the page has no place for a text or terms.

    \b
    Example:
      scone inspect scone-work
      scone inspect scone-work/counts/n=3.parquet --rows 20
      scone inspect scone-work/vocab --html vocab.html
      scone inspect scone-work/model
      scone inspect scone-work/vocab --text "The cat sat on the mat."
      scone inspect scone-work/vocab --terms terms.txt
    """

LOOKUP_ABOUT = """Show what the table has for TEXT, token by token.

    For every token: the longest f-gram that ends there, how often it occurred in the training text, the norm of its row,
    and the f-grams whose rows have the largest cosine with it, over the whole table; memory does not grow with the
    table. TEXT is read as one document; `-` is standard input. A blank shows as a dot in the middle.

    \b
    Reads    table/, and the tokenizer in tokens/

    \b
    Example:
      scone lookup "The cat sat on the mat."
      scone lookup "The cat sat on the mat." --nearest 8 --json
    """

GENERATE_ABOUT = """Go on with a text: the prompt is read in one pass, then the model writes token by token.

    The text goes to stdout as it is written; how fast it went, and what ended it, to stderr: --max-tokens, the end of a
    document, or the model's context, beyond which it was not trained. A model with f-grams reads their rows from the
    table; --live runs the f-gram model instead, to check that this is the same. A plain model needs neither.

    The prompt is the beginning of a document. With `-` it is standard input, without the newline at its end.

    \b
    Reads    tokens/ model/ table/, or vocab/ with --live

    \b
    Example:
      scone generate --prompt "The cat sat on"
      scone generate --prompt "The cat sat on" --temperature 0 --max-tokens 40
      scone generate --prompt - --top-p 0.9 --seed 3 --json
      scone generate --prompt "def main(" --model scone-work/plain
    """

COST_ABOUT = """Work out what models cost, built or not, from their shapes: parameters, bytes, operations, tables, training.

    RECIPE has a table [[cost.model]] for each model, as `scone recipe paper` has for those of the paper, and may have one of
    [prices], which holds for `scone eval` too. Of a recipe without models, that is shown which its [train-fgram] would train.

    Beside our table stand the dictionary in RAM and the LMDB on SSD that the paper used, and beside our way of training
    the paper's. Where perplexities and training tokens are given, it is told after how many tokens a table has paid for
    itself, compared with the plain model of equal quality, and the assumption on which that hinges.

    \b
    Example:
      scone cost --config paper.toml
      scone cost --config recipe.toml --json
    """

VERIFY_ABOUT = """Read every byte of every artifact in PATH and compare it with its manifest.

    PATH is an artifact folder or a workspace (without PATH: that of --workspace); one line is printed for each artifact,
    and below one that is wrong what to run. Also checks that an artifact was made from those that lie beside it. Exit
    code 65 if anything is wrong.

    \b
    Example:
      scone verify scone-work
      scone verify scone-work --json
    """

GROUP_ABOUT = """Tables of contextualised n-gram embeddings for language models.

    Five stages, each one command, turn a text corpus into a small language model and a table of n-gram embeddings
    that lies on disk instead of on the accelerator, and measure whether that pays. All artifacts lie in one workspace
    folder; a stage whose result is up to date is skipped.

    \b
    Example:
      scone count-ngrams corpus/
      scone select-vocab
      scone train-fgram
      scone precompute
      scone eval
    """

GROUP_EPILOG = """\b
Settings, the first that is given wins:
  1. flag               scone train-fgram --dim 256
  2. variable           SCONE_TRAIN_FGRAM_DIM=256   (SCONE_<COMMAND>_<OPTION>)
  3. recipe             scone --config recipe.toml, with [train-fgram] dim = 256
                        (scone recipe tiny > recipe.toml has one to start from)
  4. default            scone train-fgram --help shows it

\b
Exit codes:
  0 done or up to date    1 failed          2 wrong usage or recipe
  65 bad data             66 no input       74 disk full or input/output error
  75 workspace in use, try again later      130, 143 stopped by Ctrl-C, by SIGTERM
"""
