//! `kubectl fettle run`.

use std::str::FromStr as _;

use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use super::{
    cluster::{Cluster, run_name},
    failure::Failure,
    output::{Format, Screen},
    show::full_name,
    watch,
};
use crate::{
    api::{
        automation_connection::AutomationConnection,
        patch_run::{PatchRun, PatchRunSpec, Phase},
        shared::{LocalRef, NameOrId},
    },
    clock,
};

/// Where a dry run ends.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// Here: nothing is sent.
    Client,
    /// In the API server, which checks and stores nothing.
    Server,
}

/// `kubectl fettle run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl fettle run precheck --group 5
  kubectl fettle run precheck stage apply reboot postcheck --group 5 --kernel 6.1.0-53-cloud-amd64 --start-by 4h --watch
  kubectl fettle run postcheck --hosts web-1,web-2 --kernel 6.1.0-53-cloud-amd64
  kubectl fettle run apply --group 5 --kernel 6.1.0-53-cloud-amd64 --start-by 2026-12-01T04:00:00Z --dry-run=client -o yaml > run.yaml")]
pub struct RunArgs {
    /// What to do: precheck, stage, apply, reboot, postcheck. They run in this order.
    #[arg(required = true, value_name = "PHASE", value_delimiter = ',', value_parser = phase())]
    phases: Vec<Phase>,
    /// The patch group, a number or a name.
    #[arg(short, long, required_unless_present = "hosts", conflicts_with = "hosts", value_parser = group)]
    group: Option<NameOrId>,
    /// Host names as the inventory has them, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    hosts: Option<Vec<String>>,
    /// The kernel every host shall run, exactly what `uname -r` will say. Needed unless precheck is the only phase.
    #[arg(short, long)]
    kernel: Option<String>,
    /// The `AutomationConnection`. Default: the only one in the namespace.
    #[arg(short, long)]
    connection: Option<String>,
    /// No change phase starts later: a length of time from now (4h) or a moment (RFC 3339). Needed with stage, apply and reboot.
    #[arg(long, value_name = "TIME")]
    start_by: Option<String>,
    /// No phase starts before: a length of time from now (30m) or a moment (RFC 3339).
    #[arg(long, value_name = "TIME")]
    start_after: Option<String>,
    /// Name of the PatchRun. Default: made of what it does and the time.
    #[arg(long, value_parser = run_name)]
    name: Option<String>,
    /// Follow it to its end; the exit code is 1 when that is ERROR.
    #[arg(short, long, conflicts_with = "dry_run")]
    watch: bool,
    /// Only show what would be created.
    #[arg(long, value_enum, value_name = "WHERE")]
    dry_run: Option<DryRun>,
    /// How the object shall be shown.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

fn phase() -> impl TypedValueParser<Value = Phase> {
    PossibleValuesParser::new(Phase::ALL.map(Phase::as_str))
        .try_map(|word| Phase::ALL.into_iter().find(|phase| phase.as_str() == word).ok_or("not a phase"))
}

/// The phase that an option names.
pub fn one_phase() -> impl TypedValueParser<Value = Phase> {
    phase()
}

#[expect(clippy::unnecessary_wraps, reason = "a parser of clap")]
fn group(text: &str) -> Result<NameOrId, std::convert::Infallible> {
    Ok(text.parse().map_or_else(|_| NameOrId::Name(text.to_owned()), NameOrId::Id))
}

/// Creates a PatchRun, and follows it when that is wanted.
pub async fn run(args: RunArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let now = clock::now();
    let connection = match &args.connection {
        Some(name) => name.clone(),
        None => only_connection(cluster).await?,
    };
    let (watched, dry_run, format) = (args.watch, args.dry_run, args.output);
    let run = wanted(args, connection, &cluster.namespace, now)?;
    create(run, dry_run, format, watched, cluster, screen).await
}

/// Creates it, says so, and follows it when that is wanted.
pub async fn create(
    run: PatchRun,
    dry_run: Option<DryRun>,
    format: Option<Format>,
    watched: bool,
    cluster: &Cluster,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let name = run.name_any();
    let made = if dry_run == Some(DryRun::Client) {
        run
    } else {
        let params = PostParams { dry_run: dry_run.is_some(), ..PostParams::default() };
        cluster.ask(&format!("create PatchRun {name} in namespace {}", cluster.namespace), cluster.runs().create(&params, &run)).await?
    };
    let end = match dry_run {
        Some(DryRun::Client) => " (dry run)",
        Some(DryRun::Server) => " (server dry run)",
        None => "",
    };
    match format {
        Some(Format::Json | Format::Yaml) => screen.object(format.unwrap_or_default(), &made)?,
        Some(Format::Name) => screen.print(&format!("{}\n", full_name(&made)))?,
        Some(Format::Table | Format::Wide) | None => screen.print(&format!("{} created{end}\n", full_name(&made)))?,
    }
    match (watched, dry_run) {
        (true, _) => watch::follow(&name, cluster, screen).await,
        (false, None) => {
            screen.note(&format!("Follow it: kubectl fettle watch {name} -n {}", cluster.namespace));
            Ok(())
        }
        (false, Some(_)) => Ok(()),
    }
}

/// The object that the command line asks for.
fn wanted(args: RunArgs, connection: String, namespace: &str, now: Timestamp) -> Result<PatchRun, Failure> {
    let mut phases = args.phases;
    phases.sort_unstable();
    phases.dedup();
    let change = phases.iter().find(|phase| phase.is_change());
    if args.kernel.is_none() && phases != [Phase::Precheck] {
        return Err(Failure::Usage("--kernel is needed unless precheck is the only phase: exactly what `uname -r` will say".into()));
    }
    if let (Some(change), None) = (change, &args.start_by) {
        return Err(Failure::Usage(format!("--start-by is needed with {change}: no change starts later; for example --start-by 4h")));
    }
    let start_by = args.start_by.as_deref().map(|text| moment("--start-by", text, now)).transpose()?;
    if let Some(by) = start_by.filter(|by| *by <= now) {
        return Err(Failure::Usage(format!("--start-by {by} has passed: no change would start")));
    }
    let start_after = args.start_after.as_deref().map(|text| moment("--start-after", text, now)).transpose()?;
    let name = args.name.unwrap_or_else(|| name_for(&phases, args.group.as_ref(), args.hosts.as_deref(), now));
    let spec = PatchRunSpec {
        connection: LocalRef { name: connection },
        group: args.group,
        hosts: args.hosts,
        desired_kernel: args.kernel,
        phases,
        start_by,
        start_after,
        timeouts: None,
        reboot: None,
        allow_self: None,
        attempt: None,
        suspend: None,
        cancel: None,
    };
    let mut run = PatchRun::new(&name, spec);
    run.metadata.namespace = Some(namespace.to_owned());
    Ok(run)
}

/// A moment: RFC 3339, or a length of time from now. To the second.
pub fn moment(option: &str, text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let from_now = SignedDuration::from_str(text).ok().filter(SignedDuration::is_positive).and_then(|length| now.checked_add(length).ok());
    let moment = from_now.or_else(|| text.parse::<Timestamp>().ok()).and_then(|at| Timestamp::from_second(at.as_second()).ok());
    moment.ok_or_else(|| {
        Failure::Usage(format!(
            "{option} {text}: give a length of time from now, such as 4h or 1h30m, or a moment such as 2026-12-01T04:00:00Z"
        ))
    })
}

/// `precheck-5-20261122-031500`, or `patch-…` of several phases.
fn name_for(phases: &[Phase], group: Option<&NameOrId>, hosts: Option<&[String]>, now: Timestamp) -> String {
    let what = match phases {
        [one] => one.as_str(),
        _ => "patch",
    };
    let whom = match (group, hosts) {
        (Some(group), _) => group.to_string(),
        (None, Some([host])) => host.clone(),
        (None, hosts) => format!("{}-hosts", hosts.map_or(0, <[String]>::len)),
    };
    let whom: String = whom.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(32).collect();
    format!("{what}-{}-{}", whom.trim_matches('-'), now.strftime("%Y%m%d-%H%M%S"))
}

/// The connection of a namespace that has exactly one.
async fn only_connection(cluster: &Cluster) -> Result<String, Failure> {
    let namespace = &cluster.namespace;
    let api = Api::<AutomationConnection>::namespaced(cluster.client.clone(), namespace);
    let found = cluster.ask(&format!("list AutomationConnections in namespace {namespace}"), api.list(&ListParams::default())).await?;
    let mut names: Vec<String> = found.items.iter().map(kube::ResourceExt::name_any).collect();
    names.sort();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Error(format!(
            "there is no AutomationConnection in namespace {namespace}: create one (docs/aap.md), or choose another namespace with -n"
        ))),
        several => Err(Failure::Usage(format!("--connection is needed: namespace {namespace} has {}", several.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T03:15:00.5Z";

    #[test]
    fn moments_are_lengths_of_time_or_rfc_3339() {
        let now = NOW.parse().unwrap();
        let at = |text: &str| moment("--start-by", text, now).map(|at| at.to_string());
        assert_eq!(at("4h"), Ok("2026-11-22T07:15:00Z".into()));
        assert_eq!(at("1h30m"), Ok("2026-11-22T04:45:00Z".into()));
        assert_eq!(at("2026-12-01T04:00:00+01:00"), Ok("2026-12-01T03:00:00Z".into()));
        for bad in ["", "soon", "-4h", "0s", "4", "2026-12-01"] {
            let refused = at(bad);
            assert!(matches!(&refused, Err(Failure::Usage(text)) if text.contains("such as 4h")), "{bad}: {refused:?}");
        }
    }

    #[test]
    fn names_tell_what_is_done_and_to_whom() {
        let now = NOW.parse().unwrap();
        let (five, odd) = (NameOrId::Id(5), NameOrId::Name("Web_Servers.EU".into()));
        assert_eq!(name_for(&[Phase::Precheck], Some(&five), None, now), "precheck-5-20261122-031500");
        assert_eq!(name_for(&Phase::ALL, Some(&odd), None, now), "patch-web-servers-eu-20261122-031500");
        let hosts = ["a.example.com".to_owned(), "b".to_owned()];
        assert_eq!(name_for(&[Phase::Apply], None, Some(&hosts), now), "apply-2-hosts-20261122-031500");
        assert_eq!(name_for(&[Phase::Apply], None, Some(&hosts[..1]), now), "apply-a-example-com-20261122-031500");
        let long = NameOrId::Name("x".repeat(63));
        assert!(name_for(&[Phase::Postcheck], Some(&long), None, now).len() <= 63);
    }
}
