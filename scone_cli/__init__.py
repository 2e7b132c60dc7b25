"""Scone: tables of contextualised n-gram embeddings for language models.

The ``scone`` command makes the tables; `scone_cli.console.cli` lists its subcommands. Python code reads them. Public are

    scone_cli.table.Table             opens a table, finds f-grams in token ids, and reads their rows
    scone_cli.serving.SconeEmbedding  a `torch.nn.Module` that takes the place of a model's token embedding
    scone_cli.serving.load_model      opens a trained model (a `LoadedModel`): text, logits, embeddings
    scone_cli.errors                  the errors that they raise for bad input, bad settings or the machine
    scone_cli.__version__

and the attributes of these classes without a leading underscore, except those that a docstring reserves for the package.
The object that `Table.matcher` returns has three public methods: `match`, `roll_back` and `reset`. The promise: a program that
uses only these names keeps working within one minor version (0.1.x). A name that will be removed or changed warns
(`DeprecationWarning`) for one minor version before. New arguments have defaults. An error class may become a subclass of
the old one. Everything else in the package is private and changes without notice. Public names have types (`py.typed`).
Importing the package has no side effects.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
