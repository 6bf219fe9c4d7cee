//! The ledger: which host is in which active run, across namespaces and connections.
//!
//! One sharded set of `ConfigMaps` per controller installation in the operator's namespace, changed by compare and swap. It is keyed by the
//! installation and not also by the inventory: an inventory's id is not known before credentials are, and two inventories of one controller
//! that hold a host of the same name almost always mean the same machine. Shards are taken in order and given back when a later one is
//! busy, so two runs never wait for each other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::{Deserialize, Serialize};

use super::decide::LockFact;
use crate::{names, status};

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

/// What a shard holds of a host.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    holder: Holder,
    /// The host's name as the inventory writes it; the key is in lower case.
    host: String,
    /// When it was entered. Tells an entry from a later one of the same run, so that a process that slept cannot take that one out.
    since: Timestamp,
}

/// Entries of one run as they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// By key.
    ours: BTreeMap<String, String>,
    /// `resourceVersion` of the shards that were looked at; `None` of one that is not there.
    versions: BTreeMap<u8, Option<String>>,
}

impl Entries {
    /// The hosts that are entered.
    pub fn hosts(&self) -> BTreeSet<String> {
        self.ours.values().filter_map(|text| serde_json::from_str::<Entry>(text).ok()).map(|entry| entry.host).collect()
    }
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

    /// The shard of a key (a host's name in lower case).
    fn shard_of(key: &str) -> u8 {
        names::short_hash(key.as_bytes()).bytes().fold(0u8, |acc, b| acc.wrapping_mul(31).wrapping_add(b)) % SHARDS
    }

    /// `items` by the shard of their keys.
    fn sharded<T>(items: impl IntoIterator<Item = (String, T)>) -> BTreeMap<u8, BTreeMap<String, T>> {
        let mut shards = BTreeMap::<u8, BTreeMap<String, T>>::new();
        for (key, item) in items {
            shards.entry(Self::shard_of(&key)).or_default().insert(key, item);
        }
        shards
    }

    /// Looks at every host of `hosts` with a quorum read, and at what of them is entered for `me`.
    pub async fn look(&self, hosts: &BTreeSet<String>, me: &Holder) -> kube::Result<(LockFact, Entries)> {
        let (mut seen, mut free, mut busy) = (Entries::default(), 0, None);
        for (shard, hosts) in Self::sharded(hosts.iter().map(|host| (host.to_lowercase(), host))) {
            let (version, mut data) = self.read(shard).await?;
            seen.versions.insert(shard, version);
            for (key, host) in hosts {
                let Some(text) = data.remove(&key) else {
                    free += 1;
                    continue;
                };
                match serde_json::from_str::<Entry>(&text) {
                    Ok(Entry { holder, .. }) if holder == *me => {
                        seen.ours.insert(key, text);
                    }
                    Ok(Entry { holder, .. }) if holder.namespace == me.namespace => {
                        busy.get_or_insert(format!("host {host} is in PatchRun {} until that is over", holder.name));
                    }
                    Ok(_) | Err(_) => {
                        busy.get_or_insert(format!("host {host} is in an active run of another namespace"));
                    }
                }
            }
        }
        Ok((LockFact::Seen { ours: seen.ours.len(), free, busy }, seen))
    }

    /// Everything that is entered for `me`, whatever its hosts are: for a run whose scope is gone.
    pub async fn entries(&self, me: &Holder) -> kube::Result<(LockFact, Entries)> {
        let mut seen = Entries::default();
        for shard in 0..SHARDS {
            let of_me = |text: &str| serde_json::from_str::<Entry>(text).is_ok_and(|entry| entry.holder == *me);
            let (version, data) = self.read(shard).await?;
            seen.versions.insert(shard, version);
            seen.ours.extend(data.into_iter().filter(|(_, text)| of_me(text)));
        }
        Ok((LockFact::Seen { ours: seen.ours.len(), free: 0, busy: None }, seen))
    }

    /// What a shard holds, and its `resourceVersion`.
    async fn read(&self, shard: u8) -> kube::Result<(Option<String>, BTreeMap<String, String>)> {
        let map = self.api.get_opt(&self.shard_name(shard)).await?.unwrap_or_default();
        Ok((map.metadata.resource_version, map.data.unwrap_or_default()))
    }

    /// Enters `hosts` for `me`, shard by shard; stops quietly at the first conflict or foreign entry: the next look tells. A shard that was
    /// changed since it was `seen` is a conflict, so that a process that slept enters nothing for a run that is over.
    pub async fn lock(&self, hosts: &BTreeSet<String>, me: &Holder, seen: &Entries, now: Timestamp) -> kube::Result<()> {
        let mut entries = vec![];
        for host in hosts {
            let entry = Entry { holder: me.clone(), host: host.clone(), since: now };
            entries.push((host.to_lowercase(), serde_json::to_string(&entry).map_err(kube::Error::SerdeError)?));
        }
        for (shard, entries) in Self::sharded(entries) {
            let entered = self
                .change(shard, seen.versions.get(&shard), |data| {
                    let of_me = |text: &String| serde_json::from_str::<Entry>(text).is_ok_and(|entry| entry.holder == *me);
                    let taken = entries.keys().any(|key| data.get(key).is_some_and(|text| !of_me(text)));
                    if !taken {
                        for (key, text) in entries {
                            data.entry(key).or_insert(text);
                        }
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

    /// Takes out exactly the entries that were seen: what was entered since then stays.
    pub async fn unlock(&self, entries: &Entries) -> kube::Result<()> {
        for (shard, entries) in Self::sharded(entries.ours.clone()) {
            self.change(shard, None, |data| {
                data.retain(|key, text| entries.get(key) != Some(text));
                true
            })
            .await?;
        }
        Ok(())
    }

    /// Changes one shard by compare and swap, from the version that was `seen` if there is one. `false` when `change` declined or somebody
    /// else wrote in between.
    async fn change(
        &self,
        shard: u8,
        seen: Option<&Option<String>>,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> bool,
    ) -> kube::Result<bool> {
        let name = self.shard_name(shard);
        let found = self.api.get_opt(&name).await?;
        let exists = found.is_some();
        let mut map = found.unwrap_or_default();
        if seen.is_some_and(|version| *version != map.metadata.resource_version) {
            return Ok(false);
        }
        let before = map.data.clone();
        if !change(map.data.get_or_insert_default()) {
            return Ok(false);
        }
        if map.data == before {
            return Ok(true);
        }
        map.metadata.managed_fields = None;
        let params = status::params();
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
    fn hosts_stay_in_their_shard() {
        assert_eq!(Ledger::shard_of("web-1"), SHARD_OF_WEB_1, "a host must not move between shards");
    }

    const SHARD_OF_WEB_1: u8 = 3;
}
