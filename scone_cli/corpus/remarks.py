"""Checks and warnings about a corpus after tokenising: an unusable corpus is an error, a hidden problem is a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from scone_cli.corpus.document_list import unmatched
from scone_cli.corpus.redact import found_nothing
from scone_cli.errors import BadData, InputMissing
from scone_cli.formatting import value_text

if TYPE_CHECKING:
    from scone_cli.corpus.shard_stats import ShardStats
    from scone_cli.corpus.shards import Shards

LEFT_OUT: Final = "share_of_bytes_without_token"  # key of a summary
UNKNOWN: Final = "share_of_tokens_unknown"

_MANY_UNKNOWN = 0.001  # share of tokens above which there is a warning
_OTHER_TOKENIZER = "give a tokenizer that has all bytes or an unknown token, or none to train one"


def check_documents(stats: ShardStats, num_files: int, shards: Shards) -> None:
    """Refuse a corpus without any training tokens.

    Raises:
        InputMissing: no document has text, or all are held out.
        BadData: the tokenizer gives no token for any of them.
    """
    if not stats.num_documents:
        skipped = f", {stats.num_skipped:,} skipped" if stats.num_skipped else ""
        skipped += f", {stats.redacted[0]:,} redacted as a whole" if stats.redacted and stats.redacted[0] else ""
        skipped += f", {stats.num_excluded:,} left out by --exclude-documents" if stats.num_excluded else ""
        raise InputMissing(
            f"no document with text in {num_files:,} file(s){skipped}", "name files or folders that hold text"
        )
    if not stats.num_tokens:
        raise BadData(
            f"{shards.tokenizer_source}: gives no token for any of {stats.num_documents:,} document(s)",
            _OTHER_TOKENIZER,
        )
    if stats.num_held_out_documents == stats.num_documents:
        raise InputMissing(
            f"all {stats.num_documents:,} document(s) are held out (--held-out {shards.held_out.share:g}), "
            "none is left to train on",
            "give a smaller --held-out, or more documents",
        )


def shares(stats: ShardStats) -> dict[str, Any]:
    """The share of bytes without a token and of unknown tokens, for a summary; only shares that are not 0."""
    found = {}
    if stats.num_left_out:
        found[LEFT_OUT] = stats.num_left_out / stats.num_bytes
    if stats.num_unknown:
        found[UNKNOWN] = stats.num_unknown / stats.num_tokens
    return found


def remarks(stats: ShardStats, shards: Shards, separator_given: bool) -> Iterator[str]:
    """The warnings about these tokens, one line each."""
    if separator_given and not stats.num_separators:
        yield (
            f"warning: --separator {shards.separator} occurs nowhere in the token ids, so it divided no documents: "
            "check that it is the id between documents"
        )
    if note := found_nothing(shards.rules, stats.redacted):
        yield note
    if note := unmatched(shards.documents, stats.excluded_by):
        yield note
    for text in flattery(shares(stats), shards.tokenizer_source):
        yield f"warning: {text}"


def flattery(found: Mapping[str, Any], tokenizer: str = "the tokenizer") -> Iterator[str]:
    """The reasons why bits per byte look too good, if there are any; `found` holds the result of `shares`."""
    if share := found.get(LEFT_OUT):
        yield (
            f"{tokenizer} has no token for {value_text('share', share)} of the bytes of text (blanks aside): they are left out, "
            "but bits per byte divides by all bytes, so it is too good"
        )
    if (share := found.get(UNKNOWN, 0)) >= _MANY_UNKNOWN:
        yield (
            f"{value_text('share', share)} of the tokens are the unknown token of {tokenizer}, which stands for any text: "
            "so bits per byte is too good"
        )
