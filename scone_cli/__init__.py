"""Scone: tables of contextualised n-gram embeddings for language models.

The ``scone`` command makes them; `scone_cli.console.cli` lists what it can do. From Python they are served. Public are

    scone_cli.table.Table             opens a table, finds f-grams in tokens, and reads their rows
    scone_cli.serving.SconeEmbedding  a `torch.nn.Module` that takes the place of a model's token embedding
    scone_cli.serving.load_model      opens a trained model whole (a `LoadedModel`): text, logits, embeddings
    scone_cli.errors                  what all of them raise for what is wrong outside the program
    scone_cli.__version__

and what these classes have without an underscore, except what their docstrings keep for the package itself; of what
`Table.matcher` gives, `match`, `roll_back` and `reset`. The promise: within one minor version (0.1.x) a program that uses only
that goes on working. What is to go or to change warns (`DeprecationWarning`) in one minor version before it does; new
arguments have defaults, and an error may become a subclass of what it was. Everything else in the package is private, and
changes without notice. Public names have types (`py.typed`). Importing the package does nothing.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
