"""The folder of an exported model: saved again, moved elsewhere, fetched from a hub, shared by processes."""

import collections
import filecmp
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_calls import continued, prompt

transformers = pytest.importorskip("transformers")
import scone_cli.serving.hf  # noqa: E402, F401 - registers the classes

pytestmark = pytest.mark.hf


def test_save_pretrained_writes_the_same_bytes(exported, model, tokenizer, tmp_path):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    for saved, place in ((model, tmp_path / "1"), (loaded, tmp_path / "2")):
        saved.save_pretrained(place)
        tokenizer.save_pretrained(place)
        ours = {"README.md", "manifest.json"}
        config = json.loads((place / "tokenizer_config.json").read_bytes())
        config = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only")}
        assert config == json.loads((exported / "tokenizer_config.json").read_bytes())
        names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()} - ours
        assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == names
        assert all(
            filecmp.cmp(exported / name, place / name, shallow=False) for name in names - {"tokenizer_config.json"}
        )


ALONE = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any(name.startswith("scone_cli") for name in sys.modules)
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(sys.argv[2], return_tensors="pt")
print(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1]:].tolist())
"""


def test_a_program_that_knows_nothing_of_scone_loads_it_elsewhere(
    exported, model, tokenizer, texts, tmp_path, monkeypatch
):
    """In another process, offline, from a copy of the folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    shutil.copytree(exported, tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "elsewhere", texts[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(continued(model, prompt(tokenizer, texts[0]))[0].tolist())


def test_the_table_of_a_repository_is_fetched(exported, model, tokenizer, texts, tmp_path, monkeypatch):
    """A repository that lies in the cache of the hub, read offline by its name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "models--someone--model"
    shutil.copytree(exported, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    loaded = transformers.AutoModelForCausalLM.from_pretrained("someone/model", cache_dir=tmp_path)
    inputs = prompt(tokenizer, texts[0])
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


HOLDS = """
import sys
from pathlib import Path
import numpy as np
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, placement="mmap")
table = model.model.table
table.rows(np.arange(len(table), dtype=np.uint32))
table.index.match(np.arange(table.vocab_size, dtype=np.uint32))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux only")
def test_two_processes_share_the_pages_of_a_mapped_table(exported):
    """Each page counts half in each of the two (PSS), and none was written to."""
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDS, exported], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for each in holders:
            assert each.stdout.readline() == b"ready\n"
        for each in holders:
            pages = mapped(each.pid, exported / "table")
            assert pages["Size"] * 1024 >= sum(
                path.stat().st_size for path in (exported / "table").glob("[ir]*.safetensors")
            )
            assert pages["Rss"] > 0
            assert pages["Pss"] <= pages["Rss"] / 2  # other processes of the tests may have the file too
            assert pages["Private_Dirty"] == pages["Shared_Dirty"] == 0
    finally:
        for each in holders:
            each.communicate()


def mapped(process, folder):
    """KiB of the mappings of the files of a folder in a process, by kind."""
    found, here = collections.Counter(), False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            here = f" {folder}/" in line
        elif here and line.endswith(" kB"):
            found[line.split(":")[0]] += int(line.split()[1])
    return found
