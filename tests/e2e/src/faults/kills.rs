//! The operator is killed at random moments.

use std::{collections::BTreeMap, time::Duration};

use fettle::api::patch_run::State;
use futures::future::join_all;
use serde_json::json;

use super::{assert_one_job, change_keys, result};
use crate::{
    processes,
    world::{HOSTS, World, eventually},
};

const ROUNDS: usize = 10;
const KILLS: usize = 60;

pub async fn killed_at_random(world: &World) {
    println!("        seed {}", world.seed);
    let mut random = fastrand::Rng::with_seed(world.seed);
    let tenant = world.fault_tenant("kills").await;
    let mut kills = 0;
    let mut runs = vec![];
    for round in 0..ROUNDS {
        let names = HOSTS.map(|host| format!("{host}-{round}"));
        for (name, host) in names.iter().zip(HOSTS) {
            tenant.apply(name, json!({"phases": ["stage", "apply", "reboot"], "hosts": [host]})).await;
        }
        let over = async || {
            let found = join_all(names.iter().map(|name| tenant.get(name))).await;
            found.iter().all(|run| run.status.as_ref().is_some_and(|status| status.state == State::Completed)).then_some(found)
        };
        // only what is at work is struck; what is left of a round is for the next ones
        while kills < KILLS * (round + 1) / ROUNDS && over().await.is_none() {
            let manager = eventually("an operator runs", Duration::from_mins(1), async || processes::managers().pop()).await;
            tokio::time::sleep(Duration::from_millis(random.u64(100..8000))).await;
            // one that is ending already is no kill
            if over().await.is_none() && world.try_run("kill", &["-KILL", &manager.pid.to_string()]).await.0 {
                kills += 1;
            }
        }
        runs.extend(eventually("the round is over", Duration::from_mins(5), &over).await);
        println!("        round {} of {ROUNDS}: {} runs, {kills} kills", round + 1, runs.len());
    }
    assert_eq!((runs.len(), kills), (30, KILLS), "too few kills: the rounds were over before");
    let mut marks = BTreeMap::new();
    for (host, found) in HOSTS.iter().zip(join_all(HOSTS.iter().map(|host| world.marks(host))).await) {
        marks.insert((*host).to_owned(), found);
    }
    for run in &runs {
        assert_eq!(result(run), Some(fettle::api::patch_run::RunResult::Ok), "{run:#?}");
        assert_one_job(world, run).await;
        let expected = change_keys(run);
        let host = &run.spec.hosts.as_ref().unwrap()[0];
        let of_run: Vec<_> = marks[host].iter().filter(|mark| expected.contains(mark)).collect();
        assert_eq!(of_run, expected.iter().collect::<Vec<_>>(), "{host}");
    }
}
