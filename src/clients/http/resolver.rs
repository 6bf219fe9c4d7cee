//! Names are resolved each time a connection is opened, and only vetted addresses come out.

use std::{net::SocketAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::policy::{AddressRefused, UrlPolicy};

/// No connection can be opened to a name.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unresolved {
    /// The name has no address.
    #[error("the name {name} has no address: {cause}")]
    Lookup { name: String, cause: String },
    /// It has addresses, but none of them is acceptable.
    #[error("the name {name} leads to an address that is refused: {cause}")]
    Refused { name: String, cause: AddressRefused },
}

/// Resolves through the system, without a cache, and drops what the policy refuses.
pub(super) struct Resolver {
    policy: Arc<UrlPolicy>,
    port: u16,
}

impl Resolver {
    /// `port` is the one the connections go to: the policy may refuse an address for one port only.
    pub(super) fn new(policy: UrlPolicy, port: u16) -> Self {
        Self { policy: Arc::new(policy), port }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (Arc::clone(&self.policy), self.port);
        Box::pin(async move {
            let name = name.as_str();
            let lookup = |cause: String| Unresolved::Lookup { name: name.to_owned(), cause };
            let found = tokio::net::lookup_host((name, port)).await.map_err(|e| lookup(e.to_string()))?;
            let vetted = vet(&policy, name, found)?;
            Ok(Box::new(vetted.into_iter()) as Addrs)
        })
    }
}

/// The acceptable ones of `found`, in their order; an error when there is none.
fn vet(policy: &UrlPolicy, name: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Unresolved> {
    let mut refused = None;
    let mut vetted = vec![];
    for address in found {
        match policy.check_address(address) {
            Ok(()) => vetted.push(address),
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    match refused {
        _ if !vetted.is_empty() => Ok(vetted),
        Some(cause) => Err(Unresolved::Refused { name: name.to_owned(), cause }),
        None => Err(Unresolved::Lookup { name: name.to_owned(), cause: "no address".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> impl Iterator<Item = SocketAddr> {
        texts.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn only_vetted_addresses_come_out() {
        let policy = UrlPolicy::default();
        let mixed = addresses(&["169.254.169.254:443", "10.0.0.7:443", "[::1]:443"]);
        assert_eq!(vet(&policy, "a", mixed).unwrap(), addresses(&["10.0.0.7:443"]).collect::<Vec<_>>());
        let bad = vet(&policy, "a", addresses(&["127.0.0.1:443"]));
        assert!(matches!(bad, Err(Unresolved::Refused { .. })), "{bad:?}");
        let none = vet(&policy, "a", addresses(&[]));
        assert!(matches!(none, Err(Unresolved::Lookup { .. })), "{none:?}");
    }

    #[tokio::test]
    async fn localhost_is_resolved_and_refused() {
        let resolver = Resolver::new(UrlPolicy::default(), 443);
        let error = resolver.resolve("localhost".parse().unwrap()).await.err().expect("refused");
        assert!(matches!(error.downcast_ref(), Some(Unresolved::Refused { .. })), "{error}");
        let tests = UrlPolicy { allow_loopback: true, ..UrlPolicy::default() };
        let found = Resolver::new(tests, 443).resolve("localhost".parse().unwrap()).await;
        assert!(found.is_ok_and(|mut found| found.all(|a| a.ip().is_loopback())));
    }
}
