//! `kubectl fettle`, also `oc fettle`: the command line of people, with their own kubeconfig and rights.
//!
//! What stands in objects comes from the API server; logs, hosts and history come from `fettle server`, when it can be reached.

pub mod answers;
pub mod change;
pub mod cluster;
pub mod complete;
pub mod describe;
pub mod doctor;
pub mod explain;
pub mod failure;
pub mod history;
pub mod logs;
pub mod output;
pub mod run;
pub mod server;
pub mod show;
pub mod timeline;
pub mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;

use self::{cluster::Cluster, failure::Failure, output::Screen};

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked; what was followed ended OK
  1  it did not work; what was followed ended with ERROR
  2  the command line is wrong
  3  the API server or fettle-server cannot be reached
  4  --timeout is over

As a plugin it is called `kubectl fettle` or `oc fettle`, when kubectl-fettle is in the PATH.";

/// Patches and reboots groups of hosts, and shows how it went.
#[derive(Parser)]
#[command(name = "kubectl-fettle", bin_name = "kubectl fettle", version, about, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Options {
    /// The kubeconfig. Default: KUBECONFIG, else ~/.kube/config, else the ServiceAccount of the pod.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The namespace. Default: that of the context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Address of fettle-server, such as `https://fettle.example.com`. Default: found in a run, or in the ConfigMap `fettle-server-ca`.
    #[arg(long, global = true, env = "FETTLE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Certificate authorities (PEM) to trust for fettle-server. Default: those in the ConfigMap `fettle-server-ca`, and the system's.
    #[arg(long, global = true, env = "FETTLE_SERVER_CA", value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
    /// ServiceAccount of the namespace to ask fettle-server as, for a kubeconfig without a token.
    #[arg(long, global = true, env = "FETTLE_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,
    /// Where the operator is installed.
    #[arg(long, global = true, env = "FETTLE_NAMESPACE", value_name = "NAMESPACE", default_value = "fettle-system")]
    pub operator_namespace: String,
    /// Give up after this long, such as 30s or 2h, with exit code 4. Default: never.
    #[arg(long, global = true, value_name = "TIME")]
    pub timeout: Option<SignedDuration>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Create a PatchRun.
    Run(run::RunArgs),
    /// List PatchRuns, or show one.
    Get(show::GetArgs),
    /// Show all about a PatchRun: phases, hosts, why it failed, what to do next.
    Describe(describe::DescribeArgs),
    /// Print the logs of a PatchRun's phases.
    Logs(logs::LogsArgs),
    /// Follow a PatchRun to its end.
    Watch(watch::WatchArgs),
    /// Stop what runs and end the PatchRun.
    Cancel(change::CancelArgs),
    /// Run a PatchRun that is over once more, or only its failed hosts.
    Retry(change::RetryArgs),
    /// Start no further phase; what runs goes on.
    Suspend(change::SuspendArgs),
    /// Go on with a suspended PatchRun.
    Resume(change::ResumeArgs),
    /// List what was done, also after the objects are gone.
    History(history::HistoryArgs),
    /// Show what is known about a host.
    Host(history::HostArgs),
    /// Show what an error code means and what to do about it.
    Explain(explain::ExplainArgs),
    /// Tell from a log why it failed.
    Classify(explain::ClassifyArgs),
    /// Check everything that a first run needs.
    Doctor(doctor::DoctorArgs),
    /// Print a completion script.
    #[command(after_help = complete::HELP)]
    Completion(complete::CompletionArgs),
    /// Candidates for kubectl's own completion.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete(complete::CompleteArgs),
    /// Print the version.
    Version,
}

/// Reads the command line, does it, and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // help and version come this way too
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let mut screen = Screen::of_this_process();
    let done = rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Failure::Error("a TLS provider was installed before ours".into()))
        .and_then(|()| tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Failure::Error(e.to_string())))
        .and_then(|runtime| {
            let done = runtime.block_on(within_limits(cli, &mut screen));
            // a reader of standard input may still wait for its line
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                screen.complain(&text);
            }
            ExitCode::from(failure.code())
        }
    }
}

/// Ends at Ctrl-C and when `--timeout` is over; whatever the command holds, such as a hidden cursor, is put back by its drop.
async fn within_limits(cli: Cli, screen: &mut Screen) -> Result<(), Failure> {
    let limit = cli.options.timeout;
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit.try_into().unwrap_or(Duration::ZERO)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = execute(cli, screen) => done,
        () = over => Err(Failure::TimedOut(format!("--timeout of {:#} is over; a PatchRun goes on by itself", limit.unwrap_or_default()))),
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    }
}

async fn execute(cli: Cli, screen: &mut Screen) -> Result<(), Failure> {
    let Cli { options, command } = cli;
    let cluster = || Cluster::connect(&options);
    match command {
        Command::Run(args) => run::run(args, &cluster().await?, screen).await,
        Command::Get(args) => show::get(args, &cluster().await?, screen).await,
        Command::Describe(args) => describe::describe(&args, &cluster().await?, screen).await,
        Command::Logs(args) => logs::logs(&args, &cluster().await?, screen).await,
        Command::Watch(args) => watch::watch(&args, &cluster().await?, screen).await,
        Command::Cancel(args) => change::cancel(&args, &cluster().await?, screen).await,
        Command::Retry(args) => change::retry(&args, &cluster().await?, screen).await,
        Command::Suspend(args) => change::suspend(&args.name, true, &cluster().await?, screen).await,
        Command::Resume(args) => change::suspend(&args.name, false, &cluster().await?, screen).await,
        Command::History(args) => history::history(&args, &cluster().await?, screen).await,
        Command::Host(args) => history::host(&args, &cluster().await?, screen).await,
        Command::Explain(args) => explain::explain(&args, &options, screen).await,
        Command::Classify(args) => explain::classify(&args, screen).await,
        Command::Doctor(args) => doctor::doctor(&args, &cluster().await?, screen).await,
        Command::Completion(args) => complete::script(&args),
        Command::Complete(args) => complete::candidates(&args, screen).await,
        Command::Version => screen.print(&format!("kubectl-fettle {}\n", env!("CARGO_PKG_VERSION"))),
    }
}
