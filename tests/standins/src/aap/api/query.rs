//! Filters, order and pages of lists.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Answer, Api, Reply};

/// Parameters that are not fields.
const RESERVED: &[&str] =
    &["page", "page_size", "format", "order", "order_by", "search", "host_filter", "count_disabled", "no_truncate", "limit", "validate"];

const LOOKUPS: &[&str] = &[
    "exact",
    "iexact",
    "contains",
    "icontains",
    "startswith",
    "istartswith",
    "endswith",
    "iendswith",
    "regex",
    "iregex",
    "gt",
    "gte",
    "lt",
    "lte",
    "in",
    "isnull",
    "search",
];

/// Fields that hold secrets.
const SECRET: &[&str] = &["extra_vars", "password", "token"];

/// One row of a list: what is shown, and the objects its references lead to (for filters such as `schedule__name`).
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) shown: Value,
    pub(super) related: Value,
}

impl Row {
    pub(super) fn plain(shown: Value) -> Self {
        Self { shown, related: json!({}) }
    }
}

/// What is particular about a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    /// Name in messages.
    pub(super) model: &'static str,
    /// Order unless asked for another.
    pub(super) order: &'static str,
    /// Whether `limit=N` gives the first N rows without a count (events only).
    pub(super) limit_pages: bool,
}

impl List {
    pub(super) fn of(model: &'static str, order: &'static str) -> Self {
        Self { model, order, limit_pages: false }
    }
}

impl Api<'_> {
    /// Whether an object with this `value` in a field may be asked for, by `field` or `field__in`. Rows of objects that are not need not be made.
    pub(super) fn may_ask_for(&self, field: &str, value: &str) -> bool {
        self.call.query.iter().all(|(key, wanted)| match key.strip_prefix(field) {
            Some("") => wanted == value,
            Some("__in") => wanted.split(',').any(|wanted| wanted == value),
            Some(_) | None => true,
        })
    }

    /// Answers a list request over these rows.
    pub(super) fn list(&self, list: List, rows: Vec<Row>) -> Answer {
        let mut rows = filter(list, rows, &self.call.query)?;
        let order = self.call.parameter("order_by").or(self.call.parameter("order")).unwrap_or(list.order);
        sort(list, &mut rows, order)?;
        if list.limit_pages
            && let Some(limit) = self.call.parameter("limit").and_then(|text| text.parse::<usize>().ok())
        {
            let shown: Vec<Value> = rows.into_iter().take(limit.min(200)).map(|row| row.shown).collect();
            return Ok(Reply::json(200, json!({"results": shown})));
        }
        let size = self.call.parameter("page_size").and_then(|text| text.parse::<usize>().ok()).unwrap_or(25).clamp(1, 200);
        let page = match self.call.parameter("page") {
            None => 1,
            Some(text) => text.parse::<usize>().ok().filter(|page| *page > 0).ok_or_else(invalid_page)?,
        };
        let count = rows.len();
        let pages = count.div_ceil(size).max(1);
        if page > pages {
            return Err(invalid_page());
        }
        let shown: Vec<Value> = rows.into_iter().skip((page - 1) * size).take(size).map(|row| row.shown).collect();
        if self.call.parameter("count_disabled").is_some() {
            return Ok(Reply::json(200, json!({"results": shown})));
        }
        let link = |page: usize| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            for (key, value) in self.call.query.iter().filter(|(key, _)| key != "page") {
                query.append_pair(key, value);
            }
            query.append_pair("page", &page.to_string());
            format!("{}?{}", self.call.path, query.finish())
        };
        let next = (page < pages).then(|| link(page + 1));
        let previous = (page > 1).then(|| link(page - 1));
        Ok(Reply::json(200, json!({"count": count, "next": next, "previous": previous, "results": shown})))
    }
}

fn invalid_page() -> Reply {
    Reply::detail(404, "Invalid page.")
}

/// Keeps the rows that every plain condition and at least one `or__` condition holds for.
pub(super) fn filter(list: List, rows: Vec<Row>, query: &[(String, String)]) -> Result<Vec<Row>, Reply> {
    let mut conditions = Vec::new();
    for (key, value) in query {
        let mut parts: Vec<&str> = key.split("__").collect();
        let (mut either, mut not) = (false, false);
        while let Some(first) = parts.first() {
            match *first {
                "or" => either = true,
                "not" => not = !not,
                "chain" => {}
                _ => break,
            }
            parts.remove(0);
        }
        if parts.len() == 1 && parts.first().is_some_and(|name| RESERVED.contains(name)) {
            continue;
        }
        if let Some(secret) = parts.iter().find(|part| SECRET.contains(part)) {
            return Err(Reply::detail(403, &format!("Filtering on {secret} is not allowed.")));
        }
        let lookup = match parts.last() {
            Some(end) if parts.len() > 1 && LOOKUPS.contains(end) => parts.pop().unwrap_or("exact"),
            _ => "exact",
        };
        if lookup.ends_with("regex") {
            // Answered with an error, not with a list that is silently wrong.
            return Err(Reply::detail(501, "the stand-in has no regular expressions"));
        }
        conditions.push((either, not, parts, lookup, value.as_str()));
    }
    for (_, _, path, ..) in &conditions {
        if let Some(name) = path.first().filter(|name| !knows(list, rows.first(), name)) {
            return Err(no_such_field(list, name));
        }
    }
    let search = query.iter().find(|(key, _)| key == "search").map(|(_, value)| value.to_lowercase());
    Ok(rows
        .into_iter()
        .filter(|row| {
            let test = |(_, not, path, lookup, wanted): &(bool, bool, Vec<&str>, &str, &str)| {
                values(row, path).iter().any(|value| holds(value, lookup, wanted)) != *not
            };
            let mut all = conditions.iter().filter(|(either, ..)| !either);
            let mut any = conditions.iter().filter(|(either, ..)| *either).peekable();
            let found = search.as_ref().is_none_or(|wanted| {
                ["name", "description", "username", "host_name"]
                    .iter()
                    .any(|name| field(row, name).and_then(Value::as_str).is_some_and(|text| text.to_lowercase().contains(wanted)))
            });
            found && all.all(test) && (any.peek().is_none() || any.any(test))
        })
        .collect())
}

fn sort(list: List, rows: &mut [Row], order: &str) -> Result<(), Reply> {
    let keys: Vec<(&str, bool)> = order
        .split(',')
        .map(|key| key.strip_prefix('-').map_or((key, false), |key| (key, true)))
        .filter(|(key, _)| !key.is_empty())
        .collect();
    for (key, _) in &keys {
        let first = key.split("__").next().unwrap_or(key);
        if !knows(list, rows.first(), first) {
            return Err(no_such_field(list, first));
        }
    }
    rows.sort_by(|a, b| {
        for (key, down) in &keys {
            let path: Vec<&str> = key.split("__").collect();
            let (left, right) = (values(a, &path), values(b, &path));
            let order = compare(left.first().unwrap_or(&Value::Null), right.first().unwrap_or(&Value::Null));
            let order = if *down { order.reverse() } else { order };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    });
    Ok(())
}

/// Fields of the lists that are asked when they may be empty: a wrong field is refused then too.
const FIELDS: &[(&[&str], &[&str])] = &[
    (
        &["Job", "UnifiedJob", "WorkflowJob"],
        &[
            "id",
            "type",
            "name",
            "status",
            "failed",
            "created",
            "modified",
            "started",
            "finished",
            "canceled_on",
            "elapsed",
            "launch_type",
            "limit",
            "job_type",
            "playbook",
            "unified_job_template",
            "job_template",
            "inventory",
            "project",
            "organization",
            "schedule",
            "labels",
            "created_by",
            "job_tags",
            "skip_tags",
            "unified_job_node",
            "description",
            "verbosity",
            "forks",
            "timeout",
            "webhook_guid",
            "job_explanation",
            "execution_node",
        ],
    ),
    (&["Schedule"], &["id", "name", "unified_job_template", "enabled", "next_run", "created", "modified", "created_by", "rrule"]),
    (
        &["JobEvent"],
        &["id", "event", "counter", "start_line", "end_line", "created", "failed", "changed", "host", "host_name", "task", "uuid"],
    ),
    (&["JobHostSummary"], &["id", "host", "host_name", "failed", "dark", "failures", "ok", "changed", "created"]),
];

fn knows(list: List, row: Option<&Row>, name: &str) -> bool {
    match (row, FIELDS.iter().find(|(models, _)| models.contains(&list.model))) {
        (Some(row), _) => field(row, name).is_some(),
        (None, Some((_, fields))) => fields.contains(&name),
        (None, None) => true,
    }
}

fn no_such_field(list: List, name: &str) -> Reply {
    Reply::detail(400, &format!("{} has no field named '{name}'", list.model))
}

fn field<'r>(row: &'r Row, name: &str) -> Option<&'r Value> {
    row.related.get(name).or_else(|| row.shown.get(name))
}

/// The values a path leads to; several where it goes through lists.
fn values(row: &Row, path: &[&str]) -> Vec<Value> {
    let Some((first, rest)) = path.split_first() else { return Vec::new() };
    let mut current = vec![field(row, first).cloned().unwrap_or_default()];
    for part in rest {
        current = flatten(current).into_iter().filter_map(|value| value.get(part).cloned()).collect();
    }
    flatten(current)
        .into_iter()
        .map(|value| match value {
            Value::Object(object) => object.get("id").cloned().unwrap_or_default(),
            other => other,
        })
        .collect()
}

fn flatten(values: Vec<Value>) -> Vec<Value> {
    values
        .into_iter()
        .flat_map(|value| match value {
            Value::Array(items) => items,
            other => vec![other],
        })
        .collect()
}

fn holds(value: &Value, lookup: &str, wanted: &str) -> bool {
    let text = || match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let order = || if value.is_null() { None } else { Some(compare(value, &Value::String(wanted.to_owned()))) };
    match lookup {
        "iexact" => text().eq_ignore_ascii_case(wanted),
        "contains" => text().contains(wanted),
        "icontains" | "search" => text().to_lowercase().contains(&wanted.to_lowercase()),
        "startswith" => text().starts_with(wanted),
        "istartswith" => text().to_lowercase().starts_with(&wanted.to_lowercase()),
        "endswith" => text().ends_with(wanted),
        "iendswith" => text().to_lowercase().ends_with(&wanted.to_lowercase()),
        "gt" => order() == Some(Ordering::Greater),
        "gte" => order().is_some_and(Ordering::is_ge),
        "lt" => order() == Some(Ordering::Less),
        "lte" => order().is_some_and(Ordering::is_le),
        "in" => wanted.split(',').any(|wanted| equal(value, wanted)),
        "isnull" => value.is_null() == truth(wanted).unwrap_or(false),
        _ => equal(value, wanted),
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn equal(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Null => matches!(wanted.to_lowercase().as_str(), "null" | "none"),
        Value::Bool(value) => truth(wanted) == Some(*value),
        other => compare(other, &Value::String(wanted.to_owned())) == Ordering::Equal,
    }
}

/// Compares numbers as numbers, times as times, the rest as text; null first.
fn compare(a: &Value, b: &Value) -> Ordering {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Number(_), _) | (_, Value::Number(_)) if number(a).is_some() && number(b).is_some() => {
            number(a).partial_cmp(&number(b)).unwrap_or(Ordering::Equal)
        }
        _ => match (time(a), time(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => text(a).cmp(&text(b)),
        },
    }
}
