"""Errors caused by input, settings or the machine, each with the exit code that scripts see.

A `SconeError` says what was found and what was expected; its hint says what to run next. The command prints it in one line.
Python code catches all of them with `except SconeError`. An argument of the wrong type or shape raises ValueError. An f-gram
id that the table does not have raises IndexError. Any other exception that reaches the user is a bug and shows a traceback.
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
        exit_code: the exit code of the command.
        told: not for use from outside.
    """

    exit_code = 1
    told = False  # True if another process of the same run shows this error to the user

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class LostRank(SconeError):
    """One of the processes of a distributed training run has died. Exit code 1."""


class BadSetting(SconeError):
    """An option, a recipe key or a value that cannot be used. Exit code 2."""

    exit_code = 2


class BadData(SconeError):
    """Input that exists but is damaged or has the wrong format. Exit code 65."""

    exit_code = 65


class UnknownToken(BadData, ValueError):
    """A token id outside the vocabulary: below 0, or not below the vocabulary size."""


class InputMissing(SconeError):
    """Input that does not exist or is empty. Exit code 66."""

    exit_code = 66


class NotEnoughMemory(SconeError):
    """The machine or its GPU has less free memory than the work needs. Exit code 1."""


class StorageFailure(SconeError):
    """The disk is full, or reading or writing fails. Exit code 74."""

    exit_code = 74


class WorkspaceLocked(SconeError):
    """Another run is writing to the workspace; try again later. Exit code 75."""

    exit_code = 75


class HalfWrittenArtifact(BadData):
    """A folder without a manifest: the run that wrote it did not finish."""


class DamagedArtifact(BadData):
    """A file of an artifact is missing, or differs from its manifest in size or SHA-256."""


class ForeignArtifact(BadData):
    """An artifact of another kind, or a manifest that this program did not write."""


class NewerArtifact(BadData):
    """An artifact in a format that a later version of this program introduced."""


class MismatchedArtifacts(BadData):
    """Two artifacts that do not belong together, such as a table and a model trained with another vocabulary."""


def is_of_a_library(error: BaseException) -> bool:
    """Whether a library may have raised this error for bad input. A panic of a Rust library is not an `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
