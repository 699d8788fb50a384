from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.files.digest import canonical_json, sha256_file, sha256_text, sha256_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_equal_values_give_equal_text_whatever_the_order_of_their_keys() -> None:
    assert canonical_json({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'
    assert canonical_json({"a": 1, "b": {"d": 1, "c": 2}}) == canonical_json(
        {"b": {"c": 2, "d": 1}, "a": 1}
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_json_has_no_word_for_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()
    assert sha256_text("é") == hashlib.sha256("é".encode()).hexdigest()


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


FILES = {"a/model.py": "1", "b/config": "2"}


def test_digest_of_a_tree_does_not_depend_on_where_it_is(tmp_path: Path) -> None:
    here = tree(tmp_path / "here", FILES)
    there = tree(tmp_path / "there", dict(reversed(FILES.items())))
    assert sha256_tree(here) == sha256_tree(there)


@pytest.mark.parametrize(
    "changed",
    [{**FILES, "b/config": "3"}, {"a/model.py": "1"}, {"a/model.py": "1", "b/config2": "2"}],
    ids=["content", "missing", "renamed"],
)
def test_digest_of_a_tree_changes_with_its_files(tmp_path: Path, changed: dict[str, str]) -> None:
    assert sha256_tree(tree(tmp_path / "a", FILES)) != sha256_tree(tree(tmp_path / "b", changed))


def test_bytecode_does_not_change_the_digest_of_a_tree(tmp_path: Path) -> None:
    before = sha256_tree(tree(tmp_path, FILES))
    tree(tmp_path, {"a/__pycache__/model.cpython-311.pyc": "x"})
    assert sha256_tree(tmp_path) == before
