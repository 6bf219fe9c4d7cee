//! `GET /openapi.json`: the API, described. Open to everybody; it holds no names.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use http::header;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{chat, events, history, logs, problem::Details, runs, start};

/// The routes that people and scripts use; the manager's own are not described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fettle",
        description = "Patches and reboots production hosts. Errors are RFC 9457 problems; `requestId` is the id of the request in the server's log.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(start::post, runs::get, events::get, history::list, history::host, logs::get, chat::post),
    components(schemas(Details, events::StateEvent, events::HostsEvent, events::LogEvent, events::EndEvent)),
    security(("bearer" = [])),
    modifiers(&Common)
)]
struct Document;

/// What all routes have in common: the token, and the problems.
struct Common;

/// What every request may meet.
const PROBLEMS: [(&str, &str); 7] = [
    ("400", "What was sent cannot be read."),
    ("401", "There is no valid token."),
    ("403", "The caller may not do that, or it does not exist and the caller may not know."),
    ("404", "There is no such thing."),
    ("429", "The caller asks too often, or too much at a time; see `Retry-After`."),
    ("500", "A fault of the server."),
    ("503", "Something the server depends on does not answer; see `Retry-After`."),
];
/// What a request with a body may meet besides.
const BODY_PROBLEMS: [(&str, &str); 4] = [
    ("408", "The body did not arrive in time."),
    ("413", "The body is too long."),
    ("415", "The body is not JSON."),
    ("422", "The body is understood and cannot be done: a field is missing, unknown or wrong, or the API server refuses the PatchRun."),
];

impl Modify for Common {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "A token of audience `fettle` (`kubectl create token NAME --audience fettle`), or a person's own token of the cluster.",
        ));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        for path in document.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
                let body: &[_] = if operation.request_body.is_some() { &BODY_PROBLEMS } else { &[] };
                for (code, meaning) in PROBLEMS.iter().chain(body) {
                    add(operation, code, meaning);
                }
            }
        }
    }
}

fn add(operation: &mut Operation, code: &str, meaning: &str) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(meaning).content("application/problem+json", content).build();
    operation.responses.responses.entry(code.to_owned()).or_insert(RefOr::T(response));
}

/// The document, as it is committed in `docs/openapi.json`.
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Answers with the document.
pub async fn get() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(document);
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], DOCUMENT.as_str()).into_response()
}
