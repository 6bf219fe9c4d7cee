//! `fettle classify`: why did it fail? Reads a log with the shipped Runbooks, or with those of a directory. It needs no cluster.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;

use crate::{
    api::{patch_run::Phase, runbook::Runbook},
    runbooks::{Classifier, Context, Library, report},
    yaml,
};

/// Most bytes of a Runbook's file.
const LONGEST: u64 = 1 << 20;

/// What to classify, and how.
#[derive(Args, Debug)]
pub struct ClassifyArgs {
    /// The log, or - for standard input.
    pub file: PathBuf,
    /// Read records {"id", "text"}, one a line, and write {"id", "code", "also", "tier", "evidence"} for each; code is none where nothing has to be mended.
    #[arg(long)]
    pub jsonl: bool,
    /// The phase whose log it is: precheck, stage, apply, reboot or postcheck.
    #[arg(long, value_parser = phase)]
    pub phase: Option<Phase>,
    /// Use the Runbooks in the YAML files of this directory in place of the shipped ones.
    #[arg(long, value_name = "DIR")]
    pub runbooks: Option<PathBuf>,
}

fn phase(word: &str) -> Result<Phase, String> {
    let known = || Phase::ALL.map(Phase::as_str).join(", ");
    Phase::ALL.into_iter().find(|phase| phase.as_str() == word).ok_or_else(|| format!("it is one of {}", known()))
}

/// Classifies, and prints the result to standard output.
///
/// # Errors
/// A file that cannot be read, a Runbook with a mistake, a record that is not one.
pub fn run(args: &ClassifyArgs) -> Result<(), Box<dyn Error>> {
    let library = args.runbooks.as_deref().map_or_else(|| Ok(Library::shipped()), directory)?;
    let context = Context { phase: args.phase, os_family: None };
    let at = |error: io::Error| format!("{}: {error}", args.file.display());
    let mut input: Box<dyn Read> =
        if args.file == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(&args.file).map_err(at)?) };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = if args.jsonl {
        report::records(&library, context, BufReader::new(input), &mut out)
    } else {
        let mut classifier = Classifier::new(library.clone(), context);
        let mut chunk = vec![0; 64 << 10];
        loop {
            match input.read(&mut chunk).map_err(at)? {
                0 => break report::table(&library, &classifier.finish(), &mut out),
                n => classifier.push(&chunk[..n]),
            }
        }
    };
    match result.and_then(|()| out.flush()) {
        // a reader that has seen enough, such as head
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.map_err(at)?),
    }
}

/// The Runbooks of a directory, compiled.
fn directory(path: &Path) -> Result<Arc<Library>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))? {
        let file = entry?.path();
        let yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && file.file_stem().is_some_and(|stem| stem != "kustomization") {
            let mut text = String::new();
            let read = File::open(&file).and_then(|opened| opened.take(LONGEST).read_to_string(&mut text));
            read.map_err(|error| format!("{}: {error}", file.display()))?;
            let runbook: Runbook = yaml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
            files.insert(file, runbook);
        }
    }
    if files.is_empty() {
        return Err(format!("{}: there is no Runbook (*.yaml)", path.display()).into());
    }
    let (library, problems) = Library::new(files.values());
    if let Some((name, problem)) = problems.first_key_value() {
        return Err(format!("Runbook {name}: {problem}").into());
    }
    Ok(Arc::new(library))
}
