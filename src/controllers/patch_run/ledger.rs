//! The ledger: which host is in which active run, across namespaces and connections.
//!
//! One sharded set of `ConfigMaps` per controller installation in the operator's namespace, changed by compare and swap. It is keyed by the
//! installation and not also by the inventory: an inventory's id is not known before credentials are, and two inventories of one controller
//! that hold a host of the same name almost always mean the same machine. Shards are taken in order and given back when a later one is
//! busy, so two runs never wait for each other.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde::{Deserialize, Serialize};

use super::decide::LockFact;
use crate::names;

/// Shards of one installation's ledger. Never change it: a host must not move between shards while it is entered.
const SHARDS: u8 = 16;

/// The run a host is entered for.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Name of the PatchRun.
    pub name: String,
    /// Its run key.
    pub run_key: String,
}

/// One installation's ledger.
pub struct Ledger {
    api: Api<ConfigMap>,
    installation: String,
}

impl Ledger {
    /// The ledger of the controller with that identity. `api` is that of the operator's namespace.
    pub fn new(api: Api<ConfigMap>, install_uuid: &str) -> Self {
        Self { api, installation: names::short_hash(install_uuid.as_bytes()) }
    }

    fn shard_name(&self, shard: u8) -> String {
        format!("fettle-ledger-{}-{shard:02}", self.installation)
    }

    fn sharded<'h>(hosts: &'h BTreeSet<String>) -> BTreeMap<u8, Vec<&'h str>> {
        let mut shards = BTreeMap::<u8, Vec<&'h str>>::new();
        for host in hosts {
            let hash = names::short_hash(host.to_lowercase().as_bytes());
            let shard = hash.bytes().fold(0u8, |acc, b| acc.wrapping_mul(31).wrapping_add(b)) % SHARDS;
            shards.entry(shard).or_default().push(host);
        }
        shards
    }

    /// Looks at every host of `hosts` with a quorum read.
    pub async fn look(&self, hosts: &BTreeSet<String>, me: &Holder) -> kube::Result<LockFact> {
        let (mut ours, mut free, mut busy) = (0, 0, None);
        for (shard, hosts) in Self::sharded(hosts) {
            let data = self.api.get_opt(&self.shard_name(shard)).await?.and_then(|cm| cm.data).unwrap_or_default();
            for host in hosts {
                match data.get(&host.to_lowercase()).map(|text| serde_json::from_str::<Holder>(text)) {
                    None => free += 1,
                    Some(Ok(holder)) if holder == *me => ours += 1,
                    Some(Ok(holder)) if holder.namespace == me.namespace => {
                        busy.get_or_insert(format!("host {host} is in PatchRun {} until that is over", holder.name));
                    }
                    Some(_) => {
                        busy.get_or_insert(format!("host {host} is in an active run of another namespace"));
                    }
                }
            }
        }
        Ok(LockFact::Seen { ours, free, busy })
    }

    /// Enters `hosts` for `me`, shard by shard; stops quietly at the first conflict or foreign entry: the next look tells.
    pub async fn lock(&self, hosts: &BTreeSet<String>, me: &Holder) -> kube::Result<()> {
        let entry = serde_json::to_string(me).map_err(kube::Error::SerdeError)?;
        for (shard, hosts) in Self::sharded(hosts) {
            let entered = self
                .change(shard, |data| {
                    let taken = hosts.iter().any(|host| data.get(&host.to_lowercase()).is_some_and(|e| *e != entry));
                    if !taken {
                        data.extend(hosts.iter().map(|host| (host.to_lowercase(), entry.clone())));
                    }
                    !taken
                })
                .await?;
            if !entered {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes every entry of `me` out.
    pub async fn unlock(&self, hosts: &BTreeSet<String>, me: &Holder) -> kube::Result<()> {
        let entry = serde_json::to_string(me).map_err(kube::Error::SerdeError)?;
        for (shard, _) in Self::sharded(hosts) {
            self.change(shard, |data| {
                data.retain(|_, e| *e != entry);
                true
            })
            .await?;
        }
        Ok(())
    }

    /// Changes one shard by compare and swap. `false` when `change` declined or somebody else wrote in between.
    async fn change(&self, shard: u8, change: impl FnOnce(&mut BTreeMap<String, String>) -> bool) -> kube::Result<bool> {
        let name = self.shard_name(shard);
        let found = self.api.get_opt(&name).await?;
        let exists = found.is_some();
        let mut map = found.unwrap_or_default();
        let before = map.data.clone();
        if !change(map.data.get_or_insert_default()) {
            return Ok(false);
        }
        if map.data == before {
            return Ok(true);
        }
        map.metadata.managed_fields = None;
        let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
        let written = if exists {
            self.api.replace(&name, &params, &map).await
        } else {
            map.metadata.name = Some(name.clone());
            map.metadata.labels = Some(BTreeMap::from([
                ("app.kubernetes.io/managed-by".into(), names::MANAGER.into()),
                ("fettle.dev/ledger".into(), self.installation.clone()),
            ]));
            self.api.create(&params, &map).await
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(other) => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stay_in_their_shard_whatever_their_case() {
        let (upper, lower) = (BTreeSet::from(["WEB-1".to_owned()]), BTreeSet::from(["web-1".to_owned()]));
        let (upper, lower) = (Ledger::sharded(&upper), Ledger::sharded(&lower));
        assert_eq!(upper.keys().collect::<Vec<_>>(), lower.keys().collect::<Vec<_>>());
        assert_eq!(lower.keys().copied().collect::<Vec<_>>(), [SHARD_OF_WEB_1], "a host must not move between shards");
    }

    const SHARD_OF_WEB_1: u8 = 3;
}
