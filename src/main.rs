//! Wiring only.

use std::{error::Error, process::ExitCode};

use clap::Parser as _;
use fettle::{
    api, classify,
    cli::{Cli, Command},
    clients::kubernetes,
    http, manager,
    metrics::Metrics,
    telemetry, yaml,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(cli.log_format, &cli.log_filter);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::error!("a TLS provider was installed before ours");
        return ExitCode::FAILURE;
    }
    let result =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(|rt| rt.block_on(run(cli.command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut chain = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                chain = format!("{chain}: {cause}");
                source = cause.source();
            }
            tracing::error!("{chain}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Manager(args) => {
            let metrics = Metrics::default();
            let (client, api_server) = kubernetes::connect(&metrics).await?;
            manager::run(args, client, api_server, metrics, stop_signal()?).await?;
        }
        Command::Server(args) => {
            let (client, _) = kubernetes::connect(&Metrics::default()).await?;
            http::serve(args, client, stop_signal()?.cancelled_owned()).await?;
        }
        Command::Classify(args) => classify::run(&args)?,
        Command::Crds { dir } => crds(dir.as_deref())?,
        Command::Version => print(&format!("fettle {}\n", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(())
}

/// Cancelled by SIGTERM or SIGINT. A second signal changes nothing: what is under way ends first, within a bound.
fn stop_signal() -> Result<CancellationToken, std::io::Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

fn crds(dir: Option<&std::path::Path>) -> Result<(), Box<dyn Error>> {
    for crd in api::all() {
        let text = yaml::to_string(&crd)?;
        match dir {
            Some(dir) => std::fs::write(dir.join(format!("{}.yaml", crd.spec.names.plural)), text)?,
            None => print(&format!("---\n{text}"))?,
        }
    }
    Ok(())
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())
}
