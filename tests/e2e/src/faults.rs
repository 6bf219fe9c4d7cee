//! Faults on the real cluster: the operator, its controller and its cluster are struck, and what became of the runs is looked at from
//! outside: objects, the controller's jobs, marks on the hosts. Ids are those of the matrix of faults; `docs/faults.md` tells more.

use fettle::{
    api::patch_run::{PatchRun, Phase, RunResult, State},
    names,
};
use futures::future::join_all;
use serde_json::json;

use crate::{
    story::stories,
    world::{Tenant, World},
};

mod checks;
mod cluster;
mod kills;
mod launch;
mod leaders;

stories! {
    F01 launch::before_intent: "kill -9 while the operator looks, before the intent is on record";
    F07 launch::answer_dropped: "the schedule is committed, its answer is reset";
    F08 launch::gateway_timeout: "504 from a gateway, committed 40 s later; fenced and direct";
    F10 launch::killed_before_answer: "committed, and kill -9 before the answer is read; fenced and direct";
    F18 launch::scheduler_stalled: "the schedule is committed, the controller's scheduler stalls until after startBy";
    F06 leaders::paused: "SIGSTOP with a POST on its way, another replica takes over, the POST arrives, SIGCONT";
    F27 leaders::two_leaders: "two replicas lead at the same time: the Lease is deleted again and again, 200 runs, two for each host";
    F46 leaders::out_of_memory: "the kernel's OOM killer ends the operator while 200 runs are launched";
    F47 leaders::rolling_update: "SIGTERM during POSTs: 50 runs, restarted by Recreate, then by RollingUpdate";
    F50 leaders::partitioned: "the leader is cut off from the API server only, with a POST on its way";
    F32 cluster::recreated: "the object is deleted, its finalizer torn off, and applied again while the job runs";
    F36 cluster::namespace_deleted: "the namespace is deleted while the job runs, and made again";
    F64 cluster::disk_full: "the disk of the archive is full";
    F37 checks::create_unanswered: "the PipelineRun is persisted, the answer is 504";
    F38 checks::pruned: "the PipelineRun is deleted while it runs, and again when all is over";
    F39 checks::pod_deleted: "the check's pod is deleted while its step runs";
    F42 checks::tekton_down: "Tekton's controller is down when the checks are created";
    F66 checks::half_open: "the watches of PatchRuns and PipelineRuns go silent without being closed";
    K60 kills::killed_at_random: "30 runs, kill -9 at 60 random moments";
    F31 cluster::restored: "etcd is restored to before two launches: one job runs, one run is over";
}

impl World {
    /// A tenant for a fault. Its runs have keys that no earlier run of the bed has.
    async fn fault_tenant(&self, id: &str) -> Tenant<'_> {
        self.tenant_named(&self.fault_namespace(id)).await
    }

    fn fault_namespace(&self, id: &str) -> String {
        format!("{id}-{:08x}", self.seed ^ fettle::clock::now().as_second().unsigned_abs()).chars().take(20).collect()
    }

    /// How long a mark takes on these hosts.
    async fn marks_take(&self, hosts: &[&str], seconds: u32) {
        let command = format!("mkdir -p /var/lib/fettle && echo {seconds} >/var/lib/fettle/slow");
        join_all(hosts.iter().map(|host| self.on(host, &command))).await;
    }
}

fn run_key(run: &PatchRun) -> String {
    run.status.as_ref().and_then(|status| status.run_key.clone()).expect("a run key")
}

fn result(run: &PatchRun) -> Option<RunResult> {
    run.status.as_ref().and_then(|status| status.result)
}

/// Whether there is an executor on record for `phase`.
fn runs_as(run: &PatchRun, phase: Phase) -> Option<String> {
    run.status.as_ref().and_then(|status| status.of(phase)).and_then(|phase| phase.executor.as_ref()).map(|executor| executor.id.clone())
}

/// `OK`; and each change phase has one job, and has left one mark on each host.
async fn assert_once(world: &World, run: &PatchRun) {
    let status = run.status.as_ref().expect("a status");
    assert_eq!((status.state, status.result), (State::Completed, Some(RunResult::Ok)), "{status:#?}");
    assert_one_job(world, run).await;
    let expected = change_keys(run);
    let hosts = run.spec.hosts.clone().unwrap_or_default();
    for (host, marks) in hosts.iter().zip(join_all(hosts.iter().map(|host| world.marks(host))).await) {
        let of_run: Vec<String> = marks.into_iter().filter(|mark| expected.contains(mark)).collect();
        assert_eq!(of_run, expected, "{host}");
    }
}

/// One job for each change phase.
async fn assert_one_job(world: &World, run: &PatchRun) {
    for key in change_keys(run) {
        let jobs = world.jobs_of(&key).await;
        assert_eq!(jobs.len(), 1, "{key}: {jobs:#?}");
    }
}

/// Nothing was launched, and nothing done.
async fn assert_nothing_done(world: &World, run: &PatchRun) {
    let key = run_key(run);
    assert!(world.jobs_of(&key).await.is_empty(), "a job was launched");
    for host in run.spec.hosts.iter().flatten() {
        let marks = world.marks(host).await;
        assert!(!marks.iter().any(|mark| mark.starts_with(&key)), "{host}: {marks:?}");
    }
}

/// Keys of the change phases, in order.
fn change_keys(run: &PatchRun) -> Vec<String> {
    let key = run_key(run);
    run.spec.phases.iter().filter(|phase| phase.is_change()).map(|phase| names::phase_key(&key, *phase)).collect()
}

/// One change on one host.
fn change(host: &str) -> serde_json::Value {
    json!({"phases": ["apply"], "hosts": [host]})
}
