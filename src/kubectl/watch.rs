//! `kubectl fettle watch`: a view that is drawn again on a terminal, and lines elsewhere.

use std::{
    io::{self, Write as _},
    pin::Pin,
    time::Duration,
};

use clap::Args;
use crossterm::{
    cursor, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::{
    ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::time::Instant;

use super::{
    answers::RunAnswer,
    cluster::{Cluster, run_name},
    failure::{Failure, of_cluster},
    history,
    output::{Screen, Tone, plain, result_word, span},
    server::Server,
    show::{is_over, next_steps, reason, state, target},
    timeline::{self, Usual, good, remaining},
};
use crate::{
    api::patch_run::{PatchRun, Phase, RunResult},
    clock,
};

/// How long the API server may be away before following is given up.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often the view is drawn again for the sake of its times.
const REDRAW: Duration = Duration::from_secs(1);

/// `kubectl fettle watch`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle watch web                  a view of phases and hosts until the end (Ctrl-C leaves; the run goes on)
  kubectl fettle watch web --timeout 2h     exit code 4 when it is not over by then
  kubectl fettle watch web | tee run.txt    one line for each change, for scripts")]
pub struct WatchArgs {
    /// The PatchRun.
    #[arg(value_parser = run_name)]
    name: String,
}

/// Follows a run to its end.
pub async fn watch(args: &WatchArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    follow(&args.name, cluster, screen).await
}

/// The versions of one run, as they come.
pub struct Follower<'c> {
    cluster: &'c Cluster,
    name: String,
    uid: Option<String>,
    stream: Pin<Box<dyn Stream<Item = Result<Option<PatchRun>, watcher::Error>> + Send>>,
    failing_since: Option<Instant>,
}

impl<'c> Follower<'c> {
    /// Begins with `run`, which was just read.
    pub fn new(run: &PatchRun, cluster: &'c Cluster) -> Self {
        let name = run.name_any();
        let stream = watcher::watch_object(cluster.runs(), &name).default_backoff().boxed();
        Self { cluster, name, uid: run.uid(), stream, failing_since: None }
    }

    /// The next version. An API server that is away for a while is waited for. Cancel safe.
    pub async fn next(&mut self) -> Result<PatchRun, Failure> {
        let name = &self.name;
        loop {
            match self.stream.next().await {
                Some(Ok(Some(run))) if run.uid() == self.uid => {
                    self.failing_since = None;
                    return Ok(run);
                }
                Some(Ok(Some(_))) => {
                    return Err(Failure::Error(format!(
                        "PatchRun {name} was deleted and created again: follow the new one: kubectl fettle watch {name}"
                    )));
                }
                Some(Ok(None)) => {
                    return Err(Failure::Error(format!(
                        "PatchRun {name} was deleted; what is on record: kubectl fettle describe {name} -n {}",
                        self.cluster.namespace
                    )));
                }
                Some(Err(error)) => {
                    let failure = self.failure(&error);
                    let since = *self.failing_since.get_or_insert_with(Instant::now);
                    if matches!(failure, Failure::Error(_)) || since.elapsed() > PATIENCE {
                        return Err(failure);
                    }
                }
                None => return Err(Failure::Unreachable("the watch ended".into())),
            }
        }
    }

    fn failure(&self, error: &watcher::Error) -> Failure {
        let what = format!("watch PatchRun {} in namespace {}", self.name, self.cluster.namespace);
        match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                let refused = matches!(error, kube::Error::Api(status) if [401, 403, 404].contains(&status.code));
                let failure = of_cluster(&what, &self.cluster.url, error);
                // only who may not is refused for good
                match failure.text() {
                    Some(text) if !refused => Failure::Unreachable(text),
                    Some(_) | None => failure,
                }
            }
            watcher::Error::WatchError(status) => Failure::Unreachable(format!("cannot {what}: {}", status.message)),
            watcher::Error::NoResourceVersion => Failure::Unreachable(format!("cannot {what}: the answer has no version")),
        }
    }
}

/// Follows a run to its end; `Err(EndedWithError)` when that is `ERROR`.
pub async fn follow(name: &str, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let mut run = cluster.run(name).await?;
    let mut follower = Follower::new(&run, cluster);
    if screen.terminal {
        live(&mut run, &mut follower, cluster, screen).await?;
    } else {
        lines(&mut run, &mut follower, screen).await?;
    }
    ended(&run, screen)
}

/// The exit code of an end, and what to do after a bad one.
pub fn ended(run: &PatchRun, screen: &Screen) -> Result<(), Failure> {
    match run.status.as_ref().and_then(|status| status.result) {
        Some(RunResult::Ok) => Ok(()),
        Some(RunResult::Error) | None => {
            let steps = next_steps(run);
            if !steps.is_empty() {
                screen.note(&format!("Next:\n  {}", steps.join("\n  ")));
            }
            Err(Failure::EndedWithError)
        }
    }
}

/// One line for each change.
async fn lines(run: &mut PatchRun, follower: &mut Follower<'_>, screen: &mut Screen) -> Result<(), Failure> {
    let (mut last, mut told) = (String::new(), vec![]);
    loop {
        for (phase, line) in ends(run) {
            if !told.contains(&phase) {
                told.push(phase);
                screen.print(&format!("{}\n", plain(&line)))?;
            }
        }
        let line = standing(run);
        if line != last {
            screen.print(&format!("{}\n", plain(&line)))?;
            last = line;
        }
        if is_over(run) {
            return Ok(());
        }
        *run = follower.next().await?;
    }
}

/// How each phase that is over ended.
fn ends(run: &PatchRun) -> Vec<(Phase, String)> {
    let status = run.status.clone().unwrap_or_default();
    let over = status.phases.iter().filter_map(|phase| phase.result.map(|result| (phase, result)));
    over.map(|(phase, result)| {
        let counts = phase.hosts.map(|counts| format!(" {}", good(&counts))).unwrap_or_default();
        let took = phase.started_at.zip(phase.finished_at).map(|(from, to)| format!(" in {}", span(to.duration_since(from))));
        (phase.name, format!("{}: {}{counts}{}", phase.name, result_word(result), took.unwrap_or_default()))
    })
    .collect()
}

/// Where a run stands, on one line.
pub fn standing(run: &PatchRun) -> String {
    let status = run.status.clone().unwrap_or_default();
    let mut line = state(run, &status);
    if let Some(result) = status.result {
        line = format!("{line} {}", result_word(result));
    }
    if let Some(phase) = status.phase {
        line = format!("{line} {phase}");
    }
    if let Some(code) = &status.error_code {
        line = format!("{line} {code}");
    }
    if let Some((word, message)) = reason(&status) {
        line = format!("{line}: {word}: {message}");
    }
    line
}

/// What hides the cursor, and shows it again whatever ends the command.
struct Drawing {
    lines: u16,
}

impl Drawing {
    fn begin() -> io::Result<Self> {
        let mut out = io::stdout();
        queue!(out, cursor::Hide, terminal::DisableLineWrap)?;
        out.flush()?;
        Ok(Self { lines: 0 })
    }

    /// Replaces what was drawn before.
    fn draw(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, terminal::BeginSynchronizedUpdate, cursor::MoveToColumn(0))?;
        if self.lines > 0 {
            queue!(out, cursor::MoveUp(self.lines))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown), Print(text), terminal::EndSynchronizedUpdate)?;
        out.flush()?;
        self.lines = u16::try_from(text.matches('\n').count()).unwrap_or(u16::MAX);
        Ok(())
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = queue!(out, terminal::EnableLineWrap, cursor::Show);
        let _ = out.flush();
    }
}

/// What the server adds to the view, asked again when another phase is over.
#[derive(Default)]
struct Extra {
    server: Option<Server>,
    answer: Option<RunAnswer>,
    usual: Usual,
    phases_over: usize,
}

impl Extra {
    async fn find(run: &PatchRun, cluster: &Cluster) -> Self {
        // the view is worth something without it
        let server = Server::find(cluster, run.status.as_ref().and_then(|status| status.log_url.as_deref())).await.ok();
        let usual = match &server {
            Some(server) => history::usual(server, run).await,
            None => Usual::new(),
        };
        Self { server, usual, ..Self::default() }
    }

    async fn refresh(&mut self, run: &PatchRun, cluster: &Cluster) {
        let over = run.status.as_ref().map_or(0, |status| status.phases.iter().filter(|phase| phase.result.is_some()).count());
        if over == self.phases_over {
            return;
        }
        self.phases_over = over;
        if self.server.is_none() {
            self.server = Server::find(cluster, run.status.as_ref().and_then(|status| status.log_url.as_deref())).await.ok();
        }
        if let Some(server) = &self.server {
            let path = ["api", "runs", &cluster.namespace, &run.name_any()];
            self.answer = server.json("read the hosts", &path, &[]).await.unwrap_or_default();
        }
    }
}

/// Draws until the end.
async fn live(run: &mut PatchRun, follower: &mut Follower<'_>, cluster: &Cluster, screen: &Screen) -> Result<(), Failure> {
    let mut extra = Extra::find(run, cluster).await;
    let mut drawing = Drawing::begin()?;
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        extra.refresh(run, cluster).await;
        let (_, rows) = terminal::size().unwrap_or((80, 24));
        drawing.draw(&view(run, extra.answer.as_ref(), &extra.usual, clock::now(), usize::from(rows), screen))?;
        if is_over(run) {
            return Ok(());
        }
        tokio::select! {
            next = follower.next() => *run = next?,
            _ = tick.tick() => {}
        }
    }
}

/// The whole view, fewer lines than the terminal has.
fn view(run: &PatchRun, answer: Option<&RunAnswer>, usual: &Usual, now: Timestamp, rows: usize, screen: &Screen) -> String {
    let status = run.status.clone().unwrap_or_default();
    let namespace = run.namespace().unwrap_or_default();
    let kernel = run.spec.desired_kernel.as_ref().map(|kernel| format!(", kernel {kernel}")).unwrap_or_default();
    let head = format!("PatchRun {namespace}/{}: {}{kernel}, attempt {}", run.name_any(), target(run), run.spec.attempt());
    let left = remaining(run, usual, now).filter(|_| !is_over(run)).map(|left| format!("about {} left", span(left)));
    let mut text = format!("{}\n{}\n", plain(&head), screen.tint(Tone::of(status.result, status.state), &plain(&standing(run))));
    if let Some(left) = left {
        text.push_str(&left);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&timeline::phases(run, usual, now, screen));
    let room = rows.saturating_sub(text.matches('\n').count() + 4);
    if let Some(hosts) = timeline::hosts(Some(run), answer, room.max(1), screen) {
        text.push('\n');
        text.push_str(&hosts);
    }
    text
}
