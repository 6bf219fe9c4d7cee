//! What users see.

use fettle::api::patch_run::{Phase, RunResult};
use serde_json::json;

use crate::bed::{Bed, NAMESPACE, run_path};

fn one_each() -> std::collections::BTreeMap<String, usize> {
    ["apply", "reboot", "stage"].map(|name| (name.to_owned(), 1)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_phases_end_ok_with_one_launch_each() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({}));
    bed.drive("web", 90, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!(status.result, Some(RunResult::Ok), "{status:#?}");
    assert_eq!(bed.launched(), one_each());
    assert_eq!(bed.aap.schedules().len(), 3);
    assert_eq!(status.hosts.as_deref(), Some("3/3"));
    assert_eq!(bed.locked(), 0);
    for phase in Phase::ALL {
        let entry = status.of(phase).unwrap();
        let (log, counts) = (entry.log.as_ref().unwrap(), entry.hosts.unwrap());
        assert_eq!((entry.result, counts.ok + counts.changed, counts.total), (Some(RunResult::Ok), 3, 3));
        assert!(log.size > 0 && status.log_url.is_some());
    }
    let mut of_kind = std::collections::BTreeMap::<String, usize>::new();
    for write in bed.writes() {
        let kind = write
            .path
            .rsplit('/')
            .find(|part| ["status", "patchruns", "pipelineruns", "configmaps", "automationconnections"].contains(part))
            .unwrap_or("?");
        *of_kind.entry(format!("{} {kind}", write.method)).or_default() += 1;
    }
    println!("API writes of a run of five phases: {of_kind:?}");
    println!("calls of a run of five phases: {}", bed.calls().len());
    assert!(run_path(NAMESPACE, "web").ends_with("web"));
}
