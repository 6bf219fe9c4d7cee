//! A stand-in for an AAP controller.
//!
//! ```no_run
//! # async fn example() -> Result<(), fettle_standins::aap::StartError> {
//! use fettle_standins::aap::{Action, Config, Fault, Script, HostResult, Standin};
//!
//! let aap = Standin::builder()
//!     .config(Config::example())                       // admin/execute/read users, inventory `fleet`, three templates
//!     .script(|job| Script::new(job).host("web-2", HostResult::Failed("disk full".into())))
//!     .start()
//!     .await?;
//! // http://127.0.0.1:PORT/api/v2/… with the token `execute-token`
//! aap.fault(Fault::on("POST", "/schedules/", Action::DropResponse));
//! assert!(aap.jobs().is_empty());
//! aap.stop().await;
//! # Ok(()) }
//! ```
//!
//! The test decides how jobs go ([`Script`]), what goes wrong ([`Fault`]), what time the controller's clock shows, and how
//! fast things happen ([`Timing`]); it asserts on [`Running::jobs`], [`Running::schedules`] and [`Running::requests`]. All
//! waiting is tokio time. The same is open to any process through `/_standin/` (see [`control`]).

mod api;
mod clock;
mod config;
pub mod control;
mod example;
mod executor;
mod faults;
mod schedules;
mod server;
mod state;
mod world;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use self::{
    clock::Clock,
    server::Switchboard,
    state::Store,
    world::{Live, World},
};
pub use self::{
    config::{
        Catalog, CollectionConfig, Config, ConfigError, CredentialConfig, Flavour, GroupConfig, HostConfig, InventoryConfig, LabelConfig,
        Named, ProjectConfig, Question, Role, Survey, TemplateConfig, Timing, TokenConfig, UserConfig, Vars,
    },
    executor::{
        Assignment, Executor, Feed, News, Outcome,
        runner::{Runner, RunnerError},
        scripted::{HostResult, Script, Scripted},
    },
    faults::{Action, Fault},
    server::Tls,
    state::{Job, Schedule, Status, StoreError, Summary},
    world::{REAPED, SeenRequest},
};

/// The stand-in could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("data directory: {0}")]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
}

/// How a stand-in is started; see [`Standin::builder`].
pub struct Builder {
    config: Config,
    listen: SocketAddr,
    tls: Option<Tls>,
    data: Option<PathBuf>,
    executor: Arc<dyn Executor>,
    origin: Option<Timestamp>,
}

/// Entry point of the library.
#[derive(Debug)]
pub struct Standin;

impl Standin {
    /// A stand-in with an empty configuration, on a free port of 127.0.0.1, without TLS, with nothing kept on disk; every
    /// job ends `successful` at once with every host changed and reporting `executed`.
    pub fn builder() -> Builder {
        Builder {
            config: Config::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            data: None,
            executor: Arc::new(Scripted::new(Script::new)),
            origin: None,
        }
    }
}

impl Builder {
    /// What the controller holds.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Serves TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Keeps tables and events in a directory, so that a stand-in started again with it has lost nothing.
    #[must_use]
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data = Some(directory.into());
        self
    }

    /// What runs jobs.
    #[must_use]
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executor = Arc::new(executor);
        self
    }

    /// How each job goes, asked at its start.
    #[must_use]
    pub fn script(self, script: impl Fn(&Assignment) -> Script + Send + Sync + 'static) -> Self {
        self.executor(Scripted::new(script))
    }

    /// The time the controller's clock shows at the start; the machine's by default. It advances with tokio's.
    #[must_use]
    pub fn clock(mut self, origin: Timestamp) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When configuration, data directory, address or TLS files cannot be used.
    pub async fn start(self) -> Result<Running, StartError> {
        let store = Store::open(self.data)?;
        let mut world = World::new(&self.config, store)?;
        let clock = self.origin.map_or_else(Clock::machine, Clock::starting_at);
        let interrupted: Vec<i64> = world
            .tables
            .jobs
            .values_mut()
            .filter(|job| !job.workflow)
            .filter_map(|job| match job.status {
                Status::Running => Some(job.id),
                Status::Waiting => {
                    job.status = Status::Pending;
                    None
                }
                _ => None,
            })
            .collect();
        world.commit();
        let version = self.config.version.clone().unwrap_or_else(|| {
            match self.config.flavour {
                Flavour::Awx | Flavour::AwxPrefixed => "24.6.1",
                Flavour::Aap => "4.6.8",
            }
            .to_owned()
        });
        let (stop, _) = watch::channel(false);
        let shared = Arc::new(Shared {
            flavour: self.config.flavour,
            version,
            clock,
            world: Mutex::new(world),
            wake: Notify::new(),
            executor: self.executor,
            switchboard: Switchboard::default(),
            stop,
        });
        let (address, server) = server::start(Arc::clone(&shared), self.listen, self.tls.as_ref()).await?;
        for job in interrupted {
            shared.take_up(job);
        }
        let tasks = vec![server, tokio::spawn(Arc::clone(&shared).run_queue()), tokio::spawn(Arc::clone(&shared).run_schedules())];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(Running { url: format!("{scheme}://{address}"), address, shared, tasks })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("listen", &self.listen).field("data", &self.data).finish_non_exhaustive()
    }
}

/// A stand-in that runs. Stops when dropped.
pub struct Running {
    /// Root of the server, without a slash at the end: `http://127.0.0.1:40123`.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Running {
    /// Switches a fault on; its number.
    pub fn fault(&self, fault: impl Into<Fault>) -> u64 {
        self.shared.add_fault(fault.into())
    }

    /// Switches every fault off.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear(None);
        self.shared.wake.notify_one();
    }

    /// Every request so far, control requests not counted.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.lock().requests.clone()
    }

    /// How many requests had this method and route (`"POST", "/job_templates/{}/launch/"`).
    pub fn count(&self, method: &str, route: &str) -> usize {
        let matches = |request: &&SeenRequest| request.method == method && request.route == route;
        self.shared.lock().requests.iter().filter(matches).count()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.lock().requests.clear();
    }

    /// Every job and sliced workflow, by number.
    pub fn jobs(&self) -> Vec<Job> {
        self.shared.lock().tables.jobs.values().cloned().collect()
    }

    /// The jobs of a template, by number.
    pub fn jobs_of(&self, template: &str) -> Vec<Job> {
        self.shared.lock().tables.jobs.values().filter(|job| job.name == template).cloned().collect()
    }

    /// Every schedule, by number.
    pub fn schedules(&self) -> Vec<Schedule> {
        self.shared.lock().tables.schedules.values().cloned().collect()
    }

    /// The host summaries of a job.
    pub fn summaries(&self, job: i64) -> Vec<Summary> {
        self.shared.lock().outputs.get(&job).map(|output| output.summaries.clone()).unwrap_or_default()
    }

    /// Changes the configuration under the running controller: templates, inventories, users.
    pub fn edit(&self, change: impl FnOnce(&mut Catalog)) {
        change(&mut self.shared.lock().catalog);
    }

    /// Gives the installation another identity, as after a restore onto a new controller.
    pub fn set_install_uuid(&self, uuid: &str) {
        let mut world = self.shared.lock();
        uuid.clone_into(&mut world.tables.install_uuid);
        world.commit();
    }

    /// Lets a held job go on to its results; also one that has not started yet.
    pub fn release(&self, job: i64) {
        let mut world = self.shared.lock();
        match world.live.get(&job) {
            Some(live) => {
                let _ = live.release.send(true);
            }
            None => {
                world.released.insert(job);
            }
        }
    }

    /// Launches a template as the first superuser, as a person at the console would. `prompts` are not checked.
    /// `None` when there is no such template.
    pub fn launch_by_hand(&self, template: &str, prompts: &Value) -> Option<i64> {
        let now = self.shared.clock.now();
        let mut world = self.shared.lock();
        let template = world.catalog.templates.values().find(|other| other.config.name == template)?.clone();
        let admin = world.catalog.users.values().find(|user| user.config.role == Role::Admin).map_or(1, |user| user.id);
        let prompts = prompts.as_object().cloned().unwrap_or_default();
        let job = world.create_job(&template, &prompts, world::Origin::User(admin), now);
        world.commit();
        drop(world);
        self.shared.wake.notify_one();
        Some(job)
    }

    /// What the controller's clock shows.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Waits until every job is over and its events are in (or never will be); false when that takes longer than `limit`.
    pub async fn settled(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            {
                let world = self.shared.lock();
                let busy = world.live.is_empty() && world.tables.jobs.values().all(|job| job.status.is_terminal());
                if busy {
                    return true;
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops as a killed controller does: nothing is answered, nothing goes on, what is committed stays on disk.
    pub async fn stop(mut self) {
        let _ = self.shared.stop.send(true);
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }

    /// Ends every running playbook; for a program that leaves.
    pub async fn end_jobs(&self) {
        {
            let world = self.shared.lock();
            for live in world.live.values() {
                let _ = live.cancel.send(true);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.shared.lock().live.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.shared.stop.send(true);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What the server, the queue and the jobs share.
struct Shared {
    flavour: Flavour,
    version: String,
    clock: Clock,
    world: Mutex<World>,
    wake: Notify,
    executor: Arc<dyn Executor>,
    switchboard: Switchboard,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the stand-in stops.
    async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = shared.stopped() => {}
            }
        });
    }

    fn add_fault(self: &Arc<Self>, fault: Fault) -> u64 {
        let now = self.clock.now();
        let mut world = self.lock();
        match &fault.action {
            Action::Purge { job } => {
                let jobs: Vec<i64> = job.map_or_else(|| world.tables.jobs.keys().copied().collect(), |job| vec![job]);
                for job in jobs {
                    world.purge(job);
                }
                world.commit();
            }
            Action::RevokeTokens { user } => {
                let Some(user) = world.catalog.users.values().find(|other| other.config.username == *user).cloned() else {
                    return 0;
                };
                let made = world.tables.tokens.values().filter(|token| token.user == user.id).map(|token| token.token.clone());
                let revoked: Vec<String> = made.chain(user.config.tokens.iter().map(|token| token.token.clone())).collect();
                world.tables.revoked.extend(revoked);
                world.commit();
            }
            Action::Reap => {
                let running: Vec<i64> = world.live.keys().copied().collect();
                for job in running {
                    world.reap(job, now);
                }
                world.commit();
            }
            Action::Down { seconds } => self.switchboard.down_for(seconds_of(*seconds)),
            Action::DispatcherDead => {
                world.silent_since = Some(now);
                return world.faults.add(fault);
            }
            _ => return world.faults.add(fault),
        }
        0
    }

    /// Starts what may start, whenever something happens.
    async fn run_queue(self: Arc<Self>) {
        loop {
            let chosen = self.lock().queue(self.clock.now());
            for job in chosen {
                let shared = Arc::clone(&self);
                self.spawn(async move { shared.start_job(job).await });
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = self.stopped() => return,
            }
        }
    }

    /// Looks at the schedules every tick.
    async fn run_schedules(self: Arc<Self>) {
        loop {
            let tick = {
                let mut world = self.lock();
                world.fire_schedules(self.clock.now());
                world.timing.schedule_tick
            };
            self.wake.notify_one();
            tokio::select! {
                () = tokio::time::sleep(seconds_of(tick)) => {}
                () = self.stopped() => return,
            }
        }
    }

    /// Takes up a job that ran when an earlier life ended.
    fn take_up(self: &Arc<Self>, job: i64) {
        let (news, inbox) = mpsc::unbounded_channel();
        let (feed, live) = strings(news);
        let run = {
            let mut world = self.lock();
            let Some(row) = world.tables.jobs.get(&job).cloned() else { return };
            let assignment = world.assignment(&row, &[]);
            if let Some(run) = self.executor.resume(assignment, feed) {
                world.live.insert(job, live);
                run
            } else {
                world.reap(job, self.clock.now());
                world.commit();
                return;
            }
        };
        let shared = Arc::clone(self);
        self.spawn(async move { shared.follow(job, run, inbox, Vec::new()).await });
    }

    async fn start_job(self: Arc<Self>, job: i64) {
        let waiting = self.lock().timing.waiting;
        tokio::time::sleep(seconds_of(waiting)).await;
        let (news, inbox) = mpsc::unbounded_channel();
        let (run, faults) = {
            let mut world = self.lock();
            let Some(row) = world.tables.jobs.get(&job).cloned() else { return };
            let faults = world.faults.on_job(&row.name);
            if !world.start(job, &faults, self.clock.now()) {
                return;
            }
            let (feed, live) = strings(news);
            if world.released.remove(&job) {
                let _ = live.release.send(true);
            }
            world.live.insert(job, live);
            let assignment = world.assignment(&row, &faults);
            (self.executor.run(assignment, feed), faults)
        };
        for fault in &faults {
            if let Action::UnknownStatus { seconds: Some(seconds), .. } = fault {
                let (shared, seconds) = (Arc::clone(&self), seconds_of(*seconds));
                self.spawn(async move {
                    tokio::time::sleep(seconds).await;
                    if let Some(job) = shared.lock().tables.jobs.get_mut(&job) {
                        job.shown_status = None;
                    }
                });
            }
        }
        self.follow(job, run, inbox, faults).await;
    }

    /// Follows a run to its end: writes its events late, ends it at its timeout, and says when everything is in.
    async fn follow(
        self: Arc<Self>,
        job: i64,
        mut run: BoxFuture<'static, Outcome>,
        mut inbox: mpsc::UnboundedReceiver<News>,
        faults: Vec<Action>,
    ) {
        let (timeout, mut lag) = {
            let world = self.lock();
            (world.tables.jobs.get(&job).map_or(0, |job| job.number("timeout")), world.timing.event_lag)
        };
        let (mut early, mut complete) = (0.0, true);
        for fault in &faults {
            match fault {
                Action::EventLag { seconds } => lag = *seconds,
                Action::FinishedWhileRunning { seconds } => early = *seconds,
                Action::EventsNeverFinish => complete = false,
                _ => {}
            }
        }
        let lag = seconds_of(lag);
        let mut writers = JoinSet::new();
        let late = Late { lag, queues: std::array::from_fn(|_| self.start_writer(job, &mut writers)) };

        let deadline = async {
            match u64::try_from(timeout) {
                Ok(seconds) if seconds > 0 => tokio::time::sleep(Duration::from_secs(seconds)).await,
                _ => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let mut timed_out = false;
        let outcome = loop {
            tokio::select! {
                biased;
                Some(news) = inbox.recv() => self.take_news(job, news, &late),
                outcome = &mut run => break outcome,
                () = &mut deadline, if !timed_out => {
                    timed_out = true;
                    if let Some(live) = self.lock().live.get(&job) {
                        let _ = live.cancel.send(true);
                    }
                }
            }
        };
        while let Ok(news) = inbox.try_recv() {
            self.take_news(job, news, &late);
        }
        drop(late);
        if early > 0.0 {
            if let Some(job) = self.lock().tables.jobs.get_mut(&job) {
                job.finished = Some(self.clock.now());
            }
            tokio::time::sleep(seconds_of(early)).await;
        }
        self.lock().finish(job, &outcome, timed_out, self.clock.now());
        self.wake.notify_one();
        while writers.join_next().await.is_some() {}
        tokio::time::sleep(lag).await;
        let mut world = self.lock();
        if let Some(job) = world.tables.jobs.get_mut(&job)
            && complete
            && !job.orphaned
        {
            job.event_processing_finished = true;
        }
        world.commit_events(job);
    }

    /// Starts one of the writers of a job's events.
    fn start_writer(self: &Arc<Self>, job: i64, writers: &mut JoinSet<()>) -> mpsc::UnboundedSender<(Instant, Value)> {
        let (queue, mut delayed) = mpsc::unbounded_channel::<(Instant, Value)>();
        let shared = Arc::clone(self);
        writers.spawn(async move {
            while let Some((due, event)) = delayed.recv().await {
                tokio::time::sleep_until(due).await;
                let mut world = shared.lock();
                world.record_event(job, event, shared.clock.now());
                if delayed.is_empty() {
                    world.commit_events(job);
                }
            }
        });
        queue
    }

    fn take_news(&self, job: i64, news: News, late: &Late) {
        match news {
            News::Event(event) => {
                if let Some(artifacts) = event.pointer("/event_data/artifact_data").and_then(Value::as_object)
                    && let Some(job) = self.lock().tables.jobs.get_mut(&job)
                {
                    job.artifacts.clone_from(artifacts);
                }
                late.send(event);
            }
            News::Command { args, cwd, env } => {
                if let Some(job) = self.lock().tables.jobs.get_mut(&job) {
                    job.job_args = api::python_json(&Value::from(args));
                    job.job_cwd = cwd;
                    job.job_env = env;
                    job.work_unit_id = Some(uuid::Uuid::new_v4().simple().to_string()[..8].to_owned());
                }
            }
        }
    }

    /// Carries out an accepted cancel of a running job.
    fn cancel_running(self: &Arc<Self>, job: i64, fault: Option<&Action>) {
        let mut world = self.lock();
        let now = self.clock.now();
        match fault {
            Some(Action::LoseCancel) => {}
            Some(Action::Resurrect { seconds }) => {
                if let Some(job) = world.tables.jobs.get_mut(&job) {
                    job.shown_status = Some("canceled".to_owned());
                    job.canceled_on = Some(now);
                    job.finished = Some(now);
                }
                let (shared, time) = (Arc::clone(self), seconds_of(*seconds));
                self.spawn(async move {
                    tokio::time::sleep(time).await;
                    if let Some(job) = shared.lock().tables.jobs.get_mut(&job) {
                        job.shown_status = None;
                        if !job.status.is_terminal() {
                            job.finished = None;
                            job.canceled_on = None;
                        }
                    }
                });
            }
            _ if world.faults.dispatcher_dead() => {
                // The row says canceled; nothing tells the playbook.
                if let Some(job) = world.tables.jobs.get_mut(&job) {
                    job.cancel_flag = true;
                    job.status = Status::Canceled;
                    job.canceled_on = Some(now);
                    job.finished = Some(now);
                    job.orphaned = true;
                }
                world.commit();
            }
            _ => {
                if let Some(job) = world.tables.jobs.get_mut(&job) {
                    job.cancel_flag = true;
                    job.canceled_on = Some(now);
                }
                world.commit();
                let delay = seconds_of(world.timing.cancel);
                let shared = Arc::clone(self);
                self.spawn(async move {
                    tokio::time::sleep(delay).await;
                    if let Some(live) = shared.lock().live.get(&job) {
                        let _ = live.cancel.send(true);
                    }
                });
            }
        }
    }
}

/// The writers of a job's events. They share the events by counter and are not equally fast: while a job runs, rows are
/// missing between others.
struct Late {
    lag: Duration,
    queues: [mpsc::UnboundedSender<(Instant, Value)>; 4],
}

impl Late {
    fn send(&self, event: Value) {
        let counter = event.get("counter").and_then(Value::as_u64).unwrap_or(0);
        let [first, second, third, fourth] = &self.queues;
        let (quarters, queue) = match counter % 4 {
            0 => (4, first),
            1 => (6, second),
            2 => (5, third),
            _ => (7, fourth),
        };
        // The writers are gone only when the whole stand-in is.
        let _ = queue.send((Instant::now() + self.lag * quarters / 4, event));
    }
}

fn strings(news: mpsc::UnboundedSender<News>) -> (Feed, Live) {
    let (cancel, canceled) = watch::channel(false);
    let (release, released) = watch::channel(false);
    (Feed { news, cancel: canceled, release: released }, Live { cancel, release })
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
