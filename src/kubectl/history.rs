//! `kubectl fettle history` and `host`: what fettle-server remembers.

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    answers::{HistoryAnswer, HistoryItem, HostAnswer, KnownHost},
    cluster::Cluster,
    failure::Failure,
    output::{Format, Screen, Tone, cell, labels, moment, on_lines, plain, span},
    run::one_phase,
    server::Server,
    timeline::{Usual, good},
};
use crate::{
    api::patch_run::{PatchRun, Phase},
    clock,
};

/// `kubectl fettle history`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle history --group 5
  kubectl fettle history --group 5 --phase apply --result ERROR --since 720h
  kubectl fettle history --error-code E-DISK-BOOT -o json")]
pub struct HistoryArgs {
    /// Of this group.
    #[arg(short, long)]
    group: Option<String>,
    /// With this host.
    #[arg(long)]
    host: Option<String>,
    /// In all namespaces that you may see.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Of this phase.
    #[arg(long, value_parser = one_phase())]
    phase: Option<Phase>,
    /// With this result.
    #[arg(long, value_parser = ["OK", "ERROR"])]
    result: Option<String>,
    /// With this error code.
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// Since: a length of time before now (72h) or a moment (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Go on where the last answer ended.
    #[arg(long)]
    cursor: Option<String>,
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// `kubectl fettle host`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  kubectl fettle host web-1.example.com\n  kubectl fettle host web-1.example.com -o json")]
pub struct HostArgs {
    /// Its name in the inventory.
    name: String,
    /// In all namespaces that you may see.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Lists what was done.
pub async fn history(args: &HistoryArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let mut query: Vec<(&str, String)> = vec![("limit", args.limit.to_string())];
    let since = args.since.as_deref().map(|text| before(text, clock::now())).transpose()?;
    for (key, value) in [
        ("namespace", Some(cluster.namespace.clone()).filter(|_| !args.all_namespaces)),
        ("group", args.group.clone()),
        ("host", args.host.clone()),
        ("phase", args.phase.map(|phase| phase.to_string())),
        ("result", args.result.clone()),
        ("error_code", args.error_code.clone()),
        ("since", since.map(|at| at.to_string())),
        ("cursor", args.cursor.clone()),
    ] {
        query.extend(value.map(|value| (key, value)));
    }
    let server = Server::find(cluster, None).await?;
    let answer: Option<Value> = server.json("read the history", &["api", "history"], &query).await?;
    let answer = answer.ok_or_else(|| Failure::Error("this fettle-server keeps no history: it is older than this command".into()))?;
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        return screen.object(format, &answer);
    }
    let page: HistoryAnswer = understood(answer)?;
    if page.items.is_empty() {
        screen.note("Nothing is on record about that.");
        return Ok(());
    }
    let text = match args.output.unwrap_or_default() {
        Format::Name => on_lines("", page.items.iter().map(|item| format!("patchrun.fettle.dev/{}", plain(&item.name)))),
        format @ (Format::Table | Format::Wide | Format::Json | Format::Yaml) => rows(&page.items, format == Format::Wide, screen),
    };
    screen.print(&text)?;
    if let Some(next) = page.next.filter(|next| !next.is_empty()) {
        screen.note(&format!("There is more: --cursor {next}"));
    }
    Ok(())
}

fn understood<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|e| Failure::Error(format!("fettle-server's answer is not understood: {e}: -o json shows it")))
}

fn rows(items: &[HistoryItem], wide: bool, screen: &Screen) -> String {
    let mut head = vec!["FINISHED", "NAMESPACE", "NAME", "GROUP", "PHASE", "RESULT", "ERROR", "HOSTS", "TOOK"];
    if wide {
        head.extend(["REASON", "KERNEL", "CONNECTION", "ATTEMPT", "LOG"]);
    }
    let lines = items.iter().map(|item| {
        let tone = if item.result == "OK" { Tone::Good } else { Tone::Bad };
        let mut line = vec![
            cell(item.finished_at.map(moment).unwrap_or_default()),
            cell(&item.namespace),
            cell(&item.name),
            cell(item.group.as_ref().map(ToString::to_string).unwrap_or_default()),
            cell(&item.phase),
            (tone, item.result.clone()),
            (Tone::Bad, item.error_code.clone().unwrap_or_default()),
            cell(item.counts.as_ref().map(good).unwrap_or_default()),
            cell(item.took().map(span).unwrap_or_default()),
        ];
        if wide {
            line.extend([
                cell(&item.reason),
                cell(item.desired_kernel.clone().unwrap_or_default()),
                cell(&item.connection),
                cell(item.attempt.to_string()),
                cell(item.log_url.clone().unwrap_or_default()),
            ]);
        }
        line
    });
    screen.table(&head, lines.collect())
}

/// A moment, or a length of time before now.
fn before(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let ago = text.parse::<SignedDuration>().ok().filter(SignedDuration::is_positive).and_then(|length| now.checked_sub(length).ok());
    ago.or_else(|| text.parse().ok()).ok_or_else(|| {
        Failure::Usage(format!("--since {text}: give a length of time such as 72h, or a moment such as 2026-11-01T00:00:00Z"))
    })
}

/// How long each phase of such a run took before, when it ended well; empty when nothing is known.
pub async fn usual(server: &Server, run: &PatchRun) -> Usual {
    let Some(group) = &run.spec.group else { return Usual::new() };
    let query = [("group", group.to_string()), ("result", "OK".to_owned()), ("limit", "100".to_owned())];
    // an estimate is worth no failure
    let answer: Option<HistoryAnswer> = server.json("read the history", &["api", "history"], &query).await.unwrap_or_default();
    answer.map(|answer| middle(&answer.items)).unwrap_or_default()
}

fn middle(items: &[HistoryItem]) -> Usual {
    Phase::ALL
        .into_iter()
        .filter_map(|phase| {
            let of_phase = items.iter().filter(|item| item.phase == phase.as_str());
            let mut lengths: Vec<SignedDuration> = of_phase.filter_map(HistoryItem::took).filter(SignedDuration::is_positive).collect();
            lengths.sort_unstable();
            lengths.get(lengths.len() / 2).map(|middle| (phase, *middle))
        })
        .collect()
}

/// Shows a host.
pub async fn host(args: &HostArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let server = Server::find(cluster, None).await?;
    let namespace: Vec<_> = (!args.all_namespaces).then(|| ("namespace", cluster.namespace.clone())).into_iter().collect();
    let answer: Option<Value> = server.json("read about the host", &["api", "host", &args.name], &namespace).await?;
    let answer = answer.ok_or_else(|| {
        let place = if args.all_namespaces {
            "that you may see".to_owned()
        } else {
            format!("of namespace {} (-A looks in all)", cluster.namespace)
        };
        Failure::Error(format!("host {} was in no run {place}: give its name as the inventory has it", args.name))
    })?;
    match args.output.unwrap_or_default() {
        format @ (Format::Json | Format::Yaml) => screen.object(format, &answer),
        Format::Name => screen.print(&format!("{}\n", plain(&args.name))),
        Format::Table | Format::Wide => {
            let answer: HostAnswer = understood(answer)?;
            let text: Vec<String> = answer.known.iter().map(|known| known_host(&args.name, known, screen)).collect();
            screen.print(&text.join("\n"))
        }
    }
}

fn known_host(name: &str, known: &KnownHost, screen: &Screen) -> String {
    let facts = &known.facts;
    let free = facts.free_bytes.iter().flatten().map(|(path, bytes)| format!("{path} {} MiB", bytes >> 20)).collect::<Vec<_>>().join(", ");
    let active = known.active.as_ref().map(|run| format!(" ({})", run.name)).unwrap_or_default();
    let mut text = labels(
        vec![
            ("Host", name.to_owned()),
            ("Namespace", known.namespace.clone()),
            ("Connection", known.connection.clone()),
            ("State", format!("{}{active}", known.state)),
            ("Kernel", facts.kernel.clone().unwrap_or_default()),
            ("Boot id", facts.boot_id.clone().unwrap_or_default()),
            ("Free", free),
            ("Repositories", facts.repositories.iter().flatten().cloned().collect::<Vec<_>>().join(", ")),
            ("Last seen", facts.last_seen.map(moment).unwrap_or_default()),
        ],
        screen,
    );
    let lines = known.results.iter().map(|result| {
        let tone = if ["ok", "changed"].contains(&result.outcome.as_str()) { Tone::Good } else { Tone::Bad };
        vec![
            cell(result.finished_at.map(moment).unwrap_or_default()),
            cell(&result.name),
            cell(&result.phase),
            (tone, result.outcome.clone()),
            (Tone::Bad, result.error_code.clone().unwrap_or_default()),
            cell(result.message.clone().unwrap_or_default()),
        ]
    });
    text.push('\n');
    text.push_str(&screen.table(&["FINISHED", "RUN", "PHASE", "OUTCOME", "ERROR", "MESSAGE"], lines.collect()));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_usual_time_is_the_middle_of_what_is_on_record() {
        let item = |phase: &str, minutes: i64| {
            let end = format!("2026-11-21T10:{minutes:02}:00Z");
            json!({"phase": phase, "startedAt": "2026-11-21T10:00:00Z", "finishedAt": end})
        };
        let answer =
            json!({"items": [item("apply", 5), item("apply", 50), item("apply", 7), item("stage", 1), {"phase": "reboot"}, {}], "new": 1});
        let items = understood::<HistoryAnswer>(answer).unwrap().items;
        let expected: Usual = [(Phase::Stage, SignedDuration::from_mins(1)), (Phase::Apply, SignedDuration::from_mins(7))].into();
        assert_eq!(middle(&items), expected);
    }

    #[test]
    fn the_past_is_a_length_of_time_or_a_moment() {
        let now = "2026-11-22T03:00:00Z".parse().unwrap();
        assert_eq!(before("72h", now).unwrap().to_string(), "2026-11-19T03:00:00Z");
        assert_eq!(before("2026-11-01T00:00:00Z", now).unwrap().to_string(), "2026-11-01T00:00:00Z");
        assert!(before("yesterday", now).is_err());
    }
}
