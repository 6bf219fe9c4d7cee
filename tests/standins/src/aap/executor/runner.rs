//! The real executor: `ansible-runner` in a process group of its own.
//!
//! It is given what a controller gives it: a private data directory with an executable inventory of the enabled hosts, the
//! extra variables (launch values marked `!unsafe`), the machine credential's key, and the options of the launch as command
//! line. What it writes (`job_events/`, `status`, `rc`) is followed in its files, so that a run outlives a killed controller
//! and is taken up by its next life.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use serde_json::{Map, Value, json};

use super::{Assignment, Executor, Feed, News, Outcome};
use crate::aap::config::CollectionConfig;

/// How often the files of a run are looked at.
const POLL: Duration = Duration::from_millis(200);

/// How long a canceled run may take to leave before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Above this, connections are not shared between tasks.
const LONGEST_SOCKET_DIRECTORY: usize = 70;

/// Name of the run below `artifacts/`.
const IDENT: &str = "run";

/// Runs playbooks with `ansible-runner`.
#[derive(Debug, Clone)]
pub struct Runner {
    program: PathBuf,
    collections: Vec<CollectionConfig>,
}

/// The real executor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// There is no such program.
    #[error("{0} is not there")]
    Missing(PathBuf),
    /// A collection's name is not `namespace.name`.
    #[error("{0:?} is not the name of a collection")]
    Collection(String),
}

impl Runner {
    /// A runner around the program `ansible-runner`, with collections that every job can use.
    ///
    /// # Errors
    /// When the program or a collection's directory is not there.
    pub fn new(program: &Path, collections: &[CollectionConfig]) -> Result<Self, RunnerError> {
        let program = std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
        if !program.exists() {
            return Err(RunnerError::Missing(program));
        }
        for collection in collections {
            let (CollectionConfig::Root(path) | CollectionConfig::Source { path, .. }) = collection;
            if !path.exists() {
                return Err(RunnerError::Missing(path.clone()));
            }
            if let CollectionConfig::Source { name, .. } = collection
                && name.split('.').filter(|part| !part.is_empty()).count() != 2
            {
                return Err(RunnerError::Collection(name.clone()));
            }
        }
        Ok(Self { program, collections: collections.to_vec() })
    }
}

impl Executor for Runner {
    fn run(&self, assignment: Assignment, feed: Feed) -> BoxFuture<'static, Outcome> {
        let runner = self.clone();
        async move {
            let prepared = runner.start(&assignment);
            match prepared {
                Ok((directory, child)) => {
                    let outcome = follow(&directory, Some(child), &feed).await;
                    if assignment.directory.is_none() {
                        // Nobody takes this run up again.
                        let _ = fs::remove_dir_all(&directory);
                    }
                    outcome
                }
                Err(error) => Outcome::Error { traceback: format!("the job could not be started: {error}") },
            }
        }
        .boxed()
    }

    fn resume(&self, assignment: Assignment, feed: Feed) -> Option<BoxFuture<'static, Outcome>> {
        let directory = assignment.directory?;
        if !directory.join("pid").exists() {
            return None;
        }
        Some(async move { follow(&directory, None, &feed).await }.boxed())
    }
}

impl Runner {
    /// Writes the private data directory and starts the process.
    fn start(&self, assignment: &Assignment) -> io::Result<(PathBuf, tokio::process::Child)> {
        let directory = assignment
            .directory
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join(format!("aap-standin-{}-{}", std::process::id(), assignment.job)));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        for part in ["env", "inventory", "cp"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let inventory = directory.join("inventory/hosts");
        let script = format!("#!/bin/sh\ncat <<'INVENTORY'\n{}\nINVENTORY\n", assignment.inventory);
        fs::write(&inventory, script)?;
        fs::set_permissions(&inventory, fs::Permissions::from_mode(0o700))?;
        write_private(&directory.join("env/extravars"), &extra_vars(assignment))?;
        // Without a terminal's width in the way of long lines, and with no time limit of its own.
        fs::write(directory.join("env/settings"), json!({"suppress_ansible_output": true, "job_timeout": 0}).to_string())?;
        let environment = self.environment(assignment, &directory)?;
        fs::write(directory.join("env/envvars"), json!(environment).to_string())?;

        let arguments = arguments(assignment);
        let stdout = fs::File::create(directory.join("runner.out"))?;
        let stderr = stdout.try_clone()?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .arg("run")
            .arg(&directory)
            .args(["--ident", IDENT, "-p", &assignment.playbook])
            .arg("--project-dir")
            .arg(&assignment.project)
            .arg("--inventory")
            .arg(&inventory)
            .args(["--quiet"])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(false);
        if !arguments.is_empty() {
            // One argument with `=`: it starts with a dash itself.
            command.arg(format!("--cmdline={}", arguments.join(" ")));
        }
        if let Some(bin) = self.program.parent() {
            // ansible-playbook lies beside ansible-runner.
            let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
            command.env("PATH", format!("{}:{path}", bin.display()));
        }
        let child = command.spawn()?;
        if let Some(pid) = child.id() {
            fs::write(directory.join("pid"), pid.to_string())?;
        }
        Ok((directory, child))
    }

    fn environment(&self, assignment: &Assignment, directory: &Path) -> io::Result<Map<String, Value>> {
        let mut roots = Vec::new();
        for (index, collection) in self.collections.iter().enumerate() {
            match collection {
                CollectionConfig::Root(path) => roots.push(path.display().to_string()),
                CollectionConfig::Source { name, path } => {
                    let Some((namespace, name)) = name.split_once('.') else { continue };
                    let root = directory.join(format!("collections/{index}"));
                    let parent = root.join("ansible_collections").join(namespace);
                    fs::create_dir_all(&parent)?;
                    std::os::unix::fs::symlink(path, parent.join(name))?;
                    roots.push(root.display().to_string());
                }
            }
        }
        let mut environment = Map::new();
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), Value::String(value));
        set("JOB_ID", assignment.job.to_string());
        set("ANSIBLE_FORCE_COLOR", "True".to_owned());
        set("ANSIBLE_RETRY_FILES_ENABLED", "False".to_owned());
        set("ANSIBLE_SSH_CONTROL_PATH_DIR", directory.join("cp").display().to_string());
        set("AWX_PRIVATE_DATA_DIR", directory.display().to_string());
        if !roots.is_empty() {
            set("ANSIBLE_COLLECTIONS_PATH", roots.join(":"));
        }
        let credential = assignment.credential.as_ref().map(|credential| &credential.config);
        let known_hosts = credential.and_then(|credential| credential.known_hosts_file.as_ref());
        set("ANSIBLE_HOST_KEY_CHECKING", if known_hosts.is_some() { "True" } else { "False" }.to_owned());
        // The name of a socket has room for about a hundred characters.
        let share = directory.as_os_str().len() <= LONGEST_SOCKET_DIRECTORY;
        let mut options = if share { "-C -o ControlMaster=auto -o ControlPersist=60s" } else { "-C" }.to_owned();
        if let Some(file) = known_hosts {
            options += &format!(" -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes", file.display());
        }
        set("ANSIBLE_SSH_ARGS", options);
        if let Some(key) = credential.and_then(|credential| credential.ssh_key_file.as_ref()) {
            let copy = directory.join("env/machine_key");
            write_private(&copy, &fs::read_to_string(key)?)?;
            set("ANSIBLE_PRIVATE_KEY_FILE", copy.display().to_string());
        }
        Ok(environment)
    }
}

/// A file that only its owner reads.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The variables as YAML: what the launch gave is `!unsafe`, never a template; what the controller adds is not.
fn extra_vars(assignment: &Assignment) -> String {
    let mut text = String::from("{");
    for (name, value) in &assignment.extra_vars {
        text += &format!("{}: ", Value::from(name.as_str()));
        write_unsafe(value, &mut text);
        text.push_str(", ");
    }
    for (name, value) in &assignment.meta_vars {
        text += &format!("{}: {value}, ", Value::from(name.as_str()));
    }
    text.push_str("}\n");
    text
}

fn write_unsafe(value: &Value, text: &mut String) {
    match value {
        Value::String(string) => *text += &format!("!unsafe {}", Value::from(string.as_str())),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_unsafe(item, text);
                text.push_str(", ");
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (name, item) in fields {
                *text += &format!("{}: ", Value::from(name.as_str()));
                write_unsafe(item, text);
                text.push_str(", ");
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// The options of the launch as `ansible-playbook` takes them, quoted for a shell-like split.
fn arguments(assignment: &Assignment) -> Vec<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
    let text = |name: &str| assignment.options.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| assignment.options.get(name).and_then(Value::as_i64).unwrap_or_default();
    let user = assignment.credential.as_ref().and_then(|credential| credential.config.username.as_deref());
    let mut arguments = vec!["-u".to_owned(), quoted(user.unwrap_or("root"))];
    if assignment.job_type == "check" {
        arguments.push("--check".to_owned());
    }
    if assignment.options.get("diff_mode") == Some(&json!(true)) {
        arguments.push("--diff".to_owned());
    }
    if assignment.become_enabled {
        arguments.push("--become".to_owned());
    }
    if !assignment.limit.is_empty() {
        arguments.extend(["-l".to_owned(), quoted(&assignment.limit)]);
    }
    for (option, flag) in [("job_tags", "--tags"), ("skip_tags", "--skip-tags")] {
        if !text(option).is_empty() {
            arguments.push(format!("{flag}={}", quoted(text(option))));
        }
    }
    if number("forks") > 0 {
        arguments.push(format!("--forks={}", number("forks")));
    }
    if let Ok(level @ 1..) = usize::try_from(number("verbosity")) {
        arguments.push(format!("-{}", "v".repeat(level.min(5))));
    }
    arguments
}

/// Follows the files of a run until it is over; `child` is absent for a run of an earlier life.
async fn follow(directory: &Path, mut child: Option<tokio::process::Child>, feed: &Feed) -> Outcome {
    let group = fs::read_to_string(directory.join("pid")).ok().and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
    let artifacts = directory.join("artifacts").join(IDENT);
    let mut reader = Reader { artifacts: artifacts.clone(), seen: BTreeSet::new(), told: false };
    let mut canceled = false;
    loop {
        reader.read(feed);
        let over = match &mut child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !group.is_some_and(|group| alive(group, directory)),
        };
        if over {
            break;
        }
        if !feed.sleep(POLL).await && !canceled {
            canceled = true;
            if let Some(group) = group {
                end(group, child.as_mut(), directory).await;
            }
        }
    }
    // Nothing outlives its job on a controller: the job's container ends with it.
    end_strays(directory).await;
    reader.read(feed);
    if canceled {
        return Outcome::Canceled;
    }
    let text = |name: &str| fs::read_to_string(artifacts.join(name)).unwrap_or_default();
    match (text("status").trim(), text("rc").trim()) {
        ("successful", _) | (_, "0") => Outcome::Successful,
        ("failed", _) => Outcome::Failed { explanation: String::new() },
        ("canceled", _) => Outcome::Canceled,
        (status, rc) => {
            let output = fs::read_to_string(directory.join("runner.out")).unwrap_or_default();
            Outcome::Error { traceback: format!("ansible-runner ended with status {status:?}, code {rc:?}\n{output}") }
        }
    }
}

/// Whether a group of an earlier life still runs, and is not someone else's by now.
fn alive(group: Pid, directory: &Path) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", group.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*directory.to_string_lossy()) && test_kill_process_group(group).is_ok()
}

/// Asks a group to leave, then makes it.
async fn end(group: Pid, child: Option<&mut tokio::process::Child>, directory: &Path) {
    let _ = kill_process_group(group, Signal::TERM);
    let left = async {
        match child {
            Some(child) => drop(child.wait().await),
            None => {
                while alive(group, directory) {
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    };
    let _ = tokio::time::timeout(GRACE, left).await;
    let _ = kill_process_group(group, Signal::KILL);
}

/// Ends what a run has left behind: Ansible's workers leave the group for sessions of their own, but not their environment.
async fn end_strays(directory: &Path) {
    let mark = format!("AWX_PRIVATE_DATA_DIR={}", directory.display());
    for signal in [Signal::TERM, Signal::KILL] {
        let strays: Vec<Pid> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .collect();
        if strays.is_empty() {
            return;
        }
        for stray in strays {
            let _ = kill_process(stray, signal);
        }
        tokio::time::sleep(POLL * 2).await;
    }
}

/// Reads what a run has written since the last look.
struct Reader {
    artifacts: PathBuf,
    seen: BTreeSet<i64>,
    told: bool,
}

impl Reader {
    fn read(&mut self, feed: &Feed) {
        if !self.told
            && let Some(command) = read_json(&self.artifacts.join("command"))
        {
            self.told = true;
            let strings = |value: &Value| -> Vec<String> {
                value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let mut env = command.get("env").and_then(Value::as_object).cloned().unwrap_or_default();
            env.retain(|name, _| name.starts_with("ANSIBLE_") || name.starts_with("AWX_") || name == "JOB_ID");
            feed.send(News::Command {
                args: strings(&command["command"]),
                cwd: command.get("cwd").and_then(Value::as_str).unwrap_or_default().to_owned(),
                env,
            });
        }
        let Ok(entries) = fs::read_dir(self.artifacts.join("job_events")) else { return };
        let mut fresh: Vec<(i64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                // `17-<uuid>.json` once complete; `<uuid>-partial.json` before.
                let name = entry.file_name().into_string().ok()?;
                let counter: i64 = name.strip_suffix(".json")?.split('-').next()?.parse().ok()?;
                (!name.contains("-partial") && !self.seen.contains(&counter)).then(|| (counter, entry.path()))
            })
            .collect();
        fresh.sort();
        for (counter, path) in fresh {
            if let Some(event) = read_json(&path) {
                self.seen.insert(counter);
                feed.send(News::Event(event));
            }
        }
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_variables_are_never_templates() {
        let assignment = Assignment {
            extra_vars: json!({"name": "{{ 7*7 }}", "list": [1, "x"]}).as_object().unwrap().clone(),
            meta_vars: json!({"awx_job_id": 5, "awx_schedule_name": "s"}).as_object().unwrap().clone(),
            ..Assignment::default()
        };
        let text = extra_vars(&assignment);
        assert!(text.contains(r#""name": !unsafe "{{ 7*7 }}""#), "{text}");
        assert!(text.contains(r#""list": [1, !unsafe "x", ]"#), "{text}");
        assert!(text.contains(r#""awx_schedule_name": "s""#), "{text}");
    }

    #[test]
    fn options_become_the_command_line() {
        let assignment = Assignment {
            limit: "web-1,it's".to_owned(),
            job_type: "check".to_owned(),
            options: json!({"diff_mode": true, "forks": 3, "verbosity": 2, "job_tags": "a,b"}).as_object().unwrap().clone(),
            ..Assignment::default()
        };
        assert_eq!(arguments(&assignment).join(" "), r#"-u 'root' --check --diff -l 'web-1,it'"'"'s' --tags='a,b' --forks=3 -vv"#);
    }
}
