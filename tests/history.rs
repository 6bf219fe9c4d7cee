//! The history on both of its databases, SQLite and a real PostgreSQL: whatever crashes, repeats or fails, it ends with every record once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "history/bed.rs"]
mod bed;
#[path = "logged/mod.rs"]
mod logged;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    task::Poll,
};

use fettle::{
    api::{
        patch_run::{Outcome, Phase, RunResult},
        shared::NameOrId,
    },
    archive::{
        Archive,
        record::{HostFacts, HostRecord, Record},
    },
    history::{Condition, Error, Filter, History, Question, Visible},
};
use jiff::{SignedDuration, Timestamp};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use self::bed::{Cluster, Place, classified, host, key, record};

/// Runs each of these on both databases.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::postgres().await).await;
            })*
        }
    };
}

on_both!(
    tables_depend_on_the_set_of_records_only,
    what_a_crash_left_out_is_found_in_the_archive,
    writers_beside_each_other_write_each_record_once,
    pages_are_complete_and_stay_so_while_more_arrives,
    what_is_too_old_goes_and_does_not_come_back,
    what_cannot_be_read_is_left_out_and_counted,
    a_new_history_has_everything_of_the_archive,
    a_schema_of_a_newer_program_is_left_alone,
    hostile_text_is_kept_as_text,
);

const LONG_AGO: Timestamp = Timestamp::UNIX_EPOCH;

async fn page_keys(history: &History, filter: &Filter) -> Vec<String> {
    let page = history.page(&Visible::All, filter, 200, None).await.unwrap();
    page.items.iter().map(|item| format!("{}-{}", item.run_key, item.phase)).collect()
}

/// Some runs of two groups and of named hosts: phases that fail and are mended, also at the same moment.
fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let one = (0u8..3, prop::sample::select(vec![Phase::Precheck, Phase::Reboot]), 0i64..12, any::<bool>(), 0u8..3, any::<bool>());
    prop::collection::vec(one, 1..14).prop_map(|all| {
        let of = |(n, (target, phase, minute, ok, facts, fact)): (usize, (u8, Phase, i64, bool, u8, bool))| {
            let name = ["web-1", "db-1", "web-1"][usize::from(target)];
            let told = fact.then(|| HostFacts {
                free_bytes: [("/".to_owned(), u64::from(facts))].into(),
                repositories: vec![format!("repository-{facts}")],
            });
            let hosts = vec![HostRecord {
                kernel_after: (facts > 0).then(|| format!("6.1.0-{facts}")),
                boot_id_before: fact.then(|| format!("boot-{facts}")),
                facts: told,
                ..host(name, if ok { Outcome::Ok } else { Outcome::Unreachable })
            }];
            let record = Record {
                group: [Some(NameOrId::Id(5)), Some(NameOrId::Name("6".into())), None][usize::from(target)].clone(),
                finished_at: Some(Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()),
                hosts,
                ..record(&key(n, phase))
            };
            if ok { record } else { classified(record, ["E-DNS", "E-DISK-BOOT", "E-OTHER"][usize::from(facts)]) }
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

/// The incidents of these records, computed the simple way: opened by, failures, resolved by.
fn incidents(records: &[Record]) -> BTreeSet<(String, i64, Option<String>)> {
    let mut series = BTreeMap::<_, BTreeMap<_, &Record>>::new();
    for record in records {
        series.entry((record.group.clone(), record.phase)).or_default().insert((record.finished_at, &record.run_key), record);
    }
    let mut found = BTreeSet::new();
    for records in series.into_values() {
        let mut open: Option<(String, i64)> = None;
        for record in records.into_values() {
            match (record.result, open.take()) {
                (RunResult::Error, None) => open = Some((record.run_key.clone(), 1)),
                (RunResult::Error, Some((by, failures))) => open = Some((by, failures + 1)),
                (RunResult::Ok, Some((by, failures))) => {
                    found.insert((by, failures, Some(record.run_key.clone())));
                }
                (RunResult::Ok, None) => {}
            }
        }
        found.extend(open.map(|(by, failures)| (by, failures, None)));
    }
    found
}

async fn tables_depend_on_the_set_of_records_only(place: Place) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let strategy = any_records().prop_flat_map(|records| {
        let order: Vec<usize> = (0..records.len()).chain(0..records.len() / 2).collect();
        (Just(records), Just(order).prop_shuffle(), 1usize..6)
    });
    let (first, second) = (place.history(), place.another().await);
    let other = second.history();
    for _ in 0..place.cases() {
        let (records, order, batch) = strategy.new_tree(&mut runner).unwrap().current();
        place.empty().await;
        second.empty().await;
        for record in &records {
            first.index(std::slice::from_ref(record)).await.unwrap();
        }
        let shuffled: Vec<Record> = order.iter().map(|n| records[*n].clone()).collect();
        for some in shuffled.chunks(batch) {
            other.index(some).await.unwrap();
        }
        let tables = place.tables().await;
        assert_eq!(tables, second.tables().await, "{order:?} in batches of {batch} of {records:#?}");
        assert_eq!(tables["phases"].len(), records.len());
        let column = |row: &BTreeMap<String, Option<String>>, name: &str| row[name].clone();
        let found: BTreeSet<_> = tables["incidents"]
            .iter()
            .map(|row| (column(row, "opened_by").unwrap(), column(row, "failures").unwrap().parse().unwrap(), column(row, "resolved_by")))
            .collect();
        assert_eq!(found, incidents(&records), "{records:#?}");
        // the newest that was told counts
        for row in &tables["facts"] {
            let of = |record: &&Record| record.hosts[0].name == column(row, "host").unwrap();
            let newest = records.iter().filter(of).filter(|r| r.hosts[0].kernel_after.is_some()).map(|r| r.finished_at.unwrap()).max();
            let at: i64 = column(row, "kernel_at").unwrap().parse().unwrap();
            assert_eq!(at, newest.map_or(0, Timestamp::as_microsecond));
        }
    }
}

/// Polls a future some times and drops it; whether it came to its end.
async fn killed_after(polls: usize, work: impl Future) -> bool {
    let mut work = Box::pin(work);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        work.as_mut().poll(context).map(|_| true)
    })
    .await
}

async fn what_a_crash_left_out_is_found_in_the_archive(place: Place) {
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let records: Vec<Record> = (0..3).map(|n| classified(record(&key(n, Phase::Apply)), "E-DNS")).collect();
    for record in &records {
        archive.put_record(record).await.unwrap();
    }
    let mut polls = 0;
    let mut cut = 0;
    loop {
        place.empty().await;
        // each life is a process of its own
        let life = place.history();
        // opened before: what is cut off is the writing
        life.namespaces().await.unwrap();
        let ended = killed_after(polls, life.index(&records)).await;
        cut += usize::from(!ended);
        let heir = place.history();
        heir.catch_up(&archive, LONG_AGO).await.unwrap();
        let tables = place.tables().await;
        assert_eq!((tables["runs"].len(), tables["phases"].len(), tables["host_results"].len()), (3, 3, 3), "killed after {polls} polls");
        assert_eq!(tables["incidents"].len(), 1);
        heir.index(&records).await.unwrap();
        assert_eq!(place.tables().await, tables, "a repetition changes nothing");
        if ended {
            break;
        }
        polls += 1 + polls / 4;
    }
    assert!(cut > 3, "{cut}");
}

async fn writers_beside_each_other_write_each_record_once(place: Place) {
    let phases = [Phase::Precheck, Phase::Stage, Phase::Apply];
    let records: Vec<Record> = (0..20)
        .flat_map(|n| phases.map(|phase| record(&key(n, phase))))
        .enumerate()
        .map(|(n, record)| {
            let finished_at = Some(Timestamp::from_second(1_800_000_000 + i64::try_from(n * 7 % 60).unwrap()).unwrap());
            let record = Record { finished_at, ..record };
            if n % 3 == 0 { classified(record, "E-DNS") } else { record }
        })
        .collect();
    // two processes, three tasks each, all at once, from either end
    let lives = [place.history(), place.history()];
    for life in &lives {
        life.namespaces().await.unwrap();
    }
    let mut tasks = vec![];
    for n in 0..6 {
        let (life, mut records) = (lives[n % 2].clone(), records.clone());
        records.rotate_left(n * 10);
        if n > 2 {
            records.reverse();
        }
        tasks.push(tokio::spawn(async move {
            for some in records.chunks(4) {
                life.index(some).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let alone = place.another().await;
    alone.history().index(&records).await.unwrap();
    let tables = place.tables().await;
    assert_eq!((tables["runs"].len(), tables["phases"].len()), (20, 60));
    assert_eq!(tables, alone.tables().await);
}

async fn pages_are_complete_and_stay_so_while_more_arrives(place: Place) {
    let history = place.history();
    let at = |second| Some(Timestamp::from_second(1_800_000_000 + second).unwrap());
    // many at the same moment
    let old: Vec<Record> =
        (0..100).map(|n| Record { finished_at: at(i64::try_from(n / 10).unwrap()), ..record(&key(n, Phase::Apply)) }).collect();
    history.index(&old).await.unwrap();
    let mut seen = vec![];
    let mut after = None;
    let mut number = 100;
    loop {
        let page = history.page(&Visible::All, &Filter::default(), 7, after.as_ref()).await.unwrap();
        assert!(page.items.len() == 7 || page.next.is_none());
        seen.extend(page.items.iter().map(|item| format!("{}-{}", item.run_key, item.phase)));
        // what is new is newer, and not of these pages
        history.index(&[Record { finished_at: at(1000), ..record(&key(number, Phase::Apply)) }]).await.unwrap();
        number += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<_> = old.iter().map(|record| (record.finished_at, record.run_key.clone())).collect();
    expected.sort();
    expected.reverse();
    assert_eq!(seen, expected.into_iter().map(|(_, key)| key).collect::<Vec<_>>());
}

async fn what_is_too_old_goes_and_does_not_come_back(place: Place) {
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let days_ago = |days: i64| Some(now - SignedDuration::from_hours(24 * days));
    let old = classified(Record { finished_at: days_ago(40), ..record(&key(0, Phase::Apply)) }, "E-DNS");
    let mixed = [Phase::Precheck, Phase::Apply].map(|phase| record(&key(1, phase)));
    let mixed = mixed.into_iter().zip([31, 29]).map(|(record, days)| Record { finished_at: days_ago(days), ..record });
    // fails twice, of which one stays
    let failing = [45, 20].map(|days| Record {
        finished_at: days_ago(days),
        ..classified(record(&key(usize::try_from(days).unwrap(), Phase::Stage)), "E-DNS")
    });
    let young = Record { finished_at: days_ago(1), hosts: vec![host("db-1", Outcome::Ok)], ..record(&key(2, Phase::Apply)) };
    let records: Vec<Record> = mixed.chain([old, young]).chain(failing).collect();
    for record in &records {
        archive.put_record(record).await.unwrap();
    }
    let history = place.history();
    history.catch_up(&archive, LONG_AGO).await.unwrap();
    let question = Question { asked_at: now - SignedDuration::from_hours(24 * 40), ..question() };
    history.record_question(&question).await.unwrap();
    history.record_question(&Question { asked_at: now, ..question }).await.unwrap();
    let cutoff = now - SignedDuration::from_hours(24 * 30);
    assert_eq!(place.tables().await["incidents"].len(), 2);
    assert_eq!(history.prune(cutoff).await.unwrap(), 3);
    let left = [key(2, Phase::Apply), key(20, Phase::Stage), key(1, Phase::Apply)];
    assert_eq!(page_keys(&history, &Filter::default()).await, left);
    history.catch_up(&archive, cutoff).await.unwrap();
    assert_eq!(page_keys(&history, &Filter::default()).await, left, "the archive still has the others");
    let tables = place.tables().await;
    let sizes = ["runs", "host_results", "facts", "incidents", "questions"].map(|table| tables[table].len());
    assert_eq!(sizes, [3, 3, 2, 1, 1]);
    assert_eq!(tables["incidents"][0]["opened_by"], Some(key(20, Phase::Stage)));
    let rebuilt = place.another().await;
    rebuilt.history().catch_up(&archive, cutoff).await.unwrap();
    assert_eq!(rebuilt.tables().await["incidents"], tables["incidents"]);
}

fn question() -> Question {
    Question {
        asked_at: Timestamp::from_second(1_800_000_000).unwrap(),
        username: "alice".into(),
        question: "status of group 5".into(),
        answer: "group 5 waits".into(),
    }
}

async fn what_cannot_be_read_is_left_out_and_counted(place: Place) {
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    for n in 0..3 {
        archive.put_record(&record(&key(n, Phase::Apply))).await.unwrap();
    }
    let file = |n| place.directory().join("archive/phases").join(key(n, Phase::Apply)).join("record.json");
    std::fs::write(file(0), "{\"runKey\": \"half").unwrap();
    std::fs::copy(file(2), file(1)).unwrap();
    let history = place.history();
    let caught = history.catch_up(&archive, LONG_AGO).await.unwrap();
    assert_eq!((caught.added, caught.skipped, caught.phases), (1, 2, 1));
    assert_eq!(history.condition(), Condition::Complete);
    assert_eq!(page_keys(&history, &Filter::default()).await, [key(2, Phase::Apply)]);
    // an archive that does not answer is another matter
    std::fs::remove_file(file(0)).unwrap();
    std::os::unix::fs::symlink("record.json", file(0)).unwrap();
    let caught = history.catch_up(&archive, LONG_AGO).await;
    assert!(matches!(caught, Err(Error::Archive(_))), "{caught:?}");
    assert!(matches!(history.condition(), Condition::Degraded(_)));
}

async fn a_new_history_has_everything_of_the_archive(place: Place) {
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let first = place.history();
    for n in 0..120 {
        let record = if n % 4 == 0 { classified(record(&key(n, Phase::Reboot)), "E-DNS") } else { record(&key(n, Phase::Reboot)) };
        archive.put_record(&record).await.unwrap();
        first.index(&[record]).await.unwrap();
    }
    let other = place.another().await;
    let caught = other.history().catch_up(&archive, LONG_AGO).await.unwrap();
    assert_eq!((caught.added, caught.phases), (120, 120));
    assert_eq!(other.tables().await, place.tables().await);
    let again = other.history().catch_up(&archive, LONG_AGO).await.unwrap();
    assert_eq!((again.added, again.skipped), (0, 0));
}

async fn a_schema_of_a_newer_program_is_left_alone(place: Place) {
    place.history().index(&[record(&key(0, Phase::Apply))]).await.unwrap();
    place.execute("UPDATE _sqlx_migrations SET version = 9999").await;
    let Err(Error::Unavailable(why)) = place.history().namespaces().await else { panic!() };
    assert!(why.contains("newer") && why.contains("9999"), "{why}");
    place.execute("UPDATE _sqlx_migrations SET version = 1").await;
    assert_eq!(page_keys(&place.history(), &Filter::default()).await, [key(0, Phase::Apply)]);
}

async fn hostile_text_is_kept_as_text(place: Place) {
    let nasty = "'; DROP TABLE runs; -- \0 \u{202e} $1 \u{1F980}";
    let hosts = vec![HostRecord { message: Some(nasty.into()), ..host(nasty, Outcome::Failed) }];
    let record = Record { message: nasty.into(), group: Some(NameOrId::Name(nasty.into())), hosts, ..record(&key(0, Phase::Apply)) };
    let history = place.history();
    history.index(&[record]).await.unwrap();
    let filter = Filter { group: Some(nasty.into()), host: Some(nasty.into()), ..Filter::default() };
    assert_eq!(page_keys(&history, &filter).await.len(), 1);
    let kept = nasty.replace('\0', "\u{fffd}");
    let found = history.host(&Visible::All, nasty, None, None).await.unwrap();
    assert_eq!(found[0].results[0].message.as_ref(), Some(&kept));
    let asked = Question { question: nasty.repeat(1000), ..question() };
    history.record_question(&asked).await.unwrap();
    let kept = place.tables().await["questions"][0]["question"].clone().unwrap();
    assert_eq!(kept.chars().count(), 4096);
    // nothing but what may be seen, whatever it is called
    let mine = Visible::Namespaces(["' OR '1'='1".to_owned()].into());
    assert!(history.page(&mine, &Filter::default(), 20, None).await.unwrap().items.is_empty());
    assert!(history.host(&mine, nasty, None, None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_phase_that_never_began_ended_when_it_was_recorded() {
    let place = Place::sqlite();
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let began = fettle::clock::now() - SignedDuration::from_secs(1);
    archive.put_record(&Record { started_at: None, finished_at: None, ..record(&key(0, Phase::Apply)) }).await.unwrap();
    let history = place.history();
    history.catch_up(&archive, began).await.unwrap();
    let page = history.page(&Visible::All, &Filter { since: Some(began), ..Filter::default() }, 20, None).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].started_at, None);
}

#[tokio::test]
async fn a_file_that_is_lost_or_damaged_is_made_again() {
    let place = Place::sqlite();
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    for n in 0..200 {
        archive.put_record(&record(&key(n, Phase::Apply))).await.unwrap();
    }
    let file = place.file();
    let history = place.history();
    history.catch_up(&archive, LONG_AGO).await.unwrap();
    let tables = place.tables().await;
    // lost while it runs
    std::fs::remove_file(&file).unwrap();
    history.catch_up(&archive, LONG_AGO).await.unwrap();
    assert_eq!(place.tables().await, tables);
    // no database at all; half of one; a page in the middle: found at the next start
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes[..4096].fill(0x5a),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| {
            let middle = bytes.len() / 4096 / 2 * 4096;
            bytes[middle..middle + 8192].fill(0xff);
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        place.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        for part in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{part}", file.display()));
        }
        std::fs::write(&file, &bytes).unwrap();
        let history = place.history();
        history.catch_up(&archive, LONG_AGO).await.unwrap();
        assert_eq!(place.tables().await, tables, "damage {n}");
        assert!(std::fs::exists(format!("{}.damaged", file.display())).unwrap());
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_full_disk_degrades_the_history_until_there_is_room() {
    let place = Place::sqlite();
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let history = place.history_with(&["--history-max-pages", "60"]);
    let day = |n: usize| Timestamp::from_second(1_800_000_000 + i64::try_from(n).unwrap() * 86_400).unwrap();
    let mut n = 0;
    let full = loop {
        let record = Record { finished_at: Some(day(n)), message: "x".repeat(2000), ..record(&key(n, Phase::Apply)) };
        archive.put_record(&record).await.unwrap();
        n += 1;
        if let Err(error) = history.catch_up(&archive, LONG_AGO).await {
            break error;
        }
        assert!(n < 1000);
    };
    assert!(matches!(&full, Error::Unavailable(why) if why.contains("full")), "{full}");
    assert_eq!(history.condition(), Condition::Degraded(full.to_string()));
    let before = page_keys(&history, &Filter::default()).await;
    assert_eq!(before.len(), n - 1, "what was there is whole");
    // the retention makes room, and what was missed comes in
    let cutoff = day(n / 2);
    history.prune(cutoff).await.unwrap();
    history.catch_up(&archive, cutoff).await.unwrap();
    assert_eq!(history.condition(), Condition::Complete);
    assert_eq!(page_keys(&history, &Filter::default()).await[0], key(n - 1, Phase::Apply));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_degrades_the_history_until_it_is_back() {
    let mut cluster = Cluster::start();
    let place = cluster.place().await;
    let archive = Archive::directory(place.directory().join("archive")).unwrap();
    let history = place.history();
    archive.put_record(&record(&key(0, Phase::Apply))).await.unwrap();
    history.catch_up(&archive, LONG_AGO).await.unwrap();
    cluster.stop();
    archive.put_record(&record(&key(1, Phase::Apply))).await.unwrap();
    assert!(matches!(history.index(&[record(&key(1, Phase::Apply))]).await, Err(Error::Unavailable(_))));
    assert!(matches!(history.catch_up(&archive, LONG_AGO).await, Err(Error::Unavailable(_))));
    assert!(matches!(history.condition(), Condition::Degraded(_)));
    // a process that starts now does not fail either
    let second = place.history();
    assert!(matches!(second.catch_up(&archive, LONG_AGO).await, Err(Error::Unavailable(_))));
    cluster.resume().await;
    for history in [history, second] {
        history.catch_up(&archive, LONG_AGO).await.unwrap();
        assert_eq!(history.condition(), Condition::Complete);
        assert_eq!(page_keys(&history, &Filter::default()).await.len(), 2);
    }
}

#[test]
fn the_password_is_shown_nowhere() {
    logged::alone_at("trace", "the_password_is_shown_nowhere", async |log| {
        let place = Place::postgres().await;
        let archive = Archive::directory(place.directory().join("archive")).unwrap();
        let mut outputs = vec![];
        for address in [
            place.url().replace(bed::PASSWORD, "c4n4ry-wrong"),
            place.url().replace(bed::PASSWORD, "c4n4ry%2Fwr@ng"),
            "postgres://fettle:c4n4ry-away@127.0.0.1:1/fettle".to_owned(),
            "postgres://fettle:c4n4ry-host@no-such-host.invalid/fettle".to_owned(),
            "postgres://fettle:c4n4ry-port@localhost:c4n4ry-port/fettle".to_owned(),
            "postgres://fettle@127.0.0.1:1/fettle?password=c4n4ry-query&sslmode=c4n4ry-query".to_owned(),
            "mysql://fettle:c4n4ry-kind@localhost/fettle".to_owned(),
        ] {
            let args = bed::args(&address, &[]);
            outputs.push(("arguments".to_owned(), format!("{args:?}")));
            let failed = match History::new(&args) {
                Ok(history) => {
                    let error = history.catch_up(&archive, LONG_AGO).await.unwrap_err();
                    format!("{error} {error:?} {history:?} {:?}", history.condition())
                }
                Err(error) => format!("{error} {error:?}"),
            };
            outputs.push((address.replace("c4n4ry", "secret"), failed));
        }
        // a password that is right is not told either
        place.history().catch_up(&archive, LONG_AGO).await.unwrap();
        let text = std::fs::read_to_string(log).unwrap();
        assert!(text.contains("the history has every record"), "{text}");
        outputs.push(("log".to_owned(), text));
        logged::canaries::none_in("c4n4ry-", &outputs);
    });
}
