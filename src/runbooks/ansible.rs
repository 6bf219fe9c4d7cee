//! The lines with which Ansible tells of plays, tasks and hosts: the default callback, and those made from it (yaml, debug, minimal, oneline, unixy).

/// What a line of Ansible's output begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// A play.
    Play,
    /// A task, or a handler.
    Task { handler: bool },
    /// The result of a task on a host.
    Result { host: &'a str, status: Status },
    /// A failed try; more follow.
    Retry,
    /// The failure before does not count.
    Ignoring,
    /// The recap begins.
    Recap,
    /// The recap of one host.
    Summary { host: &'a str, failed: bool },
    /// Words of Ansible's own that end a result.
    Other,
}

/// How a task ended on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Failed,
    Unreachable,
}

/// Texts of which a line with a mark holds at least one (lower case).
pub(super) const NEEDLES: &[&str] = &[
    "play [",
    "play recap",
    "task [",
    "task: [",
    "handler [",
    "handlers [",
    "fatal: [",
    "failed: [",
    "ok: [",
    "changed: [",
    "skipping: [",
    "included: ",
    "unreachable: [",
    "rescued: [",
    "...ignoring",
    "failed - retrying",
    "unreachable=",
    " | failed",
    " | unreachable!",
    " | success",
    " | changed",
    " | rc=",
    "no more hosts left",
    "to retry, use: --limit",
    "stats: ",
    " failed | ",
    " unreachable | ",
    // of results and statistics in JSON
    "\"failed\": true",
    "\"failures\": ",
    "\"unreachable\": ",
];

/// Reads the mark of a line that has no timestamp in front any more.
pub(super) fn mark(line: &str) -> Option<Mark<'_>> {
    let text = line.trim();
    let starts = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    if starts(&["TASK [", "TASK: ["]) {
        return Some(Mark::Task { handler: false });
    }
    if starts(&["RUNNING HANDLER", "RUNNING HANDLERS", "HANDLER ["]) {
        return Some(Mark::Task { handler: true });
    }
    if starts(&["PLAY RECAP"]) {
        return Some(Mark::Recap);
    }
    if starts(&["PLAY ["]) {
        return Some(Mark::Play);
    }
    if starts(&["...ignoring"]) {
        return Some(Mark::Ignoring);
    }
    if starts(&["FAILED - RETRYING"]) {
        return Some(Mark::Retry);
    }
    if starts(&["NO MORE HOSTS LEFT", "to retry, use: --limit", "included: "]) {
        return Some(Mark::Other);
    }
    result(text).or_else(|| summary(text)).or_else(|| one_line(text))
}

/// `fatal: [web1]: FAILED! => …`, `failed: [web1 -> localhost] (item=x) => …`, `ok: [web1]`.
fn result(text: &str) -> Option<Mark<'_>> {
    let (word, rest) = text.split_once(": [")?;
    let (host, rest) = rest.split_once(']')?;
    let host = host.split(" -> ").next().unwrap_or(host);
    let status = match word {
        "ok" | "changed" | "skipping" => Status::Good,
        "unreachable" => Status::Unreachable,
        "fatal" if rest.starts_with(": UNREACHABLE!") => Status::Unreachable,
        "failed" | "fatal" => Status::Failed,
        _ => return None,
    };
    name(host).then_some(Mark::Result { host, status })
}

/// `web1 | FAILED! => …`, `web1 | UNREACHABLE! => …`, `web1 | CHANGED | rc=0 >>`, `web1 failed | msg: …`.
fn one_line(text: &str) -> Option<Mark<'_>> {
    let (host, rest) = text.split_once(" | ")?;
    if let Some((host, "failed" | "unreachable")) = host.split_once(' ') {
        return name(host).then_some(Mark::Result { host, status: Status::Failed });
    }
    let status = match rest.split([' ', '!']).next()? {
        "UNREACHABLE" => Status::Unreachable,
        "FAILED" => Status::Failed,
        "SUCCESS" | "CHANGED" => Status::Good,
        _ => return None,
    };
    name(host).then_some(Mark::Result { host, status })
}

/// `web1 : ok=2 changed=0 unreachable=0 failed=1 …`.
fn summary(text: &str) -> Option<Mark<'_>> {
    let (host, counts) = text.split_once(':')?;
    if !counts.contains("unreachable=") || !counts.contains("ok=") {
        return None;
    }
    let count = |word: &str| counts.split_whitespace().find_map(|pair| pair.strip_prefix(word)?.parse::<u64>().ok()).unwrap_or(0);
    let host = host.trim();
    name(host).then(|| Mark::Summary { host, failed: count("failed=") > 0 || count("unreachable=") > 0 })
}

fn name(host: &str) -> bool {
    !host.is_empty() && host.len() <= 253 && !host.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        let result = |host, status| Some(Mark::Result { host, status });
        for (line, mark_) in [
            ("TASK [common : Update] ****", Some(Mark::Task { handler: false })),
            ("RUNNING HANDLER [restart] ***", Some(Mark::Task { handler: true })),
            ("PLAY [all] ****", Some(Mark::Play)),
            ("PLAY RECAP ****", Some(Mark::Recap)),
            ("fatal: [web1]: FAILED! => {", result("web1", Status::Failed)),
            ("fatal: [web1 -> localhost]: FAILED! => ", result("web1", Status::Failed)),
            ("fatal: [web1]: UNREACHABLE! => {", result("web1", Status::Unreachable)),
            ("failed: [web1] (item=a) => {", result("web1", Status::Failed)),
            ("ok: [web1]", result("web1", Status::Good)),
            ("web1 | FAILED! => {", result("web1", Status::Failed)),
            ("web1 | FAILED | rc=1 >>", result("web1", Status::Failed)),
            ("web1 | CHANGED | rc=0 >>", result("web1", Status::Good)),
            ("web1 | UNREACHABLE! => {", result("web1", Status::Unreachable)),
            ("...ignoring", Some(Mark::Ignoring)),
            ("FAILED - RETRYING: [web1]: wait (3 retries left).", Some(Mark::Retry)),
            ("web1 : ok=2  changed=0  unreachable=0 failed=1 skipped=0", Some(Mark::Summary { host: "web1", failed: true })),
            ("web1 : ok=2  changed=0  unreachable=0 failed=0 skipped=0", Some(Mark::Summary { host: "web1", failed: false })),
            ("fatal: not a git repository", None),
            ("a | b", None),
            ("the play is ok: [", None),
        ] {
            assert_eq!(mark(line), mark_, "{line}");
        }
    }
}
