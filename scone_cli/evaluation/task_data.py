"""Read the items of public zero-shot tasks (PIQA, ARC, HellaSwag, LAMBADA) from a local copy of their data.

A copy has the files of the authors (JSON Lines, plain text) or of Hugging Face (Parquet), anywhere in a folder. The file of a
task is found by its columns and by the split in its name; if several files match, that is an error. An item has the keys
that the task files in `pipelines/tasks` use: a text with `choices` and the number of the `right` one, or a `passage` with its
last `word`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scone_cli.artifacts.opening import to_read
from scone_cli.errors import BadData, InputMissing

Item = dict[str, Any]

_VALIDATION, _TEST, _ANY_SPLIT = (
    rf"(?i)(?:^|[\W_])(?:{names})(?:[\W_]|$)"
    for names in ("val|valid|validation|dev", "test", "train|val|valid|validation|dev|tests?")
)
_SHARD = re.compile(r"-\d+-of-\d+$")
_READ = {".jsonl", ".json", ".parquet", ".txt"}
_TRANSLATION = re.compile(r"(?i)[_-](de|es|fr|it)([\W_]|$)")  # of LAMBADA, beside the English one


@dataclass(frozen=True)
class TaskData:
    """How the data of one task are recognised and read.

    Attributes:
        name: the name of the data set in paths; among several matching files, one with it is preferred.
        split: a regular expression for the name of the file or of its folder.
        columns: the columns that a file must have.
        item: makes an item of a record.
        files: the expected files in words, for hints.
        difficulty: `easy` or `challenge`, for the two parts of ARC.
    """

    name: str
    split: str
    columns: frozenset[str]
    item: Callable[[Item], Item]
    files: str
    difficulty: str | None = None


def read_items(name: str, folder: Path) -> tuple[list[Item], list[Path]]:
    """All items of the task `name` in `folder` (or in that file), and the files that they were read from.

    Raises:
        InputMissing: the folder does not exist, or has no file of this task.
        BadData: a file cannot be read or has a wrong record, or several files match.
    """
    data = TASK_DATA[name]
    if not folder.exists():
        raise InputMissing(f"--task-data {folder}: no such folder", "name the folder of a local copy")
    found = sorted(
        path for path in ([folder] if folder.is_file() else folder.rglob("*")) if _may_be(path, data, folder)
    )
    files = [path for path in found if data.columns <= _columns(path)]
    named = [path for path in files if data.name in str(path).lower()]
    files = named or files  # a folder of many data sets may hold others with such columns
    if not files:
        raise InputMissing(f"--task-data {folder}: no data of {name} in it", f"expected {data.files}")
    are_shards = all(_SHARD.search(path.stem) for path in files) and len({path.parent for path in files}) == 1
    if len(files) > 1 and not are_shards:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:3])
        problem = f"--task-data {folder}: {len(files)} files could be {name} ({names})"
        raise BadData(problem, "name the folder or the file of one of them")
    items = []
    for path in files:
        for number, record in enumerate(_records(path), 1):
            try:
                items.append(data.item(record))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                problem = f"{path}, record {number:,}: not one of {name} ({type(error).__name__}: {error})"
                raise BadData(problem, f"expected {data.files}") from error
    if not items:
        raise InputMissing(f"{files[0]}: no item in it", f"expected {data.files}")
    return items, [*files, *(labels for path in files if (labels := _labels(path)).is_file())]


def _may_be(path: Path, data: TaskData, folder: Path) -> bool:
    """Whether the name of a file, or else of its folder, says the task's split; other parts and languages do not count."""
    if path.suffix not in _READ or not path.is_file():
        return False
    *above, parent, _ = path.absolute().parts
    says = path.stem if re.search(_ANY_SPLIT, path.stem) else parent
    is_of_split = path == folder or bool(re.search(data.split, says))
    difficulty = re.findall("easy|challenge", "/".join((*above[-3:], parent, path.stem)).lower())
    is_other = data.difficulty is not None and bool(difficulty) and difficulty[-1] != data.difficulty
    return is_of_split and not is_other and not _TRANSLATION.search(path.stem)


# ---- records -----------------------------------------------------------------------------------------------------


def _columns(path: Path) -> frozenset[str]:
    """The column names of a file; `text` for plain text."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

        try:
            return frozenset(pq.read_schema(to_read(path)).names)
        except Exception as error:
            raise BadData(f"{path}: cannot be read as Parquet ({error})", "fetch it again") from error
    return frozenset(next(iter(_records(path)), {}))


def _records(path: Path) -> Iterable[Item]:
    """The records of a file, with the labels from the file beside it, if there is one.

    Raises:
        BadData: the content does not match the file's extension, or the labels do not match the records.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

        records: list[Item] = pq.read_table(to_read(path)).to_pylist()
        return records
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        if path.suffix == ".txt":
            return [{"text": line} for line in lines]
        found = [json.loads(line) for line in lines]
    except ValueError as error:  # not UTF-8, not JSON
        raise BadData(f"{path}: cannot be read as JSON Lines in UTF-8 ({error})", "fetch it again") from error
    if not all(isinstance(record, dict) for record in found):
        raise BadData(f"{path}: not JSON Lines of objects", "fetch it again")
    if (labels := _labels(path)).is_file():
        answers = labels.read_text(encoding="utf-8").split()
        if len(answers) != len(found):
            raise BadData(f"{labels}: {len(answers):,} labels for {len(found):,} items of {path}", "fetch both again")
        found = [record | {"label": answer} for record, answer in zip(found, answers, strict=True)]
    return found


def _labels(path: Path) -> Path:
    """The file in which PIQA's authors put the answers."""
    return path.with_name(f"{path.stem}-labels.lst")


# ---- items -------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    """The text `value`, unchanged; raises TypeError if it is not text or is blank."""
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r} where a text is expected")
    return value


def _choice(choices: Sequence[str], right: Any) -> Item:
    """An item's choices and the number of the right one; raises TypeError or ValueError if these make no sense."""
    if isinstance(right, bool | float):
        raise TypeError(f"the answer is {right!r}, expected a whole number")
    number = int(right)
    if not 0 <= number < len(choices):
        raise ValueError(f"the answer is number {number} of {len(choices)}")
    return {"choices": [_text(choice) for choice in choices], "right": number}


def _piqa(record: Item) -> Item:
    return {"goal": _text(record["goal"])} | _choice([record["sol1"], record["sol2"]], record["label"])


def _arc(record: Item) -> Item:
    """An item of ARC. Hugging Face has the choices in columns; the authors have them as objects within the question."""
    question = record["question"]
    if isinstance(question, dict):
        texts, labels = ([choice[key] for choice in question["choices"]] for key in ("text", "label"))
        question = question["stem"]
    else:
        texts, labels = (list(record["choices"][key]) for key in ("text", "label"))
    return {"question": _text(question)} | _choice(texts, labels.index(record["answerKey"]))


def _hellaswag(record: Item) -> Item:
    scene = f"{_text(record['activity_label'])}: {_text(record['ctx_a'])} {record['ctx_b'].capitalize()}"
    return {"scene": _plain(scene)} | _choice([_plain(ending) for ending in record["endings"]], record["label"])


def _plain(text: str) -> str:
    """HellaSwag's text without the brackets left by its sources, cleaned as lm-evaluation-harness cleans it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _lambada(record: Item) -> Item:
    passage, _, word = record["text"].rpartition(" ")
    if not passage or not word:
        raise ValueError("a passage of one word")
    return {"passage": passage, "word": word}


_HF = "(Hugging Face)"
TASK_DATA = {
    "piqa": TaskData(
        name="piqa",
        split=_VALIDATION,
        columns=frozenset({"goal", "sol1", "sol2"}),
        item=_piqa,
        files=f"valid.jsonl with valid-labels.lst (its authors'), or validation*.parquet {_HF}",
    ),
    "arc_easy": TaskData(
        name="arc",
        split=_TEST,
        columns=frozenset({"question", "answerKey"}),
        item=_arc,
        files=f"ARC-Easy-Test.jsonl (its authors'), or ARC-Easy/test*.parquet {_HF}",
        difficulty="easy",
    ),
    "arc_challenge": TaskData(
        name="arc",
        split=_TEST,
        columns=frozenset({"question", "answerKey"}),
        item=_arc,
        files=f"ARC-Challenge-Test.jsonl (its authors'), or ARC-Challenge/test*.parquet {_HF}",
        difficulty="challenge",
    ),
    "hellaswag": TaskData(
        name="hellaswag",
        split=_VALIDATION,
        columns=frozenset({"ctx_a", "ctx_b", "endings", "activity_label"}),
        item=_hellaswag,
        files=f"hellaswag_val.jsonl (its authors'), or validation*.parquet {_HF}",
    ),
    "lambada": TaskData(
        name="lambada",
        split=_TEST,
        columns=frozenset({"text"}),
        item=_lambada,
        files="lambada_test*.jsonl, lambada_test*.txt or test*.parquet",
    ),
}
