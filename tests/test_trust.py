"""No code runs that comes with data: nothing is unpickled, and no other way of storing objects is used."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
from messages import refusal

from scone_cli.corpus.files import find_files
from scone_cli.corpus.prepare import token_files
from scone_cli.corpus.token_settings import TokenSettings
from scone_cli.errors import BadData

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "scone_cli").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])

STORES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "dbm", "jsonpickle"}
# numba stores compiled kernels with pickle, in a folder of the user (SECURITY.md); its errors are named here.
NAMED = {"runtime/kernel_cache.py": {"UnpicklingError"}}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "read_pickle",
    "to_pickle",
    "unsafe_load",
    "full_load",
    "torch.load",
    "torch.save",
}


def unsafe(source: str, named: frozenset[str] = frozenset()) -> list[str]:
    """What a source uses that could run code that comes with data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in STORES and not named]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in STORES:
            found.append(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in STORES:
            found += [node.attr] if node.attr not in named else []
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node)
    return found


def _unsafe_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    values = {each.arg: ast.unparse(each.value) for each in node.keywords}
    last = name.rpartition(".")[2]
    is_ours = "." in name and last in {"eval", "compile"}  # `network.eval()`, `re.compile(...)`
    wrong = [
        f"{key}={values[key]}" for key in ("allow_pickle", "trust_remote_code") if values.get(key, "False") != "False"
    ]
    if last == "from_pretrained" and "Model" in name and values.get("use_safetensors") != "True":
        wrong.append("from_pretrained without use_safetensors")
    if name == "yaml.load" and [ast.unparse(each) for each in node.args[1:]] != ["Loader"]:
        wrong.append("yaml.load")
    return [*wrong, *([name] if (last in CALLS or name in CALLS) and not is_ours else [])]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(path):
    named = frozenset(NAMED.get("/".join(path.parts[-2:]), ()))
    assert unsafe(path.read_text(encoding="utf-8"), named) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModelForCausalLM.from_pretrained(path)",
        "AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "pd.read_pickle(path)",
        "eval(text)",
    ],
)
def test_what_would_be_found(source):
    assert unsafe(source)


def test_the_loader_of_task_files_is_a_safe_one():
    """It is the only class called `Loader`."""
    bases = [
        ast.unparse(base)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == "Loader"
        for base in node.bases
    ]
    assert bases == ["yaml.SafeLoader"]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_corpus_that_would_run_code_runs_none(tmp_path):
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Touch(mark)))
    assert mark.exists()
    mark.unlink()
    (tmp_path / "a.jsonl").write_bytes(pickle.dumps(Touch(mark)))
    np.save(tmp_path / "b.npy", np.array([Touch(mark)], object), allow_pickle=True)
    with refusal(BadData, "pickle"):
        find_files([tmp_path / "a.jsonl"])
    with pytest.raises(BadData):
        token_files(TokenSettings(separator=0), find_files([tmp_path / "b.npy"]))
    assert not mark.exists()
