//! `kubectl fettle cancel`, `suspend`, `resume` and `retry`: what may change about a run.

use std::collections::BTreeSet;

use clap::Args;
use jiff::Timestamp;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    answers::RunAnswer,
    cluster::{Cluster, run_name},
    failure::Failure,
    output::{Screen, result_word},
    run::{create, moment},
    server::Server,
    show::{full_name, is_over},
    watch,
};
use crate::{
    api::patch_run::{PatchRun, PatchRunSpec, State},
    clock,
};

/// How often a change is tried again when somebody else wrote in between.
const TRIES: usize = 5;

/// `kubectl fettle cancel`.
#[derive(Args, Debug)]
#[command(after_help = "\
Hosts that are cut off in the middle are reported `unknown`. Cancelling cannot be taken back.

Examples:
  kubectl fettle cancel web
  kubectl fettle cancel web --watch         wait until it really is over")]
pub struct CancelArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    name: String,
    /// Follow it to its end.
    #[arg(short, long)]
    watch: bool,
}

/// `kubectl fettle suspend`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  kubectl fettle suspend web")]
pub struct SuspendArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    pub name: String,
}

/// `kubectl fettle resume`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  kubectl fettle resume web")]
pub struct ResumeArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    pub name: String,
}

/// `kubectl fettle retry`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle retry web                                  all hosts and phases once more: a higher spec.attempt
  kubectl fettle retry web --failed-hosts --start-by 2h     a new PatchRun for the hosts that did not end well")]
pub struct RetryArgs {
    /// The PatchRun. It must be over.
    #[arg(value_parser = run_name)]
    name: String,
    /// Only the hosts that did not end well, in a new PatchRun.
    #[arg(long)]
    failed_hosts: bool,
    /// With --failed-hosts: no change phase of the new run starts later. Default: as in the old one.
    #[arg(long, value_name = "TIME", requires = "failed_hosts")]
    start_by: Option<String>,
    /// Follow it to its end.
    #[arg(short, long)]
    watch: bool,
}

/// Changes a field of the spec, if the object still is the one that was read.
async fn change(cluster: &Cluster, run: &PatchRun, field: &str, value: Value) -> Result<Option<PatchRun>, Failure> {
    let name = run.name_any();
    // both together: neither a run that was created again nor one that changed meanwhile is touched
    let patch = json!({"metadata": {"uid": run.metadata.uid, "resourceVersion": run.metadata.resource_version}, "spec": {field: value}});
    let what = format!("change spec.{field} of PatchRun {name} in namespace {}", cluster.namespace);
    let call = async {
        match cluster.runs().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            answer => answer.map(Some),
        }
    };
    cluster.ask(&what, call).await
}

/// Reads, and changes what `wanted` says, until nobody writes in between; what it says is a field and its value, or `Err` with a sentence
/// when there is nothing to do.
async fn change_if(
    name: &str,
    cluster: &Cluster,
    wanted: impl Fn(&PatchRun) -> Result<(&'static str, Value), Failure>,
) -> Result<PatchRun, Failure> {
    let first = cluster.run(name).await?;
    let mut run = first.clone();
    for _ in 0..TRIES {
        let (field, value) = wanted(&run)?;
        if let Some(changed) = change(cluster, &run, field, value).await? {
            return Ok(changed);
        }
        run = cluster.run(name).await?;
        if run.uid() != first.uid() {
            return Err(Failure::Error(format!(
                "PatchRun {name} was deleted and created again in this moment; nothing was changed. Look at it: kubectl fettle get {name}"
            )));
        }
    }
    Err(Failure::Error(format!("PatchRun {name} is being changed by somebody else all the time; nothing was changed: try again")))
}

/// Asks for the end of a run.
pub async fn cancel(args: &CancelArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let name = &args.name;
    let run = cluster.run(name).await?;
    let status = run.status.clone().unwrap_or_default();
    if is_over(&run) {
        let result = status.result.map(result_word).unwrap_or_default();
        return screen.print(&format!("{} is over already ({result}); nothing to cancel\n", full_name(&run)));
    }
    if run.spec.cancel() || status.cancel_requested_at.is_some() {
        screen.print(&format!("{} is being cancelled already\n", full_name(&run)))?;
    } else {
        let changed = change_if(name, cluster, |_| Ok(("cancel", json!(true)))).await?;
        screen.print(&format!("{} cancelled\n", full_name(&changed)))?;
        screen.note(match changed.status.unwrap_or_default().state {
            State::Running | State::Cancelling => {
                "What runs is being stopped; hosts that are cut off will be `unknown`. The run ends with ERROR, reason Cancelled, and its log is kept."
            }
            State::Pending | State::AwaitingWindow | State::AwaitingCredentials | State::Completed => {
                "Nothing runs now, and nothing will start. The run ends with ERROR, reason Cancelled."
            }
        });
    }
    if args.watch { watch::follow(name, cluster, screen).await } else { Ok(()) }
}

/// Suspends a run or lets it go on.
pub async fn suspend(name: &str, suspend: bool, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let run = cluster.run(name).await?;
    let word = if suspend { "suspended" } else { "resumed" };
    if is_over(&run) {
        let result = run.status.as_ref().and_then(|status| status.result).map(result_word).unwrap_or_default();
        return screen.print(&format!("{} is over already ({result}); nothing is {word}\n", full_name(&run)));
    }
    if run.spec.suspend() == suspend {
        let is = if suspend { "is suspended already" } else { "is not suspended" };
        return screen.print(&format!("{} {is}\n", full_name(&run)));
    }
    let changed = change_if(name, cluster, |_| Ok(("suspend", json!(suspend)))).await?;
    screen.print(&format!("{} {word}\n", full_name(&changed)))?;
    let status = changed.status.unwrap_or_default();
    screen.note(&match (suspend, status.state, status.phase) {
        (true, State::Running | State::Cancelling, Some(phase)) => {
            format!("{phase} goes on to its end; no further phase starts until: kubectl fettle resume {name}")
        }
        (true, ..) => format!("No phase starts until: kubectl fettle resume {name}"),
        (false, ..) => format!("It goes on within seconds. Follow it: kubectl fettle watch {name}"),
    });
    Ok(())
}

/// Runs once more what is over.
pub async fn retry(args: &RetryArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let name = &args.name;
    let run = cluster.run(name).await?;
    over(&run)?;
    if args.failed_hosts {
        return retry_failed(args, &run, cluster, screen).await;
    }
    in_time(run.spec.start_by, &run.spec, clock::now()).map_err(|by| {
        Failure::Error(format!(
            "spec.startBy of PatchRun {name} ({by}) has passed: a new attempt would start no change. For the failed hosts: kubectl fettle retry {name} --failed-hosts --start-by 4h; for all: kubectl fettle run …"
        ))
    })?;
    let changed = change_if(name, cluster, |run| {
        over(run)?;
        Ok(("attempt", json!(run.status.as_ref().and_then(|status| status.attempt).unwrap_or(1).max(run.spec.attempt()) + 1)))
    })
    .await?;
    screen.print(&format!("{} attempt {}\n", full_name(&changed), changed.spec.attempt()))?;
    screen.note(&format!("All its phases run once more on all its hosts. Follow it: kubectl fettle watch {name}"));
    if changed.spec.suspend() {
        screen.note(&format!("It is suspended: kubectl fettle resume {name}"));
    }
    if args.watch { watch::follow(name, cluster, screen).await } else { Ok(()) }
}

fn over(run: &PatchRun) -> Result<(), Failure> {
    if is_over(run) {
        return Ok(());
    }
    let name = run.name_any();
    Err(Failure::Error(format!(
        "PatchRun {name} is not over; nothing was changed ({}). Wait for its end (kubectl fettle watch {name}) or stop it (kubectl fettle cancel {name})",
        watch::standing(run)
    )))
}

/// Whether a change phase could still start; the moment that has passed otherwise.
fn in_time(start_by: Option<Timestamp>, spec: &PatchRunSpec, now: Timestamp) -> Result<(), Timestamp> {
    match start_by {
        Some(by) if by <= now && spec.phases.iter().any(|phase| phase.is_change()) => Err(by),
        Some(_) | None => Ok(()),
    }
}

/// A new PatchRun, named after the old one and its attempt, so that asking twice makes one.
async fn retry_failed(args: &RetryArgs, run: &PatchRun, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let name = run.name_any();
    let now = clock::now();
    let start_by = match &args.start_by {
        Some(text) => Some(moment("--start-by", text, now)?),
        None => run.spec.start_by,
    };
    in_time(start_by, &run.spec, now).map_err(|by| {
        Failure::Usage(format!("--start-by is needed: that of PatchRun {name} ({by}) has passed; for example --start-by 4h"))
    })?;
    let hosts = failed_hosts(run, cluster).await?;
    if hosts.is_empty() {
        return Err(Failure::Error(format!(
            "no host of PatchRun {name} is known to have ended badly; nothing was created ({}). For all hosts: kubectl fettle retry {name}",
            watch::standing(run)
        )));
    }
    let attempt = run.status.as_ref().and_then(|status| status.attempt).unwrap_or(1);
    let end = format!("-failed-{attempt}");
    let mut short = name.clone();
    short.truncate(63 - end.len());
    let spec = PatchRunSpec {
        group: None,
        hosts: Some(hosts.iter().cloned().collect()),
        start_by,
        attempt: None,
        suspend: None,
        cancel: None,
        ..run.spec.clone()
    };
    let mut wanted = PatchRun::new(&format!("{}{end}", short.trim_end_matches(['-', '.'])), spec);
    wanted.metadata.namespace = Some(cluster.namespace.clone());
    if let Some(there) = cluster.run_if_any(&wanted.name_any()).await? {
        screen.print(&format!(
            "{} exists already ({})\n",
            full_name(&there),
            watch::standing(&there).lines().next().unwrap_or_default()
        ))?;
        return if args.watch { watch::follow(&there.name_any(), cluster, screen).await } else { Ok(()) };
    }
    screen.note(&format!("{} of the hosts did not end well: {}", hosts.len(), hosts.iter().cloned().collect::<Vec<_>>().join(", ")));
    create(wanted, None, None, args.watch, cluster, screen).await
}

/// Every host that did not end well. The object names the first twenty of a phase; when there are more, the records name all.
async fn failed_hosts(run: &PatchRun, cluster: &Cluster) -> Result<BTreeSet<String>, Failure> {
    let status = run.status.clone().unwrap_or_default();
    let named: BTreeSet<String> = status.phases.iter().flat_map(|phase| &phase.failed_hosts).map(|host| host.name.clone()).collect();
    let cut = status.phases.iter().any(|phase| {
        let bad = phase.hosts.map_or(0, |counts| counts.total - counts.ok - counts.changed);
        usize::try_from(bad).is_ok_and(|bad| bad > phase.failed_hosts.len())
    });
    if !cut {
        return Ok(named);
    }
    let server = Server::find(cluster, status.log_url.as_deref()).await?;
    let path = ["api", "runs", &cluster.namespace, &run.name_any()];
    let answer: Option<RunAnswer> = server.json("read the failed hosts", &path, &[]).await?;
    Ok(answer.map(|answer| answer.failed_hosts()).unwrap_or_default().into_iter().chain(named).collect())
}
