//! [`Classifier`]: reads one log, once, in bounded memory. Lines become evidence of hosts; what cancels earlier evidence is applied as it comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead as _,
    sync::Arc,
};

use super::{
    Library,
    ansible::{self, Mark, Status},
    decide,
    library::{Hits, Role},
    text,
};
use crate::api::{
    classification::{Classification, Tier},
    patch_run::Phase,
    runbook::OsFamily,
};

/// Longest part of a line that is read at once; a longer line is read in such parts.
const WINDOW: usize = 256 << 10;
/// What parts of a line have in common, so that a message on the seam is seen.
const OVERLAP: usize = 2 << 10;
/// Most hosts that are told apart.
const HOSTS: usize = 1000;
/// Most evidence that is kept of one host.
const EVENTS: usize = 48;
/// Longest excerpt, in bytes.
const EXCERPT: usize = 1024;
/// Longest capture, in characters.
const CAPTURE: usize = 256;

/// What is known of a log before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// The phase whose log it is.
    pub phase: Option<Phase>,
    /// The family of the hosts' operating systems.
    pub os_family: Option<OsFamily>,
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The cause over all hosts. `None`: nothing has to be mended. `E-OTHER`: it failed, and no Runbook says why.
    pub classification: Option<Classification>,
    /// Hosts that failed, at most 1000.
    pub hosts: BTreeMap<String, HostVerdict>,
}

/// What a log says about one host.
pub type HostVerdict = Classification;

/// Reads one log, in chunks of any size.
#[derive(Debug)]
pub struct Classifier {
    library: Arc<Library>,
    /// Entries of the library that are looked for in this log.
    active: Vec<bool>,
    /// The line that is not over yet.
    pending: Vec<u8>,
    /// Whether parts of the pending line were read.
    continued: bool,
    reading: Reading,
}

/// Where reading stands, and what was found.
#[derive(Debug, Default)]
pub(super) struct Reading {
    line: u64,
    /// Whether Ansible's marks were seen.
    pub(super) ansible: bool,
    task: u32,
    /// Its name, as a text that patterns can fit: `task: Reboot the host`.
    task_name: String,
    handler: bool,
    /// The result whose text comes.
    block: Option<Block>,
    /// Host of the failed result that may yet be ignored.
    last_failed: Option<String>,
    /// Changes with each key of a result: what comes after it in the same text.
    section: u32,
    key: String,
    any_failed: bool,
    /// Room that is used again for each text.
    hits: Hits,
    candidates: Vec<u32>,
    /// Hosts of Ansible.
    pub(super) hosts: BTreeMap<String, Scope>,
    /// Text outside of results, by the host a system log names.
    pub(super) raw: BTreeMap<String, Scope>,
    /// Failures in the statistics of Ansible's JSON.
    pub(super) failures: Option<u64>,
}

#[derive(Clone, Debug)]
struct Block {
    host: String,
    good: bool,
}

/// What was found of one host.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) events: Vec<Event>,
    /// Conditions that were met.
    pub(super) met: BTreeSet<u32>,
    /// Whether the recap says that the host failed.
    pub(super) recap: Option<bool>,
}

/// A line that a pattern fits.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) entry: usize,
    pub(super) tier: Tier,
    pub(super) line: u64,
    pub(super) excerpt: String,
    pub(super) captures: BTreeMap<String, String>,
    pub(super) standing: Standing,
    pub(super) with: Option<u32>,
    pub(super) failed_task: bool,
    pub(super) persists: bool,
    task: u32,
    section: u32,
}

/// Where a line stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// In a good result.
    Good,
    /// In a failed result that was ignored.
    Ignored,
    /// In a failed result of a host that went on to other tasks.
    Rescued,
    /// Outside of results.
    Raw,
    /// In a failed result.
    Failed,
}

impl Classifier {
    /// A classifier of one log.
    pub fn new(library: Arc<Library>, context: Context) -> Self {
        let fits = |entry: &super::library::Entry| {
            let phase = context.phase.is_none_or(|phase| entry.phases.is_empty() || entry.phases.contains(&phase));
            let family = context.os_family.is_none_or(|family| entry.os_families.is_empty() || entry.os_families.contains(&family));
            phase && family
        };
        let active = library.entries.iter().map(fits).collect();
        Self { library, active, pending: vec![], continued: false, reading: Reading::default() }
    }

    /// The next bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut after = rest;
            // counts up to and with the end of the line, without a copy; a slice has no errors
            let length = after.skip_until(b'\n').unwrap_or(rest.len());
            let (part, after) = rest.split_at(length);
            rest = after;
            let whole = part.last() == Some(&b'\n');
            if whole && self.pending.is_empty() && !self.continued && part.len() <= WINDOW {
                self.line(&part[..part.len() - 1]);
            } else {
                self.long(&part[..part.len() - usize::from(whole)]);
                if whole {
                    self.end();
                }
            }
        }
    }

    /// The verdict over what was pushed.
    pub fn finish(mut self) -> Verdict {
        if !self.pending.is_empty() || self.continued {
            self.end();
        }
        decide::decide(&self.library, self.reading)
    }

    /// Collects a line, and reads a part of it whenever there is enough.
    fn long(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (WINDOW - self.pending.len()).min(bytes.len());
            self.pending.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.pending.len() == WINDOW {
                let part = std::mem::take(&mut self.pending);
                self.part(&part);
                self.pending.extend_from_slice(&part[WINDOW - OVERLAP..]);
            }
        }
    }

    fn end(&mut self) {
        let part = std::mem::take(&mut self.pending);
        self.part(&part);
        self.continued = false;
        // the room is kept for the next line
        self.pending = part;
        self.pending.clear();
    }

    fn part(&mut self, part: &[u8]) {
        if self.continued {
            self.reading.texts(&self.library, &self.active, None, &text::clean(part));
        } else {
            self.line(part);
        }
        self.continued = true;
    }

    fn line(&mut self, raw: &[u8]) {
        self.reading.line += 1;
        if self.library.worth_reading(raw, &mut self.reading.hits) {
            self.reading.line(&self.library, &self.active, &text::clean(raw));
        }
    }
}

impl Reading {
    fn line(&mut self, library: &Library, active: &[bool], line: &str) {
        let (host, rest) = text::strip(line.trim_end());
        match ansible::mark(rest) {
            None => self.texts(library, active, host, rest),
            Some(mark) => {
                if matches!(mark, Mark::Task { .. }) {
                    self.task_name = task_name(rest);
                }
                let plain = matches!(mark, Mark::Result { status: Status::Good, .. }) && !rest.contains(['{', '"']);
                if self.mark(mark) && !plain {
                    self.texts(library, active, None, rest);
                    if matches!(mark, Mark::Result { status: Status::Failed | Status::Unreachable, .. }) {
                        let name = std::mem::take(&mut self.task_name);
                        self.text(library, active, None, "task", &name);
                        self.task_name = name;
                    }
                }
                // a result in JSON on one line is over with it; in YAML, or cut, or of the one-line callbacks it goes on
                let end = rest.trim_end();
                let failed = self.block.as_ref().is_some_and(|block| !block.good) && !matches!(mark, Mark::Summary { .. });
                let open = end.ends_with(['=', '>', '{', '[']) || (!end.ends_with('}') && (failed || end.contains("=> ")));
                if !open {
                    self.block = None;
                }
            }
        }
    }

    /// Takes a mark in; whether the line has text to read as well.
    fn mark(&mut self, mark: Mark<'_>) -> bool {
        self.section += 1;
        self.block = None;
        self.ansible |= !matches!(mark, Mark::Other);
        match mark {
            Mark::Play | Mark::Task { .. } | Mark::Recap => {
                self.task += 1;
                self.handler = mark == (Mark::Task { handler: true });
                false
            }
            Mark::Retry | Mark::Other => false,
            Mark::Ignoring => {
                let task = self.task;
                let last = self.last_failed.take().and_then(|host| self.hosts.get_mut(&host));
                for event in last.into_iter().chain(self.raw.values_mut()).flat_map(|scope| &mut scope.events) {
                    if event.task == task && event.standing >= Standing::Raw {
                        event.standing = Standing::Ignored;
                    }
                }
                false
            }
            Mark::Result { host, status: Status::Good } => {
                if self.any_failed && !self.handler {
                    let task = self.task;
                    for event in self.hosts.get_mut(host).into_iter().flat_map(|scope| &mut scope.events) {
                        if event.task < task && event.standing == Standing::Failed {
                            event.standing = Standing::Rescued;
                        }
                    }
                }
                self.block = Some(Block { host: host.to_owned(), good: true });
                true
            }
            Mark::Result { host, .. } => {
                self.any_failed = true;
                self.last_failed = Some(host.to_owned());
                self.block = Some(Block { host: host.to_owned(), good: false });
                // what Ansible says of a failure just before the result belongs to it
                let task = self.task;
                let mut before = vec![];
                for scope in self.raw.values_mut() {
                    before.extend(scope.events.extract_if(.., |event| event.task == task && event.announces()));
                }
                if let Some(scope) = scope(&mut self.hosts, host) {
                    for mut event in before {
                        event.standing = Standing::Failed;
                        scope.add(event);
                    }
                }
                true
            }
            Mark::Summary { host, failed } => {
                self.any_failed |= failed;
                if failed {
                    self.block = Some(Block { host: host.to_owned(), good: false });
                }
                let known = if failed { scope(&mut self.hosts, host) } else { self.hosts.get_mut(host) };
                if let Some(scope) = known {
                    scope.recap = Some(failed);
                    if failed {
                        for event in &mut scope.events {
                            if event.standing == Standing::Rescued {
                                event.standing = Standing::Failed;
                            }
                        }
                    } else {
                        scope.events.retain(|event| event.persists);
                    }
                }
                failed
            }
        }
    }

    /// Reads the texts of a line.
    fn texts(&mut self, library: &Library, active: &[bool], host: Option<&str>, line: &str) {
        text::texts(line, |key, text| self.text(library, active, host, key, text.trim()));
    }

    fn text(&mut self, library: &Library, active: &[bool], host: Option<&str>, key: &str, text: &str) {
        if self.key != key {
            key.clone_into(&mut self.key);
            self.section += 1;
        }
        if let Some(n) = ["failures: ", "unreachable: "].iter().find_map(|word| text.strip_prefix(word)?.parse::<u64>().ok()) {
            self.failures = Some(self.failures.unwrap_or(0).saturating_add(n));
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        library.candidates(text, &mut self.hits, &mut candidates);
        for id in candidates.iter().copied() {
            let matcher = &library.matchers[id as usize];
            if !active[matcher.entry] || !matcher.regex.is_match(text) {
                continue;
            }
            match matcher.role {
                Role::With => {
                    if let Some(scope) = self.here(host) {
                        scope.met.insert(id);
                    }
                }
                Role::Clear => {
                    let (section, failed) = (self.section, self.block.as_ref().is_some_and(|block| !block.good));
                    let captures = captures(&matcher.regex, text);
                    if let Some(scope) = self.here(host) {
                        scope.events.retain(|event| {
                            let same = captures.iter().all(|(name, value)| event.captures.get(name).is_none_or(|other| other == value));
                            let reached = !failed || event.section == section;
                            event.entry != matcher.entry || event.persists || !same || !reached
                        });
                    }
                }
                Role::Match { tier, failed_task, persists, with } => {
                    let entry = &library.entries[matcher.entry];
                    if entry.excludes.iter().any(|exclude| exclude.is_match(text)) {
                        continue;
                    }
                    let standing = match &self.block {
                        Some(block) if block.good => Standing::Good,
                        Some(_) => Standing::Failed,
                        None => Standing::Raw,
                    };
                    let event = Event {
                        entry: matcher.entry,
                        tier,
                        line: self.line,
                        excerpt: excerpt(text),
                        captures: captures(&matcher.regex, text),
                        standing,
                        with,
                        failed_task,
                        persists,
                        task: self.task,
                        section: self.section,
                    };
                    if let Some(scope) = self.here(host) {
                        scope.add(event);
                    }
                }
            }
        }
        self.candidates = candidates;
    }

    /// What the current text belongs to.
    fn here(&mut self, host: Option<&str>) -> Option<&mut Scope> {
        match &self.block {
            Some(block) => scope(&mut self.hosts, &block.host),
            None => scope(&mut self.raw, host.unwrap_or_default()),
        }
    }
}

/// `task: Reboot the host` of `TASK [role : Reboot the host] ****`.
fn task_name(line: &str) -> String {
    let name = line.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']')).map_or("", |(name, _)| name);
    excerpt(&format!("task: {name}"))
}

/// The scope of a host, unless there are too many.
fn scope<'a>(scopes: &'a mut BTreeMap<String, Scope>, host: &str) -> Option<&'a mut Scope> {
    if !scopes.contains_key(host) {
        if scopes.len() >= HOSTS {
            return None;
        }
        scopes.insert(host.to_owned(), Scope::default());
    }
    scopes.get_mut(host)
}

impl Scope {
    /// Keeps evidence, unless the same is known.
    fn add(&mut self, event: Event) {
        let same = |other: &Event| {
            (other.entry, other.tier, other.standing, other.with, other.failed_task)
                == (event.entry, event.tier, event.standing, event.with, event.failed_task)
                && (other.task, &other.captures) == (event.task, &event.captures)
        };
        let of_entry = self.events.iter().filter(|other| other.entry == event.entry && other.standing == event.standing).count();
        if self.events.len() < EVENTS && of_entry < EVENTS / 6 && !self.events.iter().any(same) {
            self.events.push(event);
        }
    }
}

impl Event {
    /// Whether it is what Ansible says about a failure before it tells the result.
    fn announces(&self) -> bool {
        self.standing == Standing::Raw
            && (self.excerpt.starts_with("An exception occurred during task execution") || self.excerpt.starts_with("[ERROR]: Task failed"))
    }
}

fn captures(regex: &regex::Regex, text: &str) -> BTreeMap<String, String> {
    let Some(found) = regex.captures(text).filter(|_| regex.captures_len() > 1) else { return BTreeMap::new() };
    let value = |name: &str| found.name(name).map(|value| (name.to_owned(), value.as_str().chars().take(CAPTURE).collect()));
    regex.capture_names().flatten().filter_map(value).collect()
}

/// At most [`EXCERPT`] bytes of a text.
fn excerpt(text: &str) -> String {
    let mut end = text.len().min(EXCERPT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
