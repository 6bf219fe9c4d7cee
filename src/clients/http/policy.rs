//! Which addresses Fettle may talk to on behalf of a tenant.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use reqwest::Url;

/// What the address of a foreign system may be. The default refuses what no such system has: loopback, link-local, multicast, reserved ranges.
/// Private networks are fine: that is where controllers live.
#[derive(Clone, Debug, Default)]
pub struct UrlPolicy {
    /// Accept `http://`.
    pub allow_plain_http: bool,
    /// Accept loopback addresses. For tests in one process; no option or variable sets it.
    pub allow_loopback: bool,
    /// Addresses that are refused although their range is fine: the API server, Services of our own.
    pub denied: DenyList,
}

/// Addresses that are refused. They may change while clients use them; clones are one list.
#[derive(Clone, Debug, Default)]
pub struct DenyList(Arc<RwLock<Vec<Denied>>>);

impl From<Vec<Denied>> for DenyList {
    fn from(denied: Vec<Denied>) -> Self {
        Self(Arc::new(RwLock::new(denied)))
    }
}

impl DenyList {
    /// From now on it is these.
    pub fn set(&self, denied: Vec<Denied>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = denied;
    }

    fn has(&self, address: IpAddr, port: u16) -> bool {
        let denied = self.0.read().unwrap_or_else(PoisonError::into_inner);
        denied.iter().any(|d| d.address == address && d.port.is_none_or(|p| p == port))
    }
}

/// An address that is refused, on one port or on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denied {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` means all.
    pub port: Option<u16>,
}

/// A URL is not acceptable. Messages are for the people who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// Not a URL, or one with parts that have no business here.
    #[error("the url is not acceptable: {0}")]
    Form(&'static str),
    /// `http://` without permission.
    #[error("the url must start with https:// (http:// sends credentials unencrypted and needs allowPlainHTTP)")]
    Plain,
    /// A literal address that is refused.
    #[error("the url leads to an address that is refused: {0}")]
    Address(#[source] AddressRefused),
}

/// An IP address is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} {reason}")]
pub struct AddressRefused {
    /// The address.
    pub address: IpAddr,
    /// Why, for example "is a loopback address".
    pub reason: &'static str,
}

impl UrlPolicy {
    /// Reads the base address of a system: scheme, host, optional port and path. The result has no trailing slash in its path.
    ///
    /// A literal address, in any of the notations a browser knows (`0x7f.1`, `2130706433`, `0177.0.0.1`, percent-encoded, with a trailing dot), is
    /// vetted here; a name is vetted whenever it is resolved.
    pub fn check_url(&self, text: &str) -> Result<Url, UrlRefused> {
        // the parser would drop tabs and line breaks, and read a backslash as a slash
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(UrlRefused::Form("it holds white space, control characters or backslashes"));
        }
        let mut url = Url::parse(text).map_err(|_| UrlRefused::Form("it is not a URL such as https://aap.example.com"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_plain_http => {}
            "http" => return Err(UrlRefused::Plain),
            _ => return Err(UrlRefused::Form("it must start with https://")),
        }
        if text.contains('@') {
            return Err(UrlRefused::Form("it must not hold a user or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlRefused::Form("it must not have a query or fragment"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if port == 0 {
            return Err(UrlRefused::Form("port 0 cannot be connected to"));
        }
        let Some(host) = url.host_str().filter(|h| !h.is_empty()) else {
            return Err(UrlRefused::Form("it has no host"));
        };
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            self.check_address(SocketAddr::new(address, port)).map_err(UrlRefused::Address)?;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(url)
    }

    /// Whether a connection to `address` may be opened.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), AddressRefused> {
        let (ip, port) = (address.ip(), address.port());
        let reason = match ip {
            IpAddr::V4(v4) => self.refusal_v4(v4, port),
            IpAddr::V6(v6) => self.refusal_v6(v6, port),
        };
        match reason {
            Some(reason) => Err(AddressRefused { address: ip, reason }),
            None => Ok(()),
        }
    }

    fn denies(&self, ip: IpAddr, port: u16) -> Option<&'static str> {
        self.denied.has(ip, port).then_some("belongs to the cluster's API server or to Fettle itself")
    }

    /// Ranges of the IANA special-purpose registry (RFC 6890) that no server of a tenant can have, and metadata services of clouds.
    fn refusal_v4(&self, ip: Ipv4Addr, port: u16) -> Option<&'static str> {
        let [a, b, c, _] = ip.octets();
        let reason = match (a, b, c) {
            (0, ..) => "is an unspecified address",
            (127, ..) if self.allow_loopback => return self.denies(ip.into(), port),
            (127, ..) => "is a loopback address",
            (169, 254, _) => "is a link-local address",
            (192, 0, 0) => "is reserved for protocols",
            (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "is reserved for documentation",
            (192, 88, 99) => "is a relay address",
            (198, 18 | 19, _) => "is reserved for benchmarks",
            (224..=239, ..) => "is a multicast address",
            (240..=255, ..) => "is a reserved or broadcast address",
            (100, 100, 100) if ip.octets()[3] == 200 => "is the metadata service of a cloud",
            (168, 63, 129) if ip.octets()[3] == 16 => "is the metadata service of a cloud",
            _ => return self.denies(ip.into(), port),
        };
        Some(reason)
    }

    /// As [`Self::refusal_v4`]; addresses that carry an IPv4 address inside are refused, but for NAT64, where the inner address decides.
    fn refusal_v6(&self, ip: Ipv6Addr, port: u16) -> Option<&'static str> {
        if let Some(reason) = self.denies(ip.into(), port) {
            return Some(reason);
        }
        let reason = match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] if self.allow_loopback => return None,
            [0, 0, 0, 0, 0, 0, 0, 1] => "is a loopback address",
            [0, 0, 0, 0, 0, 0, 0, 0] => "is an unspecified address",
            [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => "is an IPv4 address written as IPv6",
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                return self.refusal_v4(Ipv4Addr::new(a, b, c, d), port);
            }
            [0x64, 0xff9b, ..] => "is a translated IPv4 address",
            [0x100, 0, 0, 0 | 1, ..] => "is a discard address",
            [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "is reserved for documentation",
            [0x2001, 0..=0x1ff, ..] => "is reserved for protocols",
            [0x2002, ..] => "is a 6to4 address",
            [0x5f00, ..] => "is a segment routing identifier",
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => "is the metadata service of a cloud",
            [0xfe80..=0xfeff, ..] => "is a link-local or site-local address",
            [0xff00..=0xffff, ..] => "is a multicast address",
            _ => return None,
        };
        Some(reason)
    }
}

/// Scheme, host and port of `url`, the default port left out: what the annotation `fettle.dev/origin` of a Secret must say, for example
/// `https://aap.example.com`. `None` for text that is no URL with a host.
pub fn origin_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> Option<UrlRefused> {
        let policy = UrlPolicy {
            denied: vec![
                Denied { address: "10.96.0.1".parse().unwrap(), port: None },
                Denied { address: "10.88.0.1".parse().unwrap(), port: Some(6443) },
                Denied { address: "fd00:10:96::1".parse().unwrap(), port: None },
            ]
            .into(),
            ..UrlPolicy::default()
        };
        policy.check_url(text).err()
    }

    #[test]
    fn servers_of_tenants_are_accepted() {
        for url in [
            "https://aap.example.com",
            "https://aap.example.com:8443/controller/",
            "https://10.88.0.2:8443",
            "https://10.88.0.1:8443",
            "https://192.168.1.5",
            "https://172.16.0.9",
            "https://100.64.0.9",
            "https://8.8.8.8",
            "https://100.100.100.201",
            "https://168.63.129.17",
            "https://[fd12:3456::7]:443",
            "https://[2600:1f18::7]",
            "https://[64:ff9b::808:808]",
            "https://aap.example.com.",
            "https://1password.example",
        ] {
            assert_eq!(refused(url), None, "{url}");
        }
    }

    #[test]
    fn addresses_of_this_machine_and_cluster_are_refused_in_every_notation() {
        for url in [
            "https://127.0.0.1",
            "https://127.0.0.1.",
            "https://127.1",
            "https://0x7f.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://0177.0.0.1",
            "https://017700000001",
            "https://%31%32%37.0.0.1",
            "https://127.0.0.1",
            "https://127。0。0。1",
            "https://0",
            "https://0.0.0.0",
            "https://0.1.2.3",
            "https://[::]",
            "https://[::1]",
            "https://[0:0:0:0:0:0:0:1]",
            "https://[::ffff:127.0.0.1]",
            "https://[::ffff:7f00:1]",
            "https://[::ffff:10.96.0.1]",
            "https://[::ffff:8.8.8.8]",
            "https://[::127.0.0.1]",
            "https://[::ffff:0:127.0.0.1]",
            "https://[64:ff9b::127.0.0.1]",
            "https://[64:ff9b::a9fe:a9fe]",
            "https://[64:ff9b::10.96.0.1]",
            "https://[64:ff9b:1::7f00:1]",
            "https://[2002:7f00:1::]",
            "https://[2002:a00:1::1]",
            "https://[2001:0:7f00:1::]",
            "https://[2001:db8::1]",
            "https://[3fff::1]",
            "https://[fe80::1]",
            "https://[fec0::1]",
            "https://[ff02::1]",
            "https://[100::1]",
            "https://[5f00::1]",
            "https://[fd00:ec2::254]",
            "https://[fd00:10:96::1]",
            "https://169.254.169.254",
            "https://0xa9fea9fe",
            "https://2852039166",
            "https://100.100.100.200",
            "https://168.63.129.16",
            "https://192.0.2.1",
            "https://198.51.100.1",
            "https://203.0.113.1",
            "https://198.18.0.1",
            "https://198.19.255.255",
            "https://192.0.0.8",
            "https://192.88.99.1",
            "https://224.0.0.1",
            "https://239.255.255.250",
            "https://240.0.0.1",
            "https://255.255.255.255",
            "https://10.96.0.1",
            "https://10.96.0.1:8443",
            "https://10.6291457",
            "https://10.88.0.1:6443",
        ] {
            assert!(matches!(refused(url), Some(UrlRefused::Address(_))), "{url}: {:?}", refused(url));
        }
    }

    #[test]
    fn urls_with_other_parts_are_refused() {
        for url in [
            "http://aap.example.com",
            "ftp://aap.example.com",
            "file:///etc/passwd",
            "https://",
            "https:///",
            "aap.example.com",
            "https://user@aap.example.com",
            "https://user:password@aap.example.com",
            "https://@aap.example.com",
            "https://aap.example.com@127.0.0.1",
            "https://aap.example.com\\@127.0.0.1",
            "https://aap.example.com\t.evil",
            " https://aap.example.com",
            "https://aap.example.com?x=1",
            "https://aap.example.com#x",
            "https://aap.example.com:0",
            "https://aap.example.com:99999",
            "https://1.2.3.4.5",
            "https://256.1.1.1",
            "https://0x7f.1.example.0x1",
            "https://[fe80::1%25eth0]",
            "https://a b",
        ] {
            assert!(matches!(refused(url), Some(UrlRefused::Form(_) | UrlRefused::Plain)), "{url}: {:?}", refused(url));
        }
    }

    #[test]
    fn a_refusal_says_what_the_address_is() {
        for (url, reason) in [
            ("https://[::1]", "is a loopback address"),
            ("https://[::]", "is an unspecified address"),
            ("https://[::ffff:8.8.8.8]", "is an IPv4 address written as IPv6"),
        ] {
            assert!(matches!(refused(url), Some(UrlRefused::Address(refused)) if refused.reason == reason), "{url}: {:?}", refused(url));
        }
        assert_eq!(refused("http://aap.example.com"), Some(UrlRefused::Plain));
    }

    #[test]
    fn plain_http_and_loopback_need_permission() {
        let policy = UrlPolicy { allow_plain_http: true, allow_loopback: true, ..UrlPolicy::default() };
        for url in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"] {
            assert!(policy.check_url(url).is_ok(), "{url}");
        }
        assert!(policy.check_url("http://169.254.169.254").is_err());
        assert!(policy.check_url("http://[::ffff:127.0.0.1]").is_err());
    }

    #[test]
    fn origins_are_compared_without_default_ports_and_paths() {
        for (url, origin) in [
            ("https://AAP.example.com:443/x", Some("https://aap.example.com")),
            ("https://aap.example.com:8443", Some("https://aap.example.com:8443")),
            ("http://aap.example.com", Some("http://aap.example.com")),
            ("file:///etc/passwd", None),
            ("aap", None),
        ] {
            assert_eq!(origin_of(url).as_deref(), origin, "{url}");
        }
    }

    proptest! {
        /// Whatever notation hides it, a URL that the parser reads as a refused IPv4 address is refused.
        #[test]
        fn every_spelling_of_an_address_gets_the_same_answer(ip: u32, kind in 0..4) {
            let address = Ipv4Addr::from(ip);
            let [a, b, c, d] = address.octets();
            let text = match kind {
                0 => format!("https://{ip}"),
                1 => format!("https://{ip:#x}"),
                2 => format!("https://0{a:o}.0{b:o}.{c:#x}.{d}."),
                _ => format!("https://{a}.{}", u32::from_be_bytes([0, b, c, d])),
            };
            let plain = UrlPolicy::default().check_address(SocketAddr::new(address.into(), 443)).is_ok();
            prop_assert_eq!(UrlPolicy::default().check_url(&text).is_ok(), plain);
        }

        /// Reading a URL never panics, and what is accepted has a host and no user.
        #[test]
        fn any_text_is_judged(text in "(https://)?[a-z0-9.:@/%\\[\\]#?\\\\-]{0,40}") {
            if let Ok(url) = UrlPolicy::default().check_url(&text) {
                prop_assert!(url.has_host() && url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
