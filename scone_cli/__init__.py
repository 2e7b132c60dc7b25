"""Scone: tables of contextualised n-gram embeddings for language models.

The package is used through the ``scone`` command; `scone_cli.console.cli` lists what it can do. Importing the package does
nothing.
"""

__version__ = "0.1.0"
