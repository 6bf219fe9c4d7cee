//! The test's own door: `/_standin/…`, without authentication.
//!
//! | request | does |
//! |---|---|
//! | `GET /_standin/health` | 200 once it serves |
//! | `POST /_standin/faults` | switches a fault on (JSON of [`Fault`]); 201 `{"id": n}` |
//! | `GET /_standin/faults` | the faults, with how many matches each has seen |
//! | `DELETE /_standin/faults`, `DELETE /_standin/faults/N` | switches all, or one, off; 204 |
//! | `GET /_standin/requests` | `{"requests": […], "counts": {"POST /schedules/": 1, …}}` |
//! | `DELETE /_standin/requests` | forgets them; 204 |
//! | `GET /_standin/state` | time, jobs (all, and numbers per template), schedules, running jobs |
//! | `POST /_standin/launch` | `{"template": name, "prompts": {…}}`: a launch by hand; 201 `{"job": n}` |
//! | `POST /_standin/release/N` | lets the held job N go on; 204 |

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Shared,
    api::{Call, Reply},
    clock::stamp,
    faults::Fault,
    world::Origin,
};

/// Answers a control request; the path is what follows `/_standin`.
pub(super) fn answer(shared: &Arc<Shared>, path: &str, call: &Call) -> Reply {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match (call.method.as_str(), segments.as_slice()) {
        ("GET", ["health"]) => Reply::json(200, json!({"status": "ok", "version": shared.version})),
        ("POST", ["faults"]) => match Fault::from_json(&call.body) {
            Ok(fault) => Reply::json(201, json!({"id": shared.add_fault(fault)})),
            Err(error) => Reply::json(400, json!({"detail": error})),
        },
        ("GET", ["faults"]) => {
            let world = shared.lock();
            let faults: Vec<Value> =
                world.faults.list().iter().map(|(id, fault, seen)| json!({"id": id, "fault": fault, "seen": seen})).collect();
            Reply::json(200, json!(faults))
        }
        ("DELETE", ["faults"]) => {
            shared.lock().faults.clear(None);
            shared.wake.notify_one();
            Reply::empty(204)
        }
        ("DELETE", ["faults", id]) => {
            shared.lock().faults.clear(id.parse().ok());
            shared.wake.notify_one();
            Reply::empty(204)
        }
        ("GET", ["requests"]) => {
            let world = shared.lock();
            let mut counts = BTreeMap::<String, u64>::new();
            for request in &world.requests {
                *counts.entry(format!("{} {}", request.method, request.route)).or_default() += 1;
            }
            Reply::json(200, json!({"requests": world.requests, "counts": counts}))
        }
        ("DELETE", ["requests"]) => {
            shared.lock().requests.clear();
            Reply::empty(204)
        }
        ("GET", ["state"]) => Reply::json(200, state(shared)),
        ("POST", ["launch"]) => launch(shared, call),
        ("POST", ["release", job]) => {
            let Ok(job) = job.parse() else { return Reply::json(404, json!({"detail": "no such job"})) };
            let mut world = shared.lock();
            if let Some(live) = world.live.get(&job) {
                let _ = live.release.send(true);
            } else {
                world.released.insert(job);
            }
            Reply::empty(204)
        }
        _ => Reply::json(404, json!({"detail": "unknown control request"})),
    }
}

fn launch(shared: &Arc<Shared>, call: &Call) -> Reply {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let mut world = shared.lock();
    let wanted = body.get("template").and_then(Value::as_str).unwrap_or_default();
    let Some(template) = world.catalog.templates.values().find(|template| template.config.name == wanted).cloned() else {
        return Reply::json(404, json!({"detail": format!("no template {wanted:?}")}));
    };
    let prompts = body.get("prompts").and_then(Value::as_object).cloned().unwrap_or_default();
    let job = world.create_job(&template, &prompts, Origin::User(1), shared.clock.now());
    world.commit();
    drop(world);
    shared.wake.notify_one();
    Reply::json(201, json!({"job": job}))
}

fn state(shared: &Shared) -> Value {
    let world = shared.lock();
    let mut per_template = BTreeMap::<&str, BTreeMap<&str, u64>>::new();
    for template in world.catalog.templates.values() {
        per_template.insert(&template.config.name, BTreeMap::from([("total", 0)]));
    }
    for job in world.tables.jobs.values() {
        let counts = per_template.entry(&job.name).or_default();
        *counts.entry("total").or_default() += 1;
        *counts.entry(job.shown()).or_default() += 1;
    }
    json!({
        "now": stamp(shared.clock.now()),
        "install_uuid": world.tables.install_uuid,
        "templates": per_template,
        "jobs": world.tables.jobs.values().collect::<Vec<_>>(),
        "schedules": world.tables.schedules.values().collect::<Vec<_>>(),
        "live": world.live.keys().collect::<Vec<_>>(),
    })
}
