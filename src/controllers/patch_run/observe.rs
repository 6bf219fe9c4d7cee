//! Looks at everything a decision about a run needs, and at nothing else. Reads only.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, ResourceExt as _, runtime::reflector::ObjectRef};

use super::{
    Error,
    decide::{self, Gate, LockFact, LogFact, Observed, RecordFact, ScopeFact, Work},
    ledger::{Entries, Holder, Ledger},
    scope::{self, Host},
};
use crate::{
    api::{
        automation_connection::AutomationConnection,
        patch_run::{Mode, PatchRun, PatchRunStatus, Phase, PhaseStatus},
        reason::Reason,
        shared::NameOrId,
    },
    clients::{aap, tekton::TaskRun},
    conditions,
    controllers::{
        Context,
        sessions::{NoSession, Purpose, Session},
    },
    names,
};

mod change;
mod check;

pub use check::container;

/// Facts, and what acting on a decision needs besides.
pub struct Seen {
    /// What is decided on.
    pub facts: Observed,
    /// The connection, when it was needed.
    pub connection: Option<AutomationConnection>,
    /// A session with the controller, when there is one.
    pub session: Option<Session>,
    /// The controller's time, when it was asked.
    pub controller_time: Option<Timestamp>,
    /// The TaskRuns of the current check.
    pub tasks: Vec<TaskRun>,
    /// What the ledger holds for the run.
    pub entries: Entries,
}

/// Looks.
pub async fn observe(ctx: &Context, run: &PatchRun, now: Timestamp) -> Result<Seen, Error> {
    let settings = ctx.settings().map_err(Error::Settings)?;
    let status = decide::current(run);
    let run_key = status.run_key.clone().unwrap_or_else(|| names::run_key(&settings.installation, run, decide::attempt(run)));
    let facts = Observed { paused: settings.pause.clone(), ..Observed::nothing(run_key, settings.server_url.clone()) };
    let mut seen = Seen { facts, connection: None, session: None, controller_time: None, tasks: vec![], entries: Entries::default() };
    let look = Look {
        ctx,
        run,
        now,
        namespace: run.namespace().ok_or(Error::NoNamespace)?,
        allowed: settings.controllers.clone(),
        group_variable: settings.group_variable.clone(),
    };
    let phase = decide::phase_in_question(run, &status);
    let entry = phase.and_then(|p| status.of(p));
    let leaving = phase.is_none() || (entry.is_none() && run.metadata.deletion_timestamp.is_some());
    match (phase, entry) {
        _ if leaving => {
            if decide::has_finalizer(run) {
                look.scope(&mut seen, &status).await?;
                look.locks(&mut seen, &status).await?;
            }
        }
        (Some(phase), None) => look.before(&mut seen, &status, phase).await?,
        (Some(phase), Some(entry)) => look.during(&mut seen, &status, phase, entry).await?,
        (None, _) => {}
    }
    Ok(seen)
}

struct Look<'a> {
    ctx: &'a Context,
    run: &'a PatchRun,
    now: Timestamp,
    namespace: String,
    allowed: Vec<String>,
    group_variable: String,
}

impl Look<'_> {
    /// Nothing of `phase` is on record.
    async fn before(&self, seen: &mut Seen, status: &PatchRunStatus, phase: Phase) -> Result<(), Error> {
        let spec = &self.run.spec;
        let waits = spec.start_after.is_some_and(|after| self.now < after) || spec.suspend() || seen.facts.paused.is_some();
        let may_have_run = phase.is_change();
        // its past was looked for when it was first seen; nothing of it can run while it waits
        if waits && !may_have_run && !spec.cancel() && !status.conditions.is_empty() {
            return Ok(());
        }
        // it says that it waits before it takes the controller's time: when all wait, that is much of it
        let in_time = spec.start_by.is_none_or(|by| self.now < by);
        if waits && may_have_run && in_time && !spec.cancel() && !says_that_it_waits(status) {
            return Ok(());
        }
        let key = names::phase_key(&seen.facts.run_key, phase);
        seen.facts.record = self.record(&key).await;
        if !matches!(seen.facts.record, RecordFact::Absent) {
            return Ok(());
        }
        if waits && !may_have_run {
            return Ok(());
        }
        let connection = match self.connection() {
            Ok(connection) => connection,
            Err(gate) => {
                seen.facts.gate = gate;
                return Ok(());
            }
        };
        seen.facts.guard = connection.spec.guard();
        self.scope(seen, status).await?;
        let free = seen.facts.gate == Gate::Open;
        // what to run comes first; who may run it now comes after
        if phase.is_change() {
            self.aap_before(seen, status, phase, &key, &connection).await?;
        } else {
            self.tekton_before(seen, &connection).await?;
        }
        seen.connection = Some(connection);
        // what was launched is followed although nothing may be launched now
        let exists = matches!(&seen.facts.work, Work::Aap(aap) if aap.exists());
        if waits && !exists {
            return Ok(());
        }
        if matches!(seen.facts.scope, ScopeFact::NotLooked) && (seen.facts.gate == Gate::Open || (exists && free)) {
            self.resolve(seen).await?;
        }
        if matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            self.locks(seen, status).await?;
        }
        Ok(())
    }

    /// `phase` is on record and not over.
    async fn during(&self, seen: &mut Seen, status: &PatchRunStatus, phase: Phase, entry: &PhaseStatus) -> Result<(), Error> {
        // it is immutable: what was read once is not read again while the phase goes on
        match self.ctx.scopes.get(&seen.facts.run_key) {
            Some((status, hosts)) => seen.facts.scope = ScopeFact::Fixed(status, hosts),
            None => self.scope(seen, status).await?,
        }
        if !matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            self.scope_of_ledger(seen, status).await?;
        }
        if !matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            self.scope_of_inventory(seen, status).await?;
        }
        if self.run.metadata.deletion_timestamp.is_some() {
            seen.facts.namespace_going = self.namespace_going().await?;
        }
        if seen.facts.namespace_going {
            seen.facts.record = self.record(&entry.run_key).await;
        }
        if !matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            let why = "the ConfigMap with the hosts of this run is gone or was replaced, and neither ledger nor inventory tells them; the phase goes on, its end cannot be proven without it";
            seen.facts.work = Work::Unavailable(Reason::InventoryUnavailable, why.into());
            return Ok(());
        }
        let Some(launch) = &entry.launch else { return Ok(()) };
        let connection = self.connection();
        if let Ok(connection) = &connection {
            seen.facts.guard = connection.spec.guard();
        }
        let ended = match launch.mode {
            Mode::Tekton => self.tekton_during(seen, entry).await?,
            Mode::Fenced | Mode::Direct => match &connection {
                Ok(connection) => self.aap_during(seen, status, phase, entry, connection).await?,
                Err(gate) => {
                    let (Gate::Wait(reason, why) | Gate::Refuse(reason, why)) = gate.clone() else { return Ok(()) };
                    seen.facts.work = Work::Unavailable(reason, why);
                    false
                }
            },
        };
        seen.connection = connection.ok();
        // a direct launch is never made again
        if launch.mode != Mode::Direct && seen.facts.work.is_idle() {
            self.locks(seen, status).await?;
        }
        if ended {
            seen.facts.log = self.log(&entry.run_key).await;
            seen.facts.record = self.record(&entry.run_key).await;
        }
        Ok(())
    }

    fn connection(&self) -> Result<AutomationConnection, Gate> {
        let name = &self.run.spec.connection.name;
        let found = self.ctx.connections.get(&ObjectRef::new(name).within(&self.namespace));
        match found.as_deref().map(|guard| &guard.0) {
            Some(Ok(connection)) => Ok(connection.clone()),
            Some(Err(_)) => Err(Gate::Wait(
                Reason::ConnectionInvalid,
                format!("AutomationConnection {name} cannot be read: it does not fit its schema"),
            )),
            None => Err(Gate::Wait(
                Reason::ConnectionNotFound,
                format!("there is no AutomationConnection {name} in namespace {}", self.namespace),
            )),
        }
    }

    async fn record(&self, key: &str) -> RecordFact {
        match self.ctx.store.record(key).await {
            Ok(Some(record)) if record.namespace == self.namespace && record.name == self.run.name_any() => {
                RecordFact::Found(Box::new(record))
            }
            Ok(Some(record)) => RecordFact::Unavailable(format!("the record of {key} belongs to {}/{}", record.namespace, record.name)),
            Ok(None) => RecordFact::Absent,
            Err(error) => RecordFact::Unavailable(error.to_string()),
        }
    }

    async fn log(&self, key: &str) -> LogFact {
        match self.ctx.store.log_meta(key).await {
            Ok(Some((log, findings))) => LogFact::Found(log, findings),
            Ok(None) => LogFact::Absent,
            Err(error) => LogFact::Unavailable(error.to_string()),
        }
    }

    /// The hosts that are entered in the ledger, when they are those of the scope: its ConfigMap is gone.
    async fn scope_of_ledger(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        self.locks(seen, status).await?;
        let hosts = seen.entries.hosts();
        if let Some(scope) = status.scope.as_ref().filter(|scope| scope.digest == scope::digest(&hosts)) {
            self.ctx.scopes.put(&seen.facts.run_key, scope, &hosts);
            seen.facts.scope = ScopeFact::Fixed(scope.clone(), hosts);
        }
        Ok(())
    }

    /// The hosts as the inventory has them now, when they are those of the scope: its ConfigMap is gone, and nothing is entered.
    async fn scope_of_inventory(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        let Some(scope) = &status.scope else { return Ok(()) };
        seen.connection = self.connection().ok();
        self.resolve(seen).await?;
        // what keeps the inventory from being read keeps nothing else from being looked at
        seen.facts.gate = Gate::Open;
        if let ScopeFact::Resolved(plan) = std::mem::replace(&mut seen.facts.scope, ScopeFact::NotLooked)
            && plan.status.digest == scope.digest
        {
            let hosts = plan.hosts.into_keys().collect();
            self.ctx.scopes.put(&seen.facts.run_key, scope, &hosts);
            seen.facts.scope = ScopeFact::Fixed(scope.clone(), hosts);
        }
        Ok(())
    }

    /// Whether the namespace is being deleted, and the run with it.
    async fn namespace_going(&self) -> Result<bool, Error> {
        match Api::<Namespace>::all(self.ctx.client.clone()).get_opt(&self.namespace).await {
            Ok(namespace) => Ok(namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_some())),
            Err(source) => Err(Error::Observe { what: "the namespace", source }),
        }
    }

    /// The scope as it was fixed, if it was.
    async fn scope(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        let name = names::scope(&seen.facts.run_key);
        let maps = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.namespace);
        match maps.get_opt(&name).await {
            Ok(None) => {}
            Ok(Some(map)) => {
                let on_record = status.scope.as_ref();
                let read = scope::read(&map, &seen.facts.run_key);
                if let Some((status, hosts)) = read.filter(|(read, _)| on_record.is_none_or(|fixed| fixed.digest == read.digest)) {
                    self.ctx.scopes.put(&seen.facts.run_key, &status, &hosts);
                    seen.facts.scope = ScopeFact::Fixed(status, hosts);
                } else {
                    let why = format!("ConfigMap {name} exists and was not written by Fettle for this run; delete it");
                    seen.facts.gate = Gate::Wait(Reason::InventoryUnavailable, why);
                }
            }
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let no = self.ctx.sessions.missing_right(&self.namespace, None);
                seen.facts.gate = Gate::Wait(no.reason, no.message);
            }
            Err(source) => return Err(Error::Observe { what: "the scope", source }),
        }
        Ok(())
    }

    /// Looks the hosts up in the inventory.
    async fn resolve(&self, seen: &mut Seen) -> Result<(), Error> {
        let Some(connection) = seen.connection.clone() else { return Ok(()) };
        let Some(ledger) = connection.status.as_ref().and_then(|s| s.install_uuid.clone()) else {
            seen.facts.gate = Gate::Wait(Reason::ControllerUnreachable, "the controller of the connection has not answered yet".into());
            return Ok(());
        };
        let inventory = match self.inventory(seen, &connection).await? {
            Ok(inventory) => inventory,
            Err(no) => {
                seen.facts.gate = Gate::Wait(no.reason, no.message);
                return Ok(());
            }
        };
        let name = names::scope(&seen.facts.run_key);
        let variable = connection.spec.group_variable.as_deref().unwrap_or(&self.group_variable);
        match scope::resolve(&self.run.spec, connection.spec.group_by(), variable, &inventory, (&name, &ledger), &self.ctx.own_nodes) {
            Ok(plan) => seen.facts.scope = ScopeFact::Resolved(Box::new(plan)),
            Err(gate) => seen.facts.gate = gate,
        }
        Ok(())
    }

    /// All hosts of the connection: from the controller, else from the checks' own inventory.
    async fn inventory(&self, seen: &mut Seen, connection: &AutomationConnection) -> Result<Result<Vec<Host>, NoSession>, Error> {
        let spec = &connection.spec;
        let session = if let Some(session) = &seen.session {
            Some(session.clone())
        } else if spec.read_credentials.is_some() {
            match self.ctx.sessions.open(connection, Purpose::Read, &self.allowed).await {
                Ok(session) => Some(session),
                Err(no) => return Ok(Err(no)),
            }
        } else {
            None
        };
        if let Some(session) = session {
            return Ok(match session_inventory(&session, &spec.inventory).await {
                Ok(hosts) => Ok(hosts),
                Err(error) => Err(waiting(&error, Reason::InventoryUnavailable, Purpose::Read, connection)),
            });
        }
        let Some(own) = spec.checks.as_ref().and_then(|c| c.inventory.as_ref()) else {
            return Ok(Err(NoSession {
                reason: Reason::InventoryUnavailable,
                message: "hosts cannot be looked up: set readCredentials or checks.inventory in the connection".into(),
            }));
        };
        let maps = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.namespace);
        let map = match maps.get_opt(&own.name).await {
            Ok(map) => map,
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                return Ok(Err(self.ctx.sessions.missing_right(&self.namespace, None)));
            }
            Err(source) => return Err(Error::Observe { what: "the inventory", source }),
        };
        let text = map.and_then(|m| m.data).and_then(|data| data.get("inventory").cloned());
        let variable = spec.group_variable.as_deref().unwrap_or(&self.group_variable);
        Ok(match text.map(|text| scope::parse_inventory(&text, variable)) {
            Some(Ok(hosts)) => Ok(hosts),
            Some(Err(why)) => {
                Err(NoSession { reason: Reason::InventoryUnavailable, message: format!("ConfigMap {}: key inventory: {why}", own.name) })
            }
            None => {
                Err(NoSession { reason: Reason::InventoryUnavailable, message: format!("ConfigMap {} has no key inventory", own.name) })
            }
        })
    }

    async fn locks(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        let me = holder(self.run, &self.namespace, &seen.facts.run_key);
        let looked = match (&seen.facts.scope, &status.scope) {
            (ScopeFact::Fixed(scope, hosts), _) => ledger(self.ctx, &scope.ledger).look(hosts, &me).await,
            (ScopeFact::NotLooked | ScopeFact::Resolved(_), Some(scope)) => ledger(self.ctx, &scope.ledger).entries(&me).await,
            // without a scope nothing was ever entered
            (ScopeFact::NotLooked | ScopeFact::Resolved(_), None) => {
                Ok((LockFact::Seen { ours: 0, free: 0, busy: None }, Entries::default()))
            }
        };
        (seen.facts.locks, seen.entries) = looked.map_err(|source| Error::Observe { what: "the ledger", source })?;
        Ok(())
    }
}

/// Everything in an inventory of the controller.
async fn session_inventory(session: &Session, which: &NameOrId) -> Result<Vec<Host>, aap::Error> {
    let inventory = session.aap.inventory(which).await?.value;
    let hosts = session.aap.inventory_hosts(inventory.id).await?.value;
    Ok(hosts
        .into_iter()
        .map(|host| Host { name: host.name, enabled: host.enabled, variables: host.variables.into_iter().collect(), groups: host.groups })
        .collect())
}

/// Whether the status says that nothing is launched now by somebody's will.
fn says_that_it_waits(status: &PatchRunStatus) -> bool {
    let reason = conditions::find(&status.conditions, conditions::types::SUCCEEDED).map(|c| c.reason.as_str());
    [Reason::TooEarly, Reason::Suspended, Reason::Paused].iter().any(|waits| reason == Some(waits.as_str()))
}

/// What an error of the controller means for a run that waits; a plain no means what was `asked_for` is not to be had.
fn waiting(error: &aap::Error, asked_for: Reason, purpose: Purpose, connection: &AutomationConnection) -> NoSession {
    let secret = match purpose {
        Purpose::Change => connection.spec.credentials.as_ref(),
        Purpose::Read | Purpose::Ping => connection.spec.read_credentials.as_ref(),
    };
    let secret = secret.map(|s| format!(" (Secret {})", s.secret_ref.name)).unwrap_or_default();
    let reason = match &error.kind {
        aap::ErrorKind::Unauthorized => Reason::CredentialsRejected,
        aap::ErrorKind::Unreachable(_) | aap::ErrorKind::Ambiguous(_) => Reason::ControllerUnreachable,
        aap::ErrorKind::Forbidden { .. }
        | aap::ErrorKind::NotFound { .. }
        | aap::ErrorKind::Refused { .. }
        | aap::ErrorKind::NotUnique { .. } => asked_for,
    };
    let message = if reason == Reason::CredentialsRejected { format!("{error}{secret}") } else { error.to_string() };
    NoSession { reason, message }
}

/// The run as the ledger names it.
pub fn holder(run: &PatchRun, namespace: &str, run_key: &str) -> Holder {
    Holder { namespace: namespace.to_owned(), name: run.name_any(), run_key: run_key.to_owned() }
}

/// The ledger of a controller.
pub fn ledger(ctx: &Context, install_uuid: &str) -> Ledger {
    Ledger::new(Api::namespaced(ctx.client.clone(), &ctx.namespace), install_uuid)
}
