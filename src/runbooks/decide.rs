//! From evidence to a verdict: of each host the cause that explains the rest, over all hosts the one of most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Library,
    classifier::{Event, Reading, Scope, Standing, Verdict},
};
use crate::api::classification::{Classification, Evidence, OTHER, Tier};

/// Most contributing codes that are reported.
const ALSO: usize = 16;

/// Decides over everything that was read.
pub(super) fn decide(library: &Library, reading: Reading) -> Verdict {
    let Reading { ansible, hosts, mut raw, failures, .. } = reading;
    // with Ansible in it, a system log's host is the one Ansible runs on
    if ansible || failures.is_some() {
        let mut root = Scope::default();
        for scope in std::mem::take(&mut raw).into_values() {
            root.events.extend(scope.events);
            root.met.extend(scope.met);
        }
        root.events.sort_by_key(|event| event.line);
        if failures == Some(0) {
            root.events.retain(|event| event.persists);
        }
        raw.insert(String::new(), root);
    }
    let root = if ansible { raw.remove("").unwrap_or_default() } else { Scope::default() };
    let all_well = !hosts.is_empty() && hosts.values().all(|host| host.recap == Some(false));
    let mut causes: BTreeMap<String, Classification> = BTreeMap::new();
    for (name, scope) in hosts.iter().chain(&raw) {
        if let Some(cause) = of_host(library, scope, &root) {
            causes.insert(name.clone(), cause);
        }
    }
    let met: BTreeSet<u32> = hosts.values().chain([&root]).flat_map(|scope| scope.met.iter().copied()).collect();
    let unexplained = causes.values().all(|cause| cause.error_code == OTHER);
    if unexplained && !all_well {
        let anywhere = Scope { met, ..Scope::default() };
        if let Some(cause) = strongest(library, &counting(&root), &root, &anywhere) {
            let better = cause.error_code != OTHER || causes.is_empty();
            if better {
                causes.insert(String::new(), cause);
            }
        }
    }
    let classification = over_hosts(library, &causes);
    causes.remove("");
    Verdict { classification, hosts: causes }
}

/// The evidence that nothing cancelled.
fn counting(scope: &Scope) -> Vec<&Event> {
    scope.events.iter().filter(|event| event.standing >= Standing::Raw || event.persists).collect()
}

/// The cause of one host; what was said outside of results helps where its own say nothing.
fn of_host(library: &Library, scope: &Scope, root: &Scope) -> Option<Classification> {
    let own = strongest(library, &counting(scope), scope, root)?;
    if own.error_code != OTHER {
        return Some(own);
    }
    // a failure that only says that something failed: what was ignored, or printed, before it may say what
    let earlier: Vec<&Event> = scope.events.iter().filter(|event| event.tier > Tier::Weak).collect();
    let mut found = strongest(library, &earlier, scope, root).filter(|cause| cause.error_code != OTHER);
    if let Some(found) = &mut found {
        found.tier = Tier::Corroborated;
    }
    Some(found.unwrap_or(own))
}

/// The cause among lines of one host.
fn strongest(library: &Library, events: &[&Event], scope: &Scope, root: &Scope) -> Option<Classification> {
    let met = |event: &&&Event| event.with.is_none_or(|with| scope.met.contains(&with) || root.met.contains(&with));
    let placed = |event: &&&Event| !event.failed_task || event.standing == Standing::Failed;
    let events: Vec<&Event> = events.iter().filter(met).filter(placed).copied().collect();
    let code = |event: &Event| library.entries[event.entry].code.as_str();
    let failed = events.iter().any(|event| event.tier > Tier::Weak || code(event) == OTHER);
    if !failed {
        return None;
    }
    let least = events
        .iter()
        .filter(|event| code(event) != OTHER)
        .map(|event| event.tier)
        .max()
        .map_or(Tier::Weak, |best| best.min(Tier::Corroborated));
    let strong: Vec<&Event> = events.iter().filter(|event| event.tier >= least && code(event) != OTHER).copied().collect();
    let codes: BTreeSet<&str> = strong.iter().map(|event| code(event)).collect();
    let explained = |what: &str| codes.iter().any(|by| *by != what && explains(library, by, what) && !explains(library, what, by));
    let causes: Vec<&Event> = strong.iter().filter(|event| !explained(code(event))).copied().collect();
    let causes = if causes.is_empty() { strong } else { causes };
    let first = |list: &[&Event]| list.iter().min_by_key(|event| (Reverse(event.tier), event.line)).copied().cloned();
    let Some(best) = first(&causes) else {
        return first(&events).map(|event| classification(OTHER, vec![], Tier::Weak, &event));
    };
    let cause = code(&best);
    let also: Vec<String> = codes.into_iter().filter(|other| *other != cause).take(ALSO).map(String::from).collect();
    let rival = causes.iter().any(|event| code(event) != cause);
    let tier = if rival { best.tier.min(Tier::Corroborated) } else { best.tier };
    Some(classification(cause, also, tier, &best))
}

fn classification(code: &str, also: Vec<String>, tier: Tier, event: &Event) -> Classification {
    let evidence =
        Evidence { line: i64::try_from(event.line).unwrap_or(i64::MAX), excerpt: event.excerpt.clone(), captures: event.captures.clone() };
    Classification { error_code: code.to_owned(), also, tier, evidence: Some(evidence) }
}

fn explains(library: &Library, cause: &str, effect: &str) -> bool {
    library.entries.iter().any(|entry| entry.code == cause && entry.explains.contains(effect))
}

/// The cause of most hosts; of equally many the one that explains another, then the one that was seen first.
fn over_hosts(library: &Library, causes: &BTreeMap<String, Classification>) -> Option<Classification> {
    let mut of_code: BTreeMap<&str, Vec<&Classification>> = BTreeMap::new();
    for cause in causes.values() {
        of_code.entry(&cause.error_code).or_default().push(cause);
    }
    if of_code.len() > 1 {
        of_code.remove(OTHER);
    }
    let line = |cause: &Classification| cause.evidence.as_ref().map_or(i64::MAX, |evidence| evidence.line);
    let rank = |code: &str, hosts: &[&Classification]| {
        let explaining = of_code.keys().filter(|other| explains(library, code, other)).count();
        (Reverse(hosts.len()), Reverse(explaining), hosts.iter().map(|cause| line(cause)).min())
    };
    let (code, hosts) = of_code.iter().min_by_key(|(code, hosts)| rank(code, hosts))?;
    let mut cause = (*hosts.iter().min_by_key(|cause| (Reverse(cause.tier), line(cause)))?).clone();
    let others = of_code.keys().filter(|other| *other != code).map(|other| (*other).to_owned());
    let also: BTreeSet<String> =
        hosts.iter().flat_map(|cause| cause.also.iter().cloned()).chain(others).filter(|other| other != code).collect();
    cause.also = also.into_iter().take(ALSO).collect();
    if of_code.len() > 1 {
        cause.tier = cause.tier.min(Tier::Corroborated);
    }
    Some(cause)
}
