//! `kubectl fettle doctor`: everything a first run needs, and the command that mends what is missing.

use std::collections::BTreeSet;

use clap::Args;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authentication::v1::SelfSubjectReview,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{ConfigMap, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    cluster::Cluster,
    failure::Failure,
    output::{Format, Screen, Tone, on_lines, plain},
    server::{Place, Server},
};
use crate::{
    api::{self, GROUP, automation_connection::AutomationConnection},
    names,
};

const VERSION: &str = "v1alpha1";

/// `kubectl fettle doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each line is ok, warn (works without, or cannot be looked at) or FAIL (a run would not work), with the command that mends it.
The exit code is 1 when something fails.

Examples:
  kubectl fettle doctor -n patching
  kubectl fettle doctor -o json")]
pub struct DoctorArgs {
    /// How it shall look.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// How bad it is.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize, Debug)]
struct Finding {
    level: Level,
    about: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// What was found, in order.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, about: &'static str, message: impl Into<String>) {
        self.0.push(Finding { level: Level::Ok, about, message: message.into(), mend: None });
    }

    fn warn(&mut self, about: &'static str, message: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { level: Level::Warn, about, message: message.into(), mend: Some(mend.into()) });
    }

    fn fail(&mut self, about: &'static str, message: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { level: Level::Fail, about, message: message.into(), mend: Some(mend.into()) });
    }
}

/// Looks at everything; `Err(EndedWithError)` when something fails.
pub async fn doctor(args: &DoctorArgs, cluster: &Cluster, screen: &mut Screen) -> Result<(), Failure> {
    let version = cluster.ask("ask the API server for its version", cluster.client.apiserver_version()).await?;
    let mut found = Findings::default();
    found.ok("cluster", format!("the API server {} answers ({})", cluster.url, version.git_version));
    if kinds(cluster, &mut found).await? {
        rights(cluster, &mut found).await?;
        connections(cluster, &mut found).await?;
    }
    tekton(cluster, &mut found).await?;
    operator(cluster, &mut found).await?;
    tenant(cluster, &mut found).await?;
    server(cluster, &mut found).await?;
    match args.output.unwrap_or_default() {
        format @ (Format::Json | Format::Yaml) => screen.object(format, &found.0)?,
        Format::Table | Format::Wide | Format::Name => {
            let text: String = found.0.iter().map(|finding| line(finding, screen)).collect();
            screen.print(&text)?;
        }
    }
    if found.0.iter().any(|finding| finding.level == Level::Fail) { Err(Failure::EndedWithError) } else { Ok(()) }
}

fn line(finding: &Finding, screen: &Screen) -> String {
    let (tone, word) = match finding.level {
        Level::Ok => (Tone::Good, "ok  "),
        Level::Warn => (Tone::Busy, "warn"),
        Level::Fail => (Tone::Bad, "FAIL"),
    };
    let mend = finding.mend.as_deref().map(|mend| on_lines("                   ", mend.lines().map(plain)));
    format!("{}  {:<11}  {}\n{}", screen.tint(tone, word), finding.about, plain(&finding.message), mend.unwrap_or_default())
}

/// Whether an object is there; `Err` holds why that cannot be said, when it is not the network.
async fn look<T>(
    cluster: &Cluster,
    what: &str,
    call: impl Future<Output = kube::Result<Option<T>>>,
) -> Result<Result<Option<T>, String>, Failure> {
    match cluster.ask(what, call).await {
        Ok(found) => Ok(Ok(found)),
        Err(Failure::Error(why)) => Ok(Err(why.lines().next().unwrap_or_default().to_owned())),
        Err(other) => Err(other),
    }
}

/// The kinds, and whether they are as old as this program; whether they are there at all.
async fn kinds(cluster: &Cluster, found: &mut Findings) -> Result<bool, Failure> {
    let install = "kubectl apply --server-side -k config/crd";
    let group = format!("{GROUP}/{VERSION}");
    let served: BTreeSet<String> = match cluster.ask("list the kinds", cluster.client.list_api_group_resources(&group)).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
        Err(Failure::Error(_)) => BTreeSet::new(),
        Err(other) => return Err(other),
    };
    let mut all = true;
    for wanted in api::all() {
        let (kind, plural) = (&wanted.spec.names.kind, &wanted.spec.names.plural);
        if !served.contains(plural) {
            found.fail("kinds", format!("the cluster does not serve {kind} ({group})"), install);
            all &= !["patchruns", "automationconnections"].contains(&plural.as_str());
            continue;
        }
        let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
        let name = format!("{plural}.{GROUP}");
        match look(cluster, "read the definition", definitions.get_opt(&name)).await? {
            Ok(Some(there)) => {
                let missing = missing_fields(&wanted, &there);
                match missing.first() {
                    None => found.ok("kinds", format!("{kind} is there, with every field of version {}", env!("CARGO_PKG_VERSION"))),
                    Some(first) => found.warn(
                        "kinds",
                        format!("{kind} is of an older version: it lacks {first}{}", if missing.len() > 1 { " and more" } else { "" }),
                        install,
                    ),
                }
            }
            Ok(None) | Err(_) => found.ok("kinds", format!("{kind} is there (you may not see of which version)")),
        }
    }
    Ok(all)
}

/// Fields of the wanted definition that the other does not have.
fn missing_fields(wanted: &CustomResourceDefinition, there: &CustomResourceDefinition) -> Vec<String> {
    fn walk(path: &str, schema: &Value, into: &mut BTreeSet<String>) {
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(&path, child, into);
            walk(&path, &child["items"], into);
            into.insert(path);
        }
    }
    let fields = |definition: &CustomResourceDefinition| {
        let version = definition.spec.versions.iter().find(|version| version.name == VERSION);
        let schema =
            version.and_then(|version| version.schema.as_ref()).and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_default();
        let mut into = BTreeSet::new();
        walk("", &schema["openAPIV3Schema"], &mut into);
        into
    };
    fields(wanted).difference(&fields(there)).cloned().collect()
}

/// The user's name, as the API server knows it.
async fn who(cluster: &Cluster) -> Result<String, Failure> {
    let reviews = Api::<SelfSubjectReview>::all(cluster.client.clone());
    match cluster.ask("ask who you are", reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await {
        Ok(review) => Ok(review.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default()),
        Err(Failure::Error(_)) => Ok("YOUR-NAME".into()),
        Err(other) => Err(other),
    }
}

/// What the user may do here.
async fn rights(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    let namespace = &cluster.namespace;
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let may = async |verb: &str, group: &str, resource: &str, subresource: Option<&str>| {
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            group: Some(group.into()),
            resource: Some(resource.into()),
            subresource: subresource.map(str::to_owned),
            namespace: Some(namespace.clone()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() },
            ..SelfSubjectAccessReview::default()
        };
        let answer = cluster.ask("ask what you may do", reviews.create(&PostParams::default(), &review)).await?;
        Ok::<_, Failure>(answer.status.is_some_and(|status| status.allowed))
    };
    let who = who(cluster).await?;
    let bind = |role: &str| {
        let name = names::label_value(&who).to_lowercase();
        let user = who.replace('\'', r"'\''");
        format!("kubectl -n {namespace} create rolebinding {role}-{name} --clusterrole={role} --user='{user}'    (by an administrator)")
    };
    for (title, wanted, role) in [
        (
            "look at runs and connections",
            &[("get", "patchruns"), ("list", "patchruns"), ("watch", "patchruns"), ("list", "automationconnections")][..],
            "fettle-viewer",
        ),
        ("create and change runs", &[("create", "patchruns"), ("patch", "patchruns")], "fettle-editor"),
    ] {
        let mut refused = vec![];
        for (verb, resource) in wanted {
            if !may(verb, GROUP, resource, None).await? {
                refused.push(format!("{verb} {resource}"));
            }
        }
        if refused.is_empty() {
            found.ok("your rights", format!("you may {title} in namespace {namespace}"));
        } else {
            found.fail("your rights", format!("you may not {title} in namespace {namespace} ({})", refused.join(", ")), bind(role));
        }
    }
    if may("get", "", "pods", Some("log")).await? {
        found.ok("your rights", format!("you may read logs of pods in namespace {namespace}"));
    } else {
        found.warn(
            "your rights",
            format!("you may not read logs of pods in namespace {namespace}: the log of a check comes when it is over"),
            bind("view"),
        );
    }
    Ok(())
}

async fn tekton(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    match cluster.ask("list the kinds of Tekton", cluster.client.list_api_group_resources("tekton.dev/v1")).await {
        Ok(list) if list.resources.iter().any(|resource| resource.name == "pipelineruns") => {
            found.ok("tekton", "Tekton Pipelines is there (tekton.dev/v1)");
        }
        Ok(_) | Err(Failure::Error(_)) => found.warn(
            "tekton",
            "Tekton Pipelines is not there: precheck and postcheck wait with TektonNotInstalled",
            "install Tekton Pipelines (https://tekton.dev/docs/installation), or the OpenShift Pipelines operator",
        ),
        Err(other) => return Err(other),
    }
    Ok(())
}

/// Its Deployments and its configuration.
async fn operator(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    let namespace = &cluster.options.operator_namespace;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), namespace);
    for name in ["fettle-manager", "fettle-server"] {
        match look(cluster, "read the Deployment", deployments.get_opt(name)).await? {
            Ok(Some(there)) if there.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) > 0 => {
                found.ok("operator", format!("Deployment {name} is available"));
            }
            Ok(Some(_)) => found.fail(
                "operator",
                format!("Deployment {name} in namespace {namespace} has no pod that is ready"),
                format!("kubectl -n {namespace} describe pods -l app.kubernetes.io/component={}", name.trim_start_matches("fettle-")),
            ),
            Ok(None) => found.fail(
                "operator",
                format!("there is no Deployment {name} in namespace {namespace}"),
                "kubectl apply --server-side -k .    (docs/operations.md#install); is it elsewhere? --operator-namespace",
            ),
            Err(why) => {
                found.warn("operator", format!("Deployment {name} cannot be looked at: {why}"), "ask an administrator to run this command");
            }
        }
    }
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    match look(cluster, "read fettle-config", maps.get_opt("fettle-config")).await? {
        Ok(Some(map)) => {
            let data = map.data.unwrap_or_default();
            let value = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
            let edit = format!("kubectl -n {namespace} edit configmap fettle-config");
            let empty: Vec<&str> = ["INSTALLATION", "SERVER_URL", "CHECKS_IMAGE"].into_iter().filter(|key| value(key).is_empty()).collect();
            if !empty.is_empty() {
                found.fail("operator", format!("fettle-config lacks {}: nothing is launched", empty.join(", ")), edit);
            } else if value("PAUSE") == "true" {
                found.warn("operator", "all launches are paused (PAUSE in fettle-config)", edit);
            } else {
                found.ok("operator", format!("fettle-config is complete (installation {})", value("INSTALLATION")));
            }
        }
        Ok(None) => found.fail(
            "operator",
            format!("there is no ConfigMap fettle-config in namespace {namespace}: nothing is launched"),
            "kubectl apply --server-side -k .    (docs/operations.md#install)",
        ),
        Err(why) => found.warn("operator", format!("fettle-config cannot be looked at: {why}"), "ask an administrator to run this command"),
    }
    Ok(())
}

async fn connections(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    let namespace = &cluster.namespace;
    let api = Api::<AutomationConnection>::namespaced(cluster.client.clone(), namespace);
    let list = async { api.list(&ListParams::default()).await.map(Some) };
    let items = match look(cluster, "list AutomationConnections", list).await? {
        Ok(list) => list.map(|list| list.items).unwrap_or_default(),
        Err(why) => {
            found.fail("connection", why, "ask an administrator for the ClusterRole `fettle-viewer`");
            return Ok(());
        }
    };
    if items.is_empty() {
        found.fail(
            "connection",
            format!("there is no AutomationConnection in namespace {namespace}"),
            "create one: docs/aap.md, config/samples/automationconnection.yaml",
        );
    }
    for connection in items {
        let name = connection.name_any();
        let status = connection.status.unwrap_or_default();
        let look_at = format!("kubectl -n {namespace} describe automationconnection {name}");
        match status.conditions.iter().find(|condition| condition.type_ == "Ready") {
            Some(ready) if ready.status == "True" => {
                let which = [status.flavour, status.version].into_iter().flatten().collect::<Vec<_>>().join(" ");
                found.ok("connection", format!("{name} is ready{}", if which.is_empty() { which } else { format!(" ({which})") }));
            }
            Some(ready) => found.fail("connection", format!("{name} is not ready: {}: {}", ready.reason, ready.message), &look_at),
            None => found.fail("connection", format!("{name} was not looked at by the operator yet"), &look_at),
        }
        for template in status.templates.iter().filter(|template| !template.ready) {
            let problems = template.problems.join("; ");
            found.fail(
                "connection",
                format!("{name}: the template of {} would not do what is asked: {problems}", template.phase),
                &look_at,
            );
        }
    }
    Ok(())
}

/// What the team's namespace gives to the manager and the checks.
async fn tenant(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    let namespace = &cluster.namespace;
    let apply = format!("kubectl -n {namespace} apply -k config/tenant");
    let bindings = Api::<RoleBinding>::namespaced(cluster.client.clone(), namespace);
    let list = async { bindings.list(&ListParams::default()).await.map(Some) };
    match look(cluster, "list RoleBindings", list).await? {
        Ok(list) => {
            let bound = list.map(|list| list.items).unwrap_or_default().into_iter().any(|binding| {
                let manager = binding.subjects.unwrap_or_default().into_iter().any(|subject| {
                    subject.name == "fettle-manager" && subject.namespace.as_deref() == Some(cluster.options.operator_namespace.as_str())
                });
                manager && binding.role_ref.name == "fettle-tenant"
            });
            if bound {
                found.ok("tenant", format!("the manager may work in namespace {namespace}"));
            } else {
                found.fail("tenant", format!("the manager may not work in namespace {namespace} (RightsMissing)"), &apply);
            }
        }
        Err(why) => found.warn("tenant", format!("whether the manager may work here cannot be looked at: {why}"), &apply),
    }
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
    match look(cluster, "read the ServiceAccount", accounts.get_opt(names::CHECKS_ACCOUNT)).await? {
        Ok(Some(_)) => found.ok("tenant", format!("the checks have their ServiceAccount ({})", names::CHECKS_ACCOUNT)),
        Ok(None) => found.fail(
            "tenant",
            format!("there is no ServiceAccount {} in namespace {namespace}: checks cannot run", names::CHECKS_ACCOUNT),
            &apply,
        ),
        Err(why) => found.warn("tenant", format!("the ServiceAccount of the checks cannot be looked at: {why}"), &apply),
    }
    Ok(())
}

/// Whether logs, hosts and history can be had.
async fn server(cluster: &Cluster, found: &mut Findings) -> Result<(), Failure> {
    let place = match Place::find(cluster, None).await {
        Ok(place) => place,
        Err(failure) => {
            found.fail("server", failure.text().unwrap_or_default(), "--server https://… or FETTLE_SERVER");
            return Ok(());
        }
    };
    let split = |failure: Failure| {
        let text = failure.text().unwrap_or_default();
        let (what, mend) = text.split_once('\n').unwrap_or((&text, "docs/operations.md#reaching-the-server"));
        (what.to_owned(), mend.to_owned())
    };
    let ready = match place.client() {
        Ok(http) => match http.get(format!("{}/ready", place.url.as_str().trim_end_matches('/'))).send().await {
            Ok(answer) => Ok(answer.status()),
            Err(error) => Err(place.unreachable(&error)),
        },
        Err(failure) => Err(failure),
    };
    match ready {
        Ok(status) if status.is_success() => {
            found.ok("server", format!("{} answers, is trusted, and its archive can be written to", place.url));
        }
        Ok(status) => found.fail(
            "server",
            format!("{} answers and is not ready ({status}): the archive or the API server is away", place.url),
            format!("kubectl -n {} logs deployment/fettle-server", cluster.options.operator_namespace),
        ),
        Err(failure) => {
            let (what, mend) = split(failure);
            found.fail("server", what, mend);
            return Ok(());
        }
    }
    let server = match Server::find(cluster, None).await {
        Ok(server) => server,
        Err(failure) => {
            let (what, mend) = split(failure);
            found.warn("server", what, mend);
            return Ok(());
        }
    };
    // a name that no run has: only whether the token counts matters
    match server.json::<Value>("ask fettle-server", &["api", "runs", &cluster.namespace, "fettle-doctor"], &[]).await {
        Ok(_) => found.ok("server", format!("it knows you, and you may read what is on record in namespace {}", cluster.namespace)),
        Err(failure) => {
            let (what, mend) = split(failure);
            found.fail("server", what, mend);
            return Ok(());
        }
    }
    match server.json::<Value>("read the history", &["api", "history"], &[("limit", "1".to_owned())]).await {
        Ok(Some(_)) => found.ok("history", "the history can be read"),
        Ok(None) => found.warn("history", "this fettle-server keeps no history", "upgrade the operator"),
        Err(failure) => {
            let (what, mend) = split(failure);
            found.warn("history", what, mend);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_definition_lacks_fields() {
        let wanted = api::all().pop().unwrap();
        assert_eq!(missing_fields(&wanted, &wanted), [""; 0]);
        let mut older = serde_json::to_value(&wanted).unwrap();
        let spec = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let removed = spec.as_object_mut().unwrap().keys().next().cloned().unwrap();
        spec.as_object_mut().unwrap().remove(&removed);
        let missing = missing_fields(&wanted, &serde_json::from_value(older).unwrap());
        assert_eq!(missing.first(), Some(&format!("spec.{removed}")));
    }
}
