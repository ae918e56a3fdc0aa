use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::addr::Endpoint;
use crate::tls::TlsClient;

/// A blocking connection to a server, with TLS or without.
pub(super) enum Stream {
    Plain(Timed),
    Secure(Box<StreamOwned<ClientConnection, Timed>>),
}

/// A socket whose peer has a time to take what is written, and then to answer, however small the pieces are.
pub(super) struct Timed {
    socket: TcpStream,
    timeout: Duration,
    ends: Instant,
    is_writing: bool,
}

/// The address of a server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    endpoint: Endpoint,
    host: String,
}

impl Server {
    /// Reads `HOST` or `HOST:PORT`.
    pub(super) fn parse(address: &str, default_port: u16) -> Option<Self> {
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let url = match has_port {
            true => format!("tcp://{address}"),
            false => format!("tcp://{address}:{default_port}"),
        };
        let endpoint: Endpoint = url.parse().ok()?;
        let Endpoint::Tcp { host, .. } = &endpoint else {
            return None;
        };
        if host.is_empty() {
            return None;
        }
        Some(Self {
            host: host.clone(),
            endpoint,
        })
    }
}

impl Stream {
    /// Dials the addresses of a server, one after the other. `timeout` is for all of them, and then
    /// to send a request, and to read the answer, each.
    pub(super) fn dial(
        server: &Server,
        timeout: Duration,
        tls: Option<&TlsClient>,
    ) -> Result<Self, String> {
        let deadline = Instant::now() + timeout;
        let addresses = server.endpoint.resolve();
        let addresses = addresses.map_err(|error| error.to_string())?;
        let mut last = format!("{} has no address", server.host);
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero is not allowed.
            let left = left.max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    return Self::over(stream, server, timeout, tls);
                }
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Err(last)
    }

    fn over(
        stream: TcpStream,
        server: &Server,
        timeout: Duration,
        tls: Option<&TlsClient>,
    ) -> Result<Self, String> {
        let set = stream.set_nodelay(true);
        set.map_err(|error| error.to_string())?;
        let stream = Timed {
            socket: stream,
            timeout,
            ends: Instant::now() + timeout,
            is_writing: true,
        };
        let Some(tls) = tls else {
            return Ok(Self::Plain(stream));
        };
        let connection = tls.connection(&server.host);
        let connection = connection.map_err(|error| error.to_string())?;
        let mut secure = StreamOwned::new(connection, stream);
        while secure.conn.is_handshaking() {
            let done = secure.conn.complete_io(&mut secure.sock);
            done.map_err(|error| format!("TLS: {error}"))?;
        }
        Ok(Self::Secure(Box::new(secure)))
    }
}

/// A stream whose reads can be given a time.
#[cfg(feature = "rabbitmq")]
pub(super) trait ReadTimeout {
    /// The next read takes at most this time.
    fn set_read_timeout(&mut self, timeout: Duration);
}

#[cfg(feature = "rabbitmq")]
impl ReadTimeout for Stream {
    fn set_read_timeout(&mut self, timeout: Duration) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Secure(stream) => &mut stream.sock,
        };
        socket.is_writing = false;
        socket.ends = Instant::now() + timeout;
    }
}

impl Timed {
    /// Returns the time that is left. It begins anew when a read follows a write, and the other way round.
    fn left(&mut self, is_writing: bool) -> io::Result<Duration> {
        if self.is_writing != is_writing {
            self.is_writing = is_writing;
            self.ends = Instant::now() + self.timeout;
        }
        let left = self.ends.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.left(false)?;
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let left = self.left(true)?;
        self.socket.set_write_timeout(Some(left))?;
        self.socket.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Secure(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(from),
            Self::Secure(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

/// A connection with the bytes that a server has sent, for fuzzing. Its output is dropped.
#[cfg(all(feature = "internals", any(feature = "memcache", feature = "rabbitmq")))]
pub(super) struct Recorded<'r>(pub(super) &'r [u8]);

#[cfg(all(feature = "internals", any(feature = "memcache", feature = "rabbitmq")))]
impl Read for Recorded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

#[cfg(all(feature = "internals", any(feature = "memcache", feature = "rabbitmq")))]
impl Write for Recorded<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(feature = "internals", feature = "rabbitmq"))]
impl ReadTimeout for Recorded<'_> {
    fn set_read_timeout(&mut self, _: Duration) {}
}
