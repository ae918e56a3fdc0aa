//! TLS: abused handshakes of hostile clients, and a stream for well-behaved ones.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fastrand::Rng;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::behaviour::{Behaviour, Step};
use super::garbage;
use super::kind::Kind;
use super::services::MAX_PAYLOAD;

/// The server's name in its certificate.
const NAME: &str = "localhost";

/// Returns the configuration of a client that trusts the authority with this certificate, in PEM.
pub(crate) fn config(authority: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("is a certificate");
    roots.add(root).expect("is a root");
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A well-behaved client, which ends with close_notify.
pub(crate) struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    pub(crate) fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Ok(Self(StreamOwned::new(connection(config)?, stream)))
    }
}

impl Read for Tls {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }
}

fn connection(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = NAME.try_into().expect("is a name");
    ClientConnection::new(config.clone(), name).map_err(io::Error::other)
}

/// Returns the script of a hostile client for a TLS server. None completes the handshake.
pub(crate) fn steps(behaviour: Behaviour, rng: &mut Rng) -> Vec<Step> {
    let mut hello = HELLO.clone();
    match behaviour {
        Behaviour::Passing => Vec::new(),
        Behaviour::Silent | Behaviour::Crowding => vec![Step::ReadToEnd],
        Behaviour::Stuck => {
            hello.truncate(rng.usize(1..hello.len()));
            vec![Step::Send(hello), Step::ReadToEnd]
        }
        Behaviour::Trickling => {
            let pause = Duration::from_millis(rng.u64(20..60));
            vec![Step::Trickle(hello, pause)]
        }
        Behaviour::SlowReading => {
            let (times, pause) = (rng.usize(5..20), Duration::from_millis(50));
            vec![Step::Send(hello), Step::ReadSlowly(50, times, pause)]
        }
        Behaviour::Flooding => {
            // The server drops all of it after its alert.
            hello.resize(MAX_PAYLOAD, 0xff);
            vec![Step::Flood(hello, 512 << 10)]
        }
        Behaviour::Resetting => {
            hello.truncate(rng.usize(1..=hello.len()));
            vec![Step::Send(hello), Step::Reset]
        }
        Behaviour::HalfClosing => vec![Step::Send(hello), Step::Fin, Step::ReadToEnd],
        Behaviour::Garbage => vec![Step::Send(garbage::of(Kind::Tls, rng)), Step::ReadToEnd],
        Behaviour::Vanishing => {
            hello.truncate(rng.usize(1..hello.len()));
            vec![Step::Send(hello)]
        }
        Behaviour::Deaf => vec![Step::Send(hello), Step::Read(1)],
    }
}

/// Returns a valid ClientHello, which a server answers.
static HELLO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut connection = connection(&trusting(RootCertStore::empty())).expect("is set up");
    let mut hello = Vec::new();
    connection
        .write_tls(&mut hello)
        .expect("a vector takes all");
    hello
});
