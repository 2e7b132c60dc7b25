r"""The names, modules and help texts of all commands.

`scone --help` and shell completion need only this text, and import no stage. In click's help texts, a paragraph that begins
with the control character `\b` keeps its line breaks.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Stage:
    """What the command line needs to know of a stage.

    Attributes:
        module_name: the module with its `run`; imported only when the command is used.
        config_name: its config dataclass in that module.
        artifact: the folder of the workspace that it writes; empty if it writes several.
        flow: what it reads and what it writes.
        short: its line in `scone --help`.
        about: the help of the command.
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
        """Import the stage and return its config dataclass."""
        return getattr(self.module(), self.config_name)


STAGES: dict[str, Stage] = {
    "count-ngrams": Stage(
        "scone_cli.stages.count_ngrams",
        "CountNgrams",
        "",
        "CORPUS -> tokens/ counts/",
        "Tokenise text and count every n-gram in it.",
        """Tokenise the text in CORPUS and count every n-gram in it.

        CORPUS is any number of files, folders, quoted patterns and URLs of these (s3://, gs://, hf://, https://), or `-`
        for standard input: plain text (one document per file, or several with --document-separator), JSON Lines, Parquet
        and Arrow, each also compressed with gzip, Zstandard, bzip2 or xz. The format is recognised by the content: a file
        is JSON Lines if its first line is a JSON object. Archives and unknown formats are refused. A file that is named
        twice counts once. The tokenizer is a byte-level BPE trained on about 64 MB of the corpus, unless --tokenizer names
        one. Held-out documents are tokenised, but neither counted nor trained on.

        CORPUS may also be token ids: .bin of uint16 or uint32 (nanoGPT, llm.c), .npy (OLMo), Megatron's .bin with its
        .idx, Parquet or Arrow with a column of lists (`tokens`, `input_ids`). Documents end at --separator. With --tokenizer,
        the tokenizer that made them, they can be decoded later; without it, bits per byte and the text of f-grams are
        not known.

        A document that cannot be read (not JSON, not UTF-8, half of a surrogate pair, larger than 1 GiB) stops the run;
        --on-bad-document skip leaves it out.

        The number of processes, the memory (limited by --memory) and the disk are computed and shown before the work.

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

        The id of an f-gram is its rank, so a smaller vocabulary is the beginning of a larger one. The size is --size, or
        the largest whose table fits into --budget, or the smallest that matches the share --coverage of held-out text,
        or --size auto, the last doubling with a gain of --min-gain. Prints a ladder of sizes: the share of held-out text
        that each matches, and the bytes of its table.

        Counted n-grams that do not fit in memory (--memory) are ranked block by block, with temporary files in the
        workspace. The memory and the disk are computed and shown before the work.

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
          scone select-vocab --size 10M --memory 8GiB
        """,
    ),
    "train-fgram": Stage(
        "scone_cli.stages.train_fgram",
        "TrainFgram",
        "model",
        "tokens/ vocab/ -> model/",
        "Train the f-gram model and the main model together.",
        """Train the token embeddings, the f-gram model, the main model and the head together.

        The same command continues an interrupted run from its last checkpoint. After a first Ctrl-C or SIGTERM the step is
        finished and saved; a second one ends the process at once.

        A baseline for `scone eval --against` is trained by the same command with --kind plain or --kind hashed and --out.
        Or a recipe has a table [train-fgram.plain], whose settings override those of [train-fgram]: --baseline plain
        trains it into the folder plain of the workspace.

        With `torchrun --nproc-per-node 8 -m scone_cli train-fgram` several processes share each batch, each with its own
        GPU if there are GPUs.

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

        The number of a row is the id of its f-gram. The table is a Parquet file that can also be mapped into memory and
        served without conversion. The same command continues an interrupted run. Before the table is published, a random
        sample of rows is computed again, one by one, and compared.

        With `torchrun --nproc-per-node 8 -m scone_cli precompute` several processes share the rows, each with its own GPU
        if there are GPUs; the table is the same, byte for byte, for any number of processes.

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
        "Measure what the f-grams gain and cost.",
        """Measure what the f-grams gain, on which text, what they cost, and whether the gain is worth the cost.

        Evaluated on every CORPUS: the model with the f-gram model running (`live`), with rows from the mapped table
        (`table`) and without f-grams (`none`), every model of --against and every table of --table. Without CORPUS, or
        with the word `held-out`, the text is the held-out documents. The page eval/report.html has all results; the
        terminal shows a part of them, the verdict last.

        --terms also evaluates the tokens inside the terms of a field. --tasks piqa, arc_easy, arc_challenge, hellaswag
        and lambada read a local copy of their data (--task-data).

        --fail-if compares two expressions of numbers, + - * / and ARM.METRIC, with the metrics ppl, word_ppl, bpb, nats,
        hit_rate, latency_ms, latency_p99_ms, first_token_ms and first_token_p99_ms; with several corpora
        ARM.METRIC[CORPUS]. Prices are in [prices] of the recipe. If only conditions or prices change, nothing is
        measured again.

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
    "status": "Say what is there, whether it is up to date, how the last runs ended, and what to do next.",
    "recipe": "List the recipes that come with scone, or print one.",
    "inspect": "Show what is in an artifact; counts/, vocab/ and model/ with figures.",
    "lookup": "Show the table's rows for a text, and the f-grams nearest to them.",
    "generate": "Continue a text with the model, which reads the table.",
    "export": "Write the model, or the table alone, for other programs.",
    "cost": "Compute what models of any shape cost, and whether a table pays.",
    "verify": "Check every byte of artifacts against their manifests.",
    "audit": "Say what artifacts still hold of given texts or documents, and what looks personal.",
}

PUBLISHING = {
    "publish": "Put the table into a registry as a version, and make that current.",
    "rollback": "Make an earlier version current again.",
    "fetch": "Copy a version into a private folder; decrypt it if it is encrypted.",
}

RECIPE_ABOUT = """Print a recipe that comes with scone, or list all of them.

    A recipe has the settings of all stages, with comments. The list also has a makefile that brings a workspace up to date,
    a script that runs it from cron, a script that builds the corpus of the demo, and two small tasks.

    \b
    Example:
      scone recipe --list
      scone recipe tiny > recipe.toml
      scone recipe --path rebuild.mk
    """

INSPECT_ABOUT = """Show what an artifact is, what made it, and what is in it as readable text.

    PATH is an artifact folder, one file in it, its manifest.json, or a workspace (without PATH: that of --workspace).
    Token lists are decoded with the tokenizer of the workspace if the artifact was made with it; a space is shown as a
    middle dot.

    The folders counts/, vocab/ and model/ are shown with figures. counts/: counts by rank, n-grams by length, examples,
    and the tokens that no n-gram contains. vocab/: also the share of held-out text it matches, by size of the vocabulary,
    by position in the document and by frequency of the token. model/: its configuration, its parameters (resident,
    offloaded, or for training only), FLOPs per token, the loss, and the course of its training.

    --html writes one page with these figures and charts, replacing the file. --text splits a text into the f-grams of
    vocab/. --terms shows which terms of a field are f-grams, and how often they occur. Only one of the three may be given.

    \b
    Example:
      scone inspect scone-work
      scone inspect scone-work/counts/n=3.parquet --rows 20
      scone inspect scone-work/vocab --html vocab.html
      scone inspect scone-work/model
      scone inspect scone-work/vocab --text "The cat sat on the mat."
      scone inspect scone-work/vocab --terms terms.txt
    """

LOOKUP_ABOUT = """Show the row of the table for every token of TEXT.

    For every token: the longest f-gram that ends there, how often it occurred in the training text, the norm of its row,
    and the f-grams of the whole table with the largest cosine to it. The memory needed does not grow with the table. TEXT
    is read as one document; `-` is standard input. A space is shown as a middle dot.

    \b
    Reads    table/, and the tokenizer in tokens/

    \b
    Example:
      scone lookup "The cat sat on the mat."
      scone lookup "The cat sat on the mat." --nearest 8 --json
    """

GENERATE_ABOUT = """Continue a text: the prompt is read in one pass, then the model writes token by token.

    The text goes to stdout as it is generated. The speed, and why generation ended, go to stderr: --max-tokens is reached,
    the document ends, or the model's context is full. A model with f-grams reads their rows from the table; --live runs
    the f-gram model instead, for comparison. A plain model needs neither.

    The prompt is the beginning of a document; `-` is standard input, without the newline at its end.

    \b
    Reads    tokens/ model/ table/, or vocab/ with --live

    \b
    Example:
      scone generate --prompt "The cat sat on"
      scone generate --prompt "The cat sat on" --temperature 0 --max-tokens 40
      scone generate --prompt - --top-p 0.9 --seed 3 --json
      scone generate --prompt "def main(" --model scone-work/plain
    """

EXPORT_ABOUT = """Write the model with its table, or the table alone, into DIR, for other programs.

    --to hf writes a folder that `transformers` opens, where scone is installed too; it needs the extra `hf`. --to
    safetensors writes the table alone, in the format that docs/table-format.md specifies, which `scone generate --table` and
    `Table.open` open too. The folder appears whole or not at all, and needs no workspace. An earlier export of the same
    kind in DIR is replaced; anything else in DIR is an error. `scone verify DIR` checks every byte.

    \b
    Reads    table/; --to hf also tokens/, model/ and, for the model card, eval/
    Writes   DIR

    \b
    Example:
      scone export --to safetensors exported
      scone export --to safetensors exported --table scone-work/int8
      scone export --to hf exported
    """

STATUS_ABOUT = """Say of every artifact when it was made, from what, and whether it is up to date, or why not.

    Of a workspace (without PATH: that of --workspace) also: the exit code and the seconds of the last run of every stage,
    unfinished work that the next run continues, and the next command to give. Of a REGISTRY/NAME: its versions, which one
    is current, their age, size and figures, and from which model they are. Of a registry: a line for each name.

    An artifact is up to date if its files have their sizes, if it was made from the artifacts that are beside it now, and if
    these are up to date too. With --config, its settings are compared with those of the recipe. A corpus is not looked at:
    count-ngrams finds out what is new in it. `scone verify` reads every byte.

    --prometheus writes the same as metrics, whole or not at all, for the textfile collector of the node exporter, and prints
    nothing (but --json does). docs/operations.md lists the metrics and the keys of --json.

    \b
    Example:
      scone status
      scone --config recipe.toml status scone-work
      scone status /srv/tables/law
      scone status scone-work --prometheus /var/lib/node_exporter/scone.prom
    """

COST_ABOUT = """Compute what models cost from their shapes: parameters, bytes, FLOPs, tables, training. No model is needed.

    RECIPE has a table [[cost.model]] for each model, as `scone recipe paper` has for the models of the paper. It may have
    [prices], which `scone eval` uses too. For a recipe without [[cost.model]] the models of its [train-fgram] are shown.

    Our table is shown beside the dictionary in RAM and the LMDB on SSD of the paper, and our training beside the paper's.
    If perplexities and training tokens are given, the output says after how many served tokens a table has paid for
    itself, compared with a plain model of equal quality, and which assumption matters most.

    \b
    Example:
      scone cost --config paper.toml
      scone cost --config recipe.toml --json
    """

VERIFY_ABOUT = """Read every byte of every artifact in PATH and compare it with its manifest.

    PATH is an artifact folder or a workspace (without PATH: that of --workspace). Prints one line for each artifact, and
    for a wrong one the command that makes it again. Also checks that each artifact was made from the artifacts beside
    it. The exit code is 65 if anything is wrong.

    \b
    Example:
      scone verify scone-work
      scone verify scone-work --json
    """

GROUP_ABOUT = """Tables of contextualised n-gram embeddings for language models.

    Five stages, one command each, turn a text corpus into a small language model and a table of n-gram embeddings
    that is stored on disk instead of on the accelerator, and measure what it gains and costs. All artifacts are in one
    workspace folder; a stage whose result is up to date is skipped.

    \b
    Example:
      scone count-ngrams corpus/
      scone select-vocab
      scone train-fgram
      scone precompute
      scone eval
    """

GROUP_EPILOG = """\b
Settings, in order of precedence:
  1. flag               scone train-fgram --dim 256
  2. variable           SCONE_TRAIN_FGRAM_DIM=256   (SCONE_<COMMAND>_<OPTION>)
  3. recipe             scone --config recipe.toml, with [train-fgram] dim = 256
                        (an example: scone recipe tiny > recipe.toml)
  4. default            scone train-fgram --help shows it

\b
Exit codes:
  0 done or up to date    1 failed          2 wrong usage or recipe
  65 bad data             66 no input       74 disk full or input/output error
  75 workspace in use, try again later      130, 143 stopped by Ctrl-C, by SIGTERM
"""
