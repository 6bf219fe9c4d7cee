//! `kubectl fettle logs`.

use std::time::Duration;

use clap::Args;
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};

use super::{
    answers::RunAnswer,
    cluster::{Cluster, run_name},
    failure::{Failure, chain, of_cluster},
    output::{Screen, log_line},
    run::one_phase,
    server::Server,
    show::{is_over, reason},
    watch::{Follower, ended, standing},
};
use crate::{
    api::patch_run::{ExecutorKind, PatchRun, Phase, PhaseStatus},
    clients::tekton::{PipelineRun, TaskRun},
};

/// The container of a check that does the work.
const CONTAINER: &str = "step-run";
/// A longer line is cut there, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// `kubectl fettle logs`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle logs web                         every phase that has a log
  kubectl fettle logs web --phase apply           one phase
  kubectl fettle logs web --host web-2            what was done on one host
  kubectl fettle logs web -f                      from phase to phase until the run is over

Logs of finished phases come from fettle-server. A check that runs is read from its pod, with your own right to read logs of pods.
The log of a change phase comes when the phase is over.")]
pub struct LogsArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    name: String,
    /// Follow the run until it is over.
    #[arg(short, long)]
    follow: bool,
    /// Only this phase.
    #[arg(long, value_parser = one_phase())]
    phase: Option<Phase>,
    /// Only what is about this host, of a log as Ansible writes it.
    #[arg(long)]
    host: Option<String>,
}

/// Prints logs.
pub async fn logs(args: &LogsArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    match cluster.run_if_any(&args.name).await? {
        Some(run) if args.follow => follow(args, run, cluster, screen).await,
        Some(run) => once(args, &run, cluster, screen).await,
        None => on_record(args, cluster, screen).await,
    }
}

/// What there is now.
async fn once(args: &LogsArgs, run: &PatchRun, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let status = run.status.clone().unwrap_or_default();
    let wanted: Vec<&PhaseStatus> = status.phases.iter().filter(|phase| args.phase.is_none_or(|only| only == phase.name)).collect();
    if wanted.is_empty() {
        let what = args.phase.map_or("the run".to_owned(), |phase| phase.to_string());
        return Err(Failure::Error(format!("{what} has no log yet; PatchRun {}: {}", args.name, standing(run))));
    }
    let mut printer = Printer::new(args, wanted.len() > 1);
    for phase in wanted {
        printer.phase(phase, run, false, cluster, screen).await?;
    }
    Ok(())
}

/// From phase to phase.
async fn follow(args: &LogsArgs, mut run: PatchRun, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let mut follower = Follower::new(&run, cluster);
    let wanted: Vec<Phase> = run.spec.phases.iter().copied().filter(|phase| args.phase.is_none_or(|only| only == *phase)).collect();
    let mut printer = Printer::new(args, wanted.len() > 1);
    let mut told = String::new();
    for phase in wanted {
        // the PipelineRun whose log was printed while it ran: one that is lost gets a successor
        let mut live = None;
        loop {
            let known = run.status.as_ref().and_then(|status| status.of(phase)).cloned();
            if let Some(known) = known {
                let executor = known.executor.as_ref().map(|executor| executor.id.clone());
                let shown = live.is_some() && live == executor;
                if known.result.is_some() {
                    if !shown {
                        printer.phase(&known, &run, true, cluster, screen).await?;
                    }
                    break;
                }
                if !shown && is_check_under_way(&known) && printer.phase(&known, &run, true, cluster, screen).await? {
                    live = executor;
                }
            }
            if is_over(&run) {
                break;
            }
            let now = standing(&run);
            if now != told {
                screen.note(&now);
                told = now;
            }
            run = follower.next().await?;
        }
    }
    while args.phase.is_none() && !is_over(&run) {
        run = follower.next().await?;
    }
    if is_over(&run) { ended(&run, screen) } else { Ok(()) }
}

/// The object is gone; the records are there.
async fn on_record(args: &LogsArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let server = Server::find(cluster, None).await.map_err(|failure| {
        let Failure::Error(why) = failure else { return failure };
        Failure::Error(format!("{}\nNor can its records be looked up: {why}", cluster.no_run(&args.name).text().unwrap_or_default()))
    })?;
    let answer: Option<RunAnswer> =
        server.json("read the records of the run", &["api", "runs", &cluster.namespace, &args.name], &[]).await?;
    let phases = answer.map(|answer| answer.phases).unwrap_or_default();
    let wanted: Vec<_> = phases.iter().filter(|phase| args.phase.is_none_or(|only| only == phase.name)).collect();
    if wanted.is_empty() {
        return Err(cluster.no_run(&args.name));
    }
    screen.note(&format!("PatchRun {} is gone; these are its records.", args.name));
    let mut printer = Printer::new(args, wanted.len() > 1);
    printer.server = Some(server);
    for phase in wanted {
        match &phase.log {
            Some(log) => printer.archived(phase.name, &log.id, None, cluster, screen).await?,
            None => screen.note(&format!("{} has no log.", phase.name)),
        }
    }
    Ok(())
}

fn is_check_under_way(phase: &PhaseStatus) -> bool {
    phase.executor.as_ref().is_some_and(|executor| executor.kind == ExecutorKind::PipelineRun)
}

/// Prints one log after the other.
struct Printer<'a> {
    args: &'a LogsArgs,
    heads: bool,
    server: Option<Server>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a LogsArgs, heads: bool) -> Self {
        Self { args, heads, server: None }
    }

    /// Prints what there is of a phase; whether there was something.
    async fn phase(
        &mut self,
        phase: &PhaseStatus,
        run: &PatchRun,
        follow: bool,
        cluster: &Cluster,
        screen: &mut Screen,
    ) -> Result<bool, Failure> {
        let name = phase.name;
        match (&phase.log, phase.result, &phase.executor) {
            (Some(log), ..) => {
                let log_url = run.status.as_ref().and_then(|status| status.log_url.as_deref());
                self.archived(name, &log.id, log_url, cluster, screen).await?;
                Ok(true)
            }
            (None, Some(_), _) => {
                screen.note(&format!("{name} has no log: {}", phase.message.as_deref().unwrap_or("it does not say why")));
                Ok(false)
            }
            (None, None, Some(executor)) if executor.kind == ExecutorKind::PipelineRun => {
                self.pod(name, &executor.id, follow, cluster, screen).await
            }
            (None, None, executor) => {
                let place = executor.as_ref().map(|e| e.url.clone().unwrap_or_else(|| format!("job {}", e.id)));
                let place = place.map(|place| format!(" Until then: {place}")).unwrap_or_default();
                let why = run.status.as_ref().and_then(|status| reason(status)).map(|(word, _)| format!(" ({word})")).unwrap_or_default();
                screen.note(&format!("{name} runs{why}: its log comes when the phase is over.{place}"));
                Ok(false)
            }
        }
    }

    fn head(&self, phase: Phase, screen: &mut Screen) -> Result<(), Failure> {
        if self.heads { screen.print(&format!("==> {phase} <==\n")) } else { Ok(()) }
    }

    async fn archived(
        &mut self,
        phase: Phase,
        id: &str,
        log_url: Option<&str>,
        cluster: &Cluster,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let server = match self.server.take() {
            Some(server) => server,
            None => Server::find(cluster, log_url).await?,
        };
        let server = self.server.insert(server);
        let Some(mut answer) = server.log(id).await? else {
            screen.note(&format!("The log of {phase} is not in the archive any more: its retention is over."));
            return Ok(());
        };
        self.head(phase, screen)?;
        let mut lines = Lines::new(self.args.host.as_deref(), screen);
        let cut = |e: reqwest::Error| Failure::Unreachable(format!("the log of {phase} broke off: {}: try again", chain(&e)));
        while let Some(chunk) = answer.chunk().await.map_err(cut)? {
            lines.push(&chunk)?;
        }
        lines.end()
    }

    /// A check that runs, from its pod; whether anything could be read.
    async fn pod(&self, phase: Phase, pipeline_run: &str, follow: bool, cluster: &Cluster, screen: &mut Screen) -> Result<bool, Failure> {
        let namespace = &cluster.namespace;
        let Some(pod) = pod_of(pipeline_run, cluster).await? else {
            screen.note(&format!("The pod of {phase} is not there yet."));
            return Ok(false);
        };
        let api = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
        let wanted = LogParams { container: Some(CONTAINER.into()), follow, ..LogParams::default() };
        let stream = match api.log_stream(&pod, &wanted).await {
            Ok(stream) => stream,
            // the pod is being prepared, or it has just gone; who follows comes again
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => {
                if follow {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                } else {
                    screen.note(&format!("The pod {pod} of {phase} has no log now: {}", status.message));
                }
                return Ok(false);
            }
            Err(kube::Error::Api(status)) if status.code == 403 && follow => {
                screen.note(&format!("You may not read the log of pod {pod} ({}): it comes when {phase} is over.", status.message));
                return Ok(false);
            }
            Err(error) => return Err(of_cluster(&format!("read the log of pod {pod} in namespace {namespace}"), &cluster.url, &error)),
        };
        self.head(phase, screen)?;
        let mut stream = std::pin::pin!(stream);
        let mut lines = Lines::new(self.args.host.as_deref(), screen);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(size) => lines.push(&buffer[..size])?,
                Err(error) => {
                    lines.end()?;
                    let why = format!("the log of pod {pod} broke off: {}", chain(&error));
                    if !follow {
                        return Err(Failure::Unreachable(format!("{why}: try again")));
                    }
                    screen.note(&format!("{why}; the whole log comes when {phase} is over."));
                    return Ok(false);
                }
            }
        }
        lines.end()?;
        Ok(true)
    }
}

/// The pod of a check; `None` when there is none yet.
async fn pod_of(pipeline_run: &str, cluster: &Cluster) -> Result<Option<String>, Failure> {
    let runs = Api::<PipelineRun>::namespaced(cluster.client.clone(), &cluster.namespace);
    let tasks = Api::<TaskRun>::namespaced(cluster.client.clone(), &cluster.namespace);
    let run = cluster.ask(&format!("read PipelineRun {pipeline_run}"), runs.get_opt(pipeline_run)).await?;
    let child = run.and_then(|run| run.status).and_then(|status| status.child_references.first().map(|child| child.name.clone()));
    let Some(child) = child else { return Ok(None) };
    let task = cluster.ask(&format!("read TaskRun {child}"), tasks.get_opt(&child)).await?;
    Ok(task.and_then(|task| task.status).and_then(|status| status.pod_name))
}

/// Cuts a stream into lines, keeps those of one host, and makes them harmless on a terminal.
struct Lines<'s> {
    screen: &'s mut Screen,
    filter: Option<HostFilter>,
    rest: Vec<u8>,
}

impl<'s> Lines<'s> {
    fn new(host: Option<&str>, screen: &'s mut Screen) -> Self {
        Self { screen, filter: host.map(HostFilter::new), rest: vec![] }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        // to a file or a pipe goes what is in the archive, byte by byte
        if self.filter.is_none() && !self.screen.terminal {
            return self.screen.bytes(bytes);
        }
        self.rest.extend_from_slice(bytes);
        while let Some(at) = self.rest.iter().position(|b| *b == b'\n').or((self.rest.len() > LONGEST_LINE).then_some(LONGEST_LINE - 1)) {
            let line: Vec<u8> = self.rest.drain(..=at).collect();
            self.line(&line)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\n', '\r']);
        let kept = match &mut self.filter {
            Some(filter) => filter.keep(text),
            None => vec![text.to_owned()],
        };
        for line in kept {
            let line = if self.screen.terminal { log_line(&line) } else { line };
            self.screen.print(&format!("{line}\n"))?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { self.line(&rest) }
    }
}

/// What is about one host in a log of Ansible's default callback: its results under the heads of their tasks, and its line of the recap.
struct HostFilter {
    host: String,
    /// Heads that are printed when something under them is.
    heads: Vec<String>,
    /// Whether the result that goes on is about the host.
    inside: bool,
}

impl HostFilter {
    fn new(host: &str) -> Self {
        Self { host: host.to_owned(), heads: vec![], inside: false }
    }

    /// The lines to be printed now.
    fn keep(&mut self, line: &str) -> Vec<String> {
        let bare = log_line(line);
        if ["PLAY ", "TASK [", "RUNNING HANDLER ["].into_iter().any(|head| bare.starts_with(head)) {
            self.inside = false;
            // a play begins anew; a task takes the place of the one before
            self.heads.retain(|head| !bare.starts_with("PLAY ") && log_line(head).starts_with("PLAY "));
            self.heads.push(line.to_owned());
            return vec![];
        }
        if let Some(about) = subject(&bare) {
            self.inside = about == self.host;
        } else if bare.split_once(':').is_some_and(|(name, rest)| name.trim_end() == self.host && rest.trim_start().starts_with("ok=")) {
            self.inside = true;
        } else if bare.split_once(" : ok=").is_some() {
            self.inside = false;
        }
        if !self.inside || bare.is_empty() {
            return vec![];
        }
        let mut lines = std::mem::take(&mut self.heads);
        lines.push(line.to_owned());
        lines
    }
}

/// The host that the first line of a result names: `ok: [web-1]`, `fatal: [web-1 -> localhost]: FAILED! => …`, `failed: [web-1] (item=…)`.
fn subject(line: &str) -> Option<&str> {
    let (word, rest) = line.split_once(": [")?;
    let known = ["ok", "changed", "failed", "fatal", "skipping", "unreachable", "included", "rescued", "ignored", "FAILED - RETRYING"];
    let (name, _) = rest.split_once(']').filter(|_| known.contains(&word))?;
    Some(name.split(" -> ").next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
PLAY [stage] ****

TASK [Gathering Facts] ****
ok: [web-1]
ok: [web-2]

TASK [download] ****
\u{1b}[0;33mchanged: [web-1]\u{1b}[0m
fatal: [web-2 -> localhost]: FAILED! => {
    \"msg\": \"No space left\"
}

TASK [report] ****
ok: [web-1]

PLAY RECAP ****
web-1                      : ok=3    changed=1
web-2                      : ok=1    failed=1
";

    #[test]
    fn a_host_is_shown_with_the_heads_of_its_tasks_only() {
        let mut filter = HostFilter::new("web-2");
        let kept: Vec<String> = LOG.lines().flat_map(|line| filter.keep(line)).collect();
        let expected = "\
PLAY [stage] ****
TASK [Gathering Facts] ****
ok: [web-2]
TASK [download] ****
fatal: [web-2 -> localhost]: FAILED! => {
    \"msg\": \"No space left\"
}
PLAY RECAP ****
web-2                      : ok=1    failed=1";
        assert_eq!(kept.join("\n"), expected);
        let mut nobody = HostFilter::new("web-3");
        assert!(LOG.lines().flat_map(|line| nobody.keep(line)).next().is_none());
    }
}
