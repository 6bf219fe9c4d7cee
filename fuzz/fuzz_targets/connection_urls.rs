//! The address of a controller, as a tenant writes it.
//!
//! What is accepted is https without user, query or fragment, means the same when it is read again, and no way of reading its host as an address
//! leads to this machine, its neighbours on the link, or the API server.
#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

use fettle::clients::http::{Denied, UrlPolicy, origin_of};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<UrlPolicy> = LazyLock::new(|| UrlPolicy {
    denied: vec![
        Denied { address: "10.96.0.1".parse().expect("an address"), port: None },
        Denied { address: "192.168.1.10".parse().expect("an address"), port: Some(6443) },
    ]
    .into(),
    ..UrlPolicy::default()
});

fuzz_target!(|text: &str| {
    let origin = origin_of(text);
    let Ok(url) = POLICY.check_url(text) else { return };
    assert_eq!(url.scheme(), "https");
    assert!(url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none(), "{url}");
    assert!(!url.path().ends_with("//") && url.port() != Some(0), "{url}");
    assert_eq!(origin, origin_of(url.as_str()), "credentials go by the origin: {text:?}");
    assert_eq!(POLICY.check_url(url.as_str()).as_ref(), Ok(&url), "{text:?}");
    let host = url.host_str().expect("a host").trim_matches(['[', ']']);
    let host = host.strip_suffix('.').unwrap_or(host);
    let port = url.port_or_known_default().expect("a port");
    let readings = [host.parse::<IpAddr>().ok(), as_in_c(host).map(IpAddr::V4)];
    for address in readings.into_iter().flatten() {
        assert!(POLICY.check_address(SocketAddr::new(address, port)).is_ok(), "{text:?} leads to {address}");
        assert!(!address.is_loopback() && !address.is_unspecified() && !address.is_multicast(), "{text:?} leads to {address}");
        if let IpAddr::V6(v6) = address {
            assert!(v6.to_ipv4_mapped().is_none() && !v6.is_unicast_link_local(), "{text:?} leads to {address}");
        }
    }
});

/// As `inet_aton` reads it: one to four numbers, decimal, octal or hexadecimal, the last one filling what is left.
fn as_in_c(text: &str) -> Option<Ipv4Addr> {
    // the numbers of Rust may begin with a plus
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        _ if part.contains('+') => None,
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(&part[1..], 8).ok(),
        None => part.parse().ok(),
    };
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 || first.iter().any(|n| *n > 255) {
        return None;
    }
    let room = 32 - 8 * u32::try_from(first.len()).ok()?;
    if room < 32 && *last >> room != 0 {
        return None;
    }
    let head = first.iter().fold(0_u64, |all, n| (all << 8) | u64::from(*n)) << room;
    u32::try_from(head | u64::from(*last)).ok().map(Ipv4Addr::from)
}
