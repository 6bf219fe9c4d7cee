//! Errors as clients see them: RFC 9457 problem details, with the id under which the request is in our log.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::archive;

/// An answer that is not what was asked for. `detail` is for people and never holds what the caller may not know.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

/// A problem as it is sent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct Details {
    /// Always `about:blank`: the status says what kind it is.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong, and what would be right.
    detail: String,
    /// Id of the request in the server's log.
    request_id: String,
}

impl Problem {
    /// A problem of that status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    /// Also sends that header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Asks for a token.
    pub fn unauthenticated(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fettle\""))
    }

    /// The one answer to everything the caller may not read, whether it exists or not.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "it does not exist, or you may not get the PatchRun it belongs to")
    }

    /// There is no such thing, and the caller may know.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such thing")
    }

    /// What was sent is understood and cannot be done.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// Something the server depends on does not answer.
    pub fn unavailable(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What people are told.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The answer, for the request of that id.
    pub(super) fn render(self, request_id: &str) -> Response {
        let details = Details {
            r#type: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: self.detail,
            request_id: request_id.into(),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&details).unwrap_or_default()));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.header);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl IntoResponse for Problem {
    /// Leaves the body to the outermost layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<archive::Error> for Problem {
    fn from(error: archive::Error) -> Self {
        let detail = error.to_string();
        match error {
            archive::Error::Unavailable(cause) => {
                // causes name files and addresses: they are for our log only
                tracing::error!(%cause, "the archive is not available");
                Self::unavailable("the archive is not available")
            }
            archive::Error::Conflict(_) => Self::new(StatusCode::CONFLICT, detail),
            archive::Error::Rejected(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            archive::Error::Source(_) => Self::new(StatusCode::BAD_REQUEST, detail),
        }
    }
}
