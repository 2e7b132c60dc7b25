"""`scone audit`: what artifacts still hold of given texts and documents, what looks personal, what few documents hold.

All of it is read as a stream: a piece of an artifact at a time is decoded and searched. Weights and rows of numbers are not
looked at: nothing says what they remember.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scone_cli.arrays import I64
from scone_cli.audit.artifacts import (
    PARTS,
    RESULTS,
    Artifact,
    Example,
    Ngrams,
    artifacts_at,
    longest_ngram,
    ngram_files,
    num_rows,
    read_examples,
    read_ngrams,
    tokenizer_of,
)
from scone_cli.audit.documents import HASH, GivenDocuments, find_documents
from scone_cli.audit.findings import DOCS, FEW, FGRAMS, Findings, Place
from scone_cli.audit.kept import look_at_documents
from scone_cli.audit.looks_personal import personal
from scone_cli.audit.spelled import Spelled, Spelling
from scone_cli.audit.texts import Finder, GivenText, as_shown, forms_of, not_shown
from scone_cli.corpus.document_list import DocumentList
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.formatting import names_of
from scone_cli.progress import Progress

_NONE = np.zeros(0, np.int64)


def audit(path: Path, texts: Sequence[GivenText], wanted: DocumentList | None, progress: Progress) -> Findings:
    """Look at a workspace, a REGISTRY/NAME, a version or an artifact.

    Raises:
        InputMissing: there is no such path.
        BadData: an artifact is damaged, or was not written by scone; a subclass says which.
        StorageFailure: a file cannot be read.
    """
    artifacts, problems = artifacts_at(path)
    work = _Audit(artifacts, texts, wanted, Findings(problems=problems), progress)
    work.run()
    return work.findings


@dataclass(frozen=True)
class _Reading:
    """What spells the tokens of an artifact, and finds the given texts in what is spelled and in what is shown to people."""

    spelling: Spelling
    finder: Finder | None
    of_shown: Finder | None


class _Audit:
    def __init__(
        self,
        artifacts: list[Artifact],
        texts: Sequence[GivenText],
        wanted: DocumentList | None,
        findings: Findings,
        progress: Progress,
    ) -> None:
        self._artifacts, self._texts, self._wanted = artifacts, texts, wanted
        self.findings, self._progress = findings, progress
        self._readings: dict[str, _Reading] = {}  # by the tokenizer's hash
        self._documents: GivenDocuments | None = None
        self._compared = ""  # the tokenizer of the documents
        self._first_example: dict[str, int] = {}  # of each evaluation, among those that were compared with documents

    def run(self) -> None:
        if self._wanted is not None:
            self._find_documents(self._wanted)
        for artifact in self._artifacts:
            kind = artifact.manifest.artifact
            if kind.startswith("exported-"):
                self._tell(artifact, "an export; audit the table that it was made from")
            elif kind == "tokens":
                self._look_at_documents(artifact)
            elif kind == "eval":
                self._look_at_examples(artifact)
            elif names := ngram_files(artifact):
                self._look_at_ngrams(artifact, names)
            elif artifact.manifest.settings.get("learned_rows"):
                self._tell(artifact, "does not say which f-grams its learned rows have: train it again")
        self._note_long_texts()

    def _note_long_texts(self) -> None:
        """Note the texts that no n-gram can hold: that none does says nothing of them."""
        sizes = [place.longest for place in self.findings.places if place.docs is not None]
        lines = [str(text.line) for text in self._texts if len(text.text.encode()) > max(sizes, default=0)]
        if sizes and lines:
            self.findings.notes.append(
                f"{names_of(lines, 'lines')} of --text: longer than every n-gram, which can hold only parts of it: see rare parts"
            )

    def _tell(self, artifact: Artifact, problem: str) -> None:
        self.findings.problems.append(f"{artifact.folder}: {problem}")

    def _place(self, name: str, unit: str) -> Place:
        self.findings.places.append(Place(name, unit))
        return self.findings.places[-1]

    def _reading(self, artifact: Artifact) -> _Reading | None:
        """How the tokens of an artifact are read; the tokens of each tokenizer are searched too, once."""
        path, own = tokenizer_of(artifact, self._artifacts), artifact.manifest.tokenizer
        if path is None:
            self._tell(artifact, "its tokenizer is not here, so its text is not known")
            return None
        if own not in self._readings:
            tokenizer = Tokenizer.load(path, notice=lambda _: None)
            forms = [forms_of(each.text, tokenizer) for each in self._texts]
            finder = Finder([{form.encode() for form in each} for each in forms]) if forms else None
            of_shown = [{shown.encode() for form in each for shown in (form, as_shown(form))} for each in forms]
            reading = _Reading(Spelling(tokenizer), finder, Finder(of_shown) if forms else None)
            self._readings[own] = reading
            names = [each.name for each in self._artifacts if each.folder == path.parent]
            place = self._place(f"{names[0] if names else path.parent}/{path.name}", "tokens")
            self._search(place, reading.spelling.each_token(), range(tokenizer.vocab_size), finder)
        return self._readings[own]

    # ---- n-grams -------------------------------------------------------------------------------------------------

    def _look_at_ngrams(self, artifact: Artifact, names: list[str]) -> None:
        artifact.check(*names)
        reading, documents = self._reading(artifact), self._documents_for(artifact)
        unit = "n-grams" if artifact.manifest.artifact == "counts" else FGRAMS
        total, done = sum(num_rows(artifact.folder / name) for name in names), 0
        for name in names:
            place = self._place(f"{artifact.name}/{name}" if len(names) > 1 else artifact.name, unit)
            place.docs = Counter(dict.fromkeys(DOCS, 0))
            for ngrams in read_ngrams(artifact.folder / name):
                self._progress(f"looking at {artifact.name}", done, total, unit)
                self._look_at_some(place, ngrams, reading, documents)
                done += len(ngrams.docs)
        self._progress(f"looking at {artifact.name}", total, total, unit)

    def _look_at_some(
        self, place: Place, ngrams: Ngrams, reading: _Reading | None, documents: GivenDocuments | None
    ) -> None:
        docs, ids = ngrams.docs, range(ngrams.first, ngrams.first + len(ngrams.docs))
        place.count_docs(docs)
        own = documents.own.only(ngrams.tokens, ngrams.starts) if documents is not None else _NONE
        if reading is None:
            place.count(len(ids), _NONE, own, ((ids[row], b"") for row in own.tolist()))
            return
        spelled = reading.spelling(ngrams.tokens, ngrams.starts)
        place.longest = max(place.longest, int(np.diff(spelled.starts).max(initial=1)) - 1)
        holding = self._search(place, spelled, ids, reading.finder, own)
        if reading.finder is not None:
            parts = np.setdiff1d(reading.finder.parts(spelled), holding, assume_unique=True)
            parts = parts[np.diff(ngrams.starts)[parts] >= 2]
            place.parts += parts.size
            place.rare_parts += int(np.count_nonzero(docs[parts] < FEW))

    def _search(
        self,
        place: Place,
        spelled: Spelled,
        ids: Sequence[int] | Sequence[str],
        finder: Finder | None,
        own: I64 = _NONE,
    ) -> I64:
        """Search things for given texts and for what looks personal; returns the rows that hold a given text."""
        rows, numbers = finder.held(spelled) if finder is not None else (_NONE, _NONE)
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            place.note_text(self._texts[number].line, ids[row], spelled[row])
        for row, kinds in personal(spelled).items():
            place.note_personal(kinds, ids[row], spelled[row])
        holding = np.unique(rows)
        place.count(len(spelled), holding, own, ((ids[row], spelled[row]) for row in own.tolist()))
        return holding

    # ---- documents -----------------------------------------------------------------------------------------------

    def _find_documents(self, wanted: DocumentList) -> None:
        """Find the given documents in `tokens/`, and what comes only from them."""
        tokens = next((each for each in self._artifacts if each.manifest.artifact == "tokens"), None)
        if tokens is None:
            self.findings.problems.append(
                "--documents: there is no tokens/ here, which alone says what comes from which document; "
                "give their text with --text"
            )
            return
        tokens.check(*tokens.names(PARTS))
        reading = self._reading(tokens)
        shown = list[Example]()
        for artifact in self._artifacts:
            if artifact.names(RESULTS):
                self._first_example[artifact.name] = len(shown)
                shown += read_examples(artifact)
        self._documents = find_documents(
            tokens,
            wanted,
            max(map(longest_ngram, self._artifacts)),
            reading.spelling if reading is not None else None,
            [not_shown(example.text) for example in shown],
            self._progress,
        )
        self._compared = tokens.manifest.tokenizer
        is_exact = (
            reading is not None and reading.spelling.is_exact and not tokens.manifest.summary.get("redacted_documents")
        )
        hashes = [] if is_exact else [entry for entry in self._documents.missing if HASH.fullmatch(entry)]
        if hashes:
            why = "the tokens do not spell the whole text, so its hash cannot be compared; give the document's name"
            self._tell(tokens, f"--documents names {len(hashes):,} by hash, and {why}")
        if missing := [entry for entry in self._documents.missing if entry not in hashes]:
            self.findings.notes.append(
                f"--documents: {names_of(missing, 'entries')}: no document in {tokens.folder}, which does not keep the field "
                "`id`; what else holds their text cannot be told without it: give it with --text"
            )

    def _documents_for(self, artifact: Artifact) -> GivenDocuments | None:
        """The given documents, if the n-grams of an artifact can be compared with theirs."""
        if self._documents is not None and artifact.manifest.tokenizer != self._compared:
            self._tell(artifact, "has another tokenizer than tokens/, so it cannot be compared with documents")
            return None
        return self._documents

    def _look_at_documents(self, artifact: Artifact) -> None:
        artifact.check(*artifact.names(PARTS))
        reading, place = self._reading(artifact), self._place(artifact.name, "documents")
        paths = [artifact.folder / name for name in artifact.names(PARTS)]
        given = self._documents.names if self._documents is not None else frozenset[str]()
        search = (reading.spelling, reading.finder) if reading is not None else None
        look_at_documents(place, paths, given, self._texts, search, self._progress)

    # ---- examples ------------------------------------------------------------------------------------------------

    def _look_at_examples(self, artifact: Artifact) -> None:
        if not artifact.names(RESULTS):
            return
        artifact.check(RESULTS)
        reading, examples = self._reading(artifact), read_examples(artifact)
        place = self._place(artifact.name, "examples")
        own = _NONE
        if self._documents is not None:
            first = self._first_example[artifact.name]
            own = np.array([i for i in range(len(examples)) if first + i in self._documents.examples], np.int64)
        shown = Spelled.of([example.text.encode("utf-8", "replace") for example in examples])
        finder = reading.of_shown if reading is not None else None
        self._search(place, shown, [example.place for example in examples], finder, own)
