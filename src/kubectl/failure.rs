//! [`Failure`]: why a command did not work, and the exit code that scripts see.

use std::{error::Error, io};

use kube::core::Status;

/// Why a command did not work. Texts say what to do next, and hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It did not work.
    Error(String),
    /// The command line asks for what cannot be.
    Usage(String),
    /// The API server or fettle-server cannot be reached.
    Unreachable(String),
    /// The time that was given is over.
    TimedOut(String),
    /// What was followed ended with `ERROR`, and that was shown.
    EndedWithError,
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads the output any more.
    Closed,
}

impl Failure {
    /// The exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Self::Error(_) | Self::EndedWithError => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Interrupted => 130,
            Self::Closed => 0,
        }
    }

    /// What to say about it; `None` when all is said.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Error(text) | Self::Usage(text) | Self::Unreachable(text) | Self::TimedOut(text) => Some(text.clone()),
            Self::EndedWithError | Self::Interrupted | Self::Closed => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Error(error.to_string()) }
    }
}

/// What the API server, or the way to it, says about `what` ("read PatchRun web in namespace patching"). `url` is the API server's.
pub fn of_cluster(what: &str, url: &str, error: &kube::Error) -> Failure {
    if let kube::Error::Api(status) = error {
        return of_status(what, status);
    }
    let why = chain(error);
    if matches!(error, kube::Error::Auth(_)) {
        return Failure::Error(format!("cannot log in to {url}: {why}: log in again; `kubectl get pods` needs it too"));
    }
    if matches!(error, kube::Error::SerdeError(_)) {
        return Failure::Error(format!("cannot {what}: the API server's answer is not understood: {why}"));
    }
    Failure::Unreachable(format!(
        "cannot reach the API server {url}: {why}\nIs it the right context (kubectl config get-contexts), and does `kubectl version` work?"
    ))
}

fn of_status(what: &str, status: &Status) -> Failure {
    let message = &status.message;
    let text = match (status.code, status.reason.as_str()) {
        (401, _) => format!("cannot {what}: the API server does not know you ({message}): log in again"),
        (403, _) => format!(
            "cannot {what}: {message}\nAsk an administrator to bind you the ClusterRole `view` (to look), `edit` (to run) or `fettle-viewer`, `fettle-editor` in that namespace."
        ),
        (404, reason) if reason != "NotFound" => {
            format!("cannot {what}: this cluster does not serve that kind. Is Fettle installed? `kubectl fettle doctor` tells")
        }
        (429, _) => format!("cannot {what}: the API server is busy ({message}): try again in a moment"),
        _ => format!("cannot {what}: {message}"),
    };
    Failure::Error(text)
}

/// An error with its causes, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
