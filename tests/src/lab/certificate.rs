//! Certificates for the lab's servers that speak TLS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::cleanup::Scratch;

/// An authority that signs certificates; its own is in a file that goes with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: Scratch,
}

/// A certificate with its key, both in one PEM file.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate alone.
    pub pem: String,
    /// Its key.
    pub key_pem: String,
    /// Both; the file is there as long as the [`Authority`].
    pub file: PathBuf,
}

/// When a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Today, and for thousands of years.
    Lasting,
    /// It ended years ago.
    Ended,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made or the file cannot be written.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority of the lab");
        let key = KeyPair::generate()?;
        let directory = Scratch::create("authority")?;
        let pem = params.self_signed(&key)?.pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            directory,
        };
        write(&authority.file(), &pem)?;
        Ok(authority)
    }

    /// The PEM file of its certificate, for who is to trust it.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// Signs a certificate for a name.
    ///
    /// # Errors
    /// When `name` is no DNS name or the file cannot be written.
    pub fn issue(&self, name: &str, validity: Validity) -> Result<Certificate> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        if validity == Validity::Ended {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        let key_pem = key.serialize_pem();
        let file = self.directory.path().join(format!("{name}.pem"));
        write(&file, &format!("{pem}{key_pem}"))?;
        Ok(Certificate { pem, key_pem, file })
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
