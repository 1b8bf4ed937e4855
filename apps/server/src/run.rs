//! The process: from the command line to its exit code.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use plugin_core::BoxError;
use runtime::{Shutdown, ShutdownReason};
use telemetry::{CATALOG, Metrics, Otlp, OtlpIdentity, Telemetry};
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

use crate::config::{self, Loaded};
use crate::flags::{Command, Flags};
use crate::host::Host;
use crate::{tokens, wiring};

/// What the end of the process keeps back of its deadline for logs and the like.
const FLUSH: Duration = Duration::from_secs(2);

/// The fewest threads of a runtime: on a machine with one core, too, code that blocks one leaves others.
const THREADS_MIN: usize = 4;

/// Runs Gantry's server, with what `setup` adds to it, until the process is asked to end.
///
/// The exit code is 0 after an orderly end, 1 if the server cannot start or its configuration is wrong, and
/// 2 for a wrong command line.
pub fn run(setup: impl FnOnce(&mut Host) -> Result<(), BoxError>) -> ExitCode {
    // Before anything can speak TLS. Somebody who runs a server of their own may have chosen another one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        // `--help` and `--version` come here, too.
        Err(said) => said.exit(),
    };
    match serve(&flags, setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "there may be no log yet, and people look here")]
fn say_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

#[expect(clippy::print_stdout, reason = "what the program says to whoever started it")]
fn say(text: &str) {
    println!("{text}");
}

fn serve(flags: &Flags, setup: impl FnOnce(&mut Host) -> Result<(), BoxError>) -> anyhow::Result<()> {
    // Supervisors and the management API on one, plugins' code on the other: code that blocks its thread
    // cannot keep an operator from stopping it.
    let control = worker_threads("gantry-control")?;
    let plugins = worker_threads("gantry-plugin")?;
    let outcome = control.block_on(serve_on(flags, setup, &plugins));
    // Code that blocks still holds its thread; the process does not wait for it.
    plugins.shutdown_background();
    control.shutdown_background();
    outcome
}

fn worker_threads(name: &'static str) -> anyhow::Result<Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|threads| threads.parse().ok());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(wanted.unwrap_or_else(cores).max(THREADS_MIN))
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("start the threads `{name}`"))
}

async fn serve_on(
    flags: &Flags,
    setup: impl FnOnce(&mut Host) -> Result<(), BoxError>,
    plugins: &Runtime,
) -> anyhow::Result<()> {
    let mut host = Host::new()?;
    setup(&mut host).map_err(|error| anyhow::anyhow!(error)).context("set up the host")?;
    let loaded = config::load(flags, std::env::vars(), &wiring::sections(&host)?).await?;
    if flags.check_config {
        say("the configuration is right");
        return Ok(());
    }
    if let Some(Command::Token(command)) = &flags.command {
        say(&tokens::run(command, &wiring::token_file(&loaded.host.data_dir))?);
        return Ok(());
    }

    // Signals are listened to before anything starts, so that none gets lost.
    let shutdown = Shutdown::new();
    let asked = shutdown.wait()?;

    // First of all: a counter that is taken earlier would count nothing.
    let telemetry = install_telemetry(&loaded)?;
    let outcome = run_host(loaded, host, &telemetry, plugins, (&shutdown, asked)).await;
    if let Err(error) = &outcome {
        error!(error = %format_args!("{error:#}"), "the server ends");
    }
    // Whatever the outcome: what is known about a start that failed is wanted most.
    let flushed = telemetry.shutdown(FLUSH).await;
    if !flushed.is_clean() {
        warn!(?flushed, "telemetry was not flushed whole");
    }
    outcome
}

/// Puts the host together, starts it, and stops it when it is asked to.
async fn run_host(
    loaded: Loaded,
    host: Host,
    telemetry: &Telemetry,
    plugins: &Runtime,
    (shutdown, asked): (&Shutdown, impl Future<Output = ShutdownReason>),
) -> anyhow::Result<()> {
    tokio::pin!(asked);
    let deadline = loaded.host.manager.shutdown_deadline;
    let host = wiring::assemble(loaded, host, telemetry, plugins.handle()).await?;
    let served = async {
        tokio::select! {
            address = host.start() => say(&greeting(address?)),
            reason = &mut asked => {
                info!(?reason, "asked to end while starting");
                return Ok(());
            }
        }
        // Not within the line of the log: what that does not print it does not wait for.
        let reason = asked.await;
        info!(?reason, "ending");
        Ok(())
    };
    let outcome = served.await;
    // Whatever had started by then is stopped in order. A second signal means that somebody does not want to
    // wait.
    let again = shutdown.wait()?;
    tokio::select! {
        () = host.stop(deadline.saturating_sub(FLUSH)) => {}
        _ = again => warn!("asked to end a second time: not waiting any longer"),
    }
    outcome
}

fn install_telemetry(loaded: &Loaded) -> anyhow::Result<Telemetry> {
    let host = &loaded.host;
    let version = env!("CARGO_PKG_VERSION");
    let metrics = Metrics::builder().describe(CATALOG).build_info("gantry-server", version);
    let mut builder = Telemetry::builder()
        .metrics(metrics.build())
        .log_format(host.log.format(host.env)?)
        .log_filter(host.log.filter()?);
    let identity = OtlpIdentity {
        version: version.to_owned(),
        attributes: vec![
            ("service.instance.id", host.node.clone()),
            ("deployment.environment.name", host.env.as_str().to_owned()),
        ],
    };
    if let Some(otlp) = Otlp::start(&host.telemetry, identity).context("set up the export of telemetry")? {
        builder = builder.exporter(otlp);
    }
    builder.install().context("set up logs and metrics")
}

fn greeting(address: SocketAddr) -> String {
    let base = format!("http://{address}");
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "gantry-server {version} on {base}\n  \
         a short tour      {base}/demo\n  \
         every route       {base}/docs\n  \
         what runs         {base}/plugins/status\n  \
         metrics           {base}/metrics\n\
         Ctrl-C drains and ends."
    )
}
