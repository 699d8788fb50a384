from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tests.archive_builder import (
    file_member,
    index_document,
    manifest_text,
    member,
    write_archive,
    write_compressed,
)
from tests.checkpoint_builder import write_files
from tests.rendering import tree
from trtllm_forge.cli.console import error_text
from trtllm_forge.delivery.package import plan_package, write_package
from trtllm_forge.delivery.package_index import IndexedLink, path_obstacle
from trtllm_forge.delivery.unpack import default_output_dir, unpack_package, verify_package
from trtllm_forge.errors import BuildError, CheckpointError, ConfigError, ForgeError
from trtllm_forge.files.staging import staging
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Mapping

LONG = "/".join(["a-folder-whose-name-is-rather-long"] * 9)
FILES = {
    "ensemble/config.pbtxt": b'name: "ensemble"\n',
    "forge.lock": b"{}\n",
    "tensorrt_llm/config.pbtxt": b'name: "tensorrt_llm"\n',
    "tensorrt_llm/1/engine/rank0.engine": b"\0engine" * 3000,
    "tensorrt_llm/1/empty": b"",
    f"{LONG}/schl\u00fcssel": b"deep",
}


def repository(root: Path, files: Mapping[str, bytes] = FILES) -> Path:
    folder = write_files(root, dict(files))
    (folder / "ensemble" / "1").mkdir(parents=True, exist_ok=True)
    return folder


def pack(folder: Path, output_path: Path, **options: Any) -> Path:
    return write_package(plan_package(folder), output_path, SilentReporter(), **options).path


def unpack(package_path: Path, output_dir: Path) -> Path:
    unpack_package(package_path, output_dir, SilentReporter())
    return output_dir


def refusal(package_path: Path, output_dir: Path) -> str:
    """Return why a package is refused, after a look that nothing was left behind."""
    before = sorted(output_dir.parent.iterdir())
    with pytest.raises(CheckpointError) as unpacked:
        unpack(package_path, output_dir)
    with pytest.raises(CheckpointError):
        verify_package(package_path, SilentReporter())
    assert sorted(output_dir.parent.iterdir()) == before
    return f"{unpacked.value.what}; {unpacked.value.why}".replace(str(package_path), "P")


def printed(error: ForgeError, root: Path) -> str:
    return error_text(error).replace(str(root), "ROOT")


def test_unpacked_repository_is_the_packaged_one(tmp_path: Path) -> None:
    package_path = pack(repository(tmp_path / "coder"), tmp_path / "coder.tar.zst")
    output_dir = unpack(package_path, tmp_path / "again")
    assert tree(output_dir) == FILES
    assert list((output_dir / "ensemble/1").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "coder", "coder.tar.zst"]


def test_package_is_the_same_bytes_whatever_the_folder_the_day_the_user_and_the_processors(
    tmp_path: Path,
) -> None:
    first = repository(tmp_path / "first")
    second = repository(tmp_path / "elsewhere" / "second", dict(reversed(FILES.items())))
    for path in second.rglob("*"):
        os.utime(path, (0, 1e9))
        path.chmod(0o755 if path.is_dir() else 0o400)
    write_files(second, {"ensemble/__pycache__/model.cpython-311.pyc": b"cache"})
    packages = [
        pack(folder, tmp_path / f"{number}.tar.zst", threads=threads).read_bytes()
        for number, (folder, threads) in enumerate([(first, 1), (second, 1), (first, 3)])
    ]
    assert len(set(packages)) == 1


def test_content_has_one_digest_at_every_level(tmp_path: Path) -> None:
    plan = plan_package(repository(tmp_path / "r"))
    made = [
        write_package(plan, tmp_path / f"{level}.tar.zst", SilentReporter(), level=level)
        for level in (1, 19)
    ]
    assert made[0].index.sha256 == made[1].index.sha256
    assert made[0].sha256 != made[1].sha256


def test_members_say_nothing_of_machine_user_or_day(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    (folder / "forge.lock").chmod(0o777)
    package_path = pack(folder, tmp_path / "r.tar.zst")
    with package_path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file)
        with tarfile.open(fileobj=io.BytesIO(reader.read())) as archive:
            members = archive.getmembers()
    assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members if m.isfile()} == {
        (0o644, 0, 0, 0, "", "")
    }
    names = [m.name for m in members]
    assert names[0] == "forge.package.json"
    assert names[1:] == [
        *(f"model_repository/{path}" for path in sorted(FILES)),
        "model_repository/ensemble/1",
    ]


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")
def test_other_programs_read_a_package(tmp_path: Path) -> None:
    package_path = pack(repository(tmp_path / "r"), tmp_path / "r.tar.zst")
    packed = subprocess.run(["zstd", "-q", "-dc", package_path], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        assert "forge.package.json" in archive.getnames()


def test_link_inside_the_repository_stays_a_link(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    (folder / "latest").symlink_to(folder / "tensorrt_llm" / "1")
    (folder / "ensemble/engine").symlink_to("../latest/engine")
    assert plan_package(folder).links == (
        IndexedLink(path="ensemble/engine", target="../tensorrt_llm/1/engine"),
        IndexedLink(path="latest", target="tensorrt_llm/1"),
    )
    output_dir = unpack(pack(folder, tmp_path / "r.tar.zst"), tmp_path / "u")
    assert (output_dir / "ensemble/engine/rank0.engine").read_bytes() == b"\0engine" * 3000
    assert (output_dir / "latest").is_symlink()


def test_sparse_file_is_streamed_and_stays_sparse(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r", {"m/config.pbtxt": b"x"})
    size_bytes = 48 << 20
    engine_path = folder / "m" / "engine"
    with engine_path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(32 << 20)
        file.write(b"in the middle")
    package_path = pack(folder, tmp_path / "r.tar.zst")
    unpacked = unpack(package_path, tmp_path / "u") / "m" / "engine"
    assert package_path.stat().st_size < 1 << 20
    assert unpacked.stat().st_size == size_bytes
    assert unpacked.stat().st_blocks * 512 < 4 << 20
    with unpacked.open("rb") as file:
        file.seek(32 << 20)
        assert file.read(13) == b"in the middle"


def test_manifests_digests_are_taken_and_checked(tmp_path: Path) -> None:
    files = {"m/config.pbtxt": b"text", "m/1/engine": b"engine"}
    document = index_document(files)
    manifest = manifest_text(document["files"])
    folder = repository(tmp_path / "r", {**files, "forge.manifest.json": manifest})
    plan = plan_package(folder)
    seen: list[str] = []

    class Watching(SilentReporter):
        def progress(self, name: str, done: int, total: int, unit: str) -> None:
            seen.append(f"{name} {done}/{total} {unit}")

    write_package(plan, tmp_path / "r.tar.zst", Watching())
    count = len(manifest)
    assert seen == [
        f"digest {count}/{count} bytes",
        f"package {count}/{count + 10} bytes",
        f"package {count + 6}/{count + 10} bytes",
        f"package {count + 10}/{count + 10} bytes",
    ]
    (folder / "m/1/engine").write_bytes(b"ENGINE")
    with pytest.raises(CheckpointError) as caught:
        pack(folder, tmp_path / "other.tar.zst")
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/r/m/1/engine differs from forge.manifest.json\n"
        "  why:  its digest differs: it was edited or damaged"
    )
    (folder / "m/1/engine").write_bytes(b"longer engine")
    with pytest.raises(CheckpointError) as caught:
        pack(folder, tmp_path / "other.tar.zst")
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/r/m/1/engine has 13 bytes, not 6\n  why:  forge.manifest.json lists 6"
    )
    (folder / "m/1/engine").unlink()
    with pytest.raises(CheckpointError) as caught:
        pack(folder, tmp_path / "other.tar.zst")
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/r has no m/1/engine\n  why:  forge.manifest.json lists it"
    )
    (folder / "forge.manifest.json").write_bytes(b"[]")
    with pytest.raises(CheckpointError, match=r"forge\.manifest\.json is damaged"):
        pack(folder, tmp_path / "other.tar.zst")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "r.tar.zst"]


@pytest.mark.parametrize("content", [b"grown longer", b"cut", b"EDITED"])
def test_file_that_changes_meanwhile_is_noticed(tmp_path: Path, content: bytes) -> None:
    folder = repository(tmp_path / "r", {"m/config.pbtxt": b"x", "m/z": b"edited"})

    class Editing(SilentReporter):
        def progress(self, name: str, *_: object) -> None:
            if name == "package":
                (folder / "m/z").write_bytes(content)

    with pytest.raises(CheckpointError) as caught:
        write_package(plan_package(folder), tmp_path / "r.tar.zst", Editing())
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/r/m/z changed while it was being packaged\n"
        "  why:  its bytes differ from those read a moment before"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_cannot_be_packaged_is_named(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    (tmp_path / "outside").write_bytes(b"secret")
    link_path = folder / "link"

    def error() -> str:
        with pytest.raises(ConfigError) as caught:
            plan_package(folder)
        return printed(caught.value, tmp_path)

    link_path.symlink_to(tmp_path / "outside")
    assert error() == (
        "error: ROOT/r/link is a link that points outside the repository\n"
        "  why:  it points to ROOT/outside, which the package would not contain\n"
        "  try:  cp -rL ROOT/r r-copied"
    )
    link_path.unlink()
    link_path.symlink_to("nothing")
    assert error() == "error: ROOT/r/link is a broken link\n  why:  it points to nothing"
    link_path.unlink()
    os.mkfifo(link_path)
    assert error() == (
        "error: ROOT/r/link cannot be packaged\n"
        "  why:  it is not a file, folder or link (prw-r--r--)"
    )
    link_path.unlink()
    (folder / "FORGE.lock").write_bytes(b"")
    assert error() == (
        "error: ROOT/r cannot be packaged: FORGE.lock and forge.lock are the same name where "
        "case is ignored\n"
        "  why:  some systems could not unpack it"
    )


def test_folder_that_is_no_model_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_package(tmp_path)
    assert printed(caught.value, tmp_path) == (
        "error: ROOT is not a model repository: no folder in it has a config.pbtxt"
    )
    with pytest.raises(ConfigError) as caught:
        plan_package(tmp_path / "absent")
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/absent is not a folder\n"
        "  why:  `forge package` needs a repository written by `forge build` or `forge render`"
    )


def test_package_replaces_a_file_only_when_told_to(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    output_path = tmp_path / "r.tar.zst"
    output_path.write_bytes(b"mine")
    with pytest.raises(ConfigError) as caught:
        pack(folder, output_path)
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/r.tar.zst already exists\n"
        "  why:  it is replaced only with --force\n"
        "  try:  forge package ROOT/r --output ROOT/r.tar.zst --force"
    )
    assert output_path.read_bytes() == b"mine"
    pack(folder, output_path, overwrite=True)
    assert verify_package(output_path, SilentReporter()).index.files


def test_package_does_not_lie_in_what_it_packages(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    with pytest.raises(ConfigError) as caught:
        pack(folder, folder / "r.tar.zst")
    assert printed(caught.value, tmp_path) == (
        "error: the package ROOT/r/r.tar.zst would be inside the folder it packages, ROOT/r\n"
        "  try:  --output ../r.tar.zst"
    )
    with pytest.raises(ConfigError) as caught:
        pack(folder, tmp_path)
    assert printed(caught.value, tmp_path) == (
        "error: ROOT is a folder, but a package is a file\n  try:  --output ROOT/r.tar.zst"
    )


def test_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository(tmp_path / "r")
    package_path = pack(folder, tmp_path / "r.tar.zst")

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(BuildError) as caught:
            pack(folder, tmp_path / "b.tar.zst")
    assert printed(caught.value, tmp_path) == (
        "error: no space left on the disk that holds ROOT\n"
        "  try:  --output ANOTHER_DISK/NAME.tar.zst"
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", refuse)
        with pytest.raises(BuildError) as caught:
            unpack(package_path, tmp_path / "u")
    assert printed(caught.value, tmp_path) == (
        "error: no space left on the disk that holds ROOT\n"
        "  why:  nothing was unpacked\n"
        "  try:  df -h"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "r.tar.zst"]


def test_package_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    package_path = pack(repository(tmp_path / "r", {"m/config.pbtxt": b"x"}), tmp_path / "p")
    whole = package_path.read_bytes()
    for length in range(len(whole)):
        package_path.write_bytes(whole[:length])
        expected = (
            "P is not a forge package; it does not start like a zstd file"
            if length < 4
            else f"P is incomplete: its end is missing after byte {length}; a copy or a download "
            "was interrupted, or something was appended to the file"
        )
        assert refusal(package_path, tmp_path / "u") == expected
    package_path.write_bytes(whole + b"more")
    assert "is incomplete" in refusal(package_path, tmp_path / "u")


def test_package_with_any_damaged_byte_is_refused(tmp_path: Path) -> None:
    files = {"m/config.pbtxt": b"x" * 50, "m/1/engine": bytes(range(256))}
    package_path = pack(repository(tmp_path / "r", files), tmp_path / "p")
    whole = package_path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        package_path.write_bytes(bytes(damaged))
        try:
            index = verify_package(package_path, SilentReporter()).index
        except CheckpointError:
            continue
        # What tar pads with and what nobody reads may differ; the content may not.
        assert {file.path: file.size_bytes for file in index.files} == {
            path: len(content) for path, content in files.items()
        }
        output_dir = unpack(package_path, tmp_path / f"u{position}")
        assert tree(output_dir) == files


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    files = {"m/config.pbtxt": b"x", "m/engine": b"engine"}
    members = [file_member("m/config.pbtxt", b"x"), file_member("m/engine", b"ENGINE")]
    package_path = write_archive(tmp_path / "p", index_document(files), members)
    size_bytes = package_path.stat().st_size - 24
    assert refusal(package_path, tmp_path / "u") == (
        "P is damaged at m/engine; its digest differs from the index, "
        f"near byte {size_bytes} of the file"
    )
    write_archive(package_path, index_document(files), members[:1])
    assert refusal(package_path, tmp_path / "u").startswith(
        "P is damaged at m/engine; the archive ends before it, near byte "
    )


REFUSED = "forge does not write such packages; nothing was written"
ONE = {"m/config.pbtxt": b"x"}
HOSTILE: dict[str, tuple[list[Any], str]] = {
    "extra file": (
        [file_member("m/config.pbtxt", b"x"), file_member("extra", b"y")],
        "its index does not list model_repository/extra",
    ),
    "same file twice": (
        [file_member("m/config.pbtxt", b"x"), file_member("m/config.pbtxt", b"x")],
        "its index does not list model_repository/m/config.pbtxt",
    ),
    "absolute": (
        [member("/etc/passwd", b"x")],
        "/etc/passwd is where its index has m/config.pbtxt",
    ),
    "parent": (
        [member("model_repository/../../x", b"x")],
        "model_repository/../../x is where its index has m/config.pbtxt",
    ),
    "hard link": (
        [file_member("m/config.pbtxt", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        "model_repository/m/config.pbtxt, which is a hard link,",
    ),
    "symbolic link": (
        [file_member("m/config.pbtxt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "model_repository/m/config.pbtxt, which is a symbolic link,",
    ),
    "device": (
        [file_member("m/config.pbtxt", b"", type=tarfile.BLKTYPE, devmajor=8)],
        "model_repository/m/config.pbtxt, which is a device,",
    ),
    "device behind the last": (
        [file_member("m/config.pbtxt", b"x"), member("null", type=tarfile.CHRTYPE)],
        "its index does not list null, which is a device",
    ),
    "other size": (
        [file_member("m/config.pbtxt", b"xx")],
        "m/config.pbtxt has 2 bytes, its index says 1",
    ),
    "terminal escape": (
        [member("\x1b[2Jgone", b"x")],
        "\\x1b[2Jgone is where its index has m/config.pbtxt",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_member_that_the_index_does_not_announce_is_refused(tmp_path: Path, name: str) -> None:
    members, expected = HOSTILE[name]
    package_path = write_archive(tmp_path / "p", index_document(ONE), members)
    assert refusal(package_path, tmp_path / "u") == f"P is refused: {expected}; {REFUSED}"


PATHS = {
    "/etc/passwd": "the path '/etc/passwd' is absolute",
    "../x": "the path '../x' does not stay in its folder",
    "a/../../x": "the path 'a/../../x' does not stay in its folder",
    "a//x": "the path 'a//x' does not stay in its folder",
    "./x": "the path './x' does not stay in its folder",
    "a/": "the path 'a/' does not stay in its folder",
    "": "the path '' does not stay in its folder",
    "a\\x": "the name 'a\\\\x' contains a backslash or a control character",
    "a\nx": "the name 'a\\nx' contains a backslash or a control character",
    "a\0x": "the name 'a\\x00x' contains a backslash or a control character",
    "\udc80": "the name '\\udc80' is not UTF-8",
    "x" * 4001: f"the path '{'x' * 199} is 4001 bytes long, the limit is 4000",
}


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_path_that_leaves_its_folder_is_refused(path: str) -> None:
    assert path_obstacle(["ok", path]) == PATHS[path]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a", "a"], "a occurs twice"),
        (["a/x", "A/y"], "a and A are the same name where case is ignored"),
        (
            ["stra\u00dfe", "STRASSE"],
            "stra\u00dfe and STRASSE are the same name where case is ignored",
        ),
        (["\u00e9", "e\u0301"], "\u00e9 and e\u0301 are the same name where case is ignored"),
        (["a", "a/x"], "a is both a file and a folder"),
        (["a/x", "a/y", "b"], ""),
    ],
)
def test_paths_that_cannot_stand_together_are_refused(paths: list[str], expected: str) -> None:
    assert path_obstacle(paths) == expected


def test_hostile_index_is_refused(tmp_path: Path) -> None:
    package_path = write_archive(tmp_path / "p", index_document({"../x": b"x"}), [])
    assert refusal(package_path, tmp_path / "u") == (
        "P is refused: the path '../x' does not stay in its folder; "
        "it is in forge.package.json; nothing was written"
    )


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**index_document(ONE), "folders": ["b", "a"]}).encode(),
        json.dumps({**index_document(ONE), "folders": [1]}).encode(),
        json.dumps({"schema": 1, "files": [{"path": "x"}], "folders": [], "links": []}).encode(),
        json.dumps(index_document(ONE)).replace('"size_bytes": 1', '"size_bytes": -1').encode(),
        json.dumps(index_document(ONE)).replace('"sha256": "', '"sha256": "g').encode(),
    ],
    ids=range(10),
)
def test_damaged_index_is_named(tmp_path: Path, index: bytes) -> None:
    package_path = write_archive(tmp_path / "p", index, [])
    assert refusal(package_path, tmp_path / "u").startswith(
        "P has a damaged index; forge.package.json"
    )


def test_index_of_a_newer_forge_is_refused_by_name(tmp_path: Path) -> None:
    package_path = write_archive(tmp_path / "p", {**index_document(ONE), "schema": 2}, [])
    with pytest.raises(CheckpointError) as caught:
        verify_package(package_path, SilentReporter())
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/p has an index of schema 2, but this forge reads 1\n"
        "  try:  pip install --upgrade trtllm-forge"
    )


@pytest.mark.parametrize(
    "links",
    [
        {"l": "../outside"},
        {"l": "/etc/passwd"},
        {"l": "l"},
        {"l": "absent"},
        # Each stays inside by its letters; together they do not.
        {"a/b/c/d": "../../../m", "z": "a/b/c/d/../../outside"},
    ],
    ids=["parent", "absolute", "circle", "nothing", "through another"],
)
def test_link_out_of_the_folder_is_refused(tmp_path: Path, links: dict[str, str]) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    package_path = write_archive(
        tmp_path / "p",
        index_document(ONE, links=links),
        [
            file_member("m/config.pbtxt", b"x"),
            *(file_member(p, b"", type=tarfile.SYMTYPE, linkname=to) for p, to in links.items()),
        ],
    )
    with pytest.raises(CheckpointError, match=r"is refused: the link . (is broken|points outside)"):
        unpack(package_path, tmp_path / "u")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "p"]


def test_file_cannot_be_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    document = index_document({"l/x": b"x", **ONE}, links={"l": "../outside"})
    package_path = write_archive(tmp_path / "p", document, [])
    assert refusal(package_path, tmp_path / "u") == (
        "P is refused: l is both a file and a folder; it is in forge.package.json; nothing was "
        "written"
    )


def test_bomb_in_a_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x" * 100)
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 1 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    package_path = write_compressed(tmp_path / "p", header + bytes(1 << 24))
    assert package_path.stat().st_size < 1 << 16
    started = time.monotonic()
    assert "it is longer than its index says" in refusal(package_path, tmp_path / "u")
    assert time.monotonic() - started < 1


def test_bomb_behind_the_last_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    package_path = write_archive(
        tmp_path / "p",
        index_document(ONE),
        [file_member("m/config.pbtxt", b"x")],
        tail=bytes(1 << 24),
    )
    assert "it is longer than its index says" in refusal(package_path, tmp_path / "u")


def test_other_file_is_no_package(tmp_path: Path) -> None:
    package_path = tmp_path / "p"
    package_path.write_bytes(b"PK\3\4 something else")
    assert refusal(package_path, tmp_path / "u") == (
        "P is not a forge package; it does not start like a zstd file"
    )
    with pytest.raises(ConfigError) as caught:
        verify_package(tmp_path / "absent", SilentReporter())
    assert printed(caught.value, tmp_path) == (
        "error: ROOT/absent cannot be read\n  why:  no such file or directory"
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("some/file"))
    write_compressed(package_path, buffer.getvalue())
    assert refusal(package_path, tmp_path / "u") == (
        "P is not a forge package; its first member is not forge.package.json"
    )


def test_unpacking_replaces_a_repository_of_forge_and_nothing_else(tmp_path: Path) -> None:
    package_path = pack(repository(tmp_path / "r"), tmp_path / "p")
    mine = write_files(tmp_path / "mine", {"letter.txt": b"dear"})
    with pytest.raises(ConfigError) as caught:
        unpack(package_path, mine)
    assert "is in the way: it was not built by forge" in caught.value.what
    assert tree(mine) == {"letter.txt": b"dear"}
    built = write_files(tmp_path / "built", {"forge.lock": b"{}", "old/config.pbtxt": b""})
    unpack(package_path, built)
    assert tree(built) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "mine", "p", "r"]


def test_damaged_package_leaves_the_repository_that_is_there(tmp_path: Path) -> None:
    built = write_files(tmp_path / "built", {"forge.lock": b"{}", "old/config.pbtxt": b""})
    members = [file_member("m/config.pbtxt", b"y")]
    package_path = write_archive(tmp_path / "p", index_document(ONE), members)
    assert "damaged" in refusal(package_path, built)
    assert tree(built) == {"forge.lock": b"{}", "old/config.pbtxt": b""}


def test_nothing_unpacked_is_executable(tmp_path: Path) -> None:
    members = [file_member("m/config.pbtxt", b"x", mode=0o4777)]
    package_path = write_archive(tmp_path / "p", index_document(ONE), members)
    output_dir = unpack(package_path, tmp_path / "u")
    assert (output_dir / "m/config.pbtxt").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("name", "folder"),
    [("/data/coder.tar.zst", "coder"), ("coder", "coder"), (".tar.zst", "package")],
)
def test_package_is_unpacked_to_its_own_name(name: str, folder: str) -> None:
    assert str(default_output_dir(Path(name))) == folder


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    write_files(tmp_path, {".u.1.unpacked/half": b"", ".p.1.part": b"", ".other.1.part": b""})
    package_path = pack(folder, tmp_path / "p")
    unpack(package_path, tmp_path / "u")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.1.part", "p", "r", "u"]


def test_what_another_process_writes_now_is_left_alone(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    with staging(tmp_path / "p", "part") as path:
        theirs = path.with_name(".p.1.part")
        theirs.write_bytes(b"half")
        pack(folder, tmp_path / "p")
        assert theirs.read_bytes() == b"half"
