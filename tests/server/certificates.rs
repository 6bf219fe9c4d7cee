//! Certificates: given, replaced, self-made.

use std::{path::Path, time::Duration};

use rcgen::{CertificateParams, KeyPair};

use crate::bed::{Bed, until};

/// Writes a self-signed certificate for the loopback address, the way a mounted Secret changes: file by file.
fn write(directory: &Path, key_matches: bool) -> Vec<u8> {
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let key = if key_matches { key } else { KeyPair::generate().unwrap() };
    std::fs::write(directory.join("tls.crt"), cert.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
    cert.pem().into_bytes()
}

async fn trusted(bed: &Bed, ca: &[u8]) -> bool {
    let root = reqwest::Certificate::from_pem(ca).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).timeout(Duration::from_secs(5)).build().unwrap();
    client.get(bed.url("/health")).send().await.is_ok()
}

#[tokio::test]
async fn a_given_certificate_is_read_again_when_it_changes() {
    let secret = tempfile::tempdir().unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let first = write(secret.path(), true);
    let (cert, key) = (secret.path().join("tls.crt"), secret.path().join("tls.key"));
    let bed = Bed::with(&["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]).await;
    assert!(trusted(&bed, &first).await);
    let second = write(secret.path(), true);
    until(async || trusted(&bed, &second).await).await;
    assert!(!trusted(&bed, &first).await);
    write(secret.path(), false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(trusted(&bed, &second).await, "a key of another certificate changes nothing");
    std::fs::remove_file(&cert).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(trusted(&bed, &second).await);
}

#[tokio::test]
async fn the_self_made_ca_survives_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bed = Bed::new().await;
    let tls = bed.directory.path().join("tls");
    let ca = std::fs::read(tls.join("ca.crt")).unwrap();
    let server = std::fs::read(tls.join("server.pem")).unwrap();
    assert!(!String::from_utf8(ca.clone()).unwrap().contains("PRIVATE KEY"), "what is given away holds no key");
    for name in ["ca.pem", "server.pem"] {
        let mode = std::fs::metadata(tls.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    bed.stop.take().unwrap().send(()).unwrap();
    let directory = std::mem::replace(&mut bed.directory, tempfile::tempdir().unwrap());
    drop(bed);
    let bed = Bed::resume(directory, &[]).await;
    assert!(trusted(&bed, &ca).await);
    assert_eq!(std::fs::read(bed.directory.path().join("tls/server.pem")).unwrap(), server, "still good, so not made again");
    let directory = std::mem::replace(&mut { bed }.directory, tempfile::tempdir().unwrap());
    let bed = Bed::resume(directory, &["--tls-name", "127.0.0.1", "--tls-name", "fettle.example.com"]).await;
    assert!(trusted(&bed, &ca).await, "a certificate for other names, under the same CA");
    assert_ne!(std::fs::read(bed.directory.path().join("tls/server.pem")).unwrap(), server);
}

#[tokio::test]
async fn the_ca_is_published_for_the_manager() {
    let bed = Bed::with(&["--namespace", "fettle-system", "--tls-ca-config-map", "fettle-server-ca"]).await;
    let found = || bed.cluster.get("api/v1/namespaces/fettle-system/configmaps/fettle-server-ca");
    until(async || found().is_some()).await;
    let ca = std::fs::read_to_string(bed.directory.path().join("tls/ca.crt")).unwrap();
    assert_eq!(found().unwrap()["data"]["ca.crt"], ca);
}

#[tokio::test]
async fn the_address_is_published_for_people_and_follows_the_configuration() {
    let bed = Bed::with(&["--namespace", "fettle-system", "--tls-ca-config-map", "fettle-server-ca"]).await;
    let published = || bed.cluster.get("api/v1/namespaces/fettle-system/configmaps/fettle-server-ca").unwrap_or_default();
    for url in ["https://fettle.example.com", "https://elsewhere.example.com"] {
        let data = serde_json::json!({"INSTALLATION": "east", "SERVER_URL": url, "CHECKS_IMAGE": "checks:1"});
        bed.cluster.put("api/v1/namespaces/fettle-system/configmaps/fettle-config", serde_json::json!({"data": data}));
        until(async || published()["data"]["url"] == url).await;
        assert!(published()["data"]["ca.crt"].is_string(), "with the CA");
    }
}

#[tokio::test]
async fn names_and_the_manager_follow_the_namespace() {
    let bed = Bed::with(&["--namespace", "ops"]).await;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(bed.directory.path().join("tls/ca.crt")).unwrap()).unwrap();
    for name in ["fettle-server", "fettle-server.ops", "fettle-server.ops.svc", "fettle-server.ops.svc.cluster.local", "localhost"] {
        let client = reqwest::Client::builder().tls_certs_only([ca.clone()]).resolve(name, bed.address).build().unwrap();
        let answer = client.get(format!("https://{name}:{}/health", bed.address.port())).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
    assert_eq!(bed.status("/internal/records/x", "manager-token").await, 403, "the manager of another namespace is not ours");
}
