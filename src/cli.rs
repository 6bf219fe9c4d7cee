//! The command line: `fettle manager`, `fettle server`, `fettle classify`, `fettle crds`, `fettle version`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{classify, http, manager, telemetry::LogFormat};

/// Patches, watches and heals fleets from Git.
#[derive(Parser)]
#[command(name = "fettle", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "json", global = true)]
    pub log_format: LogFormat,
    /// Which log lines are written, for example "info,fettle=debug".
    #[arg(long, env = "RUST_LOG", default_value = "info,kube=warn,hyper=warn", global = true)]
    pub log_filter: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the operator.
    Manager(manager::ManagerArgs),
    /// Serve logs and runs, and own the archive.
    Server(http::ServerArgs),
    /// Say why a patch failed: the cause that its log shows, and what to do about it.
    Classify(classify::ClassifyArgs),
    /// Print the custom resource definitions, or write them into a directory.
    Crds {
        /// Write one file per kind here instead of printing.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print the version.
    Version,
}
