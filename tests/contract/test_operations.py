"""The dashboard can be imported, and every query of it and of the alert rules is PromQL."""

from __future__ import annotations

import itertools
import re
from typing import Any

import promql_parser
import pytest
import yaml

from tests.promql import alert_rules, dashboard, queries, selectors
from trtllm_forge.files.resources import data_path

QUERIES = queries()
# Families of TensorRT-LLM's own backend that the twin has not, with their label.
# Source: triton-inference-server/tensorrtllm_backend@v0.19.0:
# inflight_batcher_llm/src/custom_metrics_reporter/custom_metrics_reporter.cc
TENSORRT_LLM = {
    "nv_llm_output_token_len": {"model", "version", "response_metric_type"},
    "nv_llm_input_token_len": {"model", "version", "response_metric_type"},
}
# What Triton writes where it has a GPU, with its label.
# Source: triton-inference-server/core: src/metrics.cc
GPU = {
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
    "nv_gpu_memory_total_bytes": {"gpu_uuid"},
    "nv_gpu_power_usage": {"gpu_uuid"},
}


def panels(kind: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] == kind]


def test_the_dashboard_asks_for_its_data_source_when_it_is_imported() -> None:
    board = dashboard()

    assert [(entry["name"], entry["pluginId"]) for entry in board["__inputs"]] == [
        ("DS_PROMETHEUS", "prometheus")
    ]
    assert board["id"] is None
    sources = [panel["datasource"]["uid"] for panel in panels("timeseries")]
    sources += [
        target["datasource"]["uid"] for p in panels("timeseries") for target in p["targets"]
    ]
    sources += [variable["datasource"]["uid"] for variable in board["templating"]["list"]]
    assert set(sources) == {"${DS_PROMETHEUS}"}
    assert {panel["type"] for panel in board["panels"]} == {"row", "timeseries"}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    board = dashboard()
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]

    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    assert all(panel["description"].endswith(".") for panel in panels("timeseries"))


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_promql_over_metrics(name: str) -> None:
    wanted = selectors(QUERIES[name])

    assert wanted
    assert "$" not in QUERIES[name]
    assert not isinstance(promql_parser.parse(QUERIES[name]), promql_parser.MatrixSelector)


@pytest.mark.parametrize("name", [name for name in QUERIES if not name.startswith("alert")])
def test_a_legend_names_labels_that_its_query_keeps(name: str) -> None:
    title, _, letter = name.rpartition(" ")
    (panel,) = (panel for panel in panels("timeseries") if panel["title"] == title)
    (target,) = (target for target in panel["targets"] if target["refId"] == letter)
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    kept = re.search(r"by \(([\w, ]+)\)", target["expr"])

    assert shown
    assert kept is None or shown <= {word.strip() for word in kept[1].split(",")}


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    for rule in alert_rules():
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["description"].endswith(".")


def test_what_only_tensorrt_llm_counts_has_the_names_of_its_backend() -> None:
    wanted = [w for query in QUERIES.values() for w in selectors(query)]
    histograms = [w for w in wanted if w.name.startswith("nv_llm_")]

    assert {w.name.removesuffix("_sum") for w in histograms} == set(TENSORRT_LLM)
    for selector in histograms:
        labels = {label for label, _, _ in selector.matchers} - {"instance"}
        assert labels <= TENSORRT_LLM[selector.name.removesuffix("_sum")]


def test_what_only_a_gpu_has_is_asked_for_by_tritons_names() -> None:
    wanted = [w for query in QUERIES.values() for w in selectors(query)]
    gpu = [w for w in wanted if w.name.startswith("nv_gpu_")]
    shown = [t["legendFormat"] for p in panels("timeseries") for t in p["targets"]]

    assert {w.name for w in gpu} == set(GPU)
    assert {label for w in gpu for label, _, _ in w.matchers} == {"instance"}
    assert len([text for text in shown if "{{gpu_uuid}}" in text]) == len(gpu)


def test_the_scrape_example_reads_the_rules_and_the_port_that_forge_takes() -> None:
    path = data_path("operations") / "prometheus.yaml"
    example = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert [(path.parent / name).is_file() for name in example["rule_files"]] == [True]
    (job,) = example["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8002"]}]
    (down,) = (rule for rule in alert_rules() if rule["alert"] == "TritonDown")
    assert f'job="{job["job_name"]}"' in down["expr"]
