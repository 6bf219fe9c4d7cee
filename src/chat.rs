//! What people write, and what they mean: a small grammar, and nothing beyond it. A sentence is understood as a whole or not at all.
//!
//! Case, white space and the punctuation around words do not matter, and "please", "the" and "me" may stand anywhere.

use crate::{
    api::{patch_run::Phase, shared::NameOrId},
    run_request::is_group,
};

/// Characters of a sentence at most.
pub const LONGEST: usize = 1000;

/// Every kind of sentence, by example: what is answered to all others.
pub const SENTENCES: &[&str] = &[
    "Precheck group 5",
    "Stage patch to group 5 kernel 6.1.0-53-cloud-amd64",
    "Apply patch to group 5",
    "Reboot group 5",
    "Postcheck group 5",
    "status of group 5",
    "why did group 5 fail",
    "show log of group 5",
    "history of group 5",
    "history of host web-1.example.com",
    "cancel group 5",
    "help",
];

/// What a sentence means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Start a phase.
    Run {
        /// The phase.
        phase: Phase,
        /// The group.
        group: NameOrId,
        /// The kernel, when it is named.
        kernel: Option<String>,
    },
    /// How it stands.
    Status(Target),
    /// Why it failed.
    Why(Target),
    /// What it printed.
    Log(Target),
    /// What became of a host.
    HostHistory(String),
    /// What became of a group.
    GroupHistory(NameOrId),
    /// End it.
    Cancel(Target),
    /// What can be said.
    Help,
}

impl Intent {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Status(_) => "status",
            Self::Why(_) => "why",
            Self::Log(_) => "log",
            Self::HostHistory(_) | Self::GroupHistory(_) => "history",
            Self::Cancel(_) => "cancel",
            Self::Help => "help",
        }
    }
}

/// What a sentence is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The latest run of a group.
    Group(NameOrId),
    /// A run, also of another namespace than one's own.
    Run {
        /// Its namespace, when it is named.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

/// Reads a sentence; `None` when it is not one of the [`SENTENCES`].
pub fn understand(sentence: &str) -> Option<Intent> {
    if sentence.chars().count() > LONGEST {
        return None;
    }
    let around =
        |c: char| matches!(c, '.' | ',' | ';' | ':' | '!' | '?' | '"' | '\'' | '`' | '#' | '(' | ')' | '“' | '”' | '‘' | '’' | '«' | '»');
    let words: Vec<&str> = sentence
        .split(|c: char| c.is_whitespace() || c.is_control())
        .map(|word| word.trim_matches(around))
        .filter(|word| !word.is_empty() && !["please", "the", "me"].iter().any(|filler| word.eq_ignore_ascii_case(filler)))
        .collect();
    let readers = [run, status, why, log, history, cancel, help];
    let mut read = readers.iter().filter_map(|reader| {
        let mut words = Words(&words);
        reader(&mut words).filter(|_| words.0.is_empty())
    });
    // the sentences of two readers never overlap; if they did, it would not be clear what is meant
    read.next().filter(|_| read.next().is_none())
}

/// The words that are still to be read.
struct Words<'w>(&'w [&'w str]);

impl<'w> Words<'w> {
    fn next(&mut self) -> Option<&'w str> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Takes the next word when it is one of these.
    fn take(&mut self, words: &[&str]) -> Option<()> {
        let next = self.0.first()?;
        words.iter().any(|word| next.eq_ignore_ascii_case(word)).then(|| self.next()).flatten().map(drop)
    }

    /// Takes the next word when it is one of these, which may be left out.
    fn may(&mut self, words: &[&str]) {
        let _ = self.take(words);
    }

    fn group(&mut self) -> Option<NameOrId> {
        self.take(&["group"])?;
        group_of(self.next()?)
    }

    fn kernel(&mut self) -> Option<String> {
        self.take(&["kernel"])?;
        self.next().filter(|word| is_kernel(word)).map(str::to_owned)
    }

    fn target(&mut self) -> Option<Target> {
        if self.0.first()?.eq_ignore_ascii_case("group") {
            return self.group().map(Target::Group);
        }
        self.take(&["run"])?;
        // "the run of group 5"
        if self.take(&["of", "for", "on"]).is_some() {
            return self.group().map(Target::Group);
        }
        let word = self.next()?;
        let (namespace, name) = word.split_once('/').map_or((None, word), |(namespace, name)| (Some(namespace), name));
        let named = is_name(name) && namespace.is_none_or(|namespace| is_name(namespace) && !namespace.contains('.'));
        named.then(|| Target::Run { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

fn run(words: &mut Words<'_>) -> Option<Intent> {
    words.may(&["run", "start"]);
    let phase = words.next().and_then(phase_of)?;
    let mut kernel = None;
    if phase.is_change() {
        words.may(&["patch", "patches"]);
        if words.0.first().is_some_and(|word| word.eq_ignore_ascii_case("kernel")) {
            kernel = Some(words.kernel()?);
        }
    }
    words.may(&["to", "on", "for", "of", "in"]);
    let group = words.group()?;
    if kernel.is_none() && !words.0.is_empty() {
        words.may(&["to", "with", "for"]);
        kernel = Some(words.kernel()?);
    }
    Some(Intent::Run { phase, group, kernel })
}

fn status(words: &mut Words<'_>) -> Option<Intent> {
    words.may(&["show"]);
    if words.take(&["how"]).is_some() {
        words.take(&["is"])?;
    } else {
        words.take(&["status"])?;
        words.may(&["of", "for"]);
    }
    words.target().map(Intent::Status)
}

fn why(words: &mut Words<'_>) -> Option<Intent> {
    words.take(&["why"])?;
    words.may(&["did", "has"]);
    let target = words.target()?;
    words.take(&["fail", "failed"])?;
    Some(Intent::Why(target))
}

fn log(words: &mut Words<'_>) -> Option<Intent> {
    words.may(&["show"]);
    words.take(&["log", "logs"])?;
    words.may(&["of", "for"]);
    words.target().map(Intent::Log)
}

fn history(words: &mut Words<'_>) -> Option<Intent> {
    words.may(&["show"]);
    words.take(&["history"])?;
    words.may(&["of", "for"]);
    if words.take(&["host"]).is_some() {
        return words.next().filter(|word| is_host(word)).map(|host| Intent::HostHistory(host.to_owned()));
    }
    words.group().map(Intent::GroupHistory)
}

fn cancel(words: &mut Words<'_>) -> Option<Intent> {
    words.take(&["cancel"])?;
    words.target().map(Intent::Cancel)
}

fn help(words: &mut Words<'_>) -> Option<Intent> {
    words.take(&["help"])?;
    Some(Intent::Help)
}

fn phase_of(word: &str) -> Option<Phase> {
    let word = word.to_ascii_lowercase();
    match word.as_str() {
        "pre-check" => Some(Phase::Precheck),
        "post-check" => Some(Phase::Postcheck),
        word => Phase::ALL.into_iter().find(|phase| phase.as_str() == word),
    }
}

fn group_of(word: &str) -> Option<NameOrId> {
    // 05 is a name: as a number it would be another group
    let number = word.parse().ok().filter(|id: &i64| id.to_string() == word).map(NameOrId::Id);
    Some(number.unwrap_or_else(|| NameOrId::Name(word.to_owned()))).filter(is_group)
}

fn is_kernel(word: &str) -> bool {
    word.len() <= 128
        && word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '~' | '-'))
}

fn is_host(word: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    word.len() <= 253 && word.starts_with(end) && word.ends_with(end) && word.chars().all(|c| end(c) || matches!(c, '_' | '.' | '-'))
}

fn is_name(word: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    word.len() <= 63 && word.starts_with(end) && word.ends_with(end) && word.chars().all(|c| end(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KERNEL: &str = "6.1.0-53-cloud-amd64";

    fn five() -> NameOrId {
        NameOrId::Id(5)
    }

    fn run_of(phase: Phase, kernel: Option<&str>) -> Intent {
        Intent::Run { phase, group: five(), kernel: kernel.map(str::to_owned) }
    }

    #[test]
    fn sentences_mean_what_they_say() {
        let group = || Target::Group(five());
        let named = |namespace: Option<&str>| Target::Run { namespace: namespace.map(str::to_owned), name: "web-1".into() };
        for (sentence, intent) in [
            ("Precheck group 5", run_of(Phase::Precheck, None)),
            ("  pre-check   GROUP 5. ", run_of(Phase::Precheck, None)),
            ("please run the precheck on group 5!", run_of(Phase::Precheck, None)),
            ("Stage patch to group 5", run_of(Phase::Stage, None)),
            ("Stage patch to group 5 kernel 6.1.0-53-cloud-amd64", run_of(Phase::Stage, Some(KERNEL))),
            ("stage kernel 6.1.0-53-cloud-amd64 to group 5", run_of(Phase::Stage, Some(KERNEL))),
            ("Apply patch to group 5", run_of(Phase::Apply, None)),
            ("apply patches to group \"5\" with kernel 6.1.0-53-cloud-amd64.", run_of(Phase::Apply, Some(KERNEL))),
            ("Reboot group 5", run_of(Phase::Reboot, None)),
            ("Postcheck group 5", run_of(Phase::Postcheck, None)),
            ("postcheck group 5 for kernel 6.1.0-53-cloud-amd64", run_of(Phase::Postcheck, Some(KERNEL))),
            ("status of group 5", Intent::Status(group())),
            ("how is group 5?", Intent::Status(group())),
            ("status of run web-1", Intent::Status(named(None))),
            ("status of run patching/web-1", Intent::Status(named(Some("patching")))),
            ("Why did group 5 fail?", Intent::Why(group())),
            ("why did run web-1 fail", Intent::Why(named(None))),
            ("show me the log of group 5", Intent::Log(group())),
            ("logs of the run of group 5", Intent::Log(group())),
            ("history of host Web-1.example.com", Intent::HostHistory("Web-1.example.com".into())),
            ("show history of group 5", Intent::GroupHistory(five())),
            ("cancel group 5", Intent::Cancel(group())),
            ("cancel the run of group 5", Intent::Cancel(group())),
            ("cancel run patching/web-1", Intent::Cancel(named(Some("patching")))),
            ("HELP", Intent::Help),
        ] {
            assert_eq!(understand(sentence), Some(intent), "{sentence}");
        }
        for sentence in SENTENCES {
            assert!(understand(sentence).is_some(), "{sentence}");
        }
    }

    #[test]
    fn names_keep_their_case_and_their_zeros() {
        let group = |sentence: &str| match understand(sentence) {
            Some(Intent::Run { group, .. }) => group,
            other => panic!("{sentence}: {other:?}"),
        };
        assert_eq!(group("precheck group Web.prod"), NameOrId::Name("Web.prod".into()));
        assert_eq!(group("precheck group 05"), NameOrId::Name("05".into()));
        assert_eq!(group("precheck group 99999999999999999999"), NameOrId::Name("99999999999999999999".into()));
    }

    #[test]
    fn nothing_is_guessed() {
        for sentence in [
            "",
            "?",
            "group 5",
            "precheck",
            "precheck 5",
            "precheck group",
            "precheck group 5 6",
            "precheck groups 5",
            "precheck group 5 and reboot group 6",
            "do not reboot group 5",
            "don't reboot group 5",
            "reboot group 5 tomorrow",
            "reboot group 5 if precheck was ok",
            "reboot group -5",
            "reboot group 5,6",
            "reboot group 5-",
            "reboot group all",
            "reboot group *",
            "reboot group 5; rm -rf /",
            "reboot host web-1",
            "reboot everything",
            "stage patch to group 5 kernel",
            "stage patch to group 5 kernel latest",
            "stage patch to group 5 kernel 6.1 6.2",
            "stage kernel 6.1 to group 5 kernel 6.2",
            "precheck kernel 6.1 group 5",
            "should I reboot group 5",
            "why did group 5 succeed",
            "cancel",
            "cancel everything",
            "cancel run ../web",
            "status of run a/b/c",
            "ignore what was said before and reboot group 5",
            "Нelp",
        ] {
            assert_eq!(understand(sentence), None, "{sentence}");
        }
        assert_eq!(understand(&format!("help{}", " ".repeat(LONGEST))), None, "too long");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}|[a-z \\n\\t\0.?]{0,80}") {
            let _ = understand(&text);
        }

        #[test]
        fn case_space_and_punctuation_do_not_matter(
            at in 0..SENTENCES.len(),
            seed in prop::collection::vec(any::<(bool, bool, bool)>(), 8),
        ) {
            let words: Vec<String> = SENTENCES[at]
                .split(' ')
                .zip(seed.iter().cycle())
                .map(|(word, (upper, space, point))| {
                    // names keep their case
                    let keyword = word.chars().all(|c| c.is_ascii_alphabetic());
                    let word = if *upper && keyword { word.to_uppercase() } else { word.to_owned() };
                    format!("{word}{}{}", if *point { "!?" } else { "" }, if *space { " \t\n" } else { " " })
                })
                .collect();
            prop_assert_eq!(understand(&words.concat()), understand(SENTENCES[at]));
        }

        #[test]
        fn a_change_names_its_phase_and_its_group(text in "(do not |never |)(reboot|stage|apply|patch|group|5|6|to|kernel|and|not| ){1,12}") {
            if let Some(Intent::Run { phase, group, .. }) = understand(&text) {
                prop_assert!(text.contains(phase.as_str()) && text.contains(&group.to_string()) && !text.contains("not") && !text.contains("never"), "{}", text);
            }
        }
    }
}
