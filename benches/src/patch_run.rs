//! What is computed for a PatchRun, without cluster and controller. Each is measured beside what reading its input costs, which has to be
//! done anyway, or beside another library that does the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hint::black_box,
};

use criterion::{Criterion, criterion_group};
use fettle::{
    api::{
        automation_connection::{GroupBy, GuardPolicy},
        patch_run::{PatchRun, PatchRunSpec, Phase, State},
    },
    controllers::patch_run::{
        decide::{self, Aap, Job, Observed, Schedule, ScopeFact, Step, Work},
        scope::{self, Host},
        verdict::{self, End, Evidence, Report, Summary},
    },
    yaml,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Hosts of a run at most.
const HOSTS: usize = 1000;
/// Hosts of an inventory, in groups of [`HOSTS`].
const INVENTORY: usize = 5000;

fn completed() -> PatchRun {
    yaml::from_str(include_str!("../patchrun.yaml")).unwrap()
}

fn names() -> BTreeSet<String> {
    (0..HOSTS).map(|n| format!("web-{n:04}.example.com")).collect()
}

fn nothing_seen(run: &PatchRun) -> Observed {
    let run_key = run.status.as_ref().and_then(|s| s.run_key.clone()).unwrap();
    Observed::nothing(run_key, "https://fettle-server.fettle-system.svc:8443".into())
}

fn settled(c: &mut Criterion) {
    let run = completed();
    let text = serde_json::to_vec(&run).unwrap();
    let (seen, now) = (nothing_seen(&run), "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap());
    let decision = decide::decide(&run, &seen, now);
    assert_eq!((decision.step, decision.requeue, Some(decision.status)), (Step::Nothing, None, run.status.clone()));

    let mut group = c.benchmark_group("decide: a run that is over");
    group.bench_function("fettle", |b| b.iter(|| decide::decide(black_box(&run), &seen, now)));
    group.bench_function("serde_json reads the run", |b| b.iter(|| serde_json::from_slice::<PatchRun>(black_box(&text)).unwrap()));
}

fn running(c: &mut Criterion) {
    let mut run = completed();
    let status = run.status.as_mut().unwrap();
    status.phases.truncate(3);
    let apply = status.of_mut(Phase::Apply).unwrap();
    (apply.result, apply.reason, apply.message, apply.finished_at, apply.log) = (None, None, None, None, None);
    (status.state, status.phase, status.result) = (State::Running, Some(Phase::Apply), None);
    let scope = status.scope.clone().unwrap();
    let job = Job::Found {
        id: 4711,
        url: None,
        started: "2026-11-21T10:00:28Z".parse().ok(),
        mismatch: None,
        over: None,
        ending: false,
        surplus: None,
    };
    let aap = Aap {
        pins: status.pinned.clone().unwrap(),
        schedule: Schedule::Ours { id: 31, try_: 1, enabled: true, due: false },
        job,
        baseline: None,
        started: false,
    };
    let names = names();
    let text = serde_json::to_vec(&names).unwrap();
    let seen = Observed { scope: ScopeFact::Fixed(scope, names), work: Work::Aap(Box::new(aap)), ..nothing_seen(&run) };
    let now: Timestamp = "2026-11-21T10:10:00Z".parse().unwrap();
    assert_eq!(decide::decide(&run, &seen, now).status.state, State::Running);

    let mut group = c.benchmark_group("decide: a run of 1,000 hosts whose job runs");
    group.bench_function("fettle", |b| b.iter(|| decide::decide(black_box(&run), &seen, now)));
    group.bench_function("serde_json reads the host names", |b| {
        b.iter(|| serde_json::from_slice::<BTreeSet<String>>(black_box(&text)).unwrap());
    });
}

fn weigh(c: &mut Criterion) {
    let names = names();
    let summaries = names.iter().map(|name| (name.clone(), Summary { ok: 12, changed: 3, ..Summary::default() })).collect();
    let report = Report {
        guard: Some("executed".into()),
        ok: Some(true),
        message: Some("linux-image-cloud-amd64 is installed".into()),
        kernel_before: Some("6.1.0-49-cloud-amd64".into()),
        kernel_after: Some("6.1.0-49-cloud-amd64".into()),
        boot_id_before: Some("8d5c3f63-1f0a-4f0e-9f57-2b6f1c1f9f00".into()),
        boot_id_after: Some("8d5c3f63-1f0a-4f0e-9f57-2b6f1c1f9f00".into()),
        ..Report::default()
    };
    let reports: BTreeMap<String, Report> = names.iter().map(|name| (name.clone(), report.clone())).collect();
    let text = serde_json::to_vec(&reports).unwrap();
    let evidence = Evidence { end: End::Succeeded, summaries, reports };
    let weigh = || verdict::weigh(Phase::Apply, black_box(&names), GuardPolicy::Required, black_box(&evidence));
    assert_eq!(weigh().counts.changed, 1000);

    let mut group = c.benchmark_group("verdict: 1,000 hosts");
    group.bench_function("fettle", |b| b.iter(weigh));
    group.bench_function("serde_json reads the reports", |b| {
        b.iter(|| serde_json::from_slice::<BTreeMap<String, Report>>(black_box(&text)).unwrap());
    });
}

/// The variables of a host, as a controller gives them.
fn variables(n: usize) -> Value {
    json!({
        "ansible_host": format!("10.0.{}.{}", n / 250, n % 250),
        "ansible_user": "patch",
        "patch_group": n / HOSTS,
        "fettle_role": "web",
        "fettle_services": ["nginx", "node-exporter"],
        "rack": format!("r{}", n % 40),
        "site": "east",
        "owner": "web-team",
    })
}

fn resolve(c: &mut Criterion) {
    let inventory: Vec<Host> = (0..INVENTORY)
        .map(|n| Host {
            name: format!("host-{n:04}.example.com"),
            enabled: true,
            variables: serde_json::from_value(variables(n)).unwrap(),
            groups: BTreeSet::from(["all".to_owned()]),
        })
        .collect();
    let text = serde_json::to_vec(&(0..INVENTORY).map(variables).collect::<Vec<_>>()).unwrap();
    let spec: PatchRunSpec = yaml::from_str("{connection: {name: prod}, group: 3, phases: [precheck]}").unwrap();
    let own_nodes = BTreeSet::from(["node-1".to_owned()]);
    let resolve =
        || scope::resolve(&spec, GroupBy::Variable, "patch_group", black_box(&inventory), ("scope", "ledger"), &own_nodes).unwrap();
    assert_eq!(resolve().hosts.len(), HOSTS);

    let mut group = c.benchmark_group("scope: 1,000 of 5,000 hosts");
    group.bench_function("fettle", |b| b.iter(resolve));
    group.bench_function("serde_json reads the variables", |b| b.iter(|| serde_json::from_slice::<Value>(black_box(&text)).unwrap()));
}

/// Text that a tenant wrote: a ConfigMap is at most 1 MiB.
fn inventory_text(c: &mut Criterion) {
    let mut text = String::from("all:\n  hosts:\n");
    for n in 0..INVENTORY {
        writeln!(text, "    host-{n:04}.example.com: {{ansible_host: 10.0.{}.{}, patch_group: {}}}", n / 250, n % 250, n / HOSTS).unwrap();
    }
    assert_eq!(scope::parse_inventory(&text, "patch_group").unwrap().len(), INVENTORY);
    let mut group = c.benchmark_group("inventory in YAML: 5,000 hosts");
    group.sample_size(20);
    group.bench_function("fettle", |b| b.iter(|| scope::parse_inventory(black_box(&text), "patch_group").unwrap()));
    group.bench_function("serde_yaml", |b| b.iter(|| serde_yaml::from_str::<Value>(black_box(&text)).unwrap()));
    group.finish();

    // ten aliases of ten aliases of …: 10^9 hosts in a few lines
    let mut bomb = String::from("all:\n  vars:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        writeln!(bomb, "    a{n}: &a{n} [{}]", vec![format!("*a{}", n - 1); 10].join(", ")).unwrap();
    }
    assert!(scope::parse_inventory(&bomb, "patch_group").is_err());
    let mut group = c.benchmark_group("inventory in YAML: a bomb of aliases is refused");
    group.sample_size(20);
    group.bench_function("fettle", |b| b.iter(|| scope::parse_inventory(black_box(&bomb), "patch_group").unwrap_err()));
    group.bench_function("serde_yaml", |b| b.iter(|| serde_yaml::from_str::<Value>(black_box(&bomb)).unwrap_err()));
}

criterion_group!(benches, settled, running, weigh, resolve, inventory_text);
