//! Completion: scripts for shells, and candidates for kubectl's own (`kubectl_complete-fettle`).

use std::io;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use kube::{ResourceExt, api::ListParams};

use super::{
    Cli,
    cluster::Cluster,
    failure::Failure,
    output::{Screen, on_lines},
};

/// How completion is set up.
pub const HELP: &str = "\
Examples:
  source <(kubectl-fettle completion bash)                                for kubectl-fettle itself
  kubectl-fettle completion fish > ~/.config/fish/completions/kubectl-fettle.fish

For `kubectl fettle …`, put a program `kubectl_complete-fettle` into the PATH; kubectl (1.26 or newer) asks it:
  #!/bin/sh
  exec kubectl-fettle __complete -- \"$@\"";

/// Commands whose first argument is a PatchRun.
const OF_A_RUN: &[&str] = &["get", "describe", "logs", "watch", "cancel", "retry", "suspend", "resume"];

/// `kubectl fettle completion`.
#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// `kubectl-fettle __complete`.
#[derive(Args, Debug)]
pub struct CompleteArgs {
    /// What was typed, word by word, the last one perhaps in part.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Prints the script.
pub fn script(args: &CompletionArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command().bin_name("kubectl-fettle"), "kubectl-fettle", &mut text);
    io::Write::write_all(&mut io::stdout(), &text).map_err(Failure::from)
}

/// Prints what fits, one a line, then a directive of Cobra: `:4`, no file names.
pub async fn candidates(args: &CompleteArgs, screen: &mut Screen) -> Result<(), Failure> {
    let (last, before) = args.words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let root = Cli::command();
    let command = before.iter().find_map(|word| root.find_subcommand(word));
    let mut found: Vec<String> = match command {
        None => root.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect(),
        Some(command) if last.starts_with('-') => {
            let options = command.get_arguments().chain(root.get_arguments());
            options.filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
        }
        Some(command) if OF_A_RUN.contains(&command.get_name()) => names(before).await,
        Some(command) => {
            let places = command.get_positionals().flat_map(clap::Arg::get_possible_values);
            places.map(|value| value.get_name().to_owned()).collect()
        }
    };
    found.retain(|candidate| candidate.starts_with(last));
    found.sort();
    found.push(":4".into());
    screen.print(&on_lines("", found))
}

/// The PatchRuns of the namespace that was typed; none when they cannot be had at once.
async fn names(before: &[String]) -> Vec<String> {
    use clap::Parser as _;
    // only the options of every command matter
    let at = before.iter().position(|word| OF_A_RUN.contains(&word.as_str())).unwrap_or(before.len());
    let (first, rest) = (before[..at].iter(), before[at..].iter().skip(1));
    let line = ["kubectl-fettle"].into_iter().chain(first.map(String::as_str)).chain(["get"]).chain(rest.map(String::as_str));
    let Ok(cli) = Cli::try_parse_from(line) else { return vec![] };
    let asked = async {
        let cluster = Cluster::connect(&cli.options).await.ok()?;
        cluster.runs().list(&ListParams::default().limit(500)).await.ok()
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(3), asked).await.ok().flatten();
    answer.map(|runs| runs.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}
