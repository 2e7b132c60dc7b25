"""What can go wrong for a reason outside our code, each with the exit code that scripts see.

A `SconeError` says what was found and what was expected; its hint says what to run next. The command shows it as one clear
line; from Python it is raised, and `except SconeError` meets them all. Arguments of the wrong type or shape are a ValueError,
an f-gram that a table has not is an IndexError. Anything else that reaches the user is a bug, and shows a traceback.
"""

__all__ = [
    "BadData",
    "BadSetting",
    "DamagedArtifact",
    "ForeignArtifact",
    "HalfWrittenArtifact",
    "InputMissing",
    "LostRank",
    "MismatchedArtifacts",
    "NewerArtifact",
    "NotEnoughMemory",
    "SconeError",
    "StorageFailure",
    "UnknownToken",
    "WorkspaceLocked",
]


class SconeError(Exception):
    """Base of all errors caused by input, settings or the machine. Exit code 1.

    Attributes:
        message: what was found, and what was expected, in one line.
        hint: what to run or to change, or None.
        exit_code: what the command ends with.
        told: not for use from outside.
    """

    exit_code = 1
    told = False  # whether another process of the same run says it to the user

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class LostRank(SconeError):
    """One of the processes that train together has gone. Exit code 1."""


class BadSetting(SconeError):
    """An option, a recipe key or a value that cannot be used. Exit code 2."""

    exit_code = 2


class BadData(SconeError):
    """Input that exists but cannot be read as what it claims to be. Exit code 65."""

    exit_code = 65


class UnknownToken(BadData, ValueError):
    """A token id outside the vocabulary: below 0, or as large as the vocabulary or larger."""


class InputMissing(SconeError):
    """Input that is not there, or holds nothing. Exit code 66."""

    exit_code = 66


class NotEnoughMemory(SconeError):
    """More memory was asked for than the machine, or its GPU, has. Exit code 1."""


class StorageFailure(SconeError):
    """A disk that is full or fails. Exit code 74."""

    exit_code = 74


class WorkspaceLocked(SconeError):
    """Another run is writing to the workspace; try again later. Exit code 75."""

    exit_code = 75


class HalfWrittenArtifact(BadData):
    """A folder without a manifest: whatever wrote it did not finish."""


class DamagedArtifact(BadData):
    """A file of an artifact is missing, or differs from its manifest in size or SHA-256."""


class ForeignArtifact(BadData):
    """An artifact of another kind, or a manifest that this program did not write."""


class NewerArtifact(BadData):
    """An artifact in a format that a later version of this program introduced."""


class MismatchedArtifacts(BadData):
    """Artifacts that were not made from one another: model, vocabulary, table, tokenizer."""


def is_of_a_library(error: BaseException) -> bool:
    """Whether an error can be what a library says of its input: those written in Rust may panic, which is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
