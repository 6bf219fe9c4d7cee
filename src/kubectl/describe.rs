//! `kubectl fettle describe`.

use std::collections::BTreeMap;

use clap::Args;
use kube::ResourceExt as _;

use super::{
    answers::RunAnswer,
    cluster::{Cluster, run_name},
    failure::Failure,
    output::{Screen, Tone, cell, labels, moment, on_lines, result_word, span},
    server::Server,
    show::{next_steps, reason, state, target},
    timeline::{self, Usual, good},
};
use crate::{
    api::{
        classification::{Classification, Tier},
        patch_run::{PatchRun, Phase, State},
        reason::Reason,
    },
    clock,
};

/// Hosts that are shown without --all-hosts.
const HOSTS: usize = 50;

/// `kubectl fettle describe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Hosts and evidence come from fettle-server; without it the rest is shown. Works after the object is gone, from the records.

Examples:
  kubectl fettle describe web
  kubectl fettle describe web --all-hosts | less")]
pub struct DescribeArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    name: String,
    /// Show every host.
    #[arg(long)]
    all_hosts: bool,
}

/// Shows all about a run.
pub async fn describe(args: &DescribeArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let run = cluster.run_if_any(&args.name).await?;
    let log_url = run.as_ref().and_then(|run| run.status.as_ref()).and_then(|status| status.log_url.as_deref());
    let answer = match Server::find(cluster, log_url).await {
        Ok(server) => server.json::<RunAnswer>("read the hosts", &["api", "runs", &cluster.namespace, &args.name], &[]).await,
        Err(failure) => Err(failure),
    };
    let most = if args.all_hosts { usize::MAX } else { HOSTS };
    let mut text = String::new();
    let (answer, missing) = match (answer, &run) {
        (Ok(answer), _) => (answer, None),
        (Err(failure), Some(_)) => (None, failure.text()),
        (Err(failure), None) => {
            let why = failure.text().unwrap_or_default();
            let no_run = cluster.no_run(&args.name).text().unwrap_or_default();
            return Err(Failure::Error(format!("{no_run}\nNor can its records be looked up: {why}")));
        }
    };
    match (&run, &answer) {
        (Some(run), _) => head(run, &mut text, screen),
        (None, Some(answer)) => gone(&args.name, cluster, answer, &mut text, screen),
        (None, None) => return Err(cluster.no_run(&args.name)),
    }
    if let Some(run) = &run {
        section(&mut text, "Phases", &timeline::phases(run, &Usual::new(), clock::now(), screen));
    }
    if let Some(hosts) = timeline::hosts(run.as_ref(), answer.as_ref(), most, screen) {
        section(&mut text, "Hosts", &hosts);
    }
    for (phase, classification) in classifications(run.as_ref(), answer.as_ref()) {
        section(&mut text, &format!("Why {phase} failed"), &evidence(&classification, screen));
    }
    let mut steps = run.as_ref().map(next_steps).unwrap_or_default();
    if run.is_none() {
        steps.push(format!("kubectl fettle logs {} -n {}", args.name, cluster.namespace));
    }
    if !steps.is_empty() {
        section(&mut text, "Next", &format!("{}\n", steps.join("\n")));
    }
    screen.print(&text)?;
    if let Some(why) = missing {
        screen.note(&format!("Hosts and evidence are left out: {why}"));
    }
    Ok(())
}

fn section(text: &mut String, title: &str, body: &str) {
    text.push('\n');
    text.push_str(&on_lines("", [format!("{title}:")]));
    text.push_str(&on_lines("  ", body.lines()));
}

fn head(run: &PatchRun, text: &mut String, screen: &Screen) {
    let status = run.status.clone().unwrap_or_default();
    let (word, message) = reason(&status).unwrap_or_default();
    let meaning = Reason::parse(word).map_or_else(|| word.to_owned(), |reason| format!("{word}: {}", reason.meaning()));
    let scope = status.scope.as_ref().map(|scope| {
        let left_out =
            if scope.excluded.is_empty() { String::new() } else { format!(", left out (disabled): {}", scope.excluded.join(", ")) };
        format!("{}{left_out}", scope.hosts)
    });
    text.push_str(&labels(
        vec![
            ("Name", run.name_any()),
            ("Namespace", run.namespace().unwrap_or_default()),
            (if run.spec.group.is_some() { "Group" } else { "Hosts" }, target(run)),
            ("Kernel", run.spec.desired_kernel.clone().unwrap_or_default()),
            ("Connection", run.spec.connection.name.clone()),
            ("Attempt", status.attempt.unwrap_or_else(|| run.spec.attempt()).to_string()),
            ("Start after", run.spec.start_after.map(moment).unwrap_or_default()),
            ("Start by", run.spec.start_by.map(moment).unwrap_or_default()),
            ("Scope", scope.map(|scope| format!("{scope} hosts")).unwrap_or_default()),
            ("State", state(run, &status)),
            ("Result", status.result.map(|r| result_word(r).to_owned()).unwrap_or_default()),
            ("Error code", status.error_code.clone().unwrap_or_default()),
            ("Reason", meaning),
            ("Message", message.to_owned()),
            ("Run key", status.run_key.clone().unwrap_or_default()),
            ("Log", status.log_url.clone().unwrap_or_default()),
        ],
        screen,
    ));
}

/// What the records tell about a run whose object is gone.
fn gone(name: &str, cluster: &Cluster, answer: &RunAnswer, text: &mut String, screen: &Screen) {
    text.push_str(&labels(
        vec![
            ("Name", name.to_owned()),
            ("Namespace", cluster.namespace.clone()),
            ("Group", answer.group.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("Kernel", answer.desired_kernel.clone().unwrap_or_default()),
            ("Connection", answer.connection.clone().unwrap_or_default()),
            ("Attempt", answer.attempt.to_string()),
            ("State", "the object is gone; this is from the records".into()),
            ("Result", answer.result.map(|r| result_word(r).to_owned()).unwrap_or_default()),
            ("Reason", answer.reason.clone().unwrap_or_default()),
            ("Message", answer.message.clone().unwrap_or_default()),
            ("Run key", answer.run_key.clone()),
        ],
        screen,
    ));
    let rows = answer.phases.iter().map(|phase| {
        let took = phase.started_at.zip(phase.finished_at).map(|(from, to)| span(to.duration_since(from)));
        vec![
            cell(Phase::as_str(phase.name)),
            (Tone::of(phase.result, State::Completed), phase.result.map(|r| result_word(r).to_owned()).unwrap_or_default()),
            cell(phase.started_at.map(moment).unwrap_or_default()),
            cell(took.unwrap_or_default()),
            cell(phase.counts.map(|counts| good(&counts)).unwrap_or_default()),
            cell(phase.reason.clone().unwrap_or_default()),
        ]
    });
    section(text, "Phases", &screen.table(&["PHASE", "RESULT", "STARTED", "TOOK", "HOSTS", "REASON"], rows.collect()));
}

/// What is known of each phase: from the records, else from the object.
fn classifications(run: Option<&PatchRun>, answer: Option<&RunAnswer>) -> Vec<(Phase, Classification)> {
    let recorded = answer.into_iter().flat_map(|answer| &answer.phases).map(|phase| (phase.name, &phase.classification));
    let stated = run
        .and_then(|run| run.status.as_ref())
        .into_iter()
        .flat_map(|status| &status.phases)
        .map(|phase| (phase.name, &phase.classification));
    let all: BTreeMap<Phase, &Classification> =
        stated.chain(recorded).filter_map(|(phase, found)| Some((phase, found.as_ref()?))).collect();
    all.into_iter().map(|(phase, found)| (phase, found.clone())).collect()
}

/// Code, how sure it is, and the line that shows it.
fn evidence(found: &Classification, screen: &Screen) -> String {
    let sure = match found.tier {
        Tier::Weak => "weak: the text could mean something else",
        Tier::Corroborated => "corroborated: more of the log says the same",
        Tier::Decisive => "decisive: the message means this and nothing else",
    };
    let mut rows = vec![("Error code", found.error_code.clone()), ("Also", found.also.join(", ")), ("Confidence", sure.to_owned())];
    if let Some(evidence) = &found.evidence {
        let captures: Vec<String> = evidence.captures.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.extend([("Line", evidence.line.to_string()), ("Evidence", evidence.excerpt.clone()), ("Found", captures.join(", "))]);
    }
    labels(rows, screen)
}
