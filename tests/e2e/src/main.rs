//! Stories told on a real cluster: real API server, real Tekton, real Ansible, real hosts; each asserted from outside.
//!
//! Runs inside a bed (`tests/e2e/run` brings it up). Every story starts from fresh hosts, in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is a test")]

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::FutureExt as _;

mod stories;
mod world;

use world::World;

/// Tells the stories of the cluster level.
#[derive(Parser)]
struct Options {
    /// Stories to tell, by number; default: all.
    #[arg(value_delimiter = ',')]
    only: Vec<usize>,
    /// Longest time of one story, seconds.
    #[arg(long, default_value_t = 900)]
    limit: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    let world = World::new().await;
    let stories = stories::all();
    let chosen: Vec<_> = stories.iter().filter(|s| options.only.is_empty() || options.only.contains(&s.number)).collect();
    let begin = Instant::now();
    let mut failed = vec![];
    for (i, story) in chosen.iter().enumerate() {
        println!("[{}/{}] story {}: {} …", i + 1, chosen.len(), story.number, story.title);
        let started = Instant::now();
        let told = AssertUnwindSafe(story.tell(&world)).catch_unwind();
        let end = match tokio::time::timeout(Duration::from_secs(options.limit), told).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(panic)) => format!("FAILED: {}", text_of(&*panic)),
            Err(_) => format!("FAILED: not over after {} s", options.limit),
        };
        println!("[{}/{}] story {}: {end} ({} s)", i + 1, chosen.len(), story.number, started.elapsed().as_secs());
        if end != "ok" {
            world.dump(story.number).await;
            failed.push(story.number);
        }
        world.tidy(story.number).await;
    }
    println!("stories took {} s", begin.elapsed().as_secs());
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}
