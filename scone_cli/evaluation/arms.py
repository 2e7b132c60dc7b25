"""The arms of an evaluation: which models and tables take part, under which names, and whether they belong together.

`opened` checks every byte of what takes part, before anything is loaded; `load_arms` loads it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scone_cli.artifacts.manifest import Manifest, digest_weights, open_artifact
from scone_cli.corpus.held_out import rule_of
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadSetting, HalfWrittenArtifact, InputMissing, MismatchedArtifacts
from scone_cli.evaluation.arm_names import named_folder
from scone_cli.evaluation.results import LIVE, NONE, TABLE
from scone_cli.evaluation.run_arms import Arm
from scone_cli.model.devices import find_device
from scone_cli.model.hf_folder import HUGGING_FACE, is_hf_folder, open_hf_folder
from scone_cli.model.hf_model import HfModel
from scone_cli.model.model import SconeModel
from scone_cli.table.table import Table
from scone_cli.vocab.coverage import Prefix, rungs_of
from scone_cli.vocab.trie import FgramTrie
from scone_cli.vocab.vocabulary import Vocabulary, trie_of_model

OWN = "model"  # the workspace's own model, among those trained elsewhere


@dataclass(frozen=True)
class Opened:
    """The manifests of all that takes part: artifacts of the workspace, rivals by name, further tables by name."""

    workspace: Path
    artifacts: dict[str, Manifest]
    rivals: dict[str, tuple[Path, Manifest]] = field(default_factory=dict)
    tables: dict[str, tuple[Path, Manifest]] = field(default_factory=dict)

    @property
    def has_table(self) -> bool:
        """Whether the workspace's model has f-grams."""
        return "table" in self.artifacts

    def names(self) -> list[str]:
        """The arms in the order of the report: rivals, then live, the tables and none."""
        own = [LIVE, TABLE, *(f"{TABLE}:{name}" for name in self.tables)] if self.has_table else []
        return [*self.rivals, *own, NONE]

    def model_of(self, arm: str) -> tuple[Path, Manifest]:
        """Folder and manifest of the model of an arm."""
        return self.rivals.get(arm) or (self.workspace / "model", self.artifacts["model"])

    def table_of(self, arm: str) -> tuple[Path, Manifest] | None:
        """Folder and manifest of the table of an arm; None if it has none."""
        if arm == TABLE:
            return self.workspace / "table", self.artifacts["table"]
        return self.tables.get(arm.removeprefix(f"{TABLE}:")) if arm.startswith(f"{TABLE}:") else None

    def plain_rivals(self) -> list[str]:
        """Rivals without rows of any kind."""
        return [name for name, (_, model) in self.rivals.items() if model.summary["kind"] == "plain"]

    def trained_elsewhere(self) -> dict[str, tuple[Path, Manifest]]:
        """The models that were trained on other tokens than those of the workspace, by name; the workspace's own is OWN."""
        ours = {name: self.rivals[name] for name in self.rivals if name not in self.hf_rivals()}
        ours[OWN] = self.workspace / "model", self.artifacts["model"]
        now = self.artifacts["tokens"].fingerprint
        return {name: pair for name, pair in ours.items() if pair[1].inputs["tokens"] != now}

    def hf_rivals(self) -> list[str]:
        """Rivals of Hugging Face: it is not known what they were trained on."""
        return [name for name, (_, model) in self.rivals.items() if model.summary["kind"] == HUGGING_FACE]

    def need_tokenizer(self, so: str, instead: str) -> None:
        """Refuse text where there is no tokenizer; the message says what follows from that, and what to do instead.

        Raises:
            InputMissing: there is none.
        """
        if not self._has_tokenizer:
            raise InputMissing(
                f"{self.workspace / 'tokens'}: made from token ids without a tokenizer, so {so}",
                f"{instead}, or run scone count-ngrams again with --tokenizer",
            )

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer of all that takes part; None where the tokens were made without one."""
        return Tokenizer.load(self.workspace / "tokens" / "tokenizer.json") if self._has_tokenizer else None

    @property
    def _has_tokenizer(self) -> bool:
        return "tokenizer.json" in self.artifacts["tokens"].files

    def fingerprints(self) -> dict[str, str]:
        """Hashes of all that the results depend on; weights have their own, because the same recipe may train others."""
        found = {name: manifest.fingerprint for name, manifest in self.artifacts.items()}
        found["model: weights"] = digest_weights(self.artifacts["model"])
        for name, (_, manifest) in self.rivals.items():
            found |= {f"against {name}": manifest.fingerprint, f"against {name}: weights": digest_weights(manifest)}
        return found | {f"table {name}": manifest.fingerprint for name, (_, manifest) in self.tables.items()}


def opened(workspace: Path, against: Sequence[Path], tables: Sequence[Path]) -> Opened:
    """Open all that takes part; check every byte, and that the artifacts belong together.

    Raises:
        MismatchedArtifacts: table, model, vocabulary, tokens and tokenizer do not belong together.
        BadSetting: two arms would have one name; a further table, and the model has no f-grams.
        InputMissing, BadData: see `manifest.open_artifact`.
    """
    artifacts = {name: open_artifact(workspace / name, name) for name in ("tokens", "model")}
    if artifacts["model"].summary["kind"] == "scone":
        artifacts["table"] = open_artifact(workspace / "table", "table")
        _check_table(workspace / "table", artifacts["table"], artifacts, workspace)
    elif tables:
        raise BadSetting(f"--table {tables[0]}: the model in {workspace / 'model'} has no f-grams, so no table")
    found = Opened(workspace, artifacts)
    for given in against:
        name, folder = named_folder(given)
        if name in (*found.rivals, LIVE, TABLE, NONE):
            raise BadSetting(
                f"--against {given}: an arm named '{name}' exists already", "give it a name: NAME=MODEL_DIR"
            )
        found.rivals[name] = folder, _open_rival(folder, artifacts["tokens"], workspace)
    for given in tables:
        name, folder = named_folder(given)
        if name in found.tables:
            raise BadSetting(f"--table {given}: a table named '{name}' exists already", "give it a name: NAME=DIR")
        found.tables[name] = folder, _open_given("--table", folder, "table", workspace)
        _check_table(folder, found.tables[name][1], artifacts, workspace)
    of_tokens = artifacts["tokens"].tokenizer
    for name, manifest in [*artifacts.items(), *((name, manifest) for name, (_, manifest) in found.rivals.items())]:
        if manifest.tokenizer != of_tokens:
            raise MismatchedArtifacts(
                f"{name}: made with tokenizer {manifest.tokenizer[:12]}, "
                f"but {workspace / 'tokens'} has {of_tokens[:12]}",
                "compare models of one tokenizer, made from one workspace",
            )
    return found


def check_training_texts(found: Opened, reads_held_out: bool) -> None:
    """Refuse models of another `tokens/` if they may have been trained on documents that are held out here.

    They were not if both tokens hold out by one rule, as when a corpus has grown. Without a tokenizer such models are always
    refused, because nothing else tells that a token id means the same. What rivals of Hugging Face were trained on is not
    known: they take part, and the verdict says so.

    Raises:
        MismatchedArtifacts: there is such a model.
    """
    tokens, rule = found.artifacts["tokens"], rule_of(found.artifacts["tokens"])
    for name, (folder, model) in found.trained_elsewhere().items():
        is_safe = rule and model.inputs.get("held-out") == rule
        if (reads_held_out and not is_safe) or not tokens.tokenizer:
            raise MismatchedArtifacts(
                f"{folder}: trained on tokens {model.inputs['tokens'][:12]}, "
                f"but {found.workspace / 'tokens'} is {tokens.fingerprint[:12]}"
                + (", which may hold out what it was trained on" if tokens.tokenizer else ""),
                _instead(found, name, rule),
            )


def _instead(found: Opened, name: str, rule: str) -> str:
    """What to do about a model of other tokens."""
    if not found.artifacts["tokens"].tokenizer:
        return "compare models made from one workspace"
    if name != OWN:
        return "name a corpus that neither has learned from (scone eval CORPUS), or train the rival in this workspace"
    if rule:
        return "run: scone train-fgram; or count with the text field, separators and --held-out of its training"
    return "run: scone train-fgram; or name a corpus that it has not learned from (scone eval CORPUS)"


def _open_rival(folder: Path, tokens: Manifest, workspace: Path) -> Manifest:
    """Open a model of the command line, ours or one of Hugging Face."""
    if is_hf_folder(folder):
        return open_hf_folder(folder, workspace / "tokens", tokens)
    return _open_given("--against", folder, "model", workspace)


def _open_given(option: str, folder: Path, artifact: str, workspace: Path) -> Manifest:
    """Open a model or table from the command line; where there is none, the error says which command makes it."""
    try:
        return open_artifact(folder, artifact)
    except (InputMissing, HalfWrittenArtifact) as error:
        make = "train-fgram --kind plain" if artifact == "model" else "precompute"
        place = shlex.quote(str(folder))
        if "/" not in str(folder):
            place = shlex.quote(str(workspace / folder))
            error.message += f", and none in {workspace}"
        hint = f"run: scone --workspace {shlex.quote(str(workspace))} {make} --out {place}"
        raise type(error)(f"{option} {error.message}", hint) from error


def _check_made_from(folder: Path, reader: Manifest, name: str, source: Manifest, source_folder: Path) -> None:
    found, expected = reader.inputs[name], source.fingerprint
    if found != expected:
        raise MismatchedArtifacts(
            f"{folder}: made from {name} {found[:12]}, but {source_folder} is {expected[:12]}", "run: scone precompute"
        )


def _check_table(folder: Path, table: Manifest, artifacts: dict[str, Manifest], workspace: Path) -> None:
    """Raise MismatchedArtifacts unless a table was made from the workspace's model; its vocabulary may be any."""
    _check_made_from(folder, table, "model", artifacts["model"], workspace / "model")
    if table.inputs.get("weights") != digest_weights(artifacts["model"]):
        raise MismatchedArtifacts(
            f"{folder}: made from {workspace / 'model'} before that was trained again", "run: scone precompute"
        )


def load_arms(found: Opened, ladder: bool, device: str = "cpu") -> tuple[list[Arm], FgramTrie | None]:
    """Load the arms in the order of the report, then with `ladder` one arm per prefix of the table; and the table's f-grams.

    These are also the f-grams whose rows the arm `live` computes.

    Raises:
        BadSetting: there is no such device.
        DamagedArtifact: see `SconeModel.load`.
        BadData, MismatchedArtifacts: see `HfModel.load`.
    """
    arms, place = [], find_device(device)
    folder = found.workspace / "model"
    model, trie, rungs = SconeModel.load(folder).to(place), None, list[Arm]()
    for name, (beside, manifest) in found.rivals.items():
        if name in found.hf_rivals():
            arms.append(Arm(name, HfModel.load(beside, model.config.vocab_size, model.config.context).to(place)))
            continue
        rival = SconeModel.load(beside).to(place)
        arms.append(Arm(name, rival, trie_of_model(beside, manifest, found.workspace) if rival.fgram else None))
    if model.fgram:
        own, of_table = found.artifacts["model"], found.artifacts["table"]
        table = Table.open(found.workspace / "table", model=own)
        trie = Vocabulary.read(table.folder, table.vocab_size, of_table.settings["max_n"]).trie
        arms += [Arm(LIVE, model, trie=trie, found_by=table.index), Arm(TABLE, model, table=table)]
        for name, (beside, manifest) in found.tables.items():
            has_same_fgrams = manifest.inputs["vocab"] == of_table.inputs["vocab"]
            found_by = table.index if has_same_fgrams else None
            arms.append(Arm(f"{TABLE}:{name}", model, table=Table.open(beside, model=own), found_by=found_by))
        for rows in rungs_of(table.num_rows)[:-1] if ladder else []:
            prefix = Prefix(rows, trie.suffixes, trie.num_tokens)
            rungs.append(Arm(f"{TABLE}[:{rows}]", model, table=table, prefix=prefix))
    return [*arms, Arm(NONE, model), *rungs], trie
