//! A blocking TLS client on rustls's buffered connections, which can send and receive at the same time.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use epicycle::{Addr, EventHandler, Running};
use rustls::{ClientConfig, ClientConnection};

use crate::util::client::Client;

/// A client after the handshake.
pub(crate) struct Peer {
    pub(crate) client: Client,
    connection: Mutex<ClientConnection>,
    /// Received bytes for which rustls had no room.
    wire: Mutex<Vec<u8>>,
}

impl Peer {
    /// Connects to the first address of a server as `localhost`.
    pub(crate) fn to<H: EventHandler>(server: &Running<H>) -> Self {
        Self::with(server, super::pki::client_config()).expect("shakes hands")
    }

    /// Connects with a given configuration.
    pub(crate) fn with<H: EventHandler>(
        server: &Running<H>,
        config: ClientConfig,
    ) -> io::Result<Self> {
        Self::connect(&server.local_addrs()[0], &Arc::new(config), "localhost")
    }

    pub(crate) fn connect(addr: &Addr, config: &Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        Self::over(Client::try_connect(addr)?, config, name)
    }

    pub(crate) fn over(client: Client, config: &Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        Self::hurried(client, config, name, b"")
    }

    /// Connects, and sends `first` together with the end of the handshake.
    pub(crate) fn hurried(
        client: Client,
        config: &Arc<ClientConfig>,
        name: &str,
        first: &[u8],
    ) -> io::Result<Self> {
        let name = name.to_owned().try_into().expect("is a name");
        let connection = ClientConnection::new(config.clone(), name);
        let mut connection = connection.map_err(io::Error::other)?;
        loop {
            if !connection.is_handshaking() {
                connection.writer().write_all(first)?;
            }
            (&client.0).write_all(&to_send(&mut connection))?;
            if !connection.is_handshaking() {
                break;
            }
            if connection.read_tls(&mut &client.0)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let processed = connection.process_new_packets();
            if let Err(error) = processed {
                // The alert.
                let _ = (&client.0).write_all(&to_send(&mut connection));
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
        Ok(Self {
            client,
            connection: Mutex::new(connection),
            wire: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a function with rustls's connection.
    pub(crate) fn inspect<T>(&self, look: impl FnOnce(&ClientConnection) -> T) -> T {
        look(&self.lock())
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("sends");
    }

    pub(crate) fn try_send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut connection = self.lock();
            let n = connection.writer().write(bytes)?;
            let records = to_send(&mut connection);
            drop(connection);
            (&self.client.0).write_all(&records)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Ends this side's stream with close_notify. The socket stays open.
    pub(crate) fn close_notify(&self) {
        let mut connection = self.lock();
        connection.send_close_notify();
        let records = to_send(&mut connection);
        drop(connection);
        (&self.client.0).write_all(&records).expect("sends");
    }

    /// Starts a key update of both sides.
    pub(crate) fn update_keys(&self) {
        let mut connection = self.lock();
        connection.refresh_traffic_keys().expect("is TLS 1.3");
        let records = to_send(&mut connection);
        drop(connection);
        (&self.client.0).write_all(&records).expect("sends");
    }

    /// Receives some bytes. Returns 0 after close_notify, and `UnexpectedEof` if the stream is truncated.
    pub(crate) fn recv_some(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut connection = self.lock();
            match connection.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                received => return received,
            }
            if wire.is_empty() {
                drop(connection);
                // Waits without the lock, so that the other direction can continue.
                let mut more = [0; 4096];
                let n = (&self.client.0).read(&mut more)?;
                wire.extend_from_slice(&more[..n]);
                connection = self.lock();
            }
            // It takes no more than a record before that is read; nothing tells it the end.
            let taken = connection.read_tls(&mut &wire[..])?;
            wire.drain(..taken);
            let processed = connection.process_new_packets();
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }

    pub(crate) fn recv(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let n = self.recv_some(&mut bytes[done..]).expect("receives");
            assert!(n > 0, "the stream ends after {done} of {len} bytes");
            done += n;
        }
        bytes
    }

    /// Receives until the end. Fails with `UnexpectedEof` without a close_notify.
    pub(crate) fn recv_to_end(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 16 << 10];
        loop {
            match self.recv_some(&mut chunk)? {
                0 => return Ok(bytes),
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub(crate) fn round_trip(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send(bytes);
        assert!(self.recv(bytes.len()) == bytes, "the echo differs");
    }

    /// Sends and receives at the same time. Asserts that all of `bytes` come back in order.
    pub(crate) fn echo_all(&self, bytes: &[u8]) {
        thread::scope(|scope| {
            scope.spawn(|| self.send(bytes));
            assert!(self.recv(bytes.len()) == bytes, "the echo differs");
        });
    }
}

fn to_send(connection: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while connection.wants_write() {
        connection
            .write_tls(&mut records)
            .expect("a vector takes all");
    }
    records
}
