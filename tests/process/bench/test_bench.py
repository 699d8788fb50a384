"""The bench against a real server that keeps a pace, over both of its wires."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from trtllm_forge.bench import run as run_module
from trtllm_forge.bench.html_report import html_report
from trtllm_forge.cli.app import app
from trtllm_forge.delivery.ci.summary import summarize
from trtllm_forge.files.resources import sample_checkpoint_dir
from trtllm_forge.triton.client.address import ServerUrls

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
FIRST_MS, GAP_MS = 20.0, 5.0
"""The server's defaults: the wait for the first chunk, and between two chunks of two tokens."""

PROTOCOLS = ("http", "grpc")
LOAD = "ensemble, http, 1 at once"


@contextmanager
def serving(*arguments: str) -> Iterator[ServerUrls]:
    command = [sys.executable, "-m", "tests.servers.paced_triton", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield ServerUrls(**json.loads(server.stdout.readline()))
        finally:
            server.kill()


@pytest.fixture(scope="module")
def urls() -> Iterator[ServerUrls]:
    with serving() as urls:
        yield urls


def bench(urls: ServerUrls, line: str) -> tuple[int, dict[str, Any], str]:
    words = ["bench", "--http", urls.http, "--grpc", str(urls.grpc), *shlex.split(line), "--json"]
    if "--output-tokens" not in words:
        words += ["--output-tokens", "4"]
    result = CliRunner().invoke(app, words, prog_name="forge")
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout), result.stderr


def failing(urls: ServerUrls, line: str) -> tuple[int, str]:
    words = ["bench", "--http", urls.http, *shlex.split(line)]
    result = CliRunner().invoke(app, words, prog_name="forge")
    return result.exit_code, result.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_figures_are_those_of_the_servers_pace(urls: ServerUrls, protocol: str) -> None:
    line = f"--protocol {protocol} --concurrency 1,4 --requests 12 --output-tokens 9"
    shortest_ms = FIRST_MS + 4 * GAP_MS

    code, document, _ = bench(urls, line)

    assert code == 0
    assert list(document["bench"]) == [f"ensemble, {protocol}, {n} at once" for n in (1, 4)]
    for slots, load in zip((1, 4), document["bench"].values(), strict=True):
        assert (load["requests"], load["errors"]) == (12, {})
        assert load["output_tokens"] == 9
        assert load["tokens_per_chunk"] == 1.8
        assert load["tokens_are_counted"]
        assert load["ttft_ms"]["p50"] >= FIRST_MS
        assert load["e2e_ms"]["p50"] >= shortest_ms
        # Of nine tokens in five chunks: the last comes alone behind its gap.
        assert load["chunk_gap_ms"]["count"] == 12 * 4
        assert load["itl_ms"]["count"] == 12 * 7
        assert load["tpot_ms"]["mean"] * 8 == pytest.approx(
            load["e2e_ms"]["mean"] - load["ttft_ms"]["mean"], rel=1e-3
        )
        assert 0 < load["output_tokens_per_s"] <= slots * 9 / (shortest_ms / 1000)
        assert load["client"]["most_in_flight"] == slots


def test_warm_up_requests_of_a_closed_loop_end_one_after_the_other(urls: ServerUrls) -> None:
    _, document, _ = bench(urls, "--concurrency 4 --requests 4 --output-tokens 8")

    rows = document["timeline"]["ensemble, http, 4 at once"]

    assert [row["tokens"] for row in rows] == [8, 8, 8, 8]
    assert rows[3]["sent_ms"] - rows[0]["sent_ms"] >= 2 * GAP_MS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failures_count_by_kind_and_leave_latencies_alone(
    urls: ServerUrls, protocol: str, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(["fine", "REFUSE", "BREAK", "DROP", "HANG", "NOTHING", "fine"]))
    line = f"--protocol {protocol} --prompts {path} --concurrency 7 --requests 7 --warm-up 0"

    code, document, stderr = bench(urls, f"{line} --timeout 1")

    load = document["bench"][f"ensemble, {protocol}, 7 at once"]
    assert code == 0
    assert {kind: entry["count"] for kind, entry in load["errors"].items()} == {
        "broken off": 1,
        "disconnected": 1,
        "empty": 1,
        "refused": 1,
        "timeout": 1,
    }
    assert load["errors"]["refused"]["first"] == "no such thing"
    assert load["errors"]["broken off"]["first"] == "the engine stopped"
    assert load["requests"] == load["ttft_ms"]["count"] == 2
    assert load["ttft_ms"]["max"] < 1000
    assert f"{protocol}, 7 at once: refused: 1 request, the first with: no such thing\n" in stderr


def test_what_is_no_event_is_unreadable(urls: ServerUrls, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("GARBAGE\nfine\n")

    _, document, _ = bench(urls, f"--prompts {path} --concurrency 1 --requests 4 --warm-up 0")

    assert document["bench"][LOAD]["errors"]["unreadable"]["count"] == 2
    assert document["bench"][LOAD]["requests"] == 2


def test_an_open_loop_sends_when_due_however_many_still_run(urls: ServerUrls) -> None:
    line = "--rate 50 --arrivals constant --requests 10 --output-tokens 40 --warm-up 0"

    _, document, _ = bench(urls, line)

    load = document["bench"]["ensemble, http, 50 per s"]
    sent = [row["sent_ms"] for row in document["timeline"]["ensemble, http, 50 per s"]]
    late_ms = load["client"]["late_ms"]["max"]
    # Each answer takes 115 ms, in which five more are due.
    assert load["client"]["most_in_flight"] >= 5
    for number, sent_ms in enumerate(sent):
        assert number * 20 - 1 <= sent_ms <= number * 20 + late_ms + 1


def test_a_duration_is_the_length_of_the_window(urls: ServerUrls) -> None:
    _, document, _ = bench(urls, "--concurrency 2 --duration 0.4 --output-tokens 4")

    load = document["bench"]["ensemble, http, 2 at once"]
    assert load["window_s"] == 0.4
    # A request takes 25 ms at least; two more per slot overlap an end of the window.
    assert 0 < load["requests_per_s"] * 0.4 <= 2 * (0.4 / 0.025 + 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_layers_are_asked_the_same_in_turns_and_told_against_the_core(
    urls: ServerUrls, protocol: str
) -> None:
    line = f"--layers --protocol {protocol} --concurrency 1,2 --requests 3 --output-tokens 6"

    code, document, _ = bench(urls, f"{line} --tokenizer {sample_checkpoint_dir()}")

    names = [
        f"{model}, {protocol}, {slots} at once"
        for slots in (1, 2)
        for model in ("tensorrt_llm", "ensemble", "tensorrt_llm_bls")
    ]
    assert code == 0
    assert list(document["bench"]) == list(document["layers"]) == names
    assert document["layers"][names[0]] == {"tokens_per_s": 1.0, "ttft_p50": 1.0}
    assert {load["output_tokens"] for load in document["bench"].values()} == {6}


def test_a_prefix_that_was_seen_shows_in_ttft(urls: ServerUrls) -> None:
    _, document, _ = bench(urls, "--concurrency 1 --requests 1 --prefix-reuse --seed 11")

    reuse = document["prefix_reuse"]
    assert reuse["cold_ttft_ms"]["count"] == reuse["warm_ttft_ms"]["count"] == reuse["pairs"] == 8
    assert reuse["cold_ttft_ms"]["p50"] >= FIRST_MS
    assert reuse["warm_to_cold"] < 1


def test_accepted_drafts_are_told_where_the_server_tells_them(urls: ServerUrls) -> None:
    line = "--concurrency 1 --requests 3 --warm-up 0 --output-tokens 16"
    with serving("--drafts") as drafting:
        _, with_drafts, _ = bench(drafting, line)

    _, without, _ = bench(urls, line)

    assert with_drafts["bench"][LOAD]["draft"] == {
        "draft_tokens": 24,
        "accepted_tokens": 12,
        "acceptance_rate": 0.5,
        "accepted_draft_length": 0.3333,
    }
    assert "draft" not in without["bench"][LOAD]


def test_a_server_that_counts_no_tokens_is_warned_of() -> None:
    with serving("--uncounted") as uncounted:
        _, document, stderr = bench(uncounted, "--concurrency 1 --requests 2 --output-tokens 6")

    assert document["bench"][LOAD]["output_tokens"] == 3
    assert f"warning: {LOAD}: the server does not count output tokens" in stderr


def test_a_busy_client_is_warned_of(urls: ServerUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "BUSY_CLIENT_SHARE", 0.0)

    _, document, stderr = bench(urls, "--concurrency 1 --requests 2")

    assert 0 < document["bench"][LOAD]["client"]["cpu_share"] < 1
    assert f"warning: {LOAD}: forge bench itself used " in stderr


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_stands_alone_and_shows_curves_timeline_and_table(
    urls: ServerUrls, tmp_path: Path
) -> None:
    path = tmp_path / "bench.html"
    line = f"--concurrency 1,2 --requests 4 --goodput ttft=200 --prefix-reuse --html {path}"

    bench(urls, line)

    text = path.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.links == []
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    # Four charts, and a timeline per load.
    assert page.tags.count("svg") == 4 + 2
    assert page.tags.count("table") == 2
    for words in ("Goodput/s", LOAD, "Prefix reuse", "first chunk with a token received"):
        assert words in page.text


def test_the_report_shows_a_name_with_markup_as_text(urls: ServerUrls) -> None:
    _, document, _ = bench(urls, "--concurrency 1 --requests 1")

    page = Page(html_report(json.loads(json.dumps(document).replace("ensemble", "<script>"))))

    assert "script" not in page.tags
    assert "<script>, http, 1 at once" in page.text


def test_a_comparison_with_a_faster_bench_exits_8_and_keeps_the_document(
    urls: ServerUrls, tmp_path: Path
) -> None:
    line = "--concurrency 1 --requests 2"
    _, before, _ = bench(urls, line)
    before["bench"][LOAD]["ttft_ms"]["p50"] = 1.0
    path = tmp_path / "before.json"
    path.write_text(json.dumps(before))

    code, document, _ = bench(urls, f"{line} --compare {path} --noise 10")

    slower = [
        entry["figure"] for entry in document["comparison"]["lines"] if entry["verdict"] == "slower"
    ]
    assert (code, slower) == (8, ["ttft_ms p50"])
    text = failing(urls, f"{line} --output-tokens 4 --compare {path} --noise 10")
    assert text[0] == 8
    assert "\nerror: 1 figure is worse than before by more than 1000%\n" in text[1]


def test_a_comparison_within_the_noise_is_a_success(urls: ServerUrls, tmp_path: Path) -> None:
    line = "--concurrency 1 --requests 2"
    path = tmp_path / "before.json"
    path.write_text(json.dumps(bench(urls, line)[1]))

    code, document, _ = bench(urls, f"{line} --compare {path} --noise 10")

    assert (code, document["comparison"]["is_slower"]) == (0, False)


def test_the_document_is_one_that_ci_summary_reads(urls: ServerUrls, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(bench(urls, "--concurrency 1 --requests 2")[1]))

    assert f"| `{LOAD}.requests` | `2` |" in summarize([path])


def test_the_document_says_where_it_ran_and_names_no_path_or_host(urls: ServerUrls) -> None:
    _, document, _ = bench(urls, "--concurrency 1 --requests 1")

    environment = document["environment"]
    assert environment["server_version"] == "2.51.0"
    assert {"cpu", "cores", "packages", "repository", "forge", "python"} <= set(environment)
    assert str(Path.home()) not in json.dumps(document)


def test_a_load_that_nobody_answers_whole_is_an_error(urls: ServerUrls, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("REFUSE\n")

    code, stderr = failing(urls, f"--prompts {path} --concurrency 1 --requests 2")

    assert code == 8
    assert stderr.endswith(
        f"error: no request of the load {LOAD} was answered whole\n"
        "  why:  refused: 2 requests, the first with: no such thing\n"
        "  try:  forge probe\n"
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "--model nothing",
            "error: the server at {url} serves no model nothing\n"
            "  why:  it serves ensemble, plain, preprocessing, tensorrt_llm, tensorrt_llm_bls\n"
            "  try:  forge bench --model ensemble\n",
        ),
        (
            "--model preprocessing",
            "error: model preprocessing takes no prompt, wanted text_input with a length, or "
            "input_ids\n"
            "  why:  its inputs are QUERY\n"
            "  try:  forge bench --model ensemble\n",
        ),
        (
            "--model plain",
            "error: model plain does not stream, and without a stream there is no TTFT or ITL\n"
            "  why:  its model_transaction_policy is not decoupled\n"
            "  try:  forge bench --model ensemble\n",
        ),
        (
            "--task fim",
            "error: the FIM tokens of the served model are not known\n"
            "  why:  the server was not started by this user's forge\n"
            "  try:  forge bench --task completion\n",
        ),
        (
            "--layers",
            "error: the tokenizer of the served model is not known\n"
            "  why:  the server was not started by this user's forge, and token ids or lengths "
            "are wanted\n"
            "  try:  forge bench --tokenizer DIR\n",
        ),
        (
            "--protocol grpc",
            "error: the gRPC address of the server at {url} is not known\n"
            "  why:  that server was not started by this user's forge\n"
            "  try:  forge bench --protocol grpc --grpc 127.0.0.1:8001\n",
        ),
    ],
)
def test_what_the_server_cannot_be_asked_is_refused(urls: ServerUrls, line: str, text: str) -> None:
    assert failing(urls, line) == (2, text.format(url=urls.http))


def test_a_server_that_is_not_there_is_told() -> None:
    with serving() as urls:
        pass

    code, stderr = failing(urls, "--concurrency 1")

    assert code == 7
    assert stderr.startswith(f"error: no server answers at {urls.http}\n")
