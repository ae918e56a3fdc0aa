//! Flags for TLS on an example's listener.

use std::error::Error;
#[cfg(feature = "tls")]
use std::io::Write;
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::Args;
use epicycle::Listen;

/// The flags for TLS. There are none without the feature `tls`.
#[derive(Args)]
pub(crate) struct Tls {
    /// Uses TLS, with a certificate made for localhost unless --cert gives one
    #[cfg(feature = "tls")]
    #[arg(long)]
    tls: bool,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    files: Files,
}

/// The files of a certificate.
#[cfg(feature = "tls")]
#[derive(Args)]
pub(crate) struct Files {
    /// A PEM file with the server's certificate and its chain
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<std::path::PathBuf>,
    /// A PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<std::path::PathBuf>,
}

impl Tls {
    /// Adds TLS to the listener if the flags ask for it.
    #[cfg(feature = "tls")]
    pub(crate) fn over(&self, name: &str, listen: Listen) -> Result<Listen, Box<dyn Error>> {
        if !self.tls && self.files.cert.is_none() {
            return Ok(listen);
        }
        let tls = epicycle::tls::TlsServer::new(self.files.identity(name)?)?;
        Ok(listen.tls(&tls.alpn(&["http/1.1", "http/1.0"])))
    }

    /// Returns the listener unchanged.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn over(&self, _name: &str, listen: Listen) -> Result<Listen, Box<dyn Error>> {
        Ok(listen)
    }
}

#[cfg(feature = "tls")]
impl Files {
    /// Returns the certificate of the flags, or makes one.
    pub(crate) fn identity(&self, name: &str) -> Result<epicycle::tls::Identity, Box<dyn Error>> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(epicycle::tls::Identity::from_pem_files(cert, key)?),
            _ => own_identity(name),
        }
    }
}

/// Locks the file of the certificate that the example has made.
#[cfg(feature = "tls")]
fn own_certificate() -> MutexGuard<'static, Option<tempfile::TempPath>> {
    static FILE: Mutex<Option<tempfile::TempPath>> = Mutex::new(None);
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the certificate file, if the example has made one.
pub(super) fn remove_own_certificate() {
    #[cfg(feature = "tls")]
    drop(own_certificate().take());
}

/// Makes a self-signed certificate, and writes it to a file for clients to trust.
#[cfg(feature = "tls")]
fn own_identity(name: &str) -> Result<epicycle::tls::Identity, Box<dyn Error>> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names)?;
    let certificate = made.cert.pem();
    // A new file that only this user can write to. With a guessable name, another user could put a link there first.
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .suffix(".pem")
        .tempfile()?;
    file.write_all(certificate.as_bytes())?;
    println!(
        "{name} has made a certificate for localhost, which clients may trust while this runs: {}",
        file.path().display()
    );
    *own_certificate() = Some(file.into_temp_path());
    Ok(epicycle::tls::Identity::from_pem(
        certificate,
        made.signing_key.serialize_pem(),
    )?)
}
