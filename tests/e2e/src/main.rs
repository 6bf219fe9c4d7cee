//! Stories told on a real cluster: real API server, real Tekton, real Ansible, real hosts; each asserted from outside.
//!
//! Runs inside a bed (`tests/e2e/run` brings it up). Every story has namespaces of its own. The numbered ones start from fresh hosts; those
//! about faults only count what they do on them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is a test")]

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::FutureExt as _;

mod faults;
mod fleet;
mod processes;
mod relay;
mod stories;
mod story;
mod world;

use story::Story;
use world::World;

/// Tells the stories of the cluster level, or those of faults.
#[derive(Parser)]
struct Options {
    /// What to tell: numbers of stories, ids of faults, "faults" for all of these; default: all stories.
    #[arg(value_delimiter = ',')]
    only: Vec<String>,
    /// Longest time of one story, seconds.
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// Seed of all that is random; default: another one each time. It is shown.
    #[arg(long)]
    seed: Option<u64>,
}

impl Options {
    /// The chosen stories, in order.
    fn chosen(&self) -> Vec<Story> {
        let wanted = |id: &str| self.only.iter().any(|only| only.eq_ignore_ascii_case(id));
        let mut chosen = stories::all();
        chosen.retain(|story| self.only.is_empty() || wanted(story.id));
        chosen.extend(faults::all().into_iter().filter(|story| wanted("faults") || wanted(story.id)));
        chosen
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    let world = World::new(options.seed.unwrap_or_else(|| fastrand::u64(..))).await;
    let chosen = options.chosen();
    let begin = Instant::now();
    let mut table = String::from("| id | what is done | seconds | verdict |\n|---|---|---|---|\n");
    let mut failed = 0;
    for (i, story) in chosen.iter().enumerate() {
        println!("[{}/{}] story {}: {} …", i + 1, chosen.len(), story.id, story.title);
        let started = Instant::now();
        let told = AssertUnwindSafe(story.tell(&world)).catch_unwind();
        let end = match tokio::time::timeout(Duration::from_secs(options.limit), told).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(panic)) => format!("FAILED: {}", text_of(&*panic)),
            Err(_) => format!("FAILED: not over after {} s", options.limit),
        };
        let seconds = started.elapsed().as_secs();
        println!("[{}/{}] story {}: {end} ({seconds} s)", i + 1, chosen.len(), story.id);
        let verdict = if end == "ok" { "ok" } else { "FAILED" };
        let _ = writeln!(table, "| {} | {} | {seconds} | {verdict} |", story.id, story.title);
        if end != "ok" {
            world.dump().await;
            failed += 1;
        }
        if let Err(panic) = AssertUnwindSafe(world.tidy()).catch_unwind().await {
            println!("tidying after story {}: {}", story.id, text_of(&*panic));
        }
    }
    println!("\n{table}\nstories took {} s", begin.elapsed().as_secs());
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}
