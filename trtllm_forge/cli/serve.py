"""``forge serve``: Triton up, watched, and down again with forge."""

from __future__ import annotations

import shlex

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    ConfigPathOption,
    DryRunOption,
    GrpcPortOption,
    HostOption,
    HttpPortOption,
    JsonOption,
    MetricsPortOption,
    QuietOption,
    VerboseOption,
)
from trtllm_forge.cli.rank_options import (
    HostfileOption,
    LauncherOption,
    ModeOption,
    OversubscribeOption,
    WorldSizeOption,
)
from trtllm_forge.cli.serve_options import (
    DetachOption,
    DrainTimeoutOption,
    MaxRestartsOption,
    NameOption,
    NoVerifyOption,
    ReadyTimeoutOption,
    RepositoryArgument,
    RestartOption,
    VerifyOption,
)
from trtllm_forge.cli.tls_options import GrpcTlsCaOption, GrpcTlsCertOption, GrpcTlsKeyOption
from trtllm_forge.cli.triton_options import GpusOption, TritonOption
from trtllm_forge.serving.server.sigterm import leaving_on_sigterm


def serve(
    *,
    repository: RepositoryArgument = None,
    world_size: WorldSizeOption = None,
    mode: ModeOption = None,
    launcher: LauncherOption = None,
    hostfile: HostfileOption = None,
    oversubscribe: OversubscribeOption = False,
    host: HostOption = None,
    http_port: HttpPortOption = None,
    grpc_port: GrpcPortOption = None,
    metrics_port: MetricsPortOption = None,
    grpc_tls_cert: GrpcTlsCertOption = None,
    grpc_tls_key: GrpcTlsKeyOption = None,
    grpc_tls_ca: GrpcTlsCaOption = None,
    ready_timeout_s: ReadyTimeoutOption = None,
    drain_timeout_s: DrainTimeoutOption = None,
    restart: RestartOption = None,
    max_restarts: MaxRestartsOption = None,
    triton: TritonOption = None,
    gpus: GpusOption = None,
    name: NameOption = None,
    detach: DetachOption = False,
    verify: VerifyOption = None,
    no_verify: NoVerifyOption = False,
    config: ConfigPathOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM, or in the background."""
    typed = dict(locals())
    with open_console(json=json, verbose=verbose, quiet=quiet) as console, leaving_on_sigterm():
        from trtllm_forge.cli.serve_section import serve_section
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.plan.options import ServeOptions
        from trtllm_forge.serving.plan.repositories import serving_options
        from trtllm_forge.serving.server.detach import start_detached
        from trtllm_forge.serving.server.serve import plan_server, start_server

        settings = read_settings()
        section = serve_section(typed, config, no_verify=no_verify)
        options = ServeOptions(
            **serving_options(repository, settings.model_repos_dir, console),
            world_size=world_size,
            mode=None if mode is None else mode.value,
            launcher=None if launcher is None else launcher.value,
            hostfile=None if hostfile is None else hostfile.absolute(),
            oversubscribe=oversubscribe,
            name=name,
            is_detached=detach,
            **section,
        )
        if dry_run:
            plan = plan_server(options, settings, console)
            console.result(plan.text(), plan.document())
            return
        if detach:
            detached = start_detached(options, settings, console)
            console.result(detached.text, detached.document)
            console.next_step(f"forge probe --server {shlex.quote(str(detached.document['name']))}")
            return
        server = start_server(options, settings, console)
        # What happens from here on is told on stderr: stdout has its one document.
        with open_console(verbose=verbose, quiet=quiet), server:
            console.result(server.text(), server.document())
            console.next_step("forge probe")
            server.wait(max_restarts=options.max_restarts if options.restart != "never" else 0)
