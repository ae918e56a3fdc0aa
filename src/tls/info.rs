//! The result of a handshake.

use std::fmt;

use rustls::{HandshakeKind, ProtocolVersion};

use super::session::Session;

/// The parameters that were negotiated on a TLS connection.
#[derive(Clone, Copy)]
pub struct TlsInfo<'a> {
    session: &'a Session,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl<'a> TlsInfo<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session }
    }

    /// Returns the protocol negotiated by ALPN, such as `b"h2"`. Returns `None` if one side did not use ALPN.
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.session.common().alpn_protocol()
    }

    /// Returns the server's name: on a server the SNI of the client, in lower case; on a client the verified name.
    pub fn server_name(&self) -> Option<&'a str> {
        self.session.server_name()
    }

    /// Returns the version of TLS.
    pub fn version(&self) -> TlsVersion {
        match self.session.common().protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        }
    }

    /// Returns the name of the cipher suite in its standard, such as `TLS13_AES_128_GCM_SHA256`.
    pub fn cipher_suite(&self) -> &'static str {
        let suite = self.session.common().negotiated_cipher_suite();
        suite
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or("unknown")
    }

    /// Returns the peer's certificate and those that it sent along, in DER. Returns nothing if the peer presented none.
    pub fn peer_certificates(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let chain = self.session.common().peer_certificates();
        chain.unwrap_or_default().iter().map(AsRef::as_ref)
    }

    /// Returns true if an earlier session was resumed.
    pub fn resumed(&self) -> bool {
        self.session.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl fmt::Debug for TlsInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("version", &self.version())
            .field("cipher_suite", &self.cipher_suite())
            .field("server_name", &self.server_name())
            .field("alpn", &self.alpn().map(String::from_utf8_lossy))
            .field("peer_certificates", &self.peer_certificates().len())
            .field("resumed", &self.resumed())
            .finish()
    }
}
