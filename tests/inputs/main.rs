//! Every bad input that was thought of: what is sent, who refuses it, and with which words. Each is sent here, beside a run that must not notice;
//! `docs/bad-inputs.md` is what came back. `tests/e2e/invalid` is sent to a real API server, too (cluster story 12).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::too_many_lines,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    clippy::large_futures,
    clippy::unused_self,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

#[path = "../world/apiserver.rs"]
#[allow(dead_code, reason = "the worlds' own")]
mod apiserver;
#[path = "../world/bed.rs"]
#[allow(dead_code, reason = "the worlds' own")]
mod bed;
#[path = "../world/calls.rs"]
#[allow(dead_code, reason = "the worlds' own")]
mod calls;
#[allow(dead_code, reason = "shared with the stories of the server")]
#[path = "../server/cluster.rs"]
mod cluster;
#[path = "../generated/mod.rs"]
mod generated;
mod odd;
#[path = "../world/proxy.rs"]
#[allow(dead_code, reason = "the worlds' own")]
mod proxy;
mod requests;
#[path = "../rules/mod.rs"]
#[allow(dead_code, reason = "the schema's own")]
mod rules;
mod runs;
mod samples;
#[path = "../server/bed.rs"]
#[allow(dead_code, reason = "the server's own")]
mod server;
#[path = "../world/tekton.rs"]
#[allow(dead_code, reason = "the worlds' own")]
mod tekton;
#[path = "../aap_client/wire.rs"]
#[allow(dead_code, reason = "the client's own")]
mod wire;

use std::{collections::BTreeSet, fmt::Write as _};

/// Who refuses an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The API server: types, bounds, fields that do not exist.
    Schema,
    /// The API server: a rule of the kind.
    Rule,
    /// The manager, before anything is launched.
    Preflight,
    /// The manager, of what runs.
    Runtime,
    /// The server.
    Http,
    /// Nobody: it does no harm.
    Nobody,
}

impl By {
    fn word(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Rule => "rule (CEL)",
            Self::Preflight => "preflight",
            Self::Runtime => "runtime",
            Self::Http => "HTTP",
            Self::Nobody => "harmless",
        }
    }
}

/// One line of the document: an input that was sent.
#[derive(Debug)]
pub struct Row {
    /// The class.
    pub id: &'static str,
    /// What was sent.
    pub sent: String,
    /// Who refused it.
    pub by: By,
    /// What whoever sent it is told.
    pub says: String,
}

/// What becomes of a class of inputs.
enum Fate {
    /// It is refused, or does no harm; the note says what else proves it, or where the design differs from the catalogue.
    Now(&'static str),
    /// It belongs to something that does not exist yet.
    Open(&'static str),
    /// There is no way to send it.
    Never(&'static str),
}

use Fate::{Never, Now, Open};

/// The catalogue.
const INPUTS: [(&str, &str, Fate); 63] = [
    ("B01", "no host at all", Now("A launch with an empty limit, which means all hosts, is never sent (`jobs`, unit tests).")),
    ("B02", "Ansible's own words for hosts", Now("")),
    ("B03", "patterns instead of host names", Now("")),
    ("B04", "a host that is not in the inventory", Now("")),
    (
        "B05",
        "one host under two names",
        Now("A host is what the inventory calls it: there is no guessing about short names, domains or case."),
    ),
    ("B06", "too many hosts", Now("The design's bound is 1,000 hosts and 100 KiB of names; larger groups are campaigns.")),
    ("B07", "names no host can have", Now("")),
    (
        "B08",
        "times that make no sense",
        Now(
            "A `startBy` far ahead is accepted, against the catalogue (7 days): the design bounds nothing but the past. Times are absolute, so daylight saving does not exist.",
        ),
    ),
    ("B09", "lengths of time that make no sense", Now("The design's bounds are one minute and seven days, wider than the catalogue's.")),
    ("B10", "a schedule that never comes, or always", Open("MaintenanceWindow")),
    ("B11", "shares that make no sense", Now("Of a reboot; `maxUnavailable` comes with PatchCampaign.")),
    ("B12", "a batch larger than the group", Now("Ansible takes what there is: one batch.")),
    ("B13", "a template that cannot exist", Now("A text that is no number is a name; there is one field for both.")),
    ("B14", "a template of somebody else", Now("")),
    (
        "B15",
        "a template that does something else",
        Now(
            "A workflow or a project update has no number among the job templates. Passwords that are asked for at launch: `each_fault_is_named_with_its_remedy`.",
        ),
    ),
    ("B16", "a template that drops what it is told", Now("")),
    ("B17", "a survey that asks for what nobody answers", Now("")),
    (
        "B18",
        "variables that blow up",
        Now("There is no field for variables of one's own; YAML is read from inventories of checks only, with budgets."),
    ),
    ("B19", "variables that override Fettle's", Now("There is no field for variables of one's own.")),
    (
        "B20",
        "commands in values",
        Now("Values reach scripts through the environment; no script of a Pipeline holds `$(params` (`tests/package`)."),
    ),
    (
        "B21",
        "templates in values",
        Now("Templates in variables of an inventory are not copied (`passwords_and_templates_are_not_copied`)."),
    ),
    ("B22", "parameters with strange names", Never("Parameters of checks have fixed names.")),
    ("B23", "a list instead of a text", Now("")),
    ("B24", "a report of a host that is hostile", Now("At most 256 characters of it are kept, and none that controls a terminal.")),
    ("B25", "somebody else's Pipeline", Now("")),
    ("B26", "a ServiceAccount of one's choice", Now("Checks run under the fixed account `fettle-checks`.")),
    ("B27", "a change of what is decided", Now("Every field: `patch_runs_are_refused_with_words_that_help`.")),
    (
        "B28",
        "an identity that is taken",
        Now(
            "The key is computed from namespace and name, so no other run can have it; what is found under it and is not of this run is left alone.",
        ),
    ),
    ("B29", "long names", Now("Derived names are bounded and hashed: `names_fit_where_they_are_used`, `label_values_are_valid`.")),
    ("B30", "two runs of one host", Now("")),
    ("B31", "a Secret of another namespace", Now("")),
    (
        "B32",
        "a Secret that is not for this controller",
        Now("Where the catalogue has a label, the design has the annotation `fettle.dev/origin`."),
    ),
    (
        "B33",
        "a controller of somebody else",
        Never("A connection is an object of the tenant's own namespace; nothing is shared across the cluster."),
    ),
    ("B34", "a kubeconfig that runs programs", Open("ManagedCluster")),
    ("B35", "a kubeconfig that names files", Open("ManagedCluster")),
    ("B36", "a kubeconfig that turns checks off", Open("ManagedCluster")),
    ("B37", "a kubeconfig that leads elsewhere", Open("ManagedCluster")),
    ("B38", "a kubeconfig that is broken", Open("ManagedCluster")),
    (
        "B39",
        "addresses that are none of a controller's",
        Now("More notations: `addresses_of_this_machine_and_cluster_are_refused_in_every_notation`."),
    ),
    (
        "B40",
        "a name that leads to a refused address",
        Now(
            "Each connection goes to the address that was vetted, whatever the name resolves to next (`a_denied_address_is_refused_behind_any_name`).",
        ),
    ),
    ("B41", "a redirect", Now("")),
    ("B42", "certificates that prove nothing", Now("")),
    ("B43", "a next page elsewhere", Now("")),
    ("B44", "paths that lead out of the archive", Now("")),
    (
        "B45",
        "a log of somebody else",
        Now(
            "The catalogue has 404. The design has one answer, 403, for what one may not read and for what does not exist; who may read all gets 404.",
        ),
    ),
    ("B46", "a signature that is wrong", Open("signed addresses")),
    ("B47", "a signature for something else", Open("signed addresses")),
    ("B48", "ranges that make no sense", Now("As RFC 9110 has it: what is no range is ignored.")),
    ("B49", "tokens that prove nothing", Now("")),
    ("B50", "requests that never end", Now("")),
    ("B51", "answers of a controller that are no answers", Now("")),
    (
        "B52",
        "output that attacks a terminal",
        Now("A log is kept as the controller gives it. Downloads are `text/plain`, `nosniff`, attachments."),
    ),
    ("B53", "output that the controller does not display", Now("Output is taken as a download.")),
    (
        "B54",
        "a status somebody wrote by hand",
        Now(
            "What was launched is looked for before anything is launched, so a status that was taken back launches nothing again; there is no reason `Tampered`.",
        ),
    ),
    ("B55", "large annotations", Now("Larger ones the API server refuses itself.")),
    ("B56", "policies that overlap", Open("RemediationPolicy")),
    ("B57", "thresholds that are no numbers", Open("AnomalyModel")),
    ("B58", "the operator's own node", Now("Of a run; a majority of a control plane comes with Remediation.")),
    ("B59", "objects of another shape", Now("")),
    (
        "B60",
        "objects of a megabyte",
        Now(
            "Every text and list of a spec is bounded (`every_list_and_text_of_a_spec_is_bounded`), so is the status (`a_status_stays_small`).",
        ),
    ),
    ("B61", "an approval by who asked for it", Open("approvals")),
    ("B62", "another controller under the same address", Now("")),
    ("—", "an operator that is configured wrongly", Now("`fettle-config`. What runs is followed to its end.")),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_inputs_are_refused_with_words_that_help() {
    let (requests, runs) = (requests::rows().await, runs::rows().await);
    let rows: Vec<Row> = [samples::rows(), runs, requests].into_iter().flatten().collect();
    let known: BTreeSet<&str> = INPUTS.iter().map(|(id, ..)| *id).collect();
    assert!(rows.iter().all(|row| known.contains(row.id)), "a row of no class");
    generated::check("docs/bad-inputs.md", &page(&rows));
}

fn page(rows: &[Row]) -> String {
    let mut page = String::from(
        "<!-- generated by `make gen` from what tests/inputs got -->\n# Bad input\n\n\
         What is sent, who refuses it, and with which words. All of it is sent in every run of the tests; nothing is launched for it but where the \
         line says so, and a run beside it does not notice. The API server's words are checked against a real one.\n\n\
         `schema` and `rule (CEL)`: the API server, so the object never exists. `preflight`: the manager, before anything is launched; the words are \
         the condition `Succeeded` of the PatchRun. `runtime`: the manager, of what runs. `HTTP`: fettle server. `harmless`: it is accepted.\n\n\
         | | input | refused by | words |\n|---|---|---|---|\n",
    );
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    for (id, what, fate) in &INPUTS {
        let of_id: Vec<&Row> = rows.iter().filter(|row| row.id == *id).collect();
        let note = match fate {
            Now(note) => {
                assert!(!of_id.is_empty(), "{id} is never sent");
                (*note).to_owned()
            }
            Open(kind) => format!("open: comes with {kind}"),
            Never(why) => format!("cannot be sent. {why}"),
        };
        assert!(matches!(fate, Now(_)) || of_id.is_empty(), "{id} is sent");
        writeln!(page, "| {id} | **{}** | | {} |", cell(what), cell(&note)).unwrap();
        for row in of_id {
            writeln!(page, "| | {} | {} | {} |", cell(&row.sent), row.by.word(), cell(&row.says)).unwrap();
        }
    }
    page
}
