//! What jobs wrote: stdout, events, host summaries.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Answer, Api, Body, Reply,
    query::{List, Row},
};
use crate::aap::state::Job;

/// How much output the formats for reading show (`STDOUT_MAX_BYTES_DISPLAY`).
pub(super) const DISPLAY_LIMIT: usize = 1_048_576;

/// The text of a job as the database gives it: events in order, line ends as `\n`, and backslashes doubled (the text goes
/// through `COPY … TO STDOUT`).
fn text_of(api: &Api<'_>, job: &Job) -> String {
    let Some(output) = api.world.outputs.get(&job.id) else { return String::new() };
    let mut rows: Vec<_> = output.events.values().collect();
    rows.sort_by_key(|row| row.raw.get("start_line").and_then(Value::as_i64).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let part = row.raw.get("stdout").and_then(Value::as_str).unwrap_or("");
        if !part.is_empty() {
            text.push_str(&part.replace("\r\n", "\n").replace('\\', "\\\\").replace('\t', "\\t"));
            text.push('\n');
        }
    }
    text
}

/// Removes escape sequences of terminals.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' && characters.peek() == Some(&'[') {
            for character in characters.by_ref() {
                if character.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

fn page(title: &str, content: &str) -> String {
    let safe = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!DOCTYPE HTML>\n<html>\n  <head>\n    <meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\">\n    <title>{title}</title>\n  </head>\n  <body class=\"ansi_fore ansi_back ansi_dark\">\n<pre>{safe}</pre>\n  </body>\n</html>\n"
    )
}

pub(super) fn stdout(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let asked = api.call.parameter("format");
    let format = match asked {
        Some(format) => format,
        None if api.call.accept.contains("text/plain") => "txt",
        None if api.call.accept.contains("application/json") => "json",
        None => "api",
    };
    let text = text_of(api, &job);
    let too_large = |format: &str| {
        let shown = format!(
            "Standard Output too large to display ({} bytes), only download supported for sizes over {DISPLAY_LIMIT} bytes.",
            text.len()
        );
        if format == "json" {
            let range = json!({"start": 0, "end": 1, "absolute_end": 1});
            Reply::json(200, json!({"range": range, "content": shown}))
        } else {
            Reply::new(200, Body::Text("text/plain; charset=utf-8", shown))
        }
    };
    let download = |text: String| {
        // No charset, though it is UTF-8.
        let mut reply = Reply::new(200, Body::Text("text/plain", text));
        reply.headers.push(("content-disposition", format!("attachment; filename=\"job_{}.txt\"", job.id)));
        Ok(reply)
    };
    match format {
        "txt_download" => download(plain(&text)),
        "ansi_download" => download(text),
        "txt" | "ansi" | "json" if text.len() > DISPLAY_LIMIT => Ok(too_large(format)),
        "txt" | "ansi" if text.is_empty() => Ok(Reply::empty(200)),
        "txt" => Ok(Reply::new(200, Body::Text("text/plain; charset=utf-8", plain(&text)))),
        "ansi" => Ok(Reply::new(200, Body::Text("text/plain; charset=utf-8", text))),
        "json" => Ok(json_stdout(api, &text)),
        "html" => Ok(Reply::html(200, &page("Type", &plain(&text)))),
        "api" => Ok(Reply::html(200, &page("Job Stdout &middot; AWX REST API", &plain(&text)))),
        _ => Err(Reply::html(404, &page("Not Found", "Not found."))),
    }
}

/// The one format that honours `start_line` and `end_line`.
fn json_stdout(api: &Api<'_>, text: &str) -> Reply {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let number = |name: &str| api.call.parameter(name).and_then(|text| text.parse::<usize>().ok());
    let start = number("start_line").unwrap_or(0);
    let end = number("end_line").unwrap_or(lines.len()).min(lines.len());
    let content = lines.get(start..end).unwrap_or_default().concat();
    let range = json!({"start": start, "end": end, "absolute_end": lines.len()});
    if api.call.parameter("content_encoding") == Some("base64") {
        return Reply::json(200, json!({"range": range, "content": STANDARD.encode(content)}));
    }
    Reply::json(200, json!({"range": range, "content": content}))
}

pub(super) fn events(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let full = api.call.parameter("no_truncate").is_some_and(|value| value != "0" && value != "false");
    let view = api.view();
    let output = api.world.outputs.get(&job.id);
    let events = output.iter().flat_map(|output| output.events.values());
    let rows = events.map(|event| Row::plain(view.event(&job, event, full))).collect();
    api.list(List { model: "JobEvent", order: "start_line", limit_pages: true }, rows)
}

pub(super) fn summaries(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let view = api.view();
    let output = api.world.outputs.get(&job.id);
    let summaries = output.iter().flat_map(|output| &output.summaries);
    let rows = summaries.map(|summary| Row::plain(view.summary(&job, summary))).collect();
    api.list(List::of("JobHostSummary", "-id"), rows)
}

pub(super) fn host_summaries(api: &mut Api<'_>, key: &str) -> Answer {
    let id: i64 = key.parse().map_err(|_| Reply::not_found("Host"))?;
    let view = api.view();
    let hosts = api.world.catalog.inventories.values().filter(|inventory| api.may_read_inventory(inventory.id));
    let name = hosts
        .filter_map(|inventory| inventory.hosts.get(&id))
        .map(|host| host.name.clone())
        .next()
        .ok_or_else(|| Reply::not_found("Host"))?;
    let mut rows = Vec::new();
    for (job, output) in &api.world.outputs {
        let Some(job) = api.world.tables.jobs.get(job) else { continue };
        let own = output.summaries.iter().filter(|summary| summary.host == name);
        rows.extend(own.map(|summary| Row::plain(view.summary(job, summary))));
    }
    api.list(List::of("JobHostSummary", "-id"), rows)
}
