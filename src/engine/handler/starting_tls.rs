//! TLS that begins in mid-stream (STARTTLS).

use std::time::Duration;

use super::context::StartTls;
use super::{Conn, EventHandler};
use crate::error::error_messages;
use crate::tls::session::Session;
use crate::tls::{TlsClient, TlsError, TlsServer};

/// The reason for which TLS cannot begin on a connection.
#[non_exhaustive]
pub enum StartTlsError {
    /// The connection has TLS already, or is over UDP or a Unix socket of records.
    NotPlain,
    /// The connection is closed, closing or leaving the engine, its write side is shut down, or it is piped to another one.
    NotOpen,
    /// TLS cannot be set up: the host's name is none, for example.
    Tls(TlsError),
}

/// The limit of a handshake that this side begins.
pub(crate) const CLIENT_HANDSHAKE: Duration = Duration::from_secs(10);

/// # TLS in mid-stream
///
/// For protocols whose connections begin without TLS: STARTTLS of SMTP, IMAP, LDAP and XMPP, the `SSLRequest` of PostgreSQL.
impl<H: EventHandler> Conn<'_, H> {
    /// Begins TLS as the server, once this callback has returned and all output written so far is sent as it is. The peer begins
    /// the handshake. [`on_tls`](EventHandler::on_tls) is called when it is complete.
    ///
    /// - Until then no frame is handled, and writes are refused with [`WriteError::StartsTls`](crate::WriteError).
    /// - The input behind the frame in hand belongs to the handshake, whether it has been received already or not. Nothing
    ///   that arrived without TLS reaches the codec afterwards: bytes that somebody has put behind the command (CVE-2011-0411)
    ///   make the handshake fail.
    /// - The codec stays. If the protocol begins anew, as SMTP does, [switch](Self::switch) to a new one in the same callback,
    ///   and forget what the session knows. [`codec`](EventHandler::codec) is not called for what ALPN has agreed on: see
    ///   [`tls`](Self::tls) in `on_tls`.
    /// - The handshake has the limit of [`TlsServer::handshake_timeout`], from this call on: output before it has to arrive within
    ///   it too. If it fails, the connection closes with [`CloseReason::Tls`](crate::CloseReason), or with the timeout. A close or
    ///   a shutdown during the handshake resets the connection.
    /// - There is no TLS on [`Transport::UnixPacket`](crate::Transport). A service that has such listeners asks
    ///   [`transport`](Self::transport) before it offers STARTTLS, since it announces TLS before this call.
    ///
    /// ```
    /// use epicycle::codec::Lines;
    /// use epicycle::tls::TlsServer;
    /// use epicycle::{Action, Conn, ConnInfo, EventHandler};
    ///
    /// struct Mail {
    ///     tls: TlsServer,
    /// }
    ///
    /// impl EventHandler for Mail {
    /// #   type Codec = Lines;
    /// #   type Session = ();
    /// #   fn codec(&mut self, _: &ConnInfo<'_>) -> Lines { Lines::new().crlf() }
    /// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), line: &[u8]) -> Action {
    ///         if line != b"STARTTLS" {
    ///             return conn.send("502 not implemented").into();
    ///         }
    ///         if let Err(error) = conn.send("220 go ahead") {
    ///             return error.into();
    ///         }
    ///         match conn.start_tls_server(&self.tls) {
    ///             Ok(()) => Action::Continue,
    ///             Err(_) => Action::Close,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StartTlsError`]. The connection stays as it was.
    pub fn start_tls_server(&mut self, tls: &TlsServer) -> Result<(), StartTlsError> {
        let session = || tls.session().map_err(StartTlsError::Tls);
        self.start_tls(session, tls.handshake_limit())
    }

    /// Begins TLS as the client, as [`start_tls_server`](Self::start_tls_server) does, when the peer has agreed to it. This side
    /// begins the handshake. The peer's certificate must be valid for `host`, or for [`TlsClient::server_name`] if that is set.
    /// The handshake may take 10 s.
    ///
    /// # Errors
    ///
    /// [`StartTlsError`]. The connection stays as it was.
    pub fn start_tls_client(&mut self, tls: &TlsClient, host: &str) -> Result<(), StartTlsError> {
        let session = || tls.session(host).map_err(StartTlsError::Tls);
        self.start_tls(session, CLIENT_HANDSHAKE)
    }

    fn start_tls(
        &mut self,
        session: impl FnOnce() -> Result<Session, StartTlsError>,
        limit: Duration,
    ) -> Result<(), StartTlsError> {
        if self.link.stream.as_plain().is_none() {
            return Err(StartTlsError::NotPlain);
        }
        if !self.link.state.takes_writes() {
            return Err(StartTlsError::NotOpen);
        }
        let session = session()?;
        self.link.state.detach();
        let extras = self.link.extras.get_or_insert_default();
        extras.start_tls = Some(Box::new(StartTls { session, limit }));
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Returns true while TLS begins in mid-stream.
    pub(super) fn starts_tls(&self) -> bool {
        let state = &self.link.state;
        let extras = self.link.extras.as_ref();
        state.is_open()
            && (state.is_opening() || extras.is_some_and(|extras| extras.start_tls.is_some()))
    }
}

error_messages! {
    StartTlsError {
        StartTlsError::NotPlain =>
            "TLS begins on plain connections over TCP and Unix stream sockets only, and once",
        StartTlsError::NotOpen => "the connection is not open both ways",
        StartTlsError::Tls(error) => "{error}",
    }
    causes {
        StartTlsError::Tls(error) => error,
    }
}
