//! Regular expressions, and the fixed text that a line must hold for one to fit: what the first, fast look at a line goes by.

use std::cmp::Reverse;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Shortest fixed text worth looking for.
const SHORTEST: usize = 3;
/// Longest fixed text that is looked for: its beginning finds the line as well.
const LONGEST: usize = 16;
/// Most fixed texts of one pattern, or alternative.
const MOST: usize = 64;
/// Most places of a pattern whose fixed text is looked for.
const PLACES: usize = 3;
/// Bound of a compiled pattern, in bytes.
const COMPILED: usize = 1 << 20;

/// Fixed texts (lower case) by place: a line that fits holds one of each place.
pub(super) type Places = Vec<Vec<String>>;

/// A pattern, and what lines hold that it fits: all that one of the alternatives asks for.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) regex: Regex,
    pub(super) alternatives: Vec<Places>,
}

impl Pattern {
    /// Compiles; the error says what is wrong with the pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let regex = compile(pattern)?;
        let hir = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
        let alternatives = alternatives(&hir).ok_or_else(|| {
            format!("it needs a fixed text of at least {SHORTEST} characters in each of its alternatives, without quotes and backslashes")
        })?;
        Ok(Self { regex, alternatives })
    }
}

/// Compiles, within bounds.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(COMPILED).build().map_err(|error| error.to_string())
}

/// What each alternative of a pattern asks for.
fn alternatives(hir: &Hir) -> Option<Vec<Places>> {
    match hir.kind() {
        HirKind::Alternation(branches) => Some(branches.iter().map(alternatives).collect::<Option<Vec<_>>>()?.concat()),
        HirKind::Capture(capture) => alternatives(&capture.sub),
        HirKind::Concat(parts) => {
            let fits = |part: &&Hir| !matches!(part.kind(), HirKind::Look(_) | HirKind::Empty);
            let mut rest = parts.iter().filter(fits);
            match (rest.next(), rest.next()) {
                // an anchor and a group: the alternatives of the group
                (Some(only), None) => alternatives(only),
                _ => Some(vec![places(offers(parts.iter().collect()))?]),
            }
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) => {
            Some(vec![places(required(hir).into_iter().collect())?])
        }
    }
}

/// The best places, and at least one.
fn places(mut sets: Vec<Vec<String>>) -> Option<Places> {
    sets.retain(|set| shortest(set) >= SHORTEST && set.len() <= MOST);
    sets.sort_by_key(|set| (Reverse(shortest(set)), set.len()));
    sets.truncate(PLACES);
    let cut = |set: Vec<String>| set.into_iter().map(|text| text.chars().take(LONGEST).collect()).collect();
    (!sets.is_empty()).then(|| sets.into_iter().map(cut).collect())
}

/// Length of the shortest text, as far as lengths matter.
fn shortest(set: &[String]) -> usize {
    set.iter().map(String::len).min().unwrap_or(0).min(LONGEST)
}

/// The best set of texts of which one must occur: the one whose shortest is longest.
fn required(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Literal(_) | HirKind::Class(_) => fixed(hir).and_then(|_| best(vec![hir])),
        HirKind::Repetition(repetition) => (repetition.min > 0).then(|| required(&repetition.sub)).flatten(),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Concat(parts) => best(parts.iter().collect()),
        HirKind::Alternation(branches) => {
            let sets = branches.iter().map(required).collect::<Option<Vec<_>>>()?;
            let all = sets.concat();
            (all.len() <= MOST).then_some(all)
        }
    }
}

fn best(parts: Vec<&Hir>) -> Option<Vec<String>> {
    offers(parts).into_iter().filter(|set| shortest(set) > 0).min_by_key(|set| (Reverse(shortest(set)), set.len()))
}

/// The sets of texts that a sequence holds, one after the other.
fn offers(parts: Vec<&Hir>) -> Vec<Vec<String>> {
    let (mut found, mut run) = (vec![], String::new());
    for part in parts {
        let Some(text) = fixed(part) else {
            found.push(vec![std::mem::take(&mut run)]);
            found.extend(required(part));
            continue;
        };
        for c in text.chars() {
            // results of Ansible write these in another way
            if c.is_ascii() && !matches!(c, '"' | '\'' | '\\' | '\n' | '\r' | '\t') {
                run.push(c);
            } else {
                found.push(vec![std::mem::take(&mut run)]);
            }
        }
    }
    found.push(vec![run]);
    found
}

/// The text of a part that fits one text only, but for case.
fn fixed(part: &Hir) -> Option<String> {
    match part.kind() {
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok().map(|text| text.to_ascii_lowercase()),
        HirKind::Class(Class::Unicode(class)) => {
            let mut ascii = class.iter().filter(|range| range.start().is_ascii());
            let of =
                |range: &regex_syntax::hir::ClassUnicodeRange| (range.start() == range.end()).then(|| range.start().to_ascii_lowercase());
            let first = ascii.next().and_then(of)?;
            let rest_agrees = ascii.all(|range| of(range) == Some(first));
            // K and S have a third form, which no tool prints
            let few = class.iter().filter(|range| !range.start().is_ascii()).all(|range| range.start() == range.end());
            (rest_agrees && few && first.is_ascii_alphabetic()).then(|| first.to_string())
        }
        HirKind::Capture(capture) => fixed(&capture.sub),
        HirKind::Empty
        | HirKind::Class(Class::Bytes(_))
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Concat(_)
        | HirKind::Alternation(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_text_that_must_occur_is_found() {
        for (pattern, alternatives) in [
            ("No space left on device", vec![vec![vec!["no space left on"]]]),
            (
                r"needs (\d+)(K|M)B more space on the (\S+) filesystem",
                vec![vec![vec!["b more space on t"], vec![" filesystem"], vec!["needs "]]],
            ),
            ("(?i)no such host", vec![vec![vec!["no such host"]]]),
            ("(?:yum|dnf5?) lock", vec![vec![vec![" lock"], vec!["yum", "dnf"]]]),
            (r"^(?:Error|Failed: \w+ gone)$", vec![vec![vec!["error"]], vec![vec!["failed: "], vec![" gone"]]]),
            (r#"repo "([^"]+)" is gone"#, vec![vec![vec![" is gone"], vec!["repo "]]]),
            ("l'hôte est injoignable", vec![vec![vec!["te est injoignabl"]]]),
        ] {
            let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
            let wanted: Vec<Places> =
                alternatives.iter().map(|places| places.iter().map(|set| set.iter().map(|text| cut(text)).collect()).collect()).collect();
            assert_eq!(Pattern::new(pattern).unwrap().alternatives, wanted, "{pattern}");
        }
    }

    #[test]
    fn patterns_without_fixed_text_are_refused() {
        for pattern in [r"\d+", ".*", "(abc|.)", "a.b", "(abcd)?", "((((", r"(?<=a)bcd", r"(abc)\1"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::new(&format!("abc{}", r"\w{1000}".repeat(20))).is_err());
    }
}
