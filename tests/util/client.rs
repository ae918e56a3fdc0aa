//! Simple blocking clients with timeouts: TCP and Unix sockets under one type.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::{Addr, Conn, EventHandler, Running};
use socket2::{Domain, SockAddr, Socket, Type};

use super::LONG;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) Socket);

impl Client {
    /// Connects to the first address of a server.
    pub(crate) fn to<H: EventHandler>(server: &Running<H>) -> Self {
        Self::connect(&server.local_addrs()[0])
    }

    pub(crate) fn connect(addr: &Addr) -> Self {
        Self::try_connect(addr).expect("connects")
    }

    pub(crate) fn try_connect(addr: &Addr) -> io::Result<Self> {
        match addr {
            Addr::Ip(ip) => Self::dial(Domain::for_address(*ip), &(*ip).into(), |_| Ok(())),
            Addr::Unix(Some(path)) => Self::dial(Domain::UNIX, &SockAddr::unix(path)?, |_| Ok(())),
            Addr::UnixAbstract(name) => {
                let mut path = vec![0];
                path.extend_from_slice(name);
                let path = OsString::from_vec(path);
                Self::dial(Domain::UNIX, &SockAddr::unix(path)?, |_| Ok(()))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Connects from a given local IP address.
    pub(crate) fn from_ip<H: EventHandler>(server: &Running<H>, local: IpAddr) -> Self {
        Self::from_ip_to(ip_of(server), local)
    }

    /// Connects to any address from a given local IP address.
    pub(crate) fn from_ip_to(ip: SocketAddr, local: IpAddr) -> Self {
        let bind = |socket: &Socket| socket.bind(&SocketAddr::new(local, 0).into());
        Self::dial(Domain::for_address(ip), &ip.into(), bind).expect("connects")
    }

    /// Connects with a small receive buffer, so that few unread bytes count as sent.
    pub(crate) fn with_small_window<H: EventHandler>(server: &Running<H>) -> Self {
        let ip = ip_of(server);
        let shrink = |socket: &Socket| socket.set_recv_buffer_size(8 << 10);
        Self::dial(Domain::for_address(ip), &ip.into(), shrink).expect("connects")
    }

    fn dial(
        domain: Domain,
        addr: &SockAddr,
        prepare: impl Fn(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        prepare(&socket)?;
        socket.connect(addr)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_read_timeout(Some(LONG))?;
        socket.set_write_timeout(Some(LONG))?;
        Ok(Self(socket))
    }

    /// Returns the client's own address, as it appears in the server's log.
    pub(crate) fn name(&self) -> String {
        let addr = self.0.local_addr().expect("has one");
        addr.as_socket().expect("is an IP one").to_string()
    }

    /// Sends one message and receives another.
    pub(crate) fn round_trip_with(&self, sent: &str, received: &str) {
        self.send(sent);
        assert_eq!(self.recv(received.len()), received.as_bytes());
    }

    pub(crate) fn clone(&self) -> Self {
        Self(self.0.try_clone().expect("clones"))
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        (&self.0).write_all(bytes.as_ref()).expect("sends");
    }

    /// Reads exactly `len` bytes.
    pub(crate) fn recv(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        (&self.0).read_exact(&mut bytes).expect("receives");
        bytes
    }

    /// Reads exactly `len` bytes. Returns `None` if the stream ends before.
    pub(crate) fn try_recv(&self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        (&self.0).read_exact(&mut bytes).ok().map(|()| bytes)
    }

    /// Reads until the end of the stream, and asserts that it is a FIN.
    pub(crate) fn recv_to_end(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        (&self.0).read_to_end(&mut bytes).expect("ends with FIN");
        bytes
    }

    /// Reads until the end of the connection. Returns the bytes, and the error if it did not end with FIN.
    pub(crate) fn recv_to_any_end(&self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = (&self.0).read_to_end(&mut bytes).map(|_| ());
        (bytes, end)
    }

    /// Sends `bytes` and asserts that they come back.
    pub(crate) fn round_trip(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send(bytes);
        assert!(self.recv(bytes.len()) == bytes, "the echo differs");
    }

    /// Sends and receives at the same time. Asserts that all of `bytes` come back in order.
    pub(crate) fn echo_all(&self, bytes: &[u8]) {
        thread::scope(|scope| {
            scope.spawn(|| self.send(bytes));
            let mut chunk = vec![0; 64 << 10];
            let mut done = 0;
            while done < bytes.len() {
                let n = (&self.0).read(&mut chunk).expect("receives");
                assert!(
                    n > 0,
                    "the stream ends after {done} of {} bytes",
                    bytes.len()
                );
                let expected = bytes.get(done..done + n);
                assert!(
                    expected == Some(&chunk[..n]),
                    "differs between {done} and {}",
                    done + n
                );
                done += n;
            }
        });
    }

    pub(crate) fn end_writes(&self) {
        self.0.shutdown(Shutdown::Write).expect("shuts down");
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).expect("lingers");
    }

    /// Returns true if `error` means that the other side closed with RST.
    pub(crate) fn is_reset(end: &io::Result<()>) -> bool {
        end.as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }
}

fn ip_of<H: EventHandler>(server: &Running<H>) -> SocketAddr {
    server.local_addrs()[0]
        .as_socket_addr()
        .expect("an IP address")
}

/// A unique path in the directory for temporary files. The file is removed on drop.
#[derive(Debug)]
pub(crate) struct TempPath(pub(crate) PathBuf);

impl TempPath {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epicycle-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn addr(&self) -> String {
        format!("unix://{}", self.0.display())
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        if self.0.is_dir() {
            let _ = std::fs::remove_dir(&self.0);
        } else {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Makes the kernel accept only few unsent bytes on the server's side of a connection.
pub(crate) fn shrink<H: EventHandler>(conn: &Conn<'_, H>) {
    conn.set_send_buffer(8 << 10).expect("shrinks");
}
