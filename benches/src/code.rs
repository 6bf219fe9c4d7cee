//! What is computed and archived, each beside a peer in the same run. `benches/run code` prints the ratios.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking, and tells what it measured")]

mod archive;
mod history;
mod patch_run;
mod runbooks;

criterion::criterion_main!(patch_run::benches, archive::benches, history::benches, runbooks::benches);
