//! What can go wrong with certificates, keys and names before any connection.

use std::io;
use std::path::PathBuf;

use rustls::{CertificateError, OtherError};

use crate::error::error_messages;

/// Why a TLS configuration could not be made.
///
/// Its message says what to do about it. What goes wrong on a connection is told by
/// [`CloseReason`](crate::CloseReason).
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What should be PEM is not.
    Pem {
        /// The file, or what the bytes were given as.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no certificate in it.
    NoCertificate {
        /// The file, or what the bytes were given as.
        origin: String,
    },
    /// There is no private key in it.
    NoKey {
        /// The file, or what the bytes were given as.
        origin: String,
    },
    /// A certificate cannot be used.
    BadCertificate {
        /// The file, or what the bytes were given as.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A private key cannot be used.
    BadKey {
        /// The file, or what the bytes were given as.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The private key is not the one the certificate was made for.
    KeyMismatch {
        /// Where the certificate comes from.
        certificate: String,
        /// Where the key comes from.
        key: String,
    },
    /// No identity was given.
    NoIdentity,
    /// The system has no root certificates, or none that can be read.
    NoNativeRoots {
        /// What went wrong while looking for them.
        problems: Vec<String>,
    },
    /// What should name a server is neither a host name nor an IP address.
    ServerName {
        /// What was given.
        name: String,
    },
    /// The cryptography could not be set up.
    Setup(rustls::Error),
}

error_messages! {
    TlsError {
        TlsError::File { path, source } => "cannot read {}: {source}" (path.display()),
        TlsError::Pem { origin, problem } => "{origin} is not PEM: {problem}; it should have -----BEGIN …----- lines",
        TlsError::NoCertificate { origin } =>
            "{origin} has no certificate; a -----BEGIN CERTIFICATE----- section is needed",
        TlsError::NoKey { origin } =>
            "{origin} has no private key; an unencrypted -----BEGIN PRIVATE KEY----- section is needed",
        TlsError::BadCertificate { origin, problem } => "the certificate in {origin} cannot be used: {problem}",
        TlsError::BadKey { origin, problem } =>
            "the private key in {origin} cannot be used: {problem}; use an ECDSA, Ed25519 or RSA key",
        TlsError::KeyMismatch { certificate, key } =>
            "the private key in {key} is not that of the first certificate in {certificate}; \
             the server's own certificate comes first, then those that lead to its root",
        TlsError::NoIdentity => "no identity was given; a server needs at least one certificate",
        TlsError::NoNativeRoots { problems } =>
            "the system has no root certificates; install them (ca-certificates), or give some{}"
            (problems.iter().map(|problem| format!("; {problem}")).collect::<String>()),
        TlsError::ServerName { name } => "{name:?} is neither a host name nor an IP address; set the server's name",
        TlsError::Setup(error) => "cannot set up TLS: {error}",
    }
    causes {
        TlsError::File { source, .. } => source,
        TlsError::Setup(error) => error,
    }
}

/// What went wrong on a connection, in rustls's words, with the remedy where those name none.
pub(super) struct ConnectionError(pub(super) rustls::Error);

error_messages! {
    ConnectionError {
        ConnectionError(error) => "{error}{}" (remedy(error)),
    }
}

fn remedy(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; it leads to no root that is trusted here: the peer has to send the certificates between its own and the root, \
             and the root has to be among the trusted ones"
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))
            if matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            "; the peer's own certificate is one of an authority (CA:TRUE), which may only sign others: have it sign one for \
             the peer, or make one with -addext basicConstraints=critical,CA:FALSE (openssl req -x509)"
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))
            if matches!(
                cause.downcast_ref(),
                Some(webpki::Error::UnsupportedCertVersion)
            ) =>
        {
            "; the certificate is of version 1, which names nobody: make one of version 3, with a subjectAltName"
        }
        _ => "",
    }
}
