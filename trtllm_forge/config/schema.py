"""The schema of ``forge.yaml``: every key with its type, bounds, default and meaning.

::

    model: starcoder
    build:
      precision: int4
    repository:
      max_queue_size: 64

A field's name is its key, its flag (``--max-queue-size``) and its variable
(``FORGE_MAX_QUEUE_SIZE``), so names are unique over all sections; ``config.keys`` lists them. Its
help is the help everywhere. What a section is made of is read and checked, never repaired: a
wrong value, or two values that contradict each other, is a ``ValueError``.
"""

# No `from __future__ import annotations`: key_of needs the types and not their text.
from dataclasses import dataclass, fields
from typing import Literal

from trtllm_forge.config.key import Pattern, is_key, key, key_of

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

ABSOLUTE_PATH = Pattern(expression=r"(?s)/.*", words="an absolute path", example="/models")
FOLDER_NAME = Pattern(
    expression=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    words="letters, digits, dots and dashes",
    example="my-model",
)
RELEASE = Pattern(
    expression=r"\d+\.\d+(\.\d+){0,2}(rc\d+)?(\.(post|dev)\d+)?",
    words="a release such as 1.2.1",
    example="1.2.1",
)

_RANKS = "ranks"
_LISTENING = "where it listens"
_RUNNING = "how it is kept running"
_TRITON = "which Triton serves"


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


@dataclass(frozen=True, kw_only=True)
class _Section:
    def __post_init__(self) -> None:
        for declared in fields(self):
            if is_key(declared):
                value = key_of(declared).read(getattr(self, declared.name))
                object.__setattr__(self, declared.name, value)
        self._require_agreement()

    def _require_agreement(self) -> None:
        """Raise ``ValueError`` where two values contradict each other."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSection(_Section):
    """Which checkpoint is taken, and what of it is trusted."""

    revision: str | None = key(
        None, "Branch, tag or commit on the Hub; unset takes the newest commit."
    )
    allow_pickle: bool = key(
        False, "Accept weights in pickle files, which can run code when they are read."
    )
    trust_remote_code: bool = key(False, "Run Python code that the checkpoint carries.")


@dataclass(frozen=True, kw_only=True)
class BuildSection(_Section):
    """The limits and the precision that are compiled in."""

    precision: Precision = key(
        "fp16",
        "Element type of the weights; int8 and int4 are weight-only.",
        has_flag_per_word=True,
    )
    kv_cache: Literal["int8", "fp8"] | None = key(
        None, "Element type of the KV cache; unset takes that of the activations."
    )
    group_size: int = key(128, "Weights that share one scale in int4.", least=1)
    int4_ratio: float = key(
        1.0, "Share of the layers that become int4, the rest int8 (OpenVINO).", least=0, most=1
    )
    tp_size: int = key(1, "Tensor parallel ranks.", least=1, flag="--tp")
    pp_size: int = key(
        1, "Pipeline parallel ranks; the world size is tp_size times pp_size.", least=1, flag="--pp"
    )
    max_batch_size: int = key(64, "Requests per step.", least=1, most=2048)
    max_seq_len: int | None = key(
        None,
        "Prompt plus output tokens of a request; unset takes what the checkpoint was trained for.",
        least=1,
    )
    max_num_tokens: int | None = key(
        None, "Tokens per step over all requests; unset takes the runtime's default.", least=1
    )
    max_beam_width: int = key(1, "Beams of one request.", least=1, most=256)
    calib_dataset: str | None = key(
        None,
        "Folder or Hub name of calibration data; unset takes the release's default (TensorRT).",
    )
    calib_size: int = key(512, "Samples of the calibration data (TensorRT).", least=1)
    gemm_plugin: Literal["auto", "float16", "bfloat16", "fp8", "nvfp4", "disable"] | None = key(
        None, "Plugin for matrix products; unset takes what suits the precision (TensorRT)."
    )
    workers: int | None = key(
        None,
        "Ranks converted and compiled at once; unset takes what the machine holds (TensorRT).",
        least=1,
    )
    gather_context_logits: bool = key(
        False, "Keep the logits of the prompt, which costs memory at every step (TensorRT)."
    )
    cuda_graphs: bool = key(
        True, "Capture decode steps as CUDA graphs, which saves launches and takes memory (llmapi)."
    )
    speculative: Literal["none", "prompt_lookup", "lookahead", "draft_tokens"] = key(
        "none",
        "Draft tokens from the prompt's n-grams, by lookahead decoding, or given by the client.",
    )
    max_draft_len: int | None = key(
        None, "Draft tokens per step; unset takes the mode's default.", least=1
    )
    lookahead_window: int = key(7, "Columns of lookahead decoding's window (TensorRT).", least=1)
    lookahead_ngram: int = key(7, "Tokens of lookahead decoding's n-grams (TensorRT).", least=1)
    lookahead_verification: int = key(
        7, "N-grams that lookahead decoding verifies per step (TensorRT).", least=0
    )
    lora_dir: str | None = key(None, "Folder of a LoRA adapter the engine is built for (TensorRT).")
    lora_target_modules: str | None = key(
        None,
        "Modules the adapter changes, comma separated; unset takes the adapter's own (TensorRT).",
    )
    max_lora_rank: int = key(64, "Largest rank of an adapter (TensorRT).", least=1)


@dataclass(frozen=True, kw_only=True)
class RepositorySection(_Section):
    """What the model repository says to Triton."""

    tokenizer_dir: str | None = key(
        None, "Folder of the tokenizer on the serving machine; unset copies it into the repository."
    )
    tokenizer_type: Literal["auto", "llama", "t5"] = key(
        "auto",
        "Which class makes tokenizer.json, where the checkpoint has a SentencePiece model alone.",
    )
    add_special_tokens: bool = key(True, "Let the tokenizer add its special tokens to a prompt.")
    skip_special_tokens: bool = key(True, "Leave special tokens out of the text that is sent back.")
    decoupled: bool = key(True, "Many responses per request, which streaming needs.")
    kv_cache_free_gpu_mem_fraction: float | None = key(
        None,
        "Share of the free memory for the KV cache; unset takes the preset's, else upstream's 0.9.",
        above=0,
        most=1,
    )
    max_tokens_in_paged_kv_cache: int | None = key(
        None,
        "Size of the KV cache in tokens; with the fraction set too, the smaller one holds.",
        least=1,
    )
    batching_strategy: Literal["inflight_fused_batching"] = key(
        "inflight_fused_batching",
        "How requests share a step; in-flight batching lets them join and leave at each one.",
    )
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = key(
        "guaranteed_no_evict",
        "Keep what was started, or fill every step and pause requests when the KV cache is full.",
    )
    enable_kv_cache_reuse: bool = key(
        True, "Share KV cache blocks between requests with a common prefix."
    )
    enable_chunked_context: bool = key(
        True, "Split a long prompt over several steps, so that decoding goes on beside it."
    )
    exclude_input_in_output: bool = key(
        False,
        "Leave the prompt out of an answer that is not streamed, unless a request says otherwise.",
    )
    stream_interval_ms: int = key(
        100,
        "Longest time to join a stream's tokens, less with few streams; 0 joins none (OpenVINO).",
        least=0,
        most=1000,
    )
    engine_threads: int = key(
        0,
        "Threads of the engine; 0 takes all cores, less one for a small engine (OpenVINO).",
        least=0,
        most=1024,
    )
    max_queue_size: int = key(
        0, "Requests that may wait before new ones are refused; 0 is no limit.", least=0
    )
    max_queue_delay_microseconds: int = key(
        0, "Time Triton holds a request back to batch its tokenization, in microseconds.", least=0
    )
    preprocessing_instances: int = key(1, "Processes that tokenize.", least=1, most=256)
    postprocessing_instances: int = key(
        1, "Processes that turn tokens into text.", least=1, most=256
    )
    bls_instances: int = key(1, "Processes of the BLS model.", least=1, most=256)
    accumulate_tokens: bool = key(
        False, "Send the whole text so far with each streamed response of the BLS model."
    )
    mount_root: str = key(
        "/models",
        "Where the model repository is mounted on the serving machine (TensorRT engines).",
        pattern=ABSOLUTE_PATH,
    )
    fast_math: bool = key(
        False, "Compute in bf16 with an 8-bit KV cache: faster, no longer exact (OpenVINO)."
    )

    def _require_agreement(self) -> None:
        if self.decoupled and self.postprocessing_instances > 1:
            message = (
                "postprocessing_instances above 1 needs decoupled: false, because the chunks of a "
                "stream have to reach the same instance"
            )
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class CheckSection(_Section):
    """Which of the linter's rules are applied, by ``forge check`` and before publishing."""

    select: str | None = key(
        None, "Rules to apply, comma separated codes or beginnings of codes; unset takes all."
    )
    ignore: str | None = key(
        None, "Rules to leave out, comma separated codes or beginnings of codes."
    )

    @property
    def selected(self) -> tuple[str, ...]:
        """Return the codes of ``select``; none means all rules."""
        return _split(self.select)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Return the codes of ``ignore``."""
        return _split(self.ignore)


@dataclass(frozen=True, kw_only=True)
class ServeSection(_Section):
    """How a server is started, where it listens, and how it is kept running."""

    world_size: int | None = key(
        None, "Ranks to start; unset starts as many as the engine has.", least=1, panel=_RANKS
    )
    mode: Literal["leader", "orchestrator"] | None = key(
        None, "How ranks work together; unset takes what fits the engines.", panel=_RANKS
    )
    launcher: Literal["mpirun", "srun"] | None = key(
        None,
        "What starts the ranks; unset takes srun in a Slurm allocation, else mpirun.",
        panel=_RANKS,
    )
    hostfile: str | None = key(None, "File that lists the hosts to start ranks on.", panel=_RANKS)
    oversubscribe: bool = key(
        False, "Allow more ranks than there are cores or slots.", panel=_RANKS
    )
    host: str = key("127.0.0.1", "Address to listen on.", panel=_LISTENING)
    http_port: int | None = key(
        None,
        "Port of Triton's HTTP service; unset takes a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    grpc_port: int | None = key(
        None,
        "Port of Triton's gRPC service; unset takes a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    metrics_port: int | None = key(
        None,
        "Port of Triton's metrics; unset takes a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    grpc_tls_cert: str | None = key(
        None,
        "Certificate of the gRPC service, in PEM; unset leaves gRPC in plain text.",
        panel=_LISTENING,
    )
    grpc_tls_key: str | None = key(
        None,
        "Private key of that certificate, in PEM and without a passphrase.",
        panel=_LISTENING,
    )
    grpc_tls_ca: str | None = key(
        None,
        "Authorities, in PEM, that must have signed the certificates of gRPC clients.",
        panel=_LISTENING,
    )
    ready_timeout_s: float | None = key(
        None,
        "Seconds until the server must be ready; unset depends on the size of what it loads.",
        above=0,
        panel=_RUNNING,
    )
    drain_timeout_s: float = key(
        30.0,
        "Seconds that running requests have to end when the server is stopped.",
        least=0,
        panel=_RUNNING,
    )
    restart: Literal["never", "on-failure"] = key(
        "never", "Whether to start the server again when it ends by itself.", panel=_RUNNING
    )
    max_restarts: int = key(
        5,
        "Restarts before giving up; the count resets after 10 minutes of being ready.",
        least=0,
        panel=_RUNNING,
    )
    triton: str = key(
        "auto",
        "Where Triton comes from: auto, wheel, docker, docker:IMAGE, or the path of one.",
        panel=_TRITON,
    )
    gpus: str | None = key(
        None,
        "GPUs for the container: all, or indices or UUIDs; unset gives as many as are needed.",
        panel=_TRITON,
    )
    verify: Literal["times", "full", "off"] = key(
        "times",
        "Compare with the manifest first: small files and times, every digest, or nothing.",
        panel=_TRITON,
    )

    def _require_agreement(self) -> None:
        if (self.grpc_tls_cert is None) is not (self.grpc_tls_key is None):
            message = "grpc_tls_cert and grpc_tls_key go together"
            raise ValueError(message)
        if self.grpc_tls_ca is not None and self.grpc_tls_cert is None:
            message = "grpc_tls_ca needs grpc_tls_cert and grpc_tls_key"
            raise ValueError(message)
        ports = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port]
        if len(set(ports)) < len(ports):
            message = "http_port, grpc_port and metrics_port must differ"
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ForgeConfig(_Section):
    """Everything that ``forge.yaml`` can say."""

    model: str | None = key(None, "Preset, Hub id, checkpoint folder, or sample.")
    name: str | None = key(
        None, "Name of the model repository; unset takes the model's.", pattern=FOLDER_NAME
    )
    runtime: Literal["auto", "trtllm", "llmapi", "openvino"] = key(
        "auto", "What executes the artifact; auto takes what this release and machine can build."
    )
    trtllm_version: str | None = key(
        None,
        "TensorRT-LLM release; unset takes the newest that an image carries and the model runs on.",
        pattern=RELEASE,
    )
    executor: Literal["auto", "local", "docker"] = key(
        "auto", "Where TensorRT-LLM's tools run: this environment, or the release's Triton image."
    )
    examples_dir: str | None = key(
        None, "TensorRT-LLM's examples folder, where the environment or the image has none."
    )
    gpu: str | None = key(
        None, "GPU the engine is for, such as h100-80g; unset takes the one that is there."
    )
    offline: bool = key(
        False, "Fetch nothing: neither files of the Hub nor an image nor calibration data."
    )
    releases_file: str | None = key(
        None, "File that describes releases of TensorRT-LLM newer than this forge."
    )
    checkpoint: CheckpointSection = key(
        CheckpointSection(), "Which checkpoint is taken, and what of it is trusted."
    )
    build: BuildSection = key(BuildSection(), "The limits and the precision that are compiled in.")
    repository: RepositorySection = key(
        RepositorySection(), "What the model repository says to Triton."
    )
    check: CheckSection = key(
        CheckSection(),
        "Which of the linter's rules are applied, by `forge check` and before publishing.",
    )
    serve: ServeSection = key(ServeSection(), "Where the server listens, and how long it may take.")
