"""Divides plain text into documents by the pattern of `--document-separator`.

A pattern that begins with `^` is a regular expression; any other pattern is a line. Such a line (`-----`, `<|endoftext|>`, or
"" for blank lines) separates documents and belongs to none of them; blanks at the end of lines are ignored. A regular
expression is matched at the beginning of every line, and a matching line is the first line of a document: `^ = [^=]` matches
the titles of WikiText.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from scone_cli.errors import BadSetting

# The help text of the setting.
SEPARATOR_HELP = (
    "a line that stands between documents, such as '-----' or '' (blank lines); or a regular expression that begins "
    "with ^ and matches the first line of a document, such as '^ = [^=]' (WikiText)."
)


class Separator:
    """Splits plain text into documents by a pattern; `num_found` counts the matches of this object."""

    def __init__(self, pattern: str) -> None:
        """Read a pattern.

        Raises:
            BadSetting: it has several lines, or is not a valid regular expression.
        """
        self.pattern = pattern
        self.num_found = 0
        if "\n" in pattern or "\r" in pattern:
            raise BadSetting(f"--document-separator {pattern!r}: expected one line")
        try:
            self._expression = re.compile(pattern) if pattern.startswith("^") else None
        except (re.error, OverflowError, RecursionError) as error:
            raise BadSetting(
                f"--document-separator '{pattern}': not a regular expression ({error})",
                "a pattern that begins with ^ is one; a line that begins with ^ itself is written ^\\^",
            ) from error
        self._line = pattern.rstrip().encode()

    @classmethod
    def of(cls, pattern: str | None) -> Separator | None:
        """The separator of a setting, or None if the setting is None."""
        return None if pattern is None else cls(pattern)

    def found_nowhere(self, corpus: str) -> str:
        """The warning if the pattern was not found: then every file of plain text is one document."""
        return f"warning: --document-separator '{self.pattern}' matches no line of plain text in {corpus}"

    def split(self, content: BinaryIO, most: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield the texts between separators: its first line number (from 1), the text, its bytes; blank texts are left out.

        Of a text longer than `most` bytes only the beginning is given, `most` + 1 bytes at most. Lines are read one at a time.
        """
        first, lines, size, number, at_start = 1, list[bytes](), 0, 0, True
        while line := content.readline(most + 1):
            number += at_start
            if at_start and self._is_found(line if number > 1 else line.removeprefix(codecs.BOM_UTF8)):
                self.num_found += 1
                if any(map(bytes.strip, lines)):
                    yield first, b"".join(lines), size
                lines, size = [], 0
                first = number if self._expression else number + 1
                if not self._expression:
                    continue
            at_start = line.endswith(b"\n")
            if size <= most:
                lines.append(line[: most + 1 - size])
            size += len(line)
        if any(map(bytes.strip, lines)):
            yield first, b"".join(lines), size

    def _is_found(self, line: bytes) -> bool:
        if self._expression is None:
            return line.rstrip() == self._line
        return self._expression.match(line.decode(errors="replace").rstrip("\r\n")) is not None
