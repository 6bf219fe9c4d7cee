//! Where the history lies.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::Args;
use jiff::SignedDuration;

use super::Error;

/// Where the history lies, and how it is kept.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// Database of the history: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/NAME`. With a password give it in the environment, where it
    /// is not listed among the processes.
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite:///var/lib/fettle/history/history.db", hide_env_values = true)]
    pub database_url: DatabaseUrl,
    /// How often the history looks for records it does not have.
    #[arg(long, default_value = "1m", hide = true)]
    pub history_catch_up: SignedDuration,
    /// Pages that a SQLite file may have: makes a disk that is full.
    #[arg(long, hide = true)]
    pub history_max_pages: Option<u32>,
}

/// The address of a database as it was given. It may hold a password and is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl FromStr for DatabaseUrl {
    type Err = std::convert::Infallible;

    /// Takes any text, because an error of the command line shows the value; [`Database::new`] checks it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split_once("://").map_or("…", |(scheme, _)| if scheme == "sqlite" { &self.0 } else { "postgres://…" }))
    }
}

/// A checked [`DatabaseUrl`].
pub(super) enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A server, with what must not be shown of its address.
    Postgres {
        /// The whole address.
        url: String,
        /// The password, as it is written and as it is meant.
        secrets: Vec<String>,
    },
}

impl Database {
    /// Checks an address. What is wrong is said without the address.
    pub(super) fn new(url: &DatabaseUrl) -> Result<Self, Error> {
        let rejected = |why: &str| Err(Error::Rejected(format!("the database's address (DATABASE_URL) {why}")));
        match url.0.split_once("://") {
            Some(("sqlite", path)) if !path.starts_with('/') || path.contains(['?', '#', '%']) => {
                rejected("must be sqlite:// and an absolute path without ?, # and %")
            }
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.into())),
            Some(("postgres" | "postgresql", _)) => match reqwest::Url::parse(&url.0) {
                Ok(parsed) => Ok(Self::Postgres { secrets: secrets(&parsed), url: url.0.clone() }),
                Err(_) => rejected("is not postgres://USER:PASSWORD@HOST/NAME; special characters of the password must be percent-encoded"),
            },
            Some(_) | None => rejected("must begin with sqlite:// or postgres://"),
        }
    }

    /// Takes what must not be shown out of a text.
    pub(super) fn redact(&self, text: &str) -> String {
        match self {
            Self::Sqlite(_) => text.to_owned(),
            Self::Postgres { secrets, .. } => secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…")),
        }
    }
}

/// Every form of every password in an address: before the host, and among the parameters.
fn secrets(url: &reqwest::Url) -> Vec<String> {
    let written = url.password().map(str::to_owned);
    // a query is decoded the way a password is, but for "+"
    let meant = written.as_ref().and_then(|text| {
        let query = format!("p={}", text.replace('+', "%2B"));
        let mut decoded = url.clone();
        decoded.set_query(Some(&query));
        decoded.query_pairs().next().map(|(_, value)| value.into_owned())
    });
    let parameters = url.query_pairs().filter(|(name, _)| name == "password").map(|(_, value)| value.into_owned());
    written.into_iter().chain(meant).chain(parameters).filter(|secret| !secret.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str) -> Result<Database, Error> {
        Database::new(&url.parse().unwrap())
    }

    #[test]
    fn an_address_is_a_file_or_a_server() {
        assert!(matches!(database("sqlite:///var/lib/x.db"), Ok(Database::Sqlite(path)) if path.ends_with("x.db")));
        assert!(matches!(database("postgres://u:p@h/n"), Ok(Database::Postgres { .. })));
        for bad in ["", "x", "mysql://u@h/n", "sqlite://x.db", "sqlite::memory:", "sqlite:///x?mode=memory", "postgres://u:p@h:port/n"] {
            assert!(matches!(database(bad), Err(Error::Rejected(_))), "{bad}");
        }
    }

    #[test]
    fn no_form_of_a_password_is_shown() {
        let text = "postgres://fettle:hunter%2F2+x@db/fettle?password=other";
        let database = database(text).unwrap();
        let shown = database.redact("no entry for hunter/2+x, hunter%2F2+x or other");
        assert_eq!(shown, "no entry for …, … or …");
        let url: DatabaseUrl = text.parse().unwrap();
        assert_eq!(format!("{url:?}"), "postgres://…");
        let Err(Error::Rejected(why)) = Database::new(&"postgres://u:hunter2@h:port/n".parse().unwrap()) else { panic!() };
        assert!(!why.contains("hunter2"), "{why}");
    }
}
