//! The run as a machine in a hostile world: breadth-first search with the real `decide`.
//!
//! Each test is one family of disturbances; it explores every interleaving of them with the run, the executors, and time, and then
//! follows every state it met fairly on until the run is over. A failure prints the shortest way to it.

#![allow(
    clippy::panic,
    clippy::struct_excessive_bools,
    clippy::trivially_copy_pass_by_ref,
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and says what it explored"
)]

mod search;
mod world;

use fettle::api::patch_run::Phase;
use search::Search;
use world::{Budget, Plan};

const APPLY: &[Phase] = &[Phase::Apply];

fn explore(plan: Plan) {
    let name = plan.name;
    let started = std::time::Instant::now();
    match Search::new(plan).run() {
        Ok(e) => eprintln!(
            "{name}: {} states, {} transitions, {} states followed to the end, {:.1} s",
            e.states,
            e.transitions,
            e.ended,
            started.elapsed().as_secs_f64()
        ),
        Err(story) => panic!("{story}"),
    }
}

fn fenced(name: &'static str, budget: Budget) -> Plan {
    Plan { name, phases: APPLY, start_by: 250, horizon: 2, direct: false, budget }
}

#[test]
fn fenced_launch_with_crashes_lost_answers_and_late_requests() {
    explore(fenced("fenced, crash, late", Budget { crash: 2, late: 1, ..Budget::default() }));
}

#[test]
fn fenced_launch_missed_and_issued_again() {
    explore(Plan { horizon: 5, ..fenced("fenced, missed", Budget { late: 1, miss: 1, ..Budget::default() }) });
}

#[test]
fn fenced_launch_with_a_paused_second_process() {
    explore(fenced("fenced, two processes", Budget { pause: 1, late: 1, ..Budget::default() }));
}

#[test]
fn fenced_launch_and_start_by() {
    explore(Plan { start_by: 1, horizon: 3, ..fenced("fenced, startBy", Budget { crash: 1, pause: 1, ..Budget::default() }) });
}

#[test]
fn fenced_launch_cancelled_and_suspended() {
    explore(fenced("fenced, cancel, suspend", Budget { cancel: 1, suspend: 1, crash: 1, ..Budget::default() }));
}

#[test]
fn fenced_launch_with_outages_and_bad_ends() {
    explore(fenced("fenced, outages", Budget { outage: 1, bad: 1, ..Budget::default() }));
}

#[test]
fn deleted_and_created_again() {
    explore(fenced("fenced, delete, recreate", Budget { delete: 1, recreate: 1, crash: 1, late: 1, ..Budget::default() }));
}

#[test]
fn finalizer_taken_off_by_force() {
    explore(fenced("fenced, force", Budget { delete: 2, force: 1, recreate: 1, late: 1, ..Budget::default() }));
}

#[test]
fn a_second_attempt() {
    explore(fenced("fenced, attempt", Budget { attempt: 1, crash: 1, ..Budget::default() }));
}

#[test]
fn a_rival_for_the_hosts() {
    explore(fenced("fenced, rival", Budget { rival: 1, crash: 1, ..Budget::default() }));
}

#[test]
fn direct_launch_with_late_requests() {
    explore(Plan { direct: true, ..fenced("direct, late", Budget { late: 1, cancel: 1, crash: 1, ..Budget::default() }) });
}

#[test]
fn direct_launch_with_a_paused_second_process() {
    explore(Plan { direct: true, horizon: 1, ..fenced("direct, two processes", Budget { pause: 1, cancel: 1, ..Budget::default() }) });
}

#[test]
fn checks() {
    explore(Plan { phases: &[Phase::Precheck], ..fenced("check", Budget { crash: 1, bad: 1, cancel: 1, ..Budget::default() }) });
}

#[test]
fn phase_after_phase() {
    explore(Plan {
        phases: &[Phase::Precheck, Phase::Apply, Phase::Postcheck],
        horizon: 1,
        ..fenced("three phases", Budget { crash: 1, bad: 1, cancel: 1, ..Budget::default() })
    });
}
