//! Negotiations with proxies that outbound connections begin with.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::engine::stream::Stream;

/// A negotiation that an outbound connection begins with: after the connect, before TLS and before
/// [`on_open`](crate::EventHandler::on_open). It asks a proxy for the connection to the target, for example.
///
/// It has no socket. It is called with nothing received when the connection is connected, and then with what arrives. The
/// bytes behind its end stay for the connection. The [timeout](crate::Connect::timeout) of the connect covers it.
///
/// Give it to a connect with [`Connect::negotiate`](crate::Connect::negotiate).
pub trait Negotiation: Send {
    /// Takes received bytes, and appends what is to be sent. Returns the number of these bytes that belong to the negotiation once
    /// that is over, and `None` as long as it is not: then all of them do.
    ///
    /// It runs on the reactor's thread and must not block. It must bound what it keeps.
    ///
    /// # Errors
    ///
    /// The reason why the connection cannot be used. The connect fails with
    /// [`ConnectError::Negotiation`](crate::ConnectError::Negotiation).
    fn advance(
        &mut self,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Box<dyn StdError + Send + Sync>>;

    /// Returns the reason why the connect fails if the other side ends the connection before the negotiation is over.
    fn cut(&self) -> Box<dyn StdError + Send + Sync> {
        "the other side ended the connection during the negotiation".into()
    }
}

/// Makes the negotiation of each attempt.
#[derive(Clone)]
pub(crate) struct Negotiate {
    make: Arc<dyn Fn() -> Box<dyn Negotiation> + Send + Sync>,
    /// The host at the other end of the connection once the negotiation is over, for TLS.
    pub(crate) host: Arc<str>,
}

impl Negotiate {
    pub(crate) fn new<N: Negotiation + 'static>(
        host: &str,
        make: impl Fn() -> N + Send + Sync + 'static,
    ) -> Self {
        Self {
            make: Arc::new(move || Box::new(make())),
            host: host.into(),
        }
    }

    pub(crate) fn begin(&self) -> Box<dyn Negotiation> {
        (self.make)()
    }
}

impl fmt::Debug for Negotiate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiate")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The failure of a negotiation, on its way through the errors of a socket.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Box<dyn StdError + Send + Sync>);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Failed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// A negotiation under way.
pub(crate) struct Negotiating {
    negotiation: Box<dyn Negotiation>,
    /// The bytes that the socket has not taken yet.
    output: Vec<u8>,
    is_connected: bool,
    is_over: bool,
}

impl Negotiating {
    pub(crate) fn new(negotiation: Box<dyn Negotiation>) -> Self {
        Self {
            negotiation,
            output: Vec::new(),
            is_connected: false,
            is_over: false,
        }
    }

    /// Returns true once the other side is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Goes on as far as the socket lets it. Returns true once it is over.
    pub(crate) fn advance(&mut self, stream: &Stream, writable: bool) -> io::Result<bool> {
        if !self.is_connected {
            if !writable || !stream.is_connected()? {
                return Ok(false);
            }
            self.is_connected = true;
            self.is_over = self.take(&[])?.is_some();
        }
        loop {
            while !self.output.is_empty() {
                match stream.send_raw(&self.output) {
                    Ok(sent) => drop(self.output.drain(..sent)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if self.is_over {
                return Ok(true);
            }
            let mut buffer = [0; 512];
            let Some(input) = stream.peek(&mut buffer)? else {
                return Ok(false);
            };
            if input.is_empty() {
                return Err(io::Error::other(Failed(self.negotiation.cut())));
            }
            let all = input.len();
            let taken = self.take(input)?;
            self.is_over = taken.is_some();
            stream.take_peeked(&mut buffer[..taken.unwrap_or(all).min(all)])?;
        }
    }

    fn take(&mut self, input: &[u8]) -> io::Result<Option<usize>> {
        let Self {
            negotiation,
            output,
            ..
        } = self;
        let taken = negotiation.advance(input, output);
        taken.map_err(|error| io::Error::other(Failed(error)))
    }
}
