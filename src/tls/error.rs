//! Errors in certificates, keys and names, before any connection.

use std::io;
use std::path::PathBuf;

use rustls::{CertificateError, InvalidMessage, OtherError};

use crate::error::error_messages;

/// The reason why a TLS configuration cannot be built.
///
/// The message names the remedy. Errors on a connection are reported by [`CloseReason`](crate::CloseReason).
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The text is not PEM.
    Pem {
        /// The file, or the description of the bytes.
        origin: String,
        /// The fault.
        problem: String,
    },
    /// The text contains no certificate.
    NoCertificate {
        /// The file, or the description of the bytes.
        origin: String,
    },
    /// The text contains no private key.
    NoKey {
        /// The file, or the description of the bytes.
        origin: String,
    },
    /// A certificate cannot be used.
    BadCertificate {
        /// The file, or the description of the bytes.
        origin: String,
        /// The fault.
        problem: String,
    },
    /// A private key cannot be used.
    BadKey {
        /// The file, or the description of the bytes.
        origin: String,
        /// The fault.
        problem: String,
    },
    /// The private key does not belong to the certificate.
    KeyMismatch {
        /// The source of the certificate.
        certificate: String,
        /// The source of the key.
        key: String,
    },
    /// No identity was given.
    NoIdentity,
    /// The system has no root certificates, or none that can be read.
    NoNativeRoots {
        /// The errors that occurred during the search.
        problems: Vec<String>,
    },
    /// The name of a server is neither a host name nor an IP address.
    ServerName {
        /// The given name.
        name: String,
    },
    /// A text is no pin.
    Pin {
        /// The given text.
        text: String,
    },
    /// The cryptography cannot be set up. The error is that of the TLS library.
    Setup(Box<dyn std::error::Error + Send + Sync>),
}

impl TlsError {
    pub(super) fn setup(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Setup(Box::new(error))
    }
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
        TlsError::Pin { text } =>
            "{text:?} is no pin; write sha256// and the base64 of the SHA-256 of the public key, as curl's --pinnedpubkey has it",
        TlsError::Setup(error) => "cannot set up TLS: {error}",
    }
    causes {
        TlsError::File { source, .. } => source,
        TlsError::Setup(error) => &**error,
    }
}

/// An error on a connection, as the message of rustls, with a remedy if that message names none.
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
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "; the peer's certificate is none of those that are pinned: if the peer has a new one, pin that too"
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
            "; the certificate is of version 1, which cannot hold names: make one of version 3, with a subjectAltName"
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "; the other side seems not to speak TLS: check the port and the options on both sides"
        }
        _ => "",
    }
}
