//! TLS from the start: given certificate files, read again when they change, or a certificate of our own making under our own CA.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum_server::tls_rustls::RustlsConfig;
use jiff::{SignedDuration, Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};

/// Our own certificates are renewed this long before they end.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was read is not a certificate chain and its key.
    #[error("no usable certificate: {0}")]
    Unusable(String),
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files that somebody else renews.
    Files {
        /// Certificate chain, PEM.
        cert: PathBuf,
        /// Private key, PEM.
        key: PathBuf,
    },
    /// A directory of ours.
    SelfMade {
        /// The directory. Must outlive restarts, else clients must learn a new CA.
        directory: PathBuf,
        /// Names and addresses of the server.
        names: Vec<String>,
    },
}

impl Source {
    /// The CA that clients must trust, when it is ours.
    pub fn ca(&self) -> Option<PathBuf> {
        match self {
            Self::Files { .. } => None,
            Self::SelfMade { directory, .. } => Some(directory.join("ca.crt")),
        }
    }

    /// Certificate chain and key in PEM; makes or renews what is ours.
    fn pem(&self, now: Timestamp) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Files { cert, key } => Ok([read(cert)?, b"\n".to_vec(), read(key)?].concat()),
            Self::SelfMade { directory, names } => self_made(directory, names, now),
        }
    }
}

/// The configuration of a listener, and what it was made of.
pub struct Tls {
    source: Source,
    pem: Vec<u8>,
    /// For the listener.
    pub config: RustlsConfig,
}

impl Tls {
    /// Reads or makes the certificate.
    pub fn load(source: Source, now: Timestamp) -> Result<Self, TlsError> {
        let pem = source.pem(now)?;
        let config = RustlsConfig::from_config(Arc::new(server_config(&pem)?));
        Ok(Self { source, pem, config })
    }

    /// Looks again every `interval`, for ever. Unusable files are reported and the certificate in use stays.
    pub async fn watch(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let source = self.source.clone();
            let read = tokio::task::spawn_blocking(move || source.pem(crate::clock::now())).await;
            let Ok(read) = read else { continue };
            let changed =
                read.and_then(|pem| if pem == self.pem { Ok(None) } else { server_config(&pem).map(|config| Some((pem, config))) });
            match changed {
                Ok(None) => {}
                Ok(Some((pem, config))) => {
                    self.config.reload_from_config(Arc::new(config));
                    self.pem = pem;
                    tracing::info!("the certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the certificate in use stays"),
            }
        }
    }
}

/// Also checks that the key belongs to the certificate.
fn server_config(pem: &[u8]) -> Result<ServerConfig, TlsError> {
    let unusable = |e: &dyn std::fmt::Display| TlsError::Unusable(e.to_string());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| unusable(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| unusable(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What our certificate says; kept beside it, because nothing here reads certificates.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Made {
    names: Vec<String>,
    until: Timestamp,
    /// SHA-256 of the CA's certificate.
    ca: String,
}

/// The certificate in `directory`, made or renewed when needed. Key and certificate share one file, so that a crash cannot part them.
fn self_made(directory: &Path, names: &[String], now: Timestamp) -> Result<Vec<u8>, TlsError> {
    std::fs::create_dir_all(directory).map_err(|source| TlsError::File { path: directory.into(), source })?;
    let ca = authority(&directory.join("ca.pem"), now)?;
    let ca_cert = format!("{}\n", ca.split_inclusive("-----END CERTIFICATE-----").next().unwrap_or_default());
    // the part that clients may see
    if read(&directory.join("ca.crt")).ok().as_deref() != Some(ca_cert.as_bytes()) {
        write(&directory.join("ca.crt"), ca_cert.as_bytes(), 0o644)?;
    }
    let (file, about) = (directory.join("server.pem"), directory.join("server.json"));
    let wanted = |until| Made { names: names.to_vec(), until, ca: crate::names::sha256_hex(ca_cert.as_bytes()) };
    let made: Option<Made> = read(&about).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let (Some(made), Ok(pem)) = (made, read(&file))
        && made == wanted(made.until)
        && made.until.duration_since(now) > RENEW_BEFORE
        && server_config(&pem).is_ok()
    {
        return Ok(pem);
    }
    let issuer_key = PrivateKeyDer::from_pem_slice(ca.as_bytes()).map_err(|e| TlsError::Unusable(format!("ca.pem: {e}")))?;
    let issuer_key = KeyPair::try_from(&issuer_key).map_err(|e| TlsError::Unusable(format!("ca.pem: {e}")))?;
    let until = later(now, 1);
    let mut params = CertificateParams::new(names.to_vec()).map_err(|e| TlsError::Unusable(format!("--tls-name: {e}")))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "fettle-server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    lasts(&mut params, yesterday(now), until);
    let pem = KeyPair::generate()
        .and_then(|key| {
            let cert = params.signed_by(&key, &Issuer::new(authority_params(now), issuer_key))?;
            Ok(format!("{}{ca_cert}{}", cert.pem(), key.serialize_pem()))
        })
        .map_err(|e| TlsError::Unusable(e.to_string()))?;
    write(&file, pem.as_bytes(), 0o600)?;
    write(&about, &serde_json::to_vec(&wanted(until)).unwrap_or_default(), 0o644)?;
    Ok(pem.into_bytes())
}

/// Our CA, certificate and key in PEM. Made once; lasts ten years.
fn authority(file: &Path, now: Timestamp) -> Result<String, TlsError> {
    match std::fs::read_to_string(file) {
        Ok(pem) => return Ok(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(TlsError::File { path: file.into(), source }),
    }
    let pem = KeyPair::generate()
        .and_then(|key| Ok(format!("{}{}", authority_params(now).self_signed(&key)?.pem(), key.serialize_pem())))
        .map_err(|e| TlsError::Unusable(e.to_string()))?;
    write(file, pem.as_bytes(), 0o600)?;
    Ok(pem)
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "fettle-server CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, yesterday(now), later(now, 10));
    params
}

/// Clocks differ.
fn yesterday(now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now)
}

fn later(now: Timestamp, years: i64) -> Timestamp {
    now.to_zoned(TimeZone::UTC).checked_add(years.years()).map_or(now, |zoned| zoned.timestamp())
}

/// Sets the first and the last day on which a certificate is good.
fn lasts(params: &mut CertificateParams, first: Timestamp, last: Timestamp) {
    let [first, last] = [first, last].map(|time| {
        let date = time.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    });
    (params.not_before, params.not_after) = (first, last);
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.into(), source })
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let temporary = path.with_extension("new");
    let written = (|| {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(|source| TlsError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn after_days(days: i64) -> Timestamp {
        NOW + SignedDuration::from_hours(24 * days)
    }

    #[test]
    fn a_self_made_certificate_is_renewed_in_time_under_the_same_ca() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let make = |now| self_made(directory.path(), &names, now).unwrap();
        let first = make(NOW);
        let ca = read(&directory.path().join("ca.crt")).unwrap();
        assert_eq!(make(after_days(300)), first, "still good for more than a month");
        let second = make(after_days(340));
        assert_ne!(second, first);
        assert_eq!(read(&directory.path().join("ca.crt")).unwrap(), ca);
        assert_eq!(make(after_days(600)), second);
    }

    #[test]
    fn what_is_damaged_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned()];
        let make = || self_made(directory.path(), &names, NOW).unwrap();
        let first = make();
        for name in ["server.pem", "server.json"] {
            std::fs::write(directory.path().join(name), "half").unwrap();
            assert!(server_config(&make()).is_ok(), "{name}");
        }
        std::fs::remove_file(directory.path().join("ca.crt")).unwrap();
        make();
        assert!(directory.path().join("ca.crt").exists());
        // with a new CA the old certificate is of no use
        let before = make();
        std::fs::remove_file(directory.path().join("ca.pem")).unwrap();
        assert_ne!(make(), before);
        assert_ne!(before, first);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let names = ["localhost".to_owned()];
        let pem = |directory: &tempfile::TempDir| String::from_utf8(self_made(directory.path(), &names, NOW).unwrap()).unwrap();
        let (one, two) = (pem(&one), pem(&two));
        let (cert, key) = (one.split("-----BEGIN PRIVATE").next().unwrap(), two.split_once("-----BEGIN PRIVATE").unwrap().1);
        assert!(matches!(server_config(format!("{cert}-----BEGIN PRIVATE{key}").as_bytes()), Err(TlsError::Unusable(_))));
        assert!(server_config(one.as_bytes()).is_ok());
    }
}
