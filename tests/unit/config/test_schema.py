"""The schema: what it accepts, and that every key can be told apart."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import pytest

from trtllm_forge.config.keys import config_keys
from trtllm_forge.config.schema import BuildSection, ForgeConfig, RepositorySection, ServeSection


def test_every_key_has_a_flag_and_a_variable_of_its_own() -> None:
    keys = config_keys()

    assert len({key.name for key in keys}) == len(keys)
    assert len({key.flag for key in keys}) == len(keys)
    assert len({key.variable for key in keys}) == len(keys)


def test_every_key_has_a_one_line_help_that_ends_a_sentence() -> None:
    for key in config_keys():
        assert key.help, key.path
        assert key.help.endswith("."), key.path
        assert "\n" not in key.help, key.path


def test_keys_cover_every_field_of_every_section() -> None:
    paths = {key.path for key in config_keys()}
    dumped = asdict(ForgeConfig())
    expected = set()
    for name, value in dumped.items():
        expected |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}

    assert paths == expected


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "a b", "-x"])
def test_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name is .*wanted: letters"):
        ForgeConfig(name=name)


@pytest.mark.parametrize("release", ["1.2.1", "0.16", "1.3.0rc20", "0.16.0.dev2024121000"])
def test_release_in_upstreams_spelling_is_accepted(release: str) -> None:
    assert ForgeConfig(trtllm_version=release).trtllm_version == release


@pytest.mark.parametrize("release", ["v1.2.1", "1", "latest", "1.2.1 ", "1.2.1\n"])
def test_release_in_another_spelling_is_refused(release: str) -> None:
    with pytest.raises(ValueError, match="wanted: a release such as"):
        ForgeConfig(trtllm_version=release)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_kv_cache_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="wanted: number above 0 to 1"):
        RepositorySection(kv_cache_free_gpu_mem_fraction=fraction)


@pytest.mark.parametrize("size", [1, 2048])
def test_batch_size_at_its_bounds_is_accepted(size: int) -> None:
    assert BuildSection(max_batch_size=size).max_batch_size == size


@pytest.mark.parametrize("size", [0, 2049])
def test_batch_size_beyond_its_bounds_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="wanted: whole number 1 to 2048"):
        BuildSection(max_batch_size=size)


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        ServeSection(http_port=8000, metrics_port=8000)


def test_services_without_ports_do_not_collide() -> None:
    assert ServeSection(http_port=None, grpc_port=None).http_port is None


def test_relative_mount_root_is_refused() -> None:
    with pytest.raises(ValueError, match="absolute"):
        RepositorySection(mount_root="models")


def test_a_configuration_cannot_be_changed() -> None:
    config = ForgeConfig()

    with pytest.raises(FrozenInstanceError):
        config.model = "sample"  # type: ignore[misc]


def test_several_postprocessing_instances_are_refused_where_answers_are_streamed() -> None:
    with pytest.raises(ValueError, match="postprocessing_instances above 1 needs decoupled"):
        RepositorySection(postprocessing_instances=2)
    assert RepositorySection(postprocessing_instances=2, decoupled=False).decoupled is False
