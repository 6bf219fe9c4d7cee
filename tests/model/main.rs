//! The run as a machine in a hostile world: breadth-first search with the real `decide`.
//!
//! Each test is one family of disturbances; it explores every interleaving of them with the run, the executors, and time, and then
//! follows every state it met fairly on until the run is over. A failure prints the shortest way to it.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::struct_excessive_bools,
    clippy::trivially_copy_pass_by_ref,
    clippy::cast_precision_loss,
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and says what it explored"
)]

mod search;
mod simulate;
mod world;

use fettle::api::patch_run::Phase;
use search::Search;
use simulate::{Planted, Simulator, simulate};
use world::{Budget, Plan};

const APPLY: &[Phase] = &[Phase::Apply];

fn explore(plan: Plan) {
    let name = plan.name;
    let started = std::time::Instant::now();
    match Search::new(plan).run() {
        Ok(e) => {
            eprintln!(
                "{name}: {} states, {} transitions, {} states followed to the end, {} of them OK, {:.1} s",
                e.states,
                e.transitions,
                e.ended,
                e.good_ends,
                started.elapsed().as_secs_f64()
            );
            // where nothing is ever launched nothing goes wrong either
            assert!(e.good_ends > 0, "{name}: no run ends OK");
        }
        Err(story) => panic!("{story}"),
    }
}

fn fenced(name: &'static str, budget: Budget) -> Plan {
    Plan { name, phases: APPLY, start_by: 250, horizon: 2, direct: false, budget, planted: Planted::default() }
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
fn a_rival_for_the_hosts_of_an_earlier_life() {
    explore(fenced("fenced, recreate, rival", Budget { rival: 1, delete: 1, recreate: 1, crash: 1, ..Budget::default() }));
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

#[test]
fn restored_from_a_backup() {
    explore(fenced("fenced, restore", Budget { restore: 1, ..Budget::default() }));
}

#[test]
fn restored_from_a_backup_and_cancelled() {
    explore(fenced("fenced, restore, cancel", Budget { restore: 1, cancel: 1, ..Budget::default() }));
}

#[test]
fn restored_from_a_backup_after_a_second_try_and_cancelled() {
    let budget = Budget { restore: 1, cancel: 1, miss: 1, ..Budget::default() };
    explore(Plan { horizon: 3, ..fenced("fenced, missed, restore, cancel", budget) });
}

#[test]
fn restored_from_a_backup_after_start_by() {
    explore(Plan { start_by: 1, ..fenced("fenced, restore, startBy", Budget { restore: 1, ..Budget::default() }) });
}

#[test]
fn direct_launch_and_a_backup() {
    explore(Plan { direct: true, ..fenced("direct, restore", Budget { restore: 1, crash: 1, ..Budget::default() }) });
}

#[test]
fn direct_launch_and_a_backup_and_a_cancel() {
    explore(Plan { direct: true, horizon: 1, ..fenced("direct, restore, cancel", Budget { restore: 1, cancel: 1, ..Budget::default() }) });
}

#[test]
fn direct_launch_under_way_and_a_backup() {
    explore(Plan { direct: true, horizon: 1, ..fenced("direct, restore, late", Budget { restore: 1, late: 1, ..Budget::default() }) });
}

#[test]
fn direct_launch_and_outages() {
    explore(Plan { direct: true, ..fenced("direct, outages", Budget { outage: 1, suspend: 1, ..Budget::default() }) });
}

#[test]
fn launch_mode_changed() {
    explore(fenced("fenced, mode changed", Budget { switch: 2, restore: 1, ..Budget::default() }));
}

#[test]
fn namespace_deleted() {
    explore(fenced("fenced, namespace", Budget { namespace: 1, crash: 1, recreate: 1, ..Budget::default() }));
}

#[test]
fn namespace_deleted_during_checks() {
    explore(Plan {
        phases: &[Phase::Precheck, Phase::Apply],
        ..fenced("check, namespace", Budget { namespace: 1, outage: 1, ..Budget::default() })
    });
}

#[test]
fn scope_lost() {
    let phases = &[Phase::Stage, Phase::Apply];
    explore(Plan {
        phases,
        horizon: 1,
        ..fenced("fenced, scope lost", Budget { lose: 1, crash: 1, delete: 1, cancel: 1, ..Budget::default() })
    });
}

#[test]
fn scope_lost_before_the_object_is_created_again() {
    explore(fenced("fenced, force, scope lost", Budget { delete: 2, force: 1, recreate: 1, lose: 1, ..Budget::default() }));
}

#[test]
fn scope_lost_while_another_run_has_the_hosts() {
    explore(fenced(
        "fenced, recreate, rival, scope lost",
        Budget { rival: 1, delete: 1, recreate: 1, lose: 1, crash: 1, ..Budget::default() },
    ));
}

#[test]
fn ledger_and_a_paused_second_process() {
    explore(Plan { horizon: 1, ..fenced("fenced, late unlock", Budget { pause: 1, attempt: 1, rival: 1, ..Budget::default() }) });
}

#[test]
fn launches_paused_for_the_whole_operator() {
    explore(fenced("fenced, paused", Budget { halt: 1, miss: 1, crash: 1, delete: 1, ..Budget::default() }));
}

/// `SEED` and `COUNT` of the environment choose other schedules.
#[test]
fn random_schedules() {
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")));
    let (first, count) = (number("SEED").unwrap_or(0), number("COUNT").unwrap_or(20_000));
    let started = std::time::Instant::now();
    let walked = match simulate(first, count) {
        Ok(walked) => walked,
        Err(story) => panic!("{story}"),
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{} schedules from seed {first} on, {} moves, {} states; {} chained edits of {} kinds of transitions, {} of them rolled back; {seconds:.1} s, {:.0} schedules/s",
        walked.schedules,
        walked.moves,
        walked.states.len(),
        walked.edits,
        walked.transitions.len(),
        walked.rolled_back.len(),
        count as f64 / seconds
    );
    if count >= 20_000 {
        assert!(walked.transitions.len() >= 1000 && walked.rolled_back.len() >= 500, "the schedules reach too little");
    }
}

#[test]
fn a_planted_bug_is_found_and_told_shortly() {
    let mut simulator = Simulator::new(Planted { repeats_launch: true });
    let (seed, story) = (0..2000).find_map(|seed| Some((seed, simulator.run(seed).err()?))).expect("it is found");
    eprintln!("{story}");
    assert!(story.starts_with("2 jobs of") && story.contains("answer lost"), "{story}");
    assert!(story.lines().count() <= 12, "{story}");
    let again = Simulator::new(Planted { repeats_launch: true }).run(seed).unwrap_err();
    assert_eq!(again, story, "a seed stands for one schedule");
}
