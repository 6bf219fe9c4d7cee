//! `kubectl fettle explain` and `classify`: what the Runbooks know.

use std::{io::Read as _, path::PathBuf, time::Duration};

use clap::Args;
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{
    Options,
    cluster::Cluster,
    failure::Failure,
    output::{Format, Screen, Tone, cell, labels, on_lines, plain, plain_lines},
    run::one_phase,
};
use crate::{
    api::{
        patch_run::Phase,
        runbook::{Runbook, RunbookSpec},
    },
    runbooks::{Classifier, Context, Library, report},
};

/// How long the cluster may take to name its Runbooks; the shipped ones are always there.
const PATIENCE: Duration = Duration::from_secs(5);

/// `kubectl fettle explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
The Runbooks of the namespace come first, then those of the operator's namespace, then those that this program was shipped with.

Examples:
  kubectl fettle explain                  every code
  kubectl fettle explain E-DISK-BOOT      what it means and what to do about it")]
pub struct ExplainArgs {
    /// The error code. Default: list all.
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// `kubectl fettle classify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is sent anywhere: the Runbooks that this program was shipped with read the log here.

Examples:
  kubectl fettle classify apply.log --phase apply
  kubectl fettle logs web --phase apply | kubectl fettle classify -")]
pub struct ClassifyArgs {
    /// The log; - reads standard input.
    file: PathBuf,
    /// The phase whose log it is. Default: any.
    #[arg(long, value_parser = one_phase())]
    phase: Option<Phase>,
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Explains a code, or lists all.
pub async fn explain(args: &ExplainArgs, options: &Options, screen: &mut Screen) -> Result<(), Failure> {
    let (mut known, note) = match of_cluster(options).await {
        Ok(runbooks) => (runbooks, None),
        Err(failure) => (vec![], failure.text()),
    };
    known.extend(Library::shipped_runbooks().iter().cloned());
    let Some(code) = &args.code else { return list(known, args.output.unwrap_or_default(), screen) };
    let wanted = if code.starts_with("E-") || code.starts_with("e-") { code.to_uppercase() } else { format!("E-{}", code.to_uppercase()) };
    let found: Vec<&Runbook> = known.iter().filter(|runbook| runbook.spec.error_code == wanted).collect();
    let Some(first) = found.first() else {
        let why = note
            .map(|why| format!(" (those of the cluster cannot be read: {})", why.lines().next().unwrap_or_default()))
            .unwrap_or_default();
        return Err(Failure::Error(format!("there is no Runbook of {wanted}{why}: `kubectl fettle explain` lists the codes")));
    };
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        return screen.object(format, first);
    }
    // several may share a code; a team's own comes first
    let place = first.namespace();
    let of_place = found.iter().filter(|runbook| runbook.namespace() == place);
    let text: Vec<String> = of_place.map(|runbook| page(&runbook.spec, place.as_deref(), screen)).collect();
    screen.print(&text.join("\n"))
}

/// Runbooks of the namespace and of the operator's, those that are not ready left out.
async fn of_cluster(options: &Options) -> Result<Vec<Runbook>, Failure> {
    let read = async {
        let cluster = Cluster::connect(options).await?;
        let mut runbooks = vec![];
        let mut places = vec![cluster.namespace.as_str(), options.operator_namespace.as_str()];
        places.dedup();
        let mut refused = None;
        for place in places {
            let api = Api::<Runbook>::namespaced(cluster.client.clone(), place);
            match cluster.ask(&format!("list Runbooks in namespace {place}"), api.list(&ListParams::default())).await {
                Ok(list) => runbooks.extend(list.items),
                Err(failure @ Failure::Error(_)) => refused = Some(failure),
                Err(other) => return Err(other),
            }
        }
        let ready = |runbook: &Runbook| {
            let conditions = runbook.status.iter().flat_map(|status| &status.conditions);
            !conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
        };
        runbooks.retain(ready);
        match refused {
            Some(failure) if runbooks.is_empty() => Err(failure),
            Some(_) | None => Ok(runbooks),
        }
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(read) => read,
        Err(_) => Err(Failure::Unreachable("the API server does not answer".into())),
    }
}

fn list(mut known: Vec<Runbook>, format: Format, screen: &mut Screen) -> Result<(), Failure> {
    known.sort_by(|a, b| a.spec.error_code.cmp(&b.spec.error_code));
    known.dedup_by(|b, a| a.spec.error_code == b.spec.error_code);
    match format {
        Format::Json | Format::Yaml => screen.object(format, &known),
        Format::Name => screen.print(&on_lines("", known.iter().map(|runbook| plain(&runbook.spec.error_code)))),
        Format::Table | Format::Wide => {
            let rows = known.iter().map(|runbook| {
                vec![
                    cell(&runbook.spec.error_code),
                    cell(word(&runbook.spec.severity)),
                    cell(&runbook.spec.title),
                    (Tone::Dim, runbook.namespace().unwrap_or_else(|| "shipped".into())),
                ]
            });
            let text = screen.table(&["CODE", "SEVERITY", "TITLE", "FROM"], rows.collect());
            screen.print(&text)
        }
    }
}

/// The word of what is serialised as one.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn page(spec: &RunbookSpec, namespace: Option<&str>, screen: &Screen) -> String {
    let phases: Vec<&str> = spec.phases.iter().map(|phase| phase.as_str()).collect();
    let from = namespace.map_or_else(|| "shipped with this program".to_owned(), |namespace| format!("a Runbook in namespace {namespace}"));
    let head = labels(
        vec![
            ("Error code", spec.error_code.clone()),
            ("Title", spec.title.clone()),
            ("Severity", word(&spec.severity)),
            ("Phases", phases.join(", ")),
            ("From", from),
        ],
        screen,
    );
    let block = |title: &str, text: &str| format!("\n{title}:\n{}", on_lines("  ", text.lines().map(plain_lines)));
    let offered = spec.remediation.as_ref().map(|_| "\nIt has a remediation, for the failed hosts, to be approved.\n").unwrap_or_default();
    format!("{head}{}{}{offered}", block("What it means", &spec.explanation), block("What to do", &spec.procedure))
}

/// Reads a log.
pub async fn classify(args: &ClassifyArgs, screen: &mut Screen) -> Result<(), Failure> {
    let (file, phase) = (args.file.clone(), args.phase);
    let read = move || {
        let named = |error: std::io::Error| Failure::Error(format!("{}: {error}", file.display()));
        let mut source: Box<dyn std::io::Read> =
            if file.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(&file).map_err(named)?) };
        let mut classifier = Classifier::new(Library::shipped(), Context { phase, ..Context::default() });
        let mut buffer = vec![0; 64 << 10];
        loop {
            match source.read(&mut buffer).map_err(named)? {
                0 => return Ok::<_, Failure>(classifier.finish()),
                size => classifier.push(&buffer[..size]),
            }
        }
    };
    let verdict = tokio::task::spawn_blocking(read).await.map_err(|e| Failure::Error(e.to_string()))??;
    match args.output.unwrap_or_default() {
        format @ (Format::Json | Format::Yaml) => {
            screen.object(format, &serde_json::json!({"cause": verdict.classification, "hosts": verdict.hosts}))
        }
        Format::Name => screen.print(&format!("{}\n", verdict.classification.map_or("none".into(), |cause| plain(&cause.error_code)))),
        Format::Table | Format::Wide => {
            let mut text = vec![];
            report::table(&Library::shipped(), &verdict, &mut text)?;
            screen.print(&plain_lines(&String::from_utf8_lossy(&text)))
        }
    }
}
