//! Where the archive lies.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use object_store::{ClientOptions, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem};

use super::{Archive, Error, MAX_LOG_BYTES};

/// Where the archive lies: a directory, or, when a bucket is given, S3.
///
/// The credentials of S3 come from the environment as its own tools read it (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_SESSION_TOKEN`, `AWS_WEB_IDENTITY_TOKEN_FILE`, …). A bucket needs a lifecycle rule that aborts incomplete multipart uploads.
#[derive(Args, Clone, Debug)]
pub struct ArchiveArgs {
    /// Directory of the archive.
    #[arg(long, env = "ARCHIVE_DIR", default_value = "/var/lib/fettle/archive")]
    pub archive_dir: PathBuf,
    /// Bucket of the archive; makes it S3.
    #[arg(long, env = "S3_BUCKET", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub s3_bucket: Option<String>,
    /// Address of the S3 service, when it is not AWS itself.
    #[arg(long, env = "S3_ENDPOINT", requires = "s3_bucket")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, env = "S3_REGION", default_value = "us-east-1")]
    pub s3_region: String,
    /// Accept an S3 service without TLS.
    #[arg(long, env = "S3_ALLOW_HTTP")]
    pub s3_allow_http: bool,
    /// Largest log, in bytes (at most 64 GiB).
    #[arg(long, env = "MAX_LOG_BYTES", default_value_t = MAX_LOG_BYTES, value_parser = clap::value_parser!(u64).range(1..=64 << 30))]
    pub max_log_bytes: u64,
}

impl ArchiveArgs {
    /// Whether the archive is one that several processes may write, so that the manager needs no server for it.
    pub fn is_shared(&self) -> bool {
        self.s3_bucket.is_some()
    }

    /// Opens the archive; makes the directory when it is not there.
    pub fn open(&self) -> Result<Archive, Error> {
        let archive = match &self.s3_bucket {
            Some(bucket) => {
                // a log may stream for long; what must not last is a wait for the next byte
                let client = ClientOptions::new()
                    .with_allow_http(self.s3_allow_http)
                    .with_connect_timeout(Duration::from_secs(5))
                    .with_read_timeout(Duration::from_secs(30))
                    .with_timeout_disabled();
                let retry = RetryConfig { max_retries: 3, retry_timeout: Duration::from_mins(1), ..RetryConfig::default() };
                let mut s3 = AmazonS3Builder::from_env()
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_bucket_name(bucket)
                    .with_region(&self.s3_region);
                if let Some(endpoint) = &self.s3_endpoint {
                    s3 = s3.with_endpoint(endpoint);
                }
                Archive::new(Arc::new(s3.build()?))
            }
            None => Archive::directory(self.archive_dir.clone())?,
        };
        Ok(archive.with_max_log_bytes(self.max_log_bytes))
    }
}

impl Archive {
    /// The archive in that directory, which is made when it is not there. One process may write to it at a time.
    pub fn directory(directory: PathBuf) -> Result<Self, Error> {
        let unusable = |e: std::io::Error| Error::Unavailable(format!("{} cannot be used: {e}", directory.display()));
        std::fs::create_dir_all(&directory).map_err(unusable)?;
        let store = LocalFileSystem::new_with_prefix(&directory)?.with_automatic_cleanup(true).with_fsync(true);
        let mut archive = Self::new(Arc::new(store));
        archive.directory = Some(directory);
        Ok(archive)
    }
}
