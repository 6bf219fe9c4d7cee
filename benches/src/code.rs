//! What is computed and archived, each beside a peer in the same run. `benches/run code` prints the ratios.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod archive;
mod patch_run;

criterion::criterion_main!(patch_run::benches, archive::benches);
