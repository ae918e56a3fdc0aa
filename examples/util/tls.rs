//! Flags that turn an example's listener into one for TLS.

use std::error::Error;
#[cfg(feature = "tls")]
use std::io::Write;
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::Args;
use epicycle::Listen;

/// Whether to speak TLS, and as whom. There is none of it without the feature `tls`.
#[derive(Args)]
pub(crate) struct Tls {
    /// Speaks TLS, with a certificate made for localhost unless one is given
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
    /// A PEM file with the server's certificate and those that lead to its root
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<std::path::PathBuf>,
    /// A PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<std::path::PathBuf>,
}

impl Tls {
    /// The listener, over TLS if the flags say so.
    #[cfg(feature = "tls")]
    pub(crate) fn over(&self, name: &str, listen: Listen) -> Result<Listen, Box<dyn Error>> {
        if !self.tls && self.files.cert.is_none() {
            return Ok(listen);
        }
        let tls = epicycle::tls::TlsServer::new(self.files.identity(name)?)?;
        Ok(listen.tls(&tls.alpn(&["http/1.1", "http/1.0"])))
    }

    /// The listener as it is.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn over(&self, _name: &str, listen: Listen) -> Result<Listen, Box<dyn Error>> {
        Ok(listen)
    }
}

#[cfg(feature = "tls")]
impl Files {
    /// The certificate that was given, or one of the example's own.
    pub(crate) fn identity(&self, name: &str) -> Result<epicycle::tls::Identity, Box<dyn Error>> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(epicycle::tls::Identity::from_pem_files(cert, key)?),
            _ => own_identity(name),
        }
    }
}

/// The file of the certificate that was made here.
#[cfg(feature = "tls")]
fn own_certificate() -> MutexGuard<'static, Option<tempfile::TempPath>> {
    static FILE: Mutex<Option<tempfile::TempPath>> = Mutex::new(None);
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the certificate that was made here, if one was.
pub(super) fn remove_own_certificate() {
    #[cfg(feature = "tls")]
    drop(own_certificate().take());
}

/// A certificate that vouches for itself, written to a file for clients to trust.
#[cfg(feature = "tls")]
fn own_identity(name: &str) -> Result<epicycle::tls::Identity, Box<dyn Error>> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names)?;
    let certificate = made.cert.pem();
    // A new file that only this user can write to: a name that can be guessed might be somebody else's link by now.
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .suffix(".pem")
        .tempfile()?;
    file.write_all(certificate.as_bytes())?;
    println!(
        "made a certificate for localhost, for clients to trust while this runs: {}",
        file.path().display()
    );
    *own_certificate() = Some(file.into_temp_path());
    Ok(epicycle::tls::Identity::from_pem(
        certificate,
        made.signing_key.serialize_pem(),
    )?)
}
