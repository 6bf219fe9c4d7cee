//! Controllers that answer something else than a controller does: each a path of one server, in front of the stand-in.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

struct Inside {
    target: String,
    client: reqwest::Client,
    /// Those that were asked to launch something.
    asked: Mutex<BTreeSet<String>>,
}

/// Starts it in front of the controller at `target`; its address.
pub async fn start(target: &str) -> String {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    let inside = Arc::new(Inside { target: target.to_owned(), client, asked: Mutex::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(inside);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn answer(State(inside): State<Arc<Inside>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str().trim_start_matches('/').to_owned();
    let (who, path) = path.split_once('/').unwrap();
    if parts.method == Method::POST {
        inside.asked.lock().unwrap().insert(who.to_owned());
    }
    let launched = inside.asked.lock().unwrap().contains(who);
    if let Some(other) = instead(who, path) {
        return other;
    }
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let mut out = inside.client.request(parts.method.clone(), format!("{}/{path}", inside.target)).body(body);
    for (name, value) in parts.headers.iter().filter(|(name, _)| ![header::HOST, header::CONTENT_LENGTH].contains(name)) {
        out = out.header(name, value);
    }
    let Ok(answer) = out.send().await else { return text(502, String::new()) };
    let (status, date) = (answer.status(), answer.headers().get(header::DATE).cloned());
    let bytes = answer.bytes().await.unwrap();
    let bytes = match serde_json::from_slice::<Value>(&bytes) {
        Ok(mut value) if parts.method == Method::GET => {
            twist(who, path, launched, &mut value);
            value.to_string().into_bytes()
        }
        _ => bytes.to_vec(),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    if let Some(date) = date {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

fn text(status: u16, body: String) -> Response {
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body)).unwrap()
}

/// An answer that is made up.
fn instead(who: &str, path: &str) -> Option<Response> {
    let inventories = path.contains("/inventories/?");
    match who {
        "redirect" => {
            let elsewhere = Response::builder().status(302).header(header::LOCATION, "https://elsewhere.example/");
            Some(elsewhere.body(Body::empty()).unwrap())
        }
        "login-page" => Some(text(200, "<html>Sign in</html>".into())),
        "next-page" if inventories => {
            Some(text(200, json!({"results": [], "next": "https://elsewhere.example/api/v2/inventories/?page=2"}).to_string()))
        }
        "endless-list" if inventories => {
            let page: u64 = path.split("page=").nth(1).and_then(|page| page.parse().ok()).unwrap_or(1);
            Some(text(200, json!({"results": [], "next": format!("/api/v2/inventories/?page={}", page + 1)}).to_string()))
        }
        "not-a-number" if inventories => Some(text(200, r#"{"results": [{"id": NaN, "name": "fleet"}]}"#.into())),
        "deep-answer" if inventories => Some(text(200, format!("{}{}", "[".repeat(200), "]".repeat(200)))),
        "large-answer" if inventories => Some(text(200, " ".repeat(17 << 20))),
        "large-inventory-number" if inventories => Some(text(200, r#"{"results": [{"id": 1e300, "name": "fleet"}]}"#.into())),
        _ => None,
    }
}

/// An answer that is changed.
fn twist(who: &str, path: &str, launched: bool, value: &mut Value) {
    match who {
        "number-as-text" if path.contains("/job_templates/?") => {
            let id = value["results"][0]["id"].to_string();
            value["results"][0]["id"] = json!(id);
        }
        "limit-is-null" if path.contains("/jobs/") && value["limit"].is_string() => value["limit"] = Value::Null,
        "moved-controller" if path.ends_with("/ping/") && launched => value["install_uuid"] = json!("00000000-0000-4000-8000-000000000000"),
        _ => {}
    }
}
