//! JSON bodies of callers, with words for what is wrong with one.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::problem::Problem;

/// Bytes of a request's body at most.
pub const MAX_BODY: usize = 16 << 10;
/// Characters of an explanation at most: it may quote the body.
const DETAIL: usize = 300;

/// Reads a JSON body: 415 for another content type, 413 when it is too long, 408 when it does not arrive within `patience`, 400 when it is
/// not JSON, 422 when it is not what belongs there.
pub async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body, patience: Duration) -> Result<T, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, with the header Content-Type: application/json"));
    }
    let too_long = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have at most {MAX_BODY} bytes"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_long());
    }
    let bytes = match tokio::time::timeout(patience, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(too_long()),
        Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let detail: String = error.to_string().chars().filter(|c| !c.is_control()).take(DETAIL).collect();
        match error.classify() {
            Category::Data => Problem::unprocessable(detail),
            Category::Io | Category::Syntax | Category::Eof => {
                Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {detail}"))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_request::RunRequest;

    async fn read(kind: &str, body: &str) -> Result<RunRequest, (u16, String)> {
        let headers = [(header::CONTENT_TYPE, kind.parse().unwrap())].into_iter().collect();
        let read = json(&headers, Body::from(body.to_owned()), Duration::from_secs(1)).await;
        read.map_err(|problem| (problem.status().as_u16(), problem.detail().to_owned()))
    }

    #[tokio::test]
    async fn each_wrong_body_is_told_what_is_wrong() {
        let kind = "application/json; charset=utf-8";
        assert!(read(kind, r#"{"group": "5"}"#).await.is_ok());
        for (kind, body, code, said) in [
            ("text/plain", "{}", 415, "Content-Type"),
            (kind, "{", 400, "not JSON"),
            (kind, "", 400, "not JSON"),
            (kind, "[]", 422, "invalid"),
            (kind, "{}", 422, "missing field `group`"),
            (kind, r#"{"group": 5.5}"#, 422, "group must be a number"),
            (kind, r#"{"group": 5, "limit": "all"}"#, 422, "unknown field `limit`"),
            (kind, r#"{"group": 5, "start_by": "soon"}"#, 422, ""),
            (kind, &format!(r#"{{"group": "{}"}}"#, "a".repeat(MAX_BODY)), 413, "at most 16384 bytes"),
        ] {
            let (status, detail) = read(kind, body).await.unwrap_err();
            assert!(status == code && detail.contains(said) && detail.len() <= 2 * DETAIL, "{body:.80}: {status} {detail}");
        }
    }
}
