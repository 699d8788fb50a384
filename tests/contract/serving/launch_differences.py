"""What forge starts otherwise than upstream's ``launch_triton_server.py``, and why.

Everything else is the same, in the same order; a contract test compares the two. The patterns
are regular expressions over whole arguments, or names of variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LaunchPart = Literal["launcher", "rank 0", "ranks above 0", "every rank", "environment"]


@dataclass(frozen=True, kw_only=True)
class LaunchDifference:
    """One difference.

    Attributes:
        part: Where it is.
        when: In which case, or empty for always.
        upstream: What upstream's launcher writes there, in words or as it is.
        forge: What forge does.
        reason: Why.
        drops: Patterns of arguments that are upstream's alone.
        adds: Patterns of arguments that are forge's alone.
    """

    part: LaunchPart
    upstream: str
    forge: str
    reason: str
    when: str = ""
    drops: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()


DIFFERENCES = (
    LaunchDifference(
        part="launcher",
        when="one rank",
        upstream="`mpirun -n 1 ... :`, unless `--no-mpi` is given (0.19 and later)",
        forge="`tritonserver` alone",
        reason="one rank needs no MPI, and its signals and its exit code then are the server's own",
        drops=("mpirun", "--allow-run-as-root", "-n", "1", ":"),
    ),
    LaunchDifference(
        part="launcher",
        upstream="`mpirun`",
        forge="its path, and `--noprefix`",
        reason="the one that was found is the one that runs; called by its path, Open MPI 4 would "
        "put its own folder first on the ranks' PATH, and with it another `python3`",
        drops=("mpirun",),
        adds=(r"/.*/mpirun", "--noprefix"),
    ),
    LaunchDifference(
        part="launcher",
        upstream="Open MPI's default: each of two ranks is bound to one core",
        forge="`--bind-to none`",
        reason="a rank is a server of many threads",
        adds=("--bind-to", "none"),
    ),
    LaunchDifference(
        part="launcher",
        upstream="lines of all ranks run together",
        forge="`--tag-output`",
        reason="each rank has a log of its own, and a rank that dies its last words",
        adds=("--tag-output",),
    ),
    LaunchDifference(
        part="launcher",
        when="the twin",
        upstream="`--oversubscribe` only when asked for",
        forge="always",
        reason="its ranks above 0 take no core",
        adds=("--oversubscribe",),
    ),
    LaunchDifference(
        part="launcher",
        when="`--hostfile`",
        upstream="not offered",
        forge="`--hostfile FILE`, and `-x NAME` for each variable that forge sets",
        reason="ranks on other hosts do not inherit them",
        adds=("--hostfile", r"/.*hosts", "-x", r"[A-Z][A-Za-z0-9_]*"),
    ),
    LaunchDifference(
        part="every rank",
        upstream="`--exit-timeout-secs` only when asked for, 30 s otherwise",
        forge="always, as long as running requests may take to end, `--drain-timeout-s`",
        reason="Triton must not end before them",
        adds=(r"--exit-timeout-secs=\d+",),
    ),
    LaunchDifference(
        part="every rank",
        upstream="`prefix<rank>_` for shared memory",
        forge="`forge_<start>_<rank>_`",
        reason="two servers must not share it, and what a crash leaves is told apart",
        drops=(r"--backend-config=python,shm-region-prefix-name=prefix\d+_",),
        adds=(r"--backend-config=python,shm-region-prefix-name=forge_\d+_\d+_(\d+_)?",),
    ),
    LaunchDifference(
        part="every rank",
        upstream="the older log format",
        forge="`--log-format=ISO8601`",
        reason="a line has its date, and a quoted text no line break",
        adds=("--log-format=ISO8601",),
    ),
    LaunchDifference(
        part="every rank",
        when="a model of the LLM API completes its own configuration",
        upstream="`--disable-auto-complete-config`",
        forge="left out",
        reason="its batch size and its streaming come from `model.yaml` that way",
        drops=("--disable-auto-complete-config",),
    ),
    LaunchDifference(
        part="every rank",
        when="the Triton of the `nvidia-pytriton` wheel",
        upstream="an NGC image's Triton",
        forge="`--backend-directory=...`, `--allow-gpu-metrics=false`",
        reason="the wheel's backend lies in pieces, and it is there for machines without a GPU",
        adds=(r"--backend-directory=.+", "--allow-gpu-metrics=false"),
    ),
    LaunchDifference(
        part="rank 0",
        when="one rank",
        upstream="`--model-repository` is the repository",
        forge="a folder of links to it",
        reason="a new version or another repository can be put beside it while it serves",
        drops=(r"--model-repository=.+",),
        adds=(r"--model-repository=.+/repository",),
    ),
    LaunchDifference(
        part="rank 0",
        upstream="listens on every address",
        forge="`--grpc-address`, `--http-address`, `--metrics-address`; 127.0.0.1 unless `--host`",
        reason="nothing there authenticates",
        adds=(r"--(grpc|http|metrics)-address=.+",),
    ),
    LaunchDifference(
        part="rank 0",
        upstream="model control is off",
        forge="`--model-control-mode=explicit`, `--load-model=*`",
        reason="told to stop, Triton breaks off the streams of its ensembles; models that forge "
        "unloads take no new request and end those they have",
        adds=(
            "--model-control-mode=explicit",
            r"--load-model=\*",
        ),
    ),
    LaunchDifference(
        part="rank 0",
        upstream="shared memory, tracing and logging are open",
        forge="they and model control ask for a key of this start: `--http-restricted-api`, "
        "`--grpc-restricted-protocol`",
        reason="they change the server for everybody, and a model that is loaded is code that runs",
        adds=(
            r"--(http-restricted-api|grpc-restricted-protocol)="
            r"model-repository,shared-memory,trace,logging:.+",
        ),
    ),
    LaunchDifference(
        part="rank 0",
        when="`--grpc-tls-cert`",
        upstream="not offered",
        forge="`--grpc-use-ssl` or `--grpc-use-ssl-mutual`, `--grpc-server-cert`, "
        "`--grpc-server-key`, `--grpc-root-cert`",
        reason="gRPC is encrypted by Triton itself",
        adds=(r"--grpc-(use-ssl|use-ssl-mutual|server-cert|server-key|root-cert)=.+",),
    ),
    LaunchDifference(
        part="rank 0",
        upstream="the three ports twice (0.19 and later)",
        forge="once",
        reason="the second time says the same",
        drops=(r"--(grpc|http|metrics)-port=\d+",),
    ),
    LaunchDifference(
        part="ranks above 0",
        upstream="the ports of rank 0",
        forge="`--allow-http=false`, `--allow-grpc=false`, `--allow-metrics=false`",
        reason="they answer nobody, and cannot come into the way of rank 0 or of its successor",
        drops=(r"--(grpc|http|metrics)-port=\d+",),
        adds=(r"--allow-(http|grpc|metrics)=false",),
    ),
    LaunchDifference(
        part="environment",
        upstream="`NVIDIA_TRITON_SERVER_VERSION` decides on an orchestrator's memory pools; "
        "when it is unset, the script ends with a TypeError",
        forge="not read: the pools are switched off",
        reason="every release from 0.16 on is in an image that needs it",
        when="orchestrator mode",
    ),
    LaunchDifference(
        part="environment",
        upstream="nothing",
        forge="`PYTHONUTF8=1`, and where Triton and its Python are",
        reason="a path or a prompt of any language has to pass",
        adds=("PYTHONUTF8", "LD_LIBRARY_PATH", "PATH"),
    ),
    LaunchDifference(
        part="environment",
        when="several ranks",
        upstream="nothing",
        forge="Open MPI's session folder below forge's state, and version 4 on the loopback device",
        reason="an `mpirun` that is killed leaves its folder behind; and nobody else is to join",
        adds=(r"(OMPI|PRTE)_MCA_(orte|prte)_tmpdir_base", "OMPI_MCA_oob_tcp_if_include"),
    ),
    LaunchDifference(
        part="environment",
        when="the twin's ranks",
        upstream="no twin",
        forge="`FORGE_RENDEZVOUS`, `FORGE_RENDEZVOUS_DEADLINE_S`",
        reason="where its ranks meet, and until when",
        adds=("FORGE_RENDEZVOUS", "FORGE_RENDEZVOUS_DEADLINE_S"),
    ),
)


def differences_table() -> list[str]:
    """Return the differences as the lines of a Markdown table."""
    rows = [
        (entry.part, entry.when or "always", entry.upstream, entry.forge, entry.reason)
        for entry in DIFFERENCES
    ]
    heading = ("Where", "When", "Upstream", "Forge", "Why")
    return [_row(heading), _row(("---",) * len(heading)), *map(_row, rows)]


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
