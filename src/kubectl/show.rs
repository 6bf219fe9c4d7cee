//! `kubectl fettle get`, and what other commands say about a run.

use clap::Args;
use jiff::Timestamp;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;

use super::{
    cluster::{Cluster, run_name},
    failure::Failure,
    output::{Format, Screen, Tone, cell, on_lines, plain, result_word, span},
};
use crate::{
    api::{
        patch_run::{PatchRun, PatchRunStatus, State},
        reason::Reason,
    },
    clock,
};

/// How many runs are asked for at a time.
const PAGE: u32 = 500;

/// `kubectl fettle get`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle get                    the runs of this namespace
  kubectl fettle get -A -o wide         those of all namespaces, with reason, kernel and connection
  kubectl fettle get web -o yaml        one run as it is
  kubectl fettle get -o name            names, for scripts")]
pub struct GetArgs {
    /// The PatchRun. Default: all of them.
    #[arg(value_parser = run_name)]
    name: Option<String>,
    /// In all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Lists runs, or shows one.
pub async fn get(args: GetArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let format = args.output.unwrap_or_default();
    let (mut runs, one) = match &args.name {
        Some(name) => (vec![cluster.run(name).await?], true),
        None => (list(cluster, args.all_namespaces).await?, false),
    };
    runs.sort_by_key(|run| (run.namespace(), run.creation_timestamp().map(|t| t.0), run.name_any()));
    match format {
        Format::Json | Format::Yaml => match (runs.as_slice(), one) {
            ([run], true) => screen.object(format, run),
            _ => screen.object(format, &json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": runs})),
        },
        Format::Name => screen.print(&on_lines("", runs.iter().map(full_name))),
        Format::Table | Format::Wide if runs.is_empty() => {
            let place = if args.all_namespaces { "any namespace".into() } else { format!("namespace {}", cluster.namespace) };
            screen.note(&format!("There is no PatchRun in {place}. `kubectl fettle run --help` tells how to make one."));
            Ok(())
        }
        Format::Table | Format::Wide => {
            let text = table(&runs, args.all_namespaces, format == Format::Wide, clock::now(), screen);
            screen.print(&text)
        }
    }
}

async fn list(cluster: &Cluster, everywhere: bool) -> Result<Vec<PatchRun>, Failure> {
    let (api, what) = if everywhere {
        (Api::all(cluster.client.clone()), "list PatchRuns in all namespaces".to_owned())
    } else {
        (cluster.runs(), format!("list PatchRuns in namespace {}", cluster.namespace))
    };
    let mut runs = vec![];
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let part = cluster.ask(&what, api.list(&page)).await?;
        runs.extend(part.items);
        match part.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(runs),
        }
    }
}

fn table(runs: &[PatchRun], namespaces: bool, wide: bool, now: Timestamp, screen: &Screen) -> String {
    let mut head = vec!["NAME", "GROUP", "PHASE", "STATE", "HOSTS", "RESULT", "ERROR", "AGE"];
    if namespaces {
        head.insert(0, "NAMESPACE");
    }
    if wide {
        head.extend(["REASON", "KERNEL", "CONNECTION"]);
    }
    let rows = runs.iter().map(|run| {
        let status = run.status.clone().unwrap_or_default();
        let age = run.creation_timestamp().map(|t| span(now.duration_since(t.0))).unwrap_or_default();
        let mut row = vec![
            cell(run.name_any()),
            cell(target(run)),
            cell(status.phase.map(|p| p.to_string()).unwrap_or_default()),
            (if status.result.is_some() { Tone::Plain } else { Tone::Busy }, state(run, &status)),
            cell(status.hosts.clone().unwrap_or_default()),
            (Tone::of(status.result, status.state), status.result.map(|r| result_word(r).to_owned()).unwrap_or_default()),
            (Tone::Bad, status.error_code.clone().unwrap_or_default()),
            cell(age),
        ];
        if namespaces {
            row.insert(0, cell(run.namespace().unwrap_or_default()));
        }
        if wide {
            row.extend([
                cell(reason(&status).map(|(word, _)| word.to_owned()).unwrap_or_default()),
                cell(run.spec.desired_kernel.clone().unwrap_or_default()),
                cell(run.spec.connection.name.clone()),
            ]);
        }
        row
    });
    screen.table(&head, rows.collect())
}

/// `patchrun.fettle.dev/web`.
pub fn full_name(run: &PatchRun) -> String {
    format!("patchrun.fettle.dev/{}", run.name_any())
}

/// The group, or how many hosts are named.
pub fn target(run: &PatchRun) -> String {
    match (&run.spec.group, &run.spec.hosts) {
        (Some(group), _) => group.to_string(),
        (None, Some(hosts)) if hosts.len() == 1 => hosts[0].clone(),
        (None, hosts) => format!("{} hosts", hosts.as_ref().map_or(0, Vec::len)),
    }
}

/// Where it stands, with what is not in `status.state`.
pub fn state(run: &PatchRun, status: &PatchRunStatus) -> String {
    let word = state_word(status.state);
    match (run.metadata.deletion_timestamp.is_some(), run.spec.suspend(), status.state) {
        (true, ..) => format!("{word} (being deleted)"),
        (false, true, State::Pending | State::AwaitingWindow | State::AwaitingCredentials | State::Running) => {
            format!("{word} (suspended)")
        }
        (false, ..) => word.to_owned(),
    }
}

/// The word of a state.
pub const fn state_word(state: State) -> &'static str {
    match state {
        State::Pending => "Pending",
        State::AwaitingWindow => "AwaitingWindow",
        State::AwaitingCredentials => "AwaitingCredentials",
        State::Running => "Running",
        State::Cancelling => "Cancelling",
        State::Completed => "Completed",
    }
}

/// Reason and message of the condition `Succeeded`.
pub fn reason(status: &PatchRunStatus) -> Option<(&str, &str)> {
    status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| (c.reason.as_str(), c.message.as_str()))
}

/// Whether nothing more will happen in this attempt.
pub fn is_over(run: &PatchRun) -> bool {
    let attempt = run.status.as_ref().and_then(|status| status.attempt);
    let state = run.status.as_ref().map(|status| status.state);
    state == Some(State::Completed) && attempt.is_none_or(|attempt| attempt >= run.spec.attempt())
}

/// What a person can do now, one step a line; empty when there is nothing to do.
pub fn next_steps(run: &PatchRun) -> Vec<String> {
    let name = run.name_any();
    let status = run.status.clone().unwrap_or_default();
    let mut steps = vec![];
    let known = reason(&status).and_then(|(word, _)| Reason::parse(word));
    if let Some(remedy) = known.map(Reason::remedy).filter(|remedy| !remedy.is_empty()) {
        steps.push(remedy.to_owned());
    }
    if run.spec.suspend() && !is_over(run) {
        steps.push(format!("kubectl fettle resume {name}"));
    }
    if status.result == Some(crate::api::patch_run::RunResult::Error) && is_over(run) {
        if let Some(code) = &status.error_code {
            steps.push(format!("kubectl fettle explain {}", plain(code)));
        }
        let failed = status.phases.iter().rev().find(|p| p.result == Some(crate::api::patch_run::RunResult::Error));
        if let Some(phase) = failed.filter(|p| p.log.is_some()) {
            steps.push(format!("kubectl fettle logs {name} --phase {}", phase.name));
        }
        match failed {
            Some(phase) if !phase.failed_hosts.is_empty() => {
                steps.push(format!("kubectl fettle retry {name} --failed-hosts    when the cause is mended"));
            }
            _ => steps.push(format!("kubectl fettle retry {name}    when the cause is mended")),
        }
    }
    steps
}
