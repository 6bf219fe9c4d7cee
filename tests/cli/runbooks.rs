//! What the Runbooks know: those of the cluster, and those that the program was shipped with.

use fettle::runbooks::Library;
use serde_json::{Value, json};

use crate::bed::Bed;

const OWN: &str = "apis/fettle.dev/v1alpha1/namespaces/patching/runbooks";

fn own(code: &str, title: &str) -> Value {
    json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "Runbook", "metadata": {"name": "own", "namespace": "patching"},
        "spec": {"errorCode": code, "title": title, "severity": "warning", "match": [{"pattern": "our message", "tier": "decisive"}],
            "examples": ["our message"], "counterExamples": ["no"], "explanation": "Ours.", "procedure": "1. Call \u{1b}[2J us."}})
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "RunbookList", "metadata": {"resourceVersion": "1"}, "items": items})
}

#[tokio::test]
async fn a_team_explains_a_code_in_its_own_words() {
    let bed = Bed::new().await;
    bed.instead("GET", OWN, 200, list(vec![own("E-DISK-BOOT", "Our boot is full")]));
    let said = bed.fettle("explain disk-boot").await.expect(0);
    for part in
        ["Error code:  E-DISK-BOOT", "Our boot is full", "a Runbook in namespace patching", "What to do:\n  1. Call \u{fffd}[2J us."]
    {
        assert!(said.out.contains(part), "{part}: {}", said.all());
    }
    let all = bed.fettle("explain").await.expect(0).out;
    assert!(all.contains("CODE") && all.contains("Our boot is full") && all.contains("patching"), "{all}");
    let mut broken = own("E-DISK-BOOT", "Broken");
    broken["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "ExampleMissed", "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z"}]});
    bed.instead("GET", OWN, 200, list(vec![broken]));
    assert!(!bed.fettle("explain").await.expect(0).out.contains("Broken"), "one that is not ready is not used");
}

#[tokio::test]
async fn every_shipped_code_is_explained_without_a_cluster() {
    let bed = Bed::new().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bed.kubeconfig(&format!("http://{free}"), json!({}));
    for runbook in Library::shipped_runbooks() {
        let code = &runbook.spec.error_code;
        let said = bed.fettle(&format!("explain {code}")).await.expect(0);
        assert!(said.out.contains(&runbook.spec.title) && said.out.contains("What to do:"), "{code}: {}", said.all());
    }
    let said = bed.fettle("explain E-NONSENSE").await.expect(1);
    assert!(said.err.contains("there is no Runbook of E-NONSENSE (those of the cluster cannot be read"), "{}", said.err);
}

#[tokio::test]
async fn a_log_is_classified_here() {
    let bed = Bed::new().await;
    std::fs::write(bed.file("good.log"), "TASK [a] ***\nok: [web-1]\n\nPLAY RECAP ***\nweb-1 : ok=1 changed=0 unreachable=0 failed=0\n")
        .unwrap();
    let said = bed.fettle(&format!("classify {} -o name", bed.file("good.log").display())).await.expect(0);
    assert_eq!(said.out, "none\n");
    assert!(bed.seen().is_empty(), "nothing is sent");
    let said = bed.fettle("classify /nonexistent/apply.log").await.expect(1);
    assert!(said.err.contains("/nonexistent/apply.log"), "{}", said.err);
    bed.fettle("classify - --phase nonsense").await.expect(2);
}
