//! [`Library`]: Runbooks, compiled.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, LazyLock},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::{
    ansible,
    classifier::{Classifier, Context},
    pattern::{self, Pattern},
    signs,
};
use crate::{
    api::{
        classification::{Classification, OTHER, Tier},
        patch_run::Phase,
        runbook::{Capture, OsFamily, Place, Runbook, RunbookSpec},
    },
    yaml,
};

/// Longest value of a launch's variable that is taken from a log.
const LONGEST_VALUE: usize = 256;

/// No needle is longer.
const LONGEST_NEEDLE: usize = 64;

/// Runbooks, compiled.
pub struct Library {
    /// By name.
    runbooks: BTreeMap<String, Arc<RunbookSpec>>,
    pub(super) entries: Vec<Entry>,
    pub(super) matchers: Vec<Matcher>,
    /// Finds the lines worth a second look.
    needles: Option<AhoCorasick>,
    /// Gates of each needle, and the place in the gate.
    of_needle: Vec<Vec<(u32, u8)>>,
    /// What a line has to hold for a matcher to be tried.
    gates: Vec<Gate>,
}

/// What one Runbook adds, or the signs of a failure (the first entry).
pub(super) struct Entry {
    pub(super) code: String,
    pub(super) phases: Vec<Phase>,
    pub(super) os_families: Vec<OsFamily>,
    pub(super) excludes: Vec<regex::Regex>,
    pub(super) explains: BTreeSet<String>,
}

/// An alternative of a pattern: open to a line that holds a needle of each place.
struct Gate {
    matcher: Option<u32>,
    /// A bit for each place.
    places: u8,
}

/// Which places of which gates a text hit; room that is used again for each text.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// Number of the text.
    text: u64,
    /// Of each gate the last text that hit it, and the places hit.
    of_gate: Vec<(u64, u8)>,
}

/// A pattern and what it is for.
pub(super) struct Matcher {
    pub(super) entry: usize,
    pub(super) regex: regex::Regex,
    pub(super) role: Role,
}

/// What it means when a pattern fits.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Evidence; with another matcher that has to fit too.
    Match { tier: Tier, failed_task: bool, persists: bool, with: Option<u32> },
    /// Earlier evidence of the entry no longer counts.
    Clear,
    /// A condition of a `Match`.
    With,
}

/// Why a Runbook is not used, with the line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

/// A remediation that a classification earned. It is for the failed hosts only, and a person has to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Name of the approved job template.
    pub template: String,
    /// Variables of the launch.
    pub variables: BTreeMap<String, String>,
}

/// The files of `config/runbooks`.
const FILES: &[(&str, &str)] = &[
    ("aap", include_str!("../../config/runbooks/aap.yaml")),
    ("auth", include_str!("../../config/runbooks/auth.yaml")),
    ("disk-boot", include_str!("../../config/runbooks/disk-boot.yaml")),
    ("gpg", include_str!("../../config/runbooks/gpg.yaml")),
    ("host-unreachable", include_str!("../../config/runbooks/host-unreachable.yaml")),
    ("kernel-missing", include_str!("../../config/runbooks/kernel-missing.yaml")),
    ("lock-dnf", include_str!("../../config/runbooks/lock-dnf.yaml")),
    ("other", include_str!("../../config/runbooks/other.yaml")),
    ("pkg-conflict", include_str!("../../config/runbooks/pkg-conflict.yaml")),
    ("pkg-missing", include_str!("../../config/runbooks/pkg-missing.yaml")),
    ("post-service", include_str!("../../config/runbooks/post-service.yaml")),
    ("reboot-timeout", include_str!("../../config/runbooks/reboot-timeout.yaml")),
    ("repo-empty", include_str!("../../config/runbooks/repo-empty.yaml")),
    ("rpmdb", include_str!("../../config/runbooks/rpmdb.yaml")),
    ("sat-entitle", include_str!("../../config/runbooks/sat-entitle.yaml")),
    ("selinux-perm", include_str!("../../config/runbooks/selinux-perm.yaml")),
    ("time-cert", include_str!("../../config/runbooks/time-cert.yaml")),
];

static SHIPPED: LazyLock<Vec<Runbook>> = LazyLock::new(|| FILES.iter().filter_map(|(_, text)| yaml::from_str(text).ok()).collect());
static COMPILED: LazyLock<Arc<Library>> = LazyLock::new(|| Arc::new(Library::compiled(&*SHIPPED).0));

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("runbooks", &self.runbooks.keys()).finish_non_exhaustive()
    }
}

impl Library {
    /// Compiles Runbooks, and checks each with its examples. One with a mistake is left out and named with its problem;
    /// of several with one name the first counts, so that a team can put its own in place of a shipped one.
    pub fn new<R: Borrow<Runbook>>(runbooks: impl IntoIterator<Item = R>) -> (Self, BTreeMap<String, Problem>) {
        let (mut good, mut problems) = (vec![], BTreeMap::new());
        for runbook in runbooks {
            let runbook = runbook.borrow();
            match check(runbook) {
                Ok(()) => good.push(runbook.clone()),
                Err(problem) => drop(problems.insert(runbook.metadata.name.clone().unwrap_or_default(), problem)),
            }
        }
        let (library, more) = Self::compiled(&good);
        problems.extend(more);
        (library, problems)
    }

    /// The Runbooks that come with Fettle, compiled. A test checks their examples.
    pub fn shipped() -> Arc<Self> {
        COMPILED.clone()
    }

    /// The Runbooks that come with Fettle.
    pub fn shipped_runbooks() -> &'static [Runbook] {
        &SHIPPED
    }

    /// The Runbook of a code, the first by name.
    pub fn runbook(&self, code: &str) -> Option<&RunbookSpec> {
        self.runbooks.values().map(Arc::as_ref).find(|spec| spec.error_code == code)
    }

    /// What may be launched to mend it: only for a decisive classification whose captures are plain words.
    pub fn offer(&self, classification: &Classification) -> Option<Offer> {
        let plain = |value: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "._/:@+~-".contains(c);
            !value.is_empty() && value.len() <= LONGEST_VALUE && !value.starts_with('-') && value.chars().all(fits)
        };
        let remediation =
            self.runbook(&classification.error_code)?.remediation.as_ref().filter(|_| classification.tier == Tier::Decisive)?;
        let captures = &classification.evidence.as_ref()?.captures;
        let value = |capture: Capture| captures.get(capture.as_str()).filter(|value| plain(value)).cloned();
        let variables = remediation.variables.iter().map(|v| Some((v.name.clone(), value(v.capture)?))).collect::<Option<_>>()?;
        Some(Offer { template: remediation.template.clone(), variables })
    }

    /// Whether a line may mean something: a mark of Ansible's, or a pattern that may fit.
    pub(super) fn worth_reading(&self, line: &[u8], hits: &mut Hits) -> bool {
        let Some(needles) = &self.needles else { return true };
        let Some(first) = needles.find(line) else { return false };
        // one that ends later may begin before the first that ends
        let rest = &line[first.start().saturating_sub(LONGEST_NEEDLE)..];
        self.open(needles.find_overlapping_iter(rest), hits).next().is_some()
    }

    /// The matchers that may fit a text, in order.
    pub(super) fn candidates(&self, text: &str, hits: &mut Hits, candidates: &mut Vec<u32>) {
        candidates.clear();
        let Some(needles) = &self.needles else { return };
        candidates.extend(self.open(needles.find_overlapping_iter(text), hits).flatten());
        candidates.sort_unstable();
        candidates.dedup();
    }

    /// The matchers of the gates as they open; of a mark of Ansible's none.
    fn open<'a>(
        &'a self,
        found: impl Iterator<Item = aho_corasick::Match> + 'a,
        hits: &'a mut Hits,
    ) -> impl Iterator<Item = Option<u32>> + 'a {
        hits.text = hits.text.wrapping_add(1);
        hits.of_gate.resize(self.gates.len(), (0, 0));
        found.flat_map(|found| &self.of_needle[found.pattern().as_usize()]).filter_map(|(gate, place)| {
            let (text, places) = &mut hits.of_gate[*gate as usize];
            if *text != hits.text {
                (*text, *places) = (hits.text, 0);
            }
            let before = *places;
            *places |= 1 << place;
            let gate = &self.gates[*gate as usize];
            (*places == gate.places && *places != before).then_some(gate.matcher)
        })
    }

    /// Compiles without a look at the examples.
    fn compiled<'a>(runbooks: impl IntoIterator<Item = &'a Runbook>) -> (Self, BTreeMap<String, Problem>) {
        let mut making = Making::default();
        let mut problems = BTreeMap::new();
        let mut by_name = BTreeMap::new();
        if let Err(problem) = making.add(&signs::signs()) {
            problems.insert(String::new(), problem);
        }
        for runbook in runbooks {
            let name = runbook.metadata.name.clone().unwrap_or_default();
            if by_name.contains_key(&name) {
                continue;
            }
            match making.add(&runbook.spec) {
                Ok(()) => drop(by_name.insert(name, Arc::new(runbook.spec.clone()))),
                Err(problem) => drop(problems.insert(name, problem)),
            }
        }
        for needle in ansible::NEEDLES {
            making.gate(None, &[vec![(*needle).to_owned()]]);
        }
        let needles =
            AhoCorasick::builder().ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).build(making.needles.keys()).ok();
        let library = Self {
            runbooks: by_name,
            entries: making.entries,
            matchers: making.matchers,
            needles,
            gates: making.gates,
            of_needle: making.needles.into_values().collect(),
        };
        (library, problems)
    }
}

#[derive(Default)]
struct Making {
    entries: Vec<Entry>,
    matchers: Vec<Matcher>,
    needles: BTreeMap<String, Vec<(u32, u8)>>,
    gates: Vec<Gate>,
}

impl Making {
    fn gate(&mut self, matcher: Option<u32>, places: &[Vec<String>]) {
        let gate = u32::try_from(self.gates.len()).unwrap_or(u32::MAX);
        self.gates.push(Gate { matcher, places: (0..places.len()).fold(0, |bits, place| bits | 1 << place) });
        for (place, needle) in (0..).zip(places).flat_map(|(place, set)| set.iter().map(move |needle| (place, needle))) {
            self.needles.entry(needle.clone()).or_default().push((gate, place));
        }
    }

    fn add(&mut self, spec: &RunbookSpec) -> Result<(), Problem> {
        let fault = |what: &str, pattern: &str, why: String| Problem(format!("{what} `{pattern}`: {why}"));
        let mut matchers: Vec<(Pattern, Role)> = vec![];
        let base = self.matchers.len();
        for given in &spec.matches {
            let pattern = Pattern::new(&given.pattern).map_err(|why| fault("match", &given.pattern, why))?;
            if let Some(unknown) =
                pattern.regex.capture_names().flatten().find(|name| Capture::ALL.iter().all(|known| known.as_str() != *name))
            {
                let known: Vec<&str> = Capture::ALL.iter().map(|known| known.as_str()).collect();
                return Err(fault("match", &given.pattern, format!("the group {unknown} is none of {}", known.join(", "))));
            }
            let with = match &given.with {
                Some(with) => {
                    matchers.push((Pattern::new(with).map_err(|why| fault("with", with, why))?, Role::With));
                    u32::try_from(base + matchers.len() - 1).ok()
                }
                None => None,
            };
            let failed_task = given.place == Some(Place::FailedTask);
            matchers.push((pattern, Role::Match { tier: given.tier, failed_task, persists: given.persists == Some(true), with }));
        }
        for clear in &spec.clears {
            matchers.push((Pattern::new(clear).map_err(|why| fault("clears", clear, why))?, Role::Clear));
        }
        let excludes =
            spec.excludes.iter().map(|e| pattern::compile(e).map_err(|why| fault("excludes", e, why))).collect::<Result<_, _>>()?;
        let entry = self.entries.len();
        self.entries.push(Entry {
            code: spec.error_code.clone(),
            phases: spec.phases.clone(),
            os_families: spec.os_families.clone(),
            excludes,
            explains: spec.explains.iter().cloned().collect(),
        });
        for (pattern, role) in matchers {
            let id = u32::try_from(self.matchers.len()).map_err(|_| Problem("there are too many patterns".into()))?;
            for places in &pattern.alternatives {
                self.gate(Some(id), places);
            }
            self.matchers.push(Matcher { entry, regex: pattern.regex, role });
        }
        Ok(())
    }
}

/// Whether a Runbook, all by itself, recognises its examples and none of its counter-examples.
fn check(runbook: &Runbook) -> Result<(), Problem> {
    let spec = &runbook.spec;
    let (library, problems) = Library::compiled([runbook]);
    if let Some(problem) = problems.into_values().next() {
        return Err(problem);
    }
    let library = Arc::new(library);
    let context = Context { phase: spec.phases.first().copied(), os_family: spec.os_families.first().copied() };
    let recognised = |text: &str| {
        let mut classifier = Classifier::new(library.clone(), context);
        classifier.push(text.as_bytes());
        classifier.finish().classification.is_some_and(|found| found.error_code == spec.error_code)
    };
    if let Some(missed) = spec.examples.iter().find(|text| !recognised(text)) {
        return Err(Problem(format!("no pattern in match recognises the example `{}`", head(missed))));
    }
    if let Some(hit) = spec.counter_examples.iter().find(|text| recognised(text)) {
        return Err(Problem(format!(
            "the counter-example `{}` is recognised: make match narrower, or add to excludes or clears",
            head(hit)
        )));
    }
    if spec.matches.is_empty() && spec.error_code != OTHER {
        return Err(Problem("match holds no pattern".into()));
    }
    Ok(())
}

/// The beginning of a text, on one line.
fn head(text: &str) -> String {
    let line = text.trim().replace('\n', " ⏎ ");
    if line.chars().count() > 200 { format!("{}…", line.chars().take(200).collect::<String>()) } else { line }
}
