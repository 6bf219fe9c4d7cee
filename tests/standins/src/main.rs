//! The AAP stand-in as a program.

#![allow(clippy::single_match_else, reason = "`match` reads better where both arms are long")]

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use fettle_standins::aap::{Config, Runner, Script, Standin, Tls};
use tokio::signal::unix::{SignalKind, signal};

/// An AAP controller for tests: speaks its API, runs real playbooks, and fails on demand.
#[derive(Debug, Parser)]
#[command(name = "aap-standin", version)]
struct Options {
    /// What the controller holds (YAML; see tests/standins/README.md).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8052")]
    listen: SocketAddr,
    /// Certificate chain (PEM); with --tls-key it serves HTTPS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Directory that keeps jobs, schedules and tokens between two runs of the program.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The program that runs playbooks: bin/ansible-runner of a Python environment that has ansible-core too.
    #[arg(long, value_name = "PATH", required_unless_present = "scripted")]
    ansible_runner: Option<PathBuf>,
    /// Run nothing: every job ends successful with every host changed.
    #[arg(long, conflicts_with = "ansible_runner")]
    scripted: bool,
    /// How long a scripted job takes, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, requires = "scripted")]
    scripted_seconds: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).init();
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(&options.config)?;
    let collections = config.collections.clone();
    let mut builder = Standin::builder().config(config).listen(options.listen);
    if let Some(data) = &options.data {
        builder = builder.data(std::path::absolute(data)?);
    }
    if let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) {
        builder = builder.tls(Tls::load(cert, key)?);
    }
    builder = match options.ansible_runner {
        Some(program) => builder.executor(Runner::new(&program, &collections)?),
        None => {
            let time = std::time::Duration::try_from_secs_f64(options.scripted_seconds)?;
            builder.script(move |job| Script::new(job).taking(time))
        }
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = builder.start().await?;
    tracing::info!(url = running.url, "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // No playbook outlives a controller that is asked to leave; one that is killed leaves them to its next life.
    running.end_jobs().await;
    running.stop().await;
    Ok(())
}
