//! Keeps the operator's configuration at hand: the ConfigMap `fettle-config`, followed live, so that a pause holds within seconds.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::settings::{self, Invalid, Settings};

/// Follows the ConfigMap until `stop`.
pub fn start(client: Client, namespace: &str, stop: CancellationToken) -> watch::Receiver<Result<Arc<Settings>, Invalid>> {
    let missing = || Err(Invalid { key: "INSTALLATION", problem: "is required, but the ConfigMap does not exist".into() });
    let (announce, settings) = watch::channel(missing());
    let api = Api::<ConfigMap>::namespaced(client, namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", settings::NAME));
    tokio::spawn(async move {
        let mut events = watcher(api, config).default_backoff().take_until(stop.cancelled_owned()).boxed();
        let mut seen = false;
        while let Some(event) = events.next().await {
            let next = match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    seen = true;
                    Settings::parse(&map.data.unwrap_or_default()).map(Arc::new)
                }
                Ok(watcher::Event::Init) => {
                    seen = false;
                    continue;
                }
                Ok(watcher::Event::InitDone) if seen => continue,
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => missing(),
                Err(error) => {
                    tracing::warn!(%error, "watching {}", settings::NAME);
                    continue;
                }
            };
            let next = next.or_else(|invalid| {
                tracing::error!(error = %invalid, "nothing is launched with this configuration");
                let last = announce.borrow().clone().ok();
                last.map(|last| Arc::new(last.braked(&invalid))).ok_or(invalid)
            });
            announce.send_if_modified(|last| {
                let changed = *last != next;
                *last = next;
                changed
            });
        }
    });
    settings
}
