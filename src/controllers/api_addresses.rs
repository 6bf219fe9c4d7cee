//! Keeps the list of refused addresses current: where the cluster's API server is, by its Service and behind it.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::brief;
use crate::clients::http::{Denied, DenyList};

/// How often to look. API servers come and go with the nodes of the control plane.
const EVERY: Duration = Duration::from_mins(1);
/// Namespace and name of the Service of every API server, and of the slice of endpoints that the API servers themselves write.
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Looks now and every minute until `stop`. `fixed` is refused in any case; what cannot be looked up leaves the list as it is.
pub async fn start(client: Client, fixed: Vec<Denied>, stop: CancellationToken) -> DenyList {
    let list = DenyList::from(fixed.clone());
    let mut trouble = None;
    update(&client, &fixed, &list, &mut trouble).await;
    let updated = list.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => update(&client, &fixed, &updated, &mut trouble).await,
                () = stop.cancelled() => return,
            }
        }
    });
    list
}

/// One look. The same trouble is told once.
async fn update(client: &Client, fixed: &[Denied], list: &DenyList, trouble: &mut Option<String>) {
    match look(client).await {
        Ok(found) => {
            list.set(fixed.iter().copied().chain(found).collect());
            *trouble = None;
        }
        Err(error) => {
            let now = brief(&error);
            if trouble.as_ref() != Some(&now) {
                tracing::warn!(
                    error = now,
                    "the addresses of the API server cannot be looked up; connections may lead to those behind its Service"
                );
                *trouble = Some(now);
            }
        }
    }
}

async fn look(client: &Client) -> kube::Result<BTreeSet<Denied>> {
    let service = Api::<Service>::namespaced(client.clone(), NAMESPACE).get(NAME).await?;
    let slice = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE).get_opt(NAME).await?;
    Ok(addresses(&service, slice.as_ref()))
}

fn addresses(service: &Service, slice: Option<&EndpointSlice>) -> BTreeSet<Denied> {
    let port = |port: i32| u16::try_from(port).ok();
    let spec = service.spec.as_ref();
    let own = spec.iter().flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip));
    let own_ports = spec.iter().flat_map(|s| s.ports.iter().flatten()).map(|p| port(p.port)).collect();
    let behind = slice.iter().flat_map(|s| &s.endpoints).flat_map(|e| &e.addresses);
    let behind_ports = slice.iter().flat_map(|s| s.ports.iter().flatten()).map(|p| p.port.and_then(port)).collect();
    pairs(own, own_ports).chain(pairs(behind, behind_ports)).collect()
}

/// Every address (a Service without one says `None`) on every port; on all ports when none is named.
fn pairs<'a>(addresses: impl Iterator<Item = &'a String>, mut ports: Vec<Option<u16>>) -> impl Iterator<Item = Denied> {
    if ports.is_empty() {
        ports.push(None);
    }
    let addresses = addresses.filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.flat_map(move |address| ports.clone().into_iter().map(move |port| Denied { address, port }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn denied(address: &str, port: Option<u16>) -> Denied {
        Denied { address: address.parse().unwrap(), port }
    }

    #[test]
    fn every_address_on_every_port() {
        let service = json!({"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"], "ports": [{"port": 443}]}});
        let service = serde_json::from_value(service).unwrap();
        let slice = json!({"metadata": {}, "addressType": "IPv4", "ports": [{"port": 6443}, {"port": 9345}],
            "endpoints": [{"addresses": ["192.168.1.10"]}, {"addresses": ["192.168.1.11"], "conditions": {"ready": false}}]});
        let slice = serde_json::from_value(slice).unwrap();
        let found = addresses(&service, Some(&slice));
        let wanted = [
            denied("10.96.0.1", Some(443)),
            denied("192.168.1.10", Some(6443)),
            denied("192.168.1.10", Some(9345)),
            denied("192.168.1.11", Some(6443)),
            denied("192.168.1.11", Some(9345)),
            denied("fd00:10:96::1", Some(443)),
        ];
        assert_eq!(found, wanted.into());
    }

    #[test]
    fn without_ports_all_of_them() {
        let service: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None"}})).unwrap();
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": ["192.168.1.10"]}]});
        let found = addresses(&service, Some(&serde_json::from_value(slice).unwrap()));
        assert_eq!(found, [denied("192.168.1.10", None)].into());
    }
}
