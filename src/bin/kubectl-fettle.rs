//! `kubectl fettle`: everything is in [`fettle::kubectl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fettle::kubectl::main()
}
