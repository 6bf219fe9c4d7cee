//! Regular expressions, and the fixed text that a line must hold for one to fit: what the first, fast look at a line goes by.

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Shortest fixed text worth looking for.
const SHORTEST: usize = 3;
/// Longest fixed text that is looked for: its beginning finds the line as well.
const LONGEST: usize = 16;
/// Most fixed texts of one pattern.
const MOST: usize = 64;
/// Bound of a compiled pattern, in bytes.
const COMPILED: usize = 1 << 20;

/// A pattern, and texts of which a line it fits holds at least one (lower case).
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) regex: Regex,
    pub(super) needles: Vec<String>,
}

impl Pattern {
    /// Compiles; the error says what is wrong with the pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let regex = compile(pattern)?;
        let hir = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
        match required(&hir) {
            Some(needles) if needles.iter().all(|needle| needle.len() >= SHORTEST) => {
                let needles = needles.into_iter().map(|needle| needle.chars().take(LONGEST).collect()).collect();
                Ok(Self { regex, needles })
            }
            _ => Err(format!(
                "it needs a fixed text of at least {SHORTEST} characters in each of its alternatives, without quotes and backslashes"
            )),
        }
    }
}

/// Compiles, within bounds.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(COMPILED).build().map_err(|error| error.to_string())
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
    let mut found: Option<Vec<String>> = None;
    let mut offer = |set: Vec<String>| {
        let shortest = |set: &Vec<String>| set.iter().map(String::len).min().unwrap_or(0).min(LONGEST);
        let better = found.as_ref().is_none_or(|old| (shortest(&set), old.len()) > (shortest(old), set.len()));
        if shortest(&set) > 0 && better {
            found = Some(set);
        }
    };
    let mut run = String::new();
    for part in parts {
        match fixed(part) {
            Some(text) => {
                for c in text.chars() {
                    // results of Ansible write these in another way
                    if c.is_ascii() && !matches!(c, '"' | '\'' | '\\' | '\n' | '\r' | '\t') {
                        run.push(c);
                    } else {
                        offer(vec![std::mem::take(&mut run)]);
                    }
                }
            }
            None => {
                offer(vec![std::mem::take(&mut run)]);
                if let Some(set) = required(part) {
                    offer(set);
                }
            }
        }
    }
    offer(vec![run]);
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
        for (pattern, needles) in [
            ("No space left on device", vec!["no space left on"]),
            (r"needs (\d+)(K|M)B more space on the (\S+) filesystem", vec![" more space on th"]),
            ("(?i)no such host", vec!["no such host"]),
            ("(?:yum|dnf5?) lock", vec![" lock"]),
            (r"^(?:Error|Failed): \w+", vec!["error", "failed"]),
            (r#"repo "([^"]+)" is gone"#, vec![" is gone"]),
            ("l'hôte est injoignable", vec!["te est injoignab"]),
        ] {
            let short: Vec<String> = needles.iter().map(|n| n.chars().take(LONGEST).collect()).collect();
            assert_eq!(Pattern::new(pattern).unwrap().needles, short, "{pattern}");
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
