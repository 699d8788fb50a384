from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoint_builder import (
    checkpoint_files,
    config_bytes,
    safetensors_bytes,
    write_files,
)
from tests.small_stage import printed
from trtllm_forge.build.stages.download import DownloadStage, resolve_checkpoint
from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.checkpoint.contents import verify_checkpoint
from trtllm_forge.checkpoint.files import choose_files
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import CheckpointError
from trtllm_forge.files.known_digests import digest_files
from trtllm_forge.files.resources import sample_checkpoint_dir
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from pathlib import Path


class CountingReporter(SilentReporter):
    def __init__(self) -> None:
        self.hashed_bytes = 0

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        assert (name, unit) == ("hashing", "bytes")
        assert done <= total
        self.hashed_bytes = done


def refusal(folder: Path, *, allow_pickle: bool = False) -> CheckpointError:
    """Return the error that building the folder ends in, the same from both ways in."""
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(
            str(folder),
            settings=read_settings(),
            reporter=SilentReporter(),
            allow_pickle=allow_pickle,
        )
    assert caught.value.exit_code == 4
    return caught.value


def test_sample_is_a_whole_checkpoint() -> None:
    config = verify_checkpoint(sample_checkpoint_dir(), allow_pickle=False)
    assert config.architecture == "GPTBigCodeForCausalLM"
    assert (config.num_layers, config.num_kv_heads, config.head_dim) == (6, 1, 64)


def test_starcoder_is_for_the_engine_flow_alone() -> None:
    starcoder = known_architectures()["GPTBigCodeForCausalLM"]
    assert (starcoder.family, starcoder.engine_flow, starcoder.pytorch_backend) == (
        "gpt",
        True,
        False,
    )


def test_encoders_are_no_known_architecture() -> None:
    assert not [name for name in known_architectures() if name.startswith(("Bert", "Roberta"))]


def test_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": b"", "holiday.jpg": b""})
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} is not a checkpoint: it has no config.json"
    assert error.why == "its files are holiday.jpg, notes.txt"


def test_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} is not a checkpoint: it has no config.json"
    assert error.why == "it is empty"


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint_files(model__safetensors=None))
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} has no weights"
    assert error.why == (
        "it has neither model.safetensors nor model.safetensors.index.json; its files are "
        "config.json, generation_config.json, tokenizer.json, tokenizer_config.json"
    )


def test_unknown_architecture_names_the_closest(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint_files(config__json=config_bytes("GPTBigCodesForCausalLM")))
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} has the unknown architecture GPTBigCodesForCausalLM"
    assert error.why == (
        f"forge knows {len(known_architectures())} text-generating architectures; the closest is "
        "GPTBigCodeForCausalLM"
    )


def test_config_without_architecture_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint_files(config__json=b"{}"))
    assert refusal(tmp_path).what == f"{tmp_path}/config.json names no architecture"


def test_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint_files(config__json=b"{"))
    assert refusal(tmp_path).what == f"{tmp_path}/config.json cannot be read"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n_positions": "many"}, 'n_positions is "many", not a whole number'),
        ({"n_head": [2]}, "n_head is [2], not a whole number"),
        ({"n_layer": 1.5}, "n_layer is 1.5, not a whole number"),
        ({"vocab_size": True}, "vocab_size is true, not a whole number"),
        ({"n_embd": float("inf")}, "n_embd is Infinity, not a whole number"),
        ({"n_embd": float("nan")}, "n_embd is NaN, not a whole number"),
        ({"head_dim": "8"}, 'head_dim is "8", not a whole number'),
        ({"architectures": 5}, "architectures is 5, not a list"),
        (
            {"architectures": "GPTBigCodeForCausalLM"},
            'architectures is "GPTBigCodeForCausalLM", not a list',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_config_with_odd_values_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    document = {**json.loads(config_bytes()), **changes}
    write_files(tmp_path, checkpoint_files(config__json=json.dumps(document).encode()))
    error = refusal(tmp_path)
    assert printed(error) == (
        f"error: {tmp_path}/config.json has an invalid value\n  why:  {why}",
        4,
    )


def test_truncated_safetensors_names_both_sizes(tmp_path: Path) -> None:
    whole = safetensors_bytes()
    write_files(tmp_path, checkpoint_files(model__safetensors=whole[:-100]))
    error = refusal(tmp_path)
    assert error.what == (
        f"{tmp_path}/model.safetensors is truncated: its header describes {len(whole)} bytes, "
        f"the file has {len(whole) - 100}"
    )
    assert error.why == "a copy or a download was interrupted, or the file was overwritten"


def test_safetensors_with_bytes_to_spare_are_refused(tmp_path: Path) -> None:
    whole = safetensors_bytes()
    write_files(tmp_path, checkpoint_files(model__safetensors=whole + b"x"))
    assert refusal(tmp_path).what == (
        f"{tmp_path}/model.safetensors is too long: its header describes {len(whole)} bytes, "
        f"the file has {len(whole) + 1}"
    )


@pytest.mark.parametrize("size_bytes", [0, 7, 8, 40])
def test_safetensors_cut_within_the_header_is_refused(tmp_path: Path, size_bytes: int) -> None:
    cut = safetensors_bytes()[:size_bytes]
    write_files(tmp_path, checkpoint_files(model__safetensors=cut))
    assert refusal(tmp_path).what == (
        f"{tmp_path}/model.safetensors is not a complete safetensors file: "
        f"{size_bytes} bytes cannot hold a header"
    )


def test_safetensors_with_another_header_is_refused(tmp_path: Path) -> None:
    content = (2).to_bytes(8, "little") + b"[]"
    write_files(tmp_path, checkpoint_files(model__safetensors=content))
    assert refusal(tmp_path).what == (
        f"{tmp_path}/model.safetensors is not a safetensors file: its header cannot be read"
    )


def test_missing_shard_is_named(tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": first, "b": second}}
    files = checkpoint_files(model__safetensors=None)
    files |= {
        first: safetensors_bytes(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }
    write_files(tmp_path, files)
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} has 1 of 2 weight shards"
    assert error.why == f"model.safetensors.index.json lists {second}, which is missing"


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint_files(tokenizer__json=None))
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} has no tokenizer"
    assert error.why == (
        "it has none of tokenizer.json, vocab.json with merges.txt, vocab.txt, *.model, *.tiktoken"
    )


def test_pickle_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    files = checkpoint_files(model__safetensors=None, pytorch_model__bin=b"pickle")
    write_files(tmp_path, files)
    error = refusal(tmp_path)
    assert error.what == f"{tmp_path} has only pickle weights: pytorch_model.bin"
    assert (
        error.why
        == "loading a pickle runs any code inside it, so forge refuses unless you allow it"
    )
    assert error.hint == f"forge build {tmp_path} --allow-pickle"
    verify_checkpoint(tmp_path, allow_pickle=True)


def test_hint_to_allow_pickle_works_as_typed_for_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my coder"
    files = checkpoint_files(model__safetensors=None, pytorch_model__bin=b"p")
    write_files(folder, files)
    assert refusal(folder).hint == f"forge build '{folder}' --allow-pickle"


def test_only_one_form_of_the_weights_is_chosen_and_no_code() -> None:
    names = [
        "config.json",
        "consolidated.safetensors",
        "flax_model.msgpack",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "modeling_thing.py",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "pytorch_model-00001-of-00001.bin",
        "pytorch_model.bin.index.json",
        "README.md",
        "tf_model.h5",
        "tokenizer.json",
        "training_args.bin",
        "vocab.json",
    ]
    wanted = (
        "config.json",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "vocab.json",
    )
    assert choose_files(names, model="m", allow_pickle=True) == wanted
    trusted = choose_files(names, model="m", allow_pickle=True, trust_remote_code=True)
    assert set(trusted) - set(wanted) == {"modeling_thing.py"}


def key_parameters(folder: Path) -> object:
    checkpoint = resolve_checkpoint(
        str(folder), settings=read_settings(), reporter=SilentReporter()
    )
    return DownloadStage(checkpoint, read_settings()).parameters


def test_same_folder_elsewhere_has_the_same_key(tmp_path: Path) -> None:
    one = write_files(tmp_path / "here" / "model", checkpoint_files())
    other = write_files(tmp_path / "there" / "model", checkpoint_files())
    assert key_parameters(one) == key_parameters(other)
    assert str(tmp_path) not in str(key_parameters(one))


def test_key_changes_with_one_byte_of_the_weights(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "model", checkpoint_files())
    before = key_parameters(folder)
    content = bytearray(safetensors_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert key_parameters(folder) != before


def test_key_ignores_files_that_no_build_needs(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "model", checkpoint_files())
    before = key_parameters(folder)
    write_files(folder, {"README.md": b"new", "training_args.bin": b"new"})
    assert key_parameters(folder) == before


def test_unchanged_file_is_hashed_once(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"a": b"1" * 1000}) / "a"
    first, second, third = CountingReporter(), CountingReporter(), CountingReporter()
    digests = digest_files([path], tmp_path / "cache", first)
    assert first.hashed_bytes == 1000
    assert digest_files([path], tmp_path / "cache", second) == digests
    assert second.hashed_bytes == 0
    path.write_bytes(b"2" * 1000)
    assert digest_files([path], tmp_path / "cache", third) != digests
    assert third.hashed_bytes == 1000


def test_unreadable_digest_memory_costs_one_more_hashing(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"a": b"1"}) / "a"
    digests = digest_files([path], tmp_path / "cache", SilentReporter())
    (tmp_path / "cache" / "digests.json").write_text("{")
    assert digest_files([path], tmp_path / "cache", SilentReporter()) == digests
    assert json.loads((tmp_path / "cache" / "digests.json").read_text())["schema"] == 1


def test_digest_memory_forgets_files_that_are_gone(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "b": b"2"})
    digest_files([tmp_path / "a"], tmp_path / "cache", SilentReporter())
    (tmp_path / "a").unlink()
    digest_files([tmp_path / "b"], tmp_path / "cache", SilentReporter())
    remembered = json.loads((tmp_path / "cache" / "digests.json").read_text())["files"]
    assert list(remembered) == [str(tmp_path / "b")]


def test_weights_that_change_between_resolving_and_running_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "my model", checkpoint_files())
    settings = read_settings()
    checkpoint = resolve_checkpoint(str(folder), settings=settings, reporter=SilentReporter())
    (folder / "tokenizer.json").write_bytes(b'{"added_tokens": [1]}')
    with pytest.raises(CheckpointError) as caught:
        DownloadStage(checkpoint, settings).run(tmp_path, {}, SilentReporter())
    assert caught.value.what == f"{folder}/tokenizer.json changed during the build"
    assert caught.value.hint == f"forge build '{folder}'"
