"""What training takes of a base, from the headers of its files: nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from scone_cli.model.base_model import Base
from scone_cli.model.hf_folder import is_gguf
from scone_cli.model.hf_model import load_config
from scone_cli.training.plan import BaseSize
from scone_cli.training.summary import read_tensors

_LORA_WIDTHS = 20  # inputs and outputs of a layer's linear parts, in widths of the model, about


def size_of(base: Base, saves_memory: bool) -> BaseSize:
    """The size of a base; `saves_memory`: whether its layers are computed again in the backward pass."""
    own = load_config(base.path).get_text_config()
    parameters, size = _counted(base.path)
    of_lora = base.lora_rank * _LORA_WIDTHS * own.hidden_size * own.num_hidden_layers
    trained = {"no": 0, "lora": of_lora, "full": parameters}[base.trained]
    size = 4 * parameters if base.trained == "full" else size
    return BaseSize(parameters, size, trained, own.num_hidden_layers, own.hidden_size, own.vocab_size, saves_memory)


def _counted(path: Path) -> tuple[int, int]:
    """Parameters of a base, and their bytes in memory: a GGUF file is opened as float32."""
    if is_gguf(path):
        from gguf import GGUFReader  # noqa: PLC0415 - an extra

        parameters = sum(int(each.n_elements) for each in GGUFReader(path).tensors)
        return parameters, 4 * parameters
    found = [each for file in sorted(path.glob("*.safetensors")) for each in read_tensors(file).values()]
    return sum(each.parameters for each in found), sum(each.bytes for each in found)
