"""The schema of ``forge.yaml``: every key with its type, bounds, default and meaning.

::

    model: starcoder
    build:
      precision: int4
    repository:
      max_queue_size: 64

A field's name is its key, its flag (``--max-queue-size``) and its variable
(``FORGE_MAX_QUEUE_SIZE``), so names are unique over all sections; ``config.keys`` derives the
three. A field's docstring is its help text everywhere. Validators reject and never repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Precision = Literal[
    "fp16",
    "bf16",
    "int8",
    "int4",
    "int4_awq",
    "int4_gptq",
    "w4a8_awq",
    "int8_sq",
    "fp8",
    "nvfp4",
]


@dataclass(frozen=True)
class Wanted:
    """What a text has to be, in words, and one that is right."""

    words: str
    example: str


def _absolute(value: str) -> str:
    if not PurePosixPath(value).is_absolute():
        message = "an absolute path is needed"
        raise ValueError(message)
    return value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Instances = Annotated[int, Field(ge=1, le=256)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
NotNegativeSeconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=1, le=65535)]
AbsolutePath = Annotated[str, AfterValidator(_absolute), Wanted("an absolute path", "/models")]
FolderName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    Wanted("letters, digits, dots and dashes", "my-model"),
]
Release = Annotated[
    str,
    Field(pattern=r"^\d+\.\d+(\.\d+){0,2}(rc\d+)?(\.(post|dev)\d+)?$"),
    Wanted("a release such as 1.2.1", "1.2.1"),
]


class _Section(BaseModel):
    # The fields' docstrings are read by config.keys: pydantic reads the file once per class.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CheckpointSection(_Section):
    """Which checkpoint is taken, and what of it is trusted."""

    revision: Text | None = None
    """Branch, tag or commit on the Hub; unset takes the newest commit."""

    allow_pickle: bool = False
    """Accept weights in pickle files, which can run code when they are read."""

    trust_remote_code: bool = False
    """Run Python code that the checkpoint carries."""


class BuildSection(_Section):
    """The limits and the precision that are compiled in."""

    precision: Precision = "fp16"
    """Element type of the weights; int8 and int4 are weight-only."""

    kv_cache: Literal["int8", "fp8"] | None = None
    """Element type of the KV cache; unset takes that of the activations."""

    group_size: Count = 128
    """Weights that share one scale in int4."""

    int4_ratio: Share = 1.0
    """Share of the layers that become int4, the rest int8 (OpenVINO)."""

    tp_size: Count = 1
    """Tensor parallel ranks."""

    pp_size: Count = 1
    """Pipeline parallel ranks; the world size is tp_size times pp_size."""

    max_batch_size: Annotated[int, Field(ge=1, le=2048)] = 64
    """Requests per step."""

    max_seq_len: Count | None = None
    """Prompt plus output tokens of one request; unset takes what the checkpoint was trained for."""

    max_num_tokens: Count | None = None
    """Tokens per step over all requests; unset takes the runtime's default."""

    max_beam_width: Annotated[int, Field(ge=1, le=256)] = 1
    """Beams of one request."""

    calib_dataset: Text | None = None
    """Folder or Hub name of calibration data; unset takes the release's default (TensorRT)."""

    calib_size: Count = 512
    """Samples of the calibration data (TensorRT)."""

    gemm_plugin: Literal["auto", "float16", "bfloat16", "fp8", "nvfp4", "disable"] | None = None
    """Plugin for matrix products; unset takes what suits the precision (TensorRT)."""

    workers: Count | None = None
    """Ranks converted and compiled at once; unset takes what the machine holds (TensorRT)."""

    gather_context_logits: bool = False
    """Keep the logits of the prompt, which costs memory at every step (TensorRT)."""

    cuda_graphs: bool = True
    """Capture decode steps as CUDA graphs, which saves launches and takes memory (llmapi)."""

    speculative: Literal["none", "prompt_lookup", "lookahead", "draft_tokens"] = "none"
    """Draft tokens from the prompt's n-grams, by lookahead decoding, or given by the client."""

    max_draft_len: Count | None = None
    """Draft tokens per step; unset takes the mode's default."""

    lookahead_window: Count = 7
    """Columns of lookahead decoding's window (TensorRT)."""

    lookahead_ngram: Count = 7
    """Tokens of lookahead decoding's n-grams (TensorRT)."""

    lookahead_verification: Annotated[int, Field(ge=0)] = 7
    """N-grams that lookahead decoding verifies per step (TensorRT)."""

    lora_dir: Text | None = None
    """Folder of a LoRA adapter the engine is built for (TensorRT)."""

    lora_target_modules: Text | None = None
    """Modules the adapter changes, comma separated; unset takes the adapter's own (TensorRT)."""

    max_lora_rank: Count = 64
    """Largest rank of an adapter (TensorRT)."""


class RepositorySection(_Section):
    """What the model repository says to Triton."""

    tokenizer_dir: Text | None = None
    """Folder of the tokenizer on the serving machine; unset copies it into the repository."""

    tokenizer_type: Literal["auto", "llama", "t5"] = "auto"
    """Which class makes tokenizer.json, where the checkpoint has a SentencePiece model alone."""

    add_special_tokens: bool = True
    """Let the tokenizer add its special tokens to a prompt."""

    skip_special_tokens: bool = True
    """Leave special tokens out of the text that is sent back."""

    decoupled: bool = True
    """Many responses per request, which streaming needs."""

    kv_cache_free_gpu_mem_fraction: Fraction | None = None
    """Share of the free memory for the KV cache; unset takes the preset's, else upstream's 0.9."""

    max_tokens_in_paged_kv_cache: Count | None = None
    """Size of the KV cache in tokens; with the fraction set too, the smaller one holds."""

    batching_strategy: Literal["inflight_fused_batching"] = "inflight_fused_batching"
    """How requests share a step; in-flight batching lets them join and leave at each one."""

    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = (
        "guaranteed_no_evict"
    )
    """Keep what was started, or fill every step and pause requests when the KV cache is full."""

    enable_kv_cache_reuse: bool = True
    """Share KV cache blocks between requests with a common prefix."""

    enable_chunked_context: bool = True
    """Split a long prompt over several steps, so that decoding goes on beside it."""

    exclude_input_in_output: bool = False
    """Leave the prompt out of an answer that is not streamed, unless a request says otherwise."""

    stream_interval_ms: Annotated[int, Field(ge=0, le=1000)] = 100
    """Longest time to join a stream's tokens, less with few streams; 0 joins none (OpenVINO)."""

    engine_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads the engine computes on; 0 takes all cores, less one for a small engine (OpenVINO)."""

    max_queue_size: Annotated[int, Field(ge=0)] = 0
    """Requests that may wait before new ones are refused; 0 is no limit."""

    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0
    """Time Triton holds a request back to batch its tokenization, in microseconds."""

    preprocessing_instances: Instances = 1
    """Processes that tokenize."""

    postprocessing_instances: Instances = 1
    """Processes that turn tokens into text."""

    bls_instances: Instances = 1
    """Processes of the BLS model."""

    accumulate_tokens: bool = False
    """Send the whole text so far with each streamed response of the BLS model."""

    mount_root: AbsolutePath = "/models"
    """Where the model repository is mounted on the serving machine (TensorRT engines)."""

    fast_math: bool = False
    """Compute in bf16 with an 8-bit KV cache: faster, no longer exact (OpenVINO)."""

    @model_validator(mode="after")
    def _streams_stay_in_one_postprocessing(self) -> RepositorySection:
        if self.decoupled and self.postprocessing_instances > 1:
            message = (
                "postprocessing_instances above 1 needs decoupled: false, because the chunks of a "
                "stream have to reach the same instance"
            )
            raise ValueError(message)
        return self


class CheckSection(_Section):
    """Which of the linter's rules are applied, by ``forge check`` and before publishing."""

    select: Text | None = None
    """Rules to apply, comma separated codes or beginnings of codes; unset takes all."""

    ignore: Text | None = None
    """Rules to leave out, comma separated codes or beginnings of codes."""


class ServeSection(_Section):
    """Where the server listens, and how long it may take."""

    host: Text = "127.0.0.1"
    """Address the server listens on."""

    http_port: Port | None = None
    """Port of the HTTP service; unset takes a free one."""

    grpc_port: Port | None = None
    """Port of the gRPC service; unset takes a free one."""

    metrics_port: Port | None = None
    """Port of the metrics; unset takes a free one."""

    ready_timeout_s: Seconds | None = None
    """Time until the server must be ready, in seconds; unset follows the size of what it loads."""

    drain_timeout_s: NotNegativeSeconds = 30.0
    """Time that running requests have to end when the server is stopped, in seconds."""

    restart: Literal["never", "on-failure"] = "never"
    """Whether a server that ends by itself is started again."""

    max_restarts: Annotated[int, Field(ge=0)] = 5
    """How often it is, until it was ready for 10 minutes; then it counts from 0 again."""

    verify: Literal["times", "full", "off"] = "times"
    """Compare with the manifest: small files and times, every digest, or nothing."""

    triton: Text = "auto"
    """Where Triton comes from: auto, wheel, docker, docker:IMAGE, or the path of one."""

    gpus: Text | None = None
    """GPUs a container gets: all, or indices or UUIDs; unset takes as many as are needed."""

    grpc_tls_cert: Text | None = None
    """Certificate of the gRPC service, in PEM; unset leaves gRPC in plain text."""

    grpc_tls_key: Text | None = None
    """Private key of that certificate, in PEM and without a passphrase."""

    grpc_tls_ca: Text | None = None
    """Authorities of the certificates that gRPC clients then have to show, in PEM."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServeSection:
        if (self.grpc_tls_cert is None) is not (self.grpc_tls_key is None):
            message = "grpc_tls_cert and grpc_tls_key go together"
            raise ValueError(message)
        if self.grpc_tls_ca is not None and self.grpc_tls_cert is None:
            message = "grpc_tls_ca needs grpc_tls_cert and grpc_tls_key"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> ServeSection:
        ports = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port]
        if len(set(ports)) < len(ports):
            message = "http_port, grpc_port and metrics_port must differ"
            raise ValueError(message)
        return self


class ForgeConfig(_Section):
    """Everything that ``forge.yaml`` can say."""

    model: Text | None = None
    """Preset, Hub id, checkpoint folder, or sample."""

    name: FolderName | None = None
    """Name of the model repository; unset takes the model's."""

    runtime: Literal["auto", "trtllm", "llmapi", "openvino"] = "auto"
    """What executes the artifact; auto takes what this release and machine can build."""

    trtllm_version: Release | None = None
    """TensorRT-LLM release; unset takes the newest that an image carries and the model runs on."""

    executor: Literal["auto", "local", "docker"] = "auto"
    """Where TensorRT-LLM's tools run: this environment, or the release's Triton image."""

    examples_dir: Text | None = None
    """TensorRT-LLM's examples folder, where the environment or the image has none."""

    gpu: Text | None = None
    """GPU the engine is for, such as h100-80g; unset takes the one that is there."""

    offline: bool = False
    """Fetch nothing: neither files of the Hub nor an image nor calibration data."""

    releases_file: Text | None = None
    """File that describes releases of TensorRT-LLM newer than this forge."""

    checkpoint: CheckpointSection = CheckpointSection()
    """Which checkpoint is taken, and what of it is trusted."""

    build: BuildSection = BuildSection()
    """The limits and the precision that are compiled in."""

    repository: RepositorySection = RepositorySection()
    """What the model repository says to Triton."""

    check: CheckSection = CheckSection()
    """Which of the linter's rules are applied, by `forge check` and before publishing."""

    serve: ServeSection = ServeSection()
    """Where the server listens, and how long it may take."""
